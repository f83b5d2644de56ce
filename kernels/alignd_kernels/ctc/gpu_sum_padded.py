"""`ctc_posteriors` for tensors on a GPU: nothing is waited for but, if asked, the statuses at the end."""

from typing import Any

import torch

from alignd_kernels import arrays
from alignd_kernels.ctc import gpu_sum, reason
from alignd_kernels.ctc.sum_padded import NO_FRAMES
from alignd_kernels.gpu_common import lengths_on
from alignd_kernels.padded import raise_if_failed
from alignd_kernels.status import Status


def ctc_posteriors_on_gpu(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int,
    star_score: float,
    check: bool,
) -> tuple[torch.Tensor, ...]:
    """See `ctc_posteriors`; shapes have been checked, and the largest log-prob as `star_score` is NaN.

    Raises:
        MemoryError: the batch's scratch does not fit.
    """
    arrays.same_device([log_probs, targets], ["log_probs", "targets"])
    if targets.is_floating_point() or targets.dtype == torch.bool:
        raise TypeError(f"targets must be integers, not {targets.dtype}")
    B, T, V = log_probs.shape
    L = targets.shape[1]
    frames = lengths_on(log_probs.device, input_lengths, "input_lengths", B, T)
    labels = lengths_on(log_probs.device, target_lengths, "target_lengths", B, L)
    scores = log_probs.detach()
    if V > 1 and scores.stride(2) != 1:
        scores = scores.contiguous()
    sums = gpu_sum.posteriors_on_gpu(scores, targets, frames, labels, blank, star_score=star_score)
    assert sums.found is not None
    if not check:
        return sums.found, sums.scores, sums.statuses
    found = torch.stack([sums.statuses.long(), frames, labels]).cpu().numpy()
    arrays.lengths(found[1], "input_lengths", B, T)
    arrays.lengths(found[2], "target_lengths", B, L)

    def reason_of(index: int, status: Status) -> str:
        own = targets[index, : found[2, index]].cpu().numpy()
        return NO_FRAMES if status is Status.EMPTY else reason(status, int(found[1, index]), own, V, blank)

    raise_if_failed(found[0].tolist(), reason_of)
    return sums.found, sums.scores
