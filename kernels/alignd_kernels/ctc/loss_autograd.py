"""The CTC loss as a function that torch differentiates. Imports torch."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from alignd_kernels.arrays import host_scores
from alignd_kernels.ctc import cpu_sum
from alignd_kernels.ctc.batch import CtcBatch
from alignd_kernels.ctc.loss import Targets
from alignd_kernels.differentiable_once import differentiable_once
from alignd_kernels.padded import where_it_lies
from alignd_kernels.ragged import Int64Array
from alignd_kernels.sums import costs_of
from alignd_kernels.threads import default_pool


class CtcLoss(torch.autograd.Function):  # type: ignore[misc]
    """Costs [B] of log-probs [T, B, V].

    The lattice is gone with the forward pass, which keeps the derivatives if they are wanted; the backward one scales
    them.
    """

    @staticmethod
    def forward(ctx: Any, log_probs: Any, targets: Targets, frames: Int64Array, blank: int, wanted: bool) -> Any:
        ctx.dtype = log_probs.dtype
        if log_probs.device.type != "cpu":
            found_costs, slopes = costs_there(log_probs, targets, frames, blank, wanted)
            if slopes is not None:
                ctx.save_for_backward(slopes)
            return found_costs
        T, B, V = log_probs.shape
        batch = _batch(log_probs, targets, frames, blank)
        kind = batch.dtype.accumulator
        found = np.zeros(T * B * V if wanted else 0, kind)
        # Laid out as the log-probs are: an item's frames are B rows apart.
        rows = np.arange(B, dtype=np.int64) * V, np.full(B, B * V, np.int64)
        scores, statuses = cpu_sum.sums(batch, cpu_sum.COLUMNS if wanted else cpu_sum.SUMS, found, rows, default_pool())
        costs = costs_of(scores, statuses)
        costs[frames == 0] = _without_frames(targets)[frames == 0]
        if wanted:
            ctx.save_for_backward(torch.from_numpy(found.reshape(T, B, V)))
        return torch.from_numpy(costs.astype(kind))

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[Any, None, None, None, None]:
        (found,) = ctx.saved_tensors
        with torch.no_grad():
            scaled = (found * gradient.to(found.dtype)[:, None]).to(ctx.dtype)
        return differentiable_once(scaled, "ctc_loss"), None, None, None, None


def costs_there(
    log_probs: Any, targets: Targets, frames: Int64Array, blank: int, wanted: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Costs [B], and if `wanted` their derivatives by the log-probs [T, B, V], queued where the log-probs lie."""
    from alignd_kernels.ctc.gpu_sum import costs_on_gpu
    from alignd_kernels.gpu_copies import to_device

    device = log_probs.device
    scores = log_probs.detach().transpose(0, 1)
    if scores.shape[2] > 1 and scores.stride(2) != 1:
        scores = scores.contiguous()
    labels = np.zeros((len(frames), int(targets.lengths.max(initial=0))), np.int32)
    for own, first, length in zip(labels, targets.offsets.tolist(), targets.lengths.tolist()):
        own[:length] = targets.labels[first : first + length]
    rows, counts, labels_there = to_device(device, frames, targets.lengths, labels)
    sums = costs_on_gpu(scores, labels_there, rows, counts, blank, gradients=wanted)
    costs = sums.costs
    if (frames == 0).any():
        (without_frames,) = to_device(device, _without_frames(targets))
        costs = torch.where(rows == 0, without_frames.to(costs), costs)
    return costs, None if sums.found is None else sums.found.transpose(0, 1)


def _without_frames(targets: Targets) -> npt.NDArray[np.float64]:
    """Costs of items without frames: nothing fits them but no targets, in one way."""
    return np.where(targets.lengths == 0, 0.0, np.inf)


def _batch(log_probs: Any, targets: Targets, frames: Int64Array, blank: int) -> CtcBatch:
    """The items where they lie."""
    storage, dtype = host_scores(log_probs, strided=True)
    flat, (pitch, item, _) = where_it_lies(storage)
    _, B, V = log_probs.shape
    return CtcBatch(
        flat,
        dtype,
        np.arange(B, dtype=np.int64) * item,
        frames,
        np.full(B, V, np.int64),
        np.full(B, pitch, np.int64),
        targets.labels,
        targets.offsets,
        targets.lengths,
        np.full(B, blank, np.int32),
        np.zeros(B, np.float32),
    )
