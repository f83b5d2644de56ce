"""`forced_align` for tensors on a GPU: nothing is waited for but, if asked, the statuses at the end."""

from typing import Any

import numpy as np
import torch

from alignd_kernels import arrays
from alignd_kernels.ctc import gpu, reason
from alignd_kernels.ctc.batch import STAR
from alignd_kernels.ctc.padded import check_blank_fits
from alignd_kernels.gpu_common import lengths_on
from alignd_kernels.status import InvalidItemsError, Status


def forced_align_on_gpu(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int,
    star_score: float,
    check: bool,
) -> tuple[torch.Tensor, ...]:
    """See `forced_align`; shapes have been checked, and the largest log-prob as `star_score` is NaN.

    Raises:
        MemoryError: the batch's scratch does not fit.
    """
    arrays.same_device([log_probs, targets], ["log_probs", "targets"])
    if targets.is_floating_point() or targets.dtype == torch.bool:
        raise TypeError(f"targets must be integers, not {targets.dtype}")
    check_blank_fits(blank, torch.iinfo(targets.dtype).max, targets.dtype)
    B, T, V = log_probs.shape
    device = log_probs.device
    frames = lengths_on(device, input_lengths, "input_lengths", B, T)
    labels = lengths_on(device, target_lengths, "target_lengths", B, targets.shape[1])
    scores = log_probs.detach()
    if V > 1 and scores.stride(2) != 1:
        scores = scores.contiguous()
    whole = _whole(input_lengths, T, device) and _whole(target_lengths, targets.shape[1], device)
    result = gpu.launch(scores, targets, frames, labels, blank=blank, star_score=star_score, whole=whole)
    aligned = (result.statuses == Status.OK)[:, None] & (torch.arange(T, device=device) < frames[:, None])
    paths = _labels(result.paths, targets, aligned, blank)
    frame_scores = result.frame_scores.to(scores.dtype)
    if scores.dtype == torch.float64:  # frame scores are float32
        frame_scores = _exact(scores, paths, blank, star_score).where(aligned, 0)
    if not check:
        return paths, frame_scores, result.statuses
    found = torch.stack([result.statuses.long(), frames, labels]).cpu().numpy()
    arrays.lengths(found[1], "input_lengths", B, T)
    arrays.lengths(found[2], "target_lengths", B, targets.shape[1])
    bad = {index: Status(int(status)) for index, status in enumerate(found[0]) if status != Status.OK}
    if bad:
        host = targets.cpu().numpy()
        raise InvalidItemsError(
            bad,
            {
                index: reason(status, int(found[1, index]), host[index, : found[2, index]], V, blank)
                for index, status in bad.items()
            },
        )
    return paths, frame_scores


def _whole(lengths: Any, size: int, device: torch.device) -> bool:
    """Whether all lengths are known here to be `size`: those on the device are not waited for."""
    if lengths is None:
        return True
    if arrays.is_torch(lengths) and lengths.device == device:
        return False
    return bool((arrays.integers(lengths, "lengths") == size).all())


def _labels(states: torch.Tensor, targets: torch.Tensor, aligned: torch.Tensor, blank: int) -> torch.Tensor:
    """Vocabulary ids [B, T] of the states, blank where there is none."""
    if targets.shape[1] == 0:
        return torch.full(states.shape, blank, dtype=targets.dtype, device=states.device)
    index = (states.long() // 2).clamp(max=targets.shape[1] - 1)
    return targets.gather(1, index).where(aligned & (states % 2 == 1), blank)


def _exact(log_probs: torch.Tensor, paths: torch.Tensor, blank: int, star_score: float) -> torch.Tensor:
    """Log-probs [B, T] on the path, in their own precision."""
    found = log_probs.gather(2, paths.long().clamp(0, log_probs.shape[2] - 1)[:, :, None])[:, :, 0]
    if np.isnan(star_score):
        others = log_probs.clone()
        others[:, :, blank] = -torch.inf
        return torch.where(paths == STAR, others.amax(2), found)
    return found.masked_fill(paths == STAR, float(np.float32(star_score)))
