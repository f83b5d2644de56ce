"""The forward-sum loss, by which text-to-speech models learn to align."""

import math
from typing import Any, Literal

from alignd_kernels.arrays import check_known_device, is_torch, lengths, on_gpu
from alignd_kernels.with_torch import torch_module


def forward_sum_loss(
    attn_logprob: Any,
    text_lengths: Any,
    mel_lengths: Any,
    *,
    blank_logprob: float | None = -1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Any:
    """Minus the log of the sum over all monotonic alignments of text and speech, differentiable.

    Badlani et al. 2022, "One TTS Alignment To Rule Them All"; the loss of RAD-TTS and FastPitch. Each frame's scores
    are normalised, by a log-softmax over the item's own text and one more column, the blank. The paths are those of
    CTC with the tokens as labels, none like another: blanks may stand before, between and after them. Computed in
    float32 (float64 for float64). An item that has no alignment (more tokens than frames, or −inf in its way) counts
    as 0 with a gradient of 0; NaN or +inf in an item's scores make its loss and its gradients NaN.

    Args:
        attn_logprob: [B, 1, T_mel, T_text] or [B, T_mel, T_text], a torch tensor of scores, on the CPU or a CUDA
            device, float16, bfloat16, float32 or float64; only read. What stands beyond an item's lengths is ignored,
            NaN included.
        text_lengths: integers [B], tokens of each item, 0 … T_text.
        mel_lengths: integers [B], frames of each item, 0 … T_mel.
        blank_logprob: score of the blank's column before the softmax. None for none: every frame then belongs to a
            token, as in the limit of −∞.
        reduction: "mean" as the papers' code has it: each item's value divided by its tokens (by 1 if it has none),
            then the mean over the batch; "sum" and "none" [B] are of the values as they are.

    Returns:
        a tensor of float32, or float64 for float64 scores, on the device of the scores. On a CUDA device nothing is
        waited for: of lengths that lie there, those out of range make their item's value, and its gradient, NaN.

    Raises:
        TypeError: `attn_logprob` is no torch tensor of a floating-point type, or lengths are not integers.
        ValueError: wrong shapes, lengths out of range, a blank that is not finite, an unknown reduction, a mean of no
            items.
        NotImplementedError: for a tensor on a device of another kind.
        MemoryError: what is needed beside the arguments cannot be had.
        ImportError: torch is not installed: the extra `alignd-kernels[gpu]` brings it.
    """
    torch = torch_module()
    if not is_torch(attn_logprob):
        raise TypeError(f"attn_logprob must be a torch tensor, not {type(attn_logprob).__name__}")
    check_known_device(attn_logprob, "forward_sum_loss")
    scores = three_axes(attn_logprob)
    if not scores.is_floating_point():
        raise TypeError(f"attn_logprob must be floating-point, not {scores.dtype}")
    if blank_logprob is not None and not math.isfinite(blank_logprob):
        raise ValueError(f"blank_logprob must be finite, not {blank_logprob}; None leaves the blank out")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction must be "mean", "sum" or "none", not {reduction!r}')
    B, T, S = scores.shape
    if B == 0 and reduction == "mean":
        raise ValueError("a mean of no items: the batch is empty")
    wanted = scores if torch.is_grad_enabled() else scores.detach()  # within the function, gradients are always off
    if on_gpu(scores):
        from alignd_kernels.gpu_common import lengths_on
        from alignd_kernels.mas.gpu_soft_autograd import ForwardSumOnGpu

        tokens = lengths_on(scores.device, text_lengths, "text_lengths", B, S)
        frames = lengths_on(scores.device, mel_lengths, "mel_lengths", B, T)
        costs = ForwardSumOnGpu.apply(wanted, tokens, frames, blank_logprob)
        divisors = tokens
    else:
        from alignd_kernels.mas.soft_autograd import ForwardSum

        own = lengths(text_lengths, "text_lengths", B, S), lengths(mel_lengths, "mel_lengths", B, T)
        costs = ForwardSum.apply(wanted.contiguous(), *own, blank_logprob)
        divisors = torch.from_numpy(own[0])
    if reduction == "none":
        return costs
    if reduction == "sum":
        return costs.sum()
    return (costs / divisors.clamp(min=1).to(costs.dtype)).sum() / B


def three_axes(scores: Any) -> Any:
    """[B, T, S], without the axis of heads."""
    shape = tuple(scores.shape)
    if len(shape) == 4 and shape[1] == 1:
        return scores[:, 0]
    if len(shape) != 3:
        raise ValueError(f"the attention must be [B, 1, T_mel, T_text] or [B, T_mel, T_text], not of shape {shape}")
    return scores
