"""`mas_posteriors` and `binarize` for tensors on a GPU: nothing is waited for but the statuses at the end."""

from typing import Any

import torch

from alignd_kernels.arrays import lengths
from alignd_kernels.gpu_common import lengths_on
from alignd_kernels.mas import gpu, gpu_sum
from alignd_kernels.mas.gpu_padded import dense_path, raise_for_items, rectangles
from alignd_kernels.mas.padded import raise_if_failed
from alignd_kernels.mas.soft_binarize import reason
from alignd_kernels.status import Status


def mas_posteriors_on_gpu(value: torch.Tensor, mask: torch.Tensor, check: bool) -> tuple[torch.Tensor, ...]:
    """See `mas_posteriors`; shapes have been checked. Without `check` nothing is waited for.

    Raises:
        MemoryError: what is needed beside the arguments does not fit.
    """
    tokens, frames, wrong = rectangles(value, mask)
    # A length beyond the tensor is answered by INTERNAL.
    sums = gpu_sum.posteriors_on_gpu(value.detach(), torch.where(wrong, value.shape[1] + 1, tokens), frames)
    assert sums.found is not None
    if not check:
        return sums.found, sums.scores, sums.statuses
    raise_for_items(sums.statuses, wrong, tokens, frames)
    return sums.found, sums.scores


def binarize_on_gpu(scores: torch.Tensor, text_lengths: Any, mel_lengths: Any) -> torch.Tensor:
    """See `binarize`; of probabilities [B, T, S]. The statuses are waited for.

    Raises:
        MemoryError: what is needed beside the arguments does not fit.
    """
    B, T, S = scores.shape
    tokens = lengths_on(scores.device, text_lengths, "text_lengths", B, S)
    frames = lengths_on(scores.device, mel_lengths, "mel_lengths", B, T)
    wide = torch.promote_types(scores.dtype, torch.float32)  # a logarithm in half precision makes ties
    result = gpu.launch(scores.to(wide).log().transpose(1, 2).contiguous(), tokens, frames)
    found = torch.stack([result.statuses.long(), tokens, frames]).cpu().numpy()
    lengths(found[1], "text_lengths", B, S)
    lengths(found[2], "mel_lengths", B, T)
    if (found[0] == Status.NOT_FINITE).any() and (scores < 0).any() and not (scores > 0).any():
        raise ValueError("attn holds no positive value: pass probabilities (softmax), not their logarithms")
    raise_if_failed(found[0].tolist(), found[1], found[2], reason)
    return dense_path(result, frames, S, scores.dtype).transpose(1, 2).contiguous()
