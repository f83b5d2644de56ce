"""The forward-sum loss of a padded batch on a GPU, as a function that torch differentiates. Imports torch."""

from typing import Any

import torch

from alignd_kernels.ctc import gpu_sum as ctc_sum
from alignd_kernels.differentiable_once import differentiable_once
from alignd_kernels.gpu_common import DTYPES, accumulator_of
from alignd_kernels.mas import gpu_sum
from alignd_kernels.status import Status


class ForwardSumOnGpu(torch.autograd.Function):  # type: ignore[misc]
    """Negative log-likelihoods [B] of scores [B, T, S], of which each item's rows are normalised over its own columns.

    Queued on the current stream, never waited for. As `soft_autograd.ForwardSum`, whose results these are; where a
    length is out of range, which is found on the device, the cost is NaN. Kept for the backward pass is the derivative
    of each cost by its scores, one number for each.
    """

    @staticmethod
    def forward(
        ctx: Any, scores: torch.Tensor, tokens: torch.Tensor, frames: torch.Tensor, blank: float | None
    ) -> torch.Tensor:
        wanted = ctx.needs_input_grad[0]
        within = _within(scores, tokens, frames)
        own = scores.to(accumulator_of(DTYPES[scores.dtype])).masked_fill(~within, -torch.inf)
        bad = ~(own < torch.inf).flatten(1).all(1) & (tokens <= frames)
        bad |= (tokens < 0) | (tokens > scores.shape[2]) | (frames < 0) | (frames > scores.shape[1])
        if own.numel() == 0:
            costs, slopes, lost = own.new_zeros(len(own)), own, bad
        elif blank is None:
            costs, slopes, lost = _without_blank(own, tokens, frames, wanted)
        else:
            costs, slopes, lost = _with_blank(own, tokens, frames, blank, wanted)
        bad |= lost
        if wanted:
            slopes = torch.where(bad[:, None, None], torch.nan, slopes)
            ctx.save_for_backward(slopes, tokens, frames)
            ctx.dtype = scores.dtype
        return torch.where(bad, torch.nan, costs)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[Any, None, None, None]:
        slopes, tokens, frames = ctx.saved_tensors
        with torch.no_grad():
            found = slopes * gradient.to(slopes.dtype)[:, None, None]
            found = found.masked_fill_(~_within(slopes, tokens, frames), 0).to(ctx.dtype)
        return differentiable_once(found, "forward_sum_loss"), None, None, None


def _within(scores: torch.Tensor, tokens: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """What belongs to an item, bool [B, T, S]."""
    _, T, S = scores.shape
    frame, token = torch.arange(T, device=scores.device), torch.arange(S, device=scores.device)
    return (frame < frames[:, None])[:, :, None] & (token < tokens[:, None])[:, None]


def _without_blank(
    own: torch.Tensor, tokens: torch.Tensor, frames: torch.Tensor, wanted: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Costs, 0 where there is no path; their derivatives by the scores (if wanted); and what the device has lost.

    Args:
        own: the scores, −∞ beyond an item's lengths.
    """
    peaks = own.amax(2, keepdim=True)
    # Less the largest of their frame, so that what those of a frame have in common costs no digits.
    relative = own - torch.where(peaks > -torch.inf, peaks, 0)
    sums = gpu_sum.costs_on_gpu(relative.transpose(1, 2), tokens, frames, gradients=wanted)
    soft = relative.exp()
    totals = soft.sum(2, keepdim=True)
    logs = totals.double().log()[:, :, 0]
    real = torch.arange(own.shape[1], device=own.device) < frames[:, None]
    ok = sums.statuses == Status.OK
    costs = torch.where(ok, torch.where(real, logs, 0).sum(1) - sums.scores, 0).to(own.dtype)
    if sums.found is not None:
        soft = torch.where(ok[:, None, None] & real[:, :, None], soft / totals + sums.found.transpose(1, 2), 0)
    return costs, soft, sums.statuses == Status.INTERNAL


def _with_blank(
    own: torch.Tensor, tokens: torch.Tensor, frames: torch.Tensor, blank: float, wanted: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same with CTC's lattice of the targets 1 … S, whose blank is one more column of each softmax."""
    B, _, S = own.shape
    log_probs = torch.nn.functional.pad(own, (1, 0), value=blank).log_softmax(2)
    targets = torch.arange(1, S + 1, dtype=torch.int32, device=own.device).expand(B, S)
    sums = ctc_sum.costs_on_gpu(log_probs, targets, frames, tokens, gradients=wanted)
    ok = sums.statuses == Status.OK
    costs = torch.where(ok, sums.costs, 0)
    slopes = own
    if sums.found is not None:
        slopes = torch.where(ok[:, None, None], log_probs[:, :, 1:].exp() + sums.found[:, :, 1:], 0)
    return costs, slopes, sums.statuses == Status.INTERNAL
