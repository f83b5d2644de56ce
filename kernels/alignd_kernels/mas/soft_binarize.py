"""Hard alignments from soft attention, and the loss that draws the one to the other."""

from typing import Any

import numpy as np

from alignd_kernels.arrays import check_known_device, host_scores, is_torch, lengths, on_gpu
from alignd_kernels.mas.soft_loss import three_axes
from alignd_kernels.status import Status
from alignd_kernels.with_torch import torch_module


def binarize(attn: Any, text_lengths: Any, mel_lengths: Any) -> Any:
    """The best monotonic path through each item's soft attention, as zeros and ones.

    The path has the largest product of probabilities of all that give every token at least one frame: what RAD-TTS and
    FastPitch make durations of, and compare soft attention with (`attention_binarization_loss`). On a tie it stays on
    its token, seen from the end.

    Args:
        attn: [B, 1, T_mel, T_text] or [B, T_mel, T_text], a torch tensor of probabilities on the CPU or a CUDA device,
            float16, bfloat16, float32 or float64; only read, outside of autograd. What stands beyond an item's lengths
            is ignored, NaN included.
        text_lengths: integers [B], tokens of each item, 1 … T_text.
        mel_lengths: integers [B], frames of each item, 1 … T_mel.

    Returns:
        a tensor of the shape, dtype and device of `attn`. On a CUDA device the statuses are waited for.

    Raises:
        InvalidItemsError: listing every item that has no path: empty, more tokens than frames, a negative probability,
            NaN or +inf where a path can be, or a probability of 0 in every path's way.
        ValueError: values are negative and none is positive, as logarithms are.
        TypeError, ValueError, NotImplementedError, ImportError: as for `forward_sum_loss`.
    """
    torch = torch_module()
    if not is_torch(attn):
        raise TypeError(f"attn must be a torch tensor, not {type(attn).__name__}")
    check_known_device(attn, "binarize")
    scores = three_axes(attn.detach())
    if not scores.is_floating_point():
        raise TypeError(f"attn must be floating-point, not {scores.dtype}")
    if on_gpu(attn):
        from alignd_kernels.mas.gpu_soft_padded import binarize_on_gpu

        return binarize_on_gpu(scores, text_lengths, mel_lengths).view(attn.shape)
    B, T, S = scores.shape
    tokens, frames = lengths(text_lengths, "text_lengths", B, S), lengths(mel_lengths, "mel_lengths", B, T)
    from alignd_kernels.mas import cpu
    from alignd_kernels.mas.padded import padded_batch, raise_if_failed
    from alignd_kernels.threads import default_pool

    wide = torch.promote_types(scores.dtype, torch.float32)  # a logarithm in half precision makes ties
    storage, score_type = host_scores(scores.to(wide).log().contiguous().transpose(1, 2), strided=True)
    batch, _ = padded_batch(storage, score_type, tokens, frames)
    result = cpu.align(batch, default_pool(), paths=True)
    if (result.statuses == Status.NOT_FINITE).any() and (scores < 0).any() and not (scores > 0).any():
        raise ValueError("attn holds no positive value: pass probabilities (softmax), not their logarithms")
    raise_if_failed(result.statuses.tolist(), tokens, frames, reason)
    assert result.paths is not None
    item = np.repeat(np.arange(B), frames)
    frame = np.arange(len(item)) - np.repeat(np.cumsum(frames) - frames, frames)
    hard = torch.zeros(scores.shape, dtype=attn.dtype)
    hard[torch.from_numpy(item), torch.from_numpy(frame), torch.from_numpy(result.paths).long()] = 1
    return hard.view(attn.shape)


def reason(status: Status, tokens: int, frames: int) -> str:
    """One sentence on why an item with this many tokens and frames has no path."""
    from alignd_kernels import mas

    if status == Status.TOO_FEW_FRAMES:
        return f"more tokens ({tokens}) than frames ({frames}): every token needs one at least; attn is [T_mel, T_text]"
    if status == Status.NOT_FINITE:
        return f"a negative probability, NaN or +inf where a path can be ({tokens} tokens, {frames} frames)"
    if status == Status.NO_FINITE_PATH:
        return f"every path meets a probability of 0 ({tokens} tokens, {frames} frames)"
    return mas.reason(status, tokens, frames)


def attention_binarization_loss(hard: Any, soft: Any, eps: float = 1e-12) -> Any:
    """Minus the mean logarithm of the soft attention where the hard one is 1, differentiable by `soft`.

    Badlani et al. 2022, "One TTS Alignment To Rule Them All", section 2.3: the divergence between both alignments.

    Args:
        hard: torch tensor of zeros and ones, as `binarize` gives.
        soft: of the same shape: probabilities.
        eps: what smaller probabilities are taken for.

    Returns:
        a tensor without dimensions.

    Raises:
        TypeError: one of them is no torch tensor.
        ValueError: the shapes differ, nothing in `hard` is 1, or `soft` is negative there, as logarithms are.
    """
    if not (is_torch(hard) and is_torch(soft)):
        raise TypeError(f"hard and soft must be torch tensors, not {type(hard).__name__} and {type(soft).__name__}")
    if hard.shape != soft.shape:
        raise ValueError(f"hard and soft must be of one shape, not {tuple(hard.shape)} and {tuple(soft.shape)}")
    chosen = soft[hard == 1]
    if chosen.numel() == 0:
        raise ValueError("nothing in hard is 1: there is no alignment to compare with")
    if (chosen < 0).any():
        raise ValueError("soft holds negative values: pass probabilities (softmax), not their logarithms")
    return -chosen.clamp(min=eps).log().mean()
