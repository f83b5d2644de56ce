"""The forward-sum loss of a padded batch on the CPU, as a function that torch differentiates. Imports torch."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch

from alignd_kernels.arrays import host_scores
from alignd_kernels.differentiable_once import differentiable_once
from alignd_kernels.mas import soft_blank, soft_rows
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.ragged import Int64Array, offsets_of
from alignd_kernels.threads import default_pool


class ForwardSum(torch.autograd.Function):  # type: ignore[misc]
    """Negative log-likelihoods [B] of scores [B, T, S], of which each item's rows are normalised over its own columns.

    The lattice's way back is gone with the forward pass, if a gradient is wanted: it keeps the posteriors. The softmax
    is subtracted in the backward pass, which so writes the gradient once, scaled.
    """

    @staticmethod
    def forward(ctx: Any, scores: Any, tokens: Int64Array, frames: Int64Array, blank: float | None) -> Any:
        wanted = ctx.needs_input_grad[0]
        batch = _batch(scores, tokens, frames)
        starts, rows = offsets_of(frames), _rows(batch)
        minus = np.zeros(scores.numel() if wanted else 0, batch.dtype.accumulator)
        level = -np.inf if blank is None else blank
        peaks, totals, logs = soft_rows.normalisers(batch, level, starts, default_pool())
        # Scores less the largest of their frame, so that what those of a frame have in common costs no digits.
        found = soft_blank.sums(batch, level, peaks, starts, minus, rows, -1 if wanted else 0, default_pool())
        common = [peaks[start:end].sum(dtype=np.float64) for start, end in pairwise(starts)]
        costs, summed = np.full(len(tokens), np.inf), found > -np.inf
        costs[summed] = (logs - common)[summed] - found[summed]
        costs[np.isnan(logs) & (tokens <= frames)] = np.nan
        if wanted:
            ctx.save_for_backward(scores)
            ctx.lengths, ctx.kept = (tokens, frames), (peaks, totals, minus)
            # Of an item without a path, whose cost is taken for 0, the gradient is 0 too.
            ctx.factors = np.where(np.isnan(costs), np.nan, costs != np.inf)
        return torch.from_numpy(np.where(costs == np.inf, 0.0, costs).astype(batch.dtype.accumulator))

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[Any, None, None, None]:
        (scores,) = ctx.saved_tensors
        tokens, frames = ctx.lengths
        peaks, totals, minus = ctx.kept
        batch = _batch(scores, tokens, frames)
        out = np.zeros(scores.numel(), batch.dtype.accumulator)
        weights = ctx.factors * gradient.detach().to(torch.float64).numpy()
        soft_rows.gradients(
            batch, (peaks, totals), offsets_of(frames), weights, minus, out, _rows(batch), default_pool()
        )
        found = torch.from_numpy(out).view(scores.shape).to(scores.dtype)
        return differentiable_once(found, "forward_sum_loss"), None, None, None


def _batch(scores: Any, tokens: Int64Array, frames: Int64Array) -> MasBatch:
    B, T, S = scores.shape
    storage, dtype = host_scores(scores)
    offsets, pitches = np.arange(B, dtype=np.int64) * (T * S), np.full(B, S, np.int64)
    return MasBatch(storage.reshape(-1), dtype, offsets, tokens, frames, pitches, frames_first=True)


def _rows(batch: MasBatch) -> tuple[Int64Array, Int64Array]:
    return batch.offsets, batch.pitches
