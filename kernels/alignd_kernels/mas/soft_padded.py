"""Posteriors of monotonic alignment on padded batches."""

from typing import Any

import numpy as np
import numpy.typing as npt

from alignd_kernels.arrays import check_known_device, host, host_scores, is_torch, on_gpu
from alignd_kernels.mas.padded import check_shapes, padded_batch, raise_if_failed, shaped


def mas_posteriors(value: Any, mask: Any, *, check: bool = True) -> tuple[Any, ...]:
    """The probability that a path is on a token in a frame, over all paths that `maximum_path` chooses from.

    A path's weight is the exponential of the sum of its scores. Badlani et al. 2022, "One TTS Alignment To Rule Them
    All", section 2.1, without the blank.

    Args:
        value: [B, T_text, T_mel] scores, float16, bfloat16, float32 or float64, NumPy or torch, on the CPU or a CUDA
            device. It is only read, where it lies, also as a transposed view of [B, T_mel, T_text]. What stands outside
            the mask is ignored, NaN included.
        mask: of the same shape, any dtype: not zero exactly in [0:tokens, 0:frames] of each item.
        check: False leaves out the error for failed items and returns the statuses as well; on a CUDA device nothing
            is waited for then.

    Returns:
        posteriors [B, T_text, T_mel], float32 (float64 for float64), 0 outside the mask, of the caller's kind and on
        the caller's device; each frame's sum to 1. Log-likelihoods, float64 [B]. With `check=False` also the `Status`
        of each item, int32 [B] (on a CUDA device, `INTERNAL` for a mask that is no rectangle); a failed item has
        posteriors of 0 and a log-likelihood of NaN.

    Raises:
        InvalidItemsError: listing every item that has no path: empty, more tokens than frames, NaN or +inf in a score
            that a path can visit, no path of finite score.
        ValueError: for wrong shapes, or a mask that is not a prefix rectangle.
        TypeError: for scores that are not floating-point.
        NotImplementedError: for tensors on a device of another kind.
        MemoryError: what is needed beside the arguments cannot be had.
    """
    check_shapes(value, mask)
    check_known_device(value, "mas_posteriors")
    if on_gpu(value):
        from alignd_kernels.mas.gpu_soft_padded import mas_posteriors_on_gpu

        return mas_posteriors_on_gpu(value, mask, check)
    from alignd_kernels.mas import cpu_sum
    from alignd_kernels.mas.masks import rectangle_lengths
    from alignd_kernels.threads import default_pool

    storage, score_type = host_scores(value, strided=True)
    if is_torch(mask) and str(mask.dtype) == "torch.bfloat16":  # NumPy has none
        mask = mask != 0
    tokens, frames = rectangle_lengths(host(mask), default_pool())
    batch, shape = padded_batch(storage, score_type, tokens, frames)
    flat = np.zeros(storage.size, score_type.accumulator)
    scores, statuses = cpu_sum.sums(batch, flat, (batch.offsets, batch.pitches), 1, default_pool())
    if check:
        raise_if_failed(statuses.tolist(), tokens, frames)
    found: tuple[npt.NDArray[Any], ...] = (shaped(flat, shape, batch.frames_first), scores, statuses)
    found = found[: 2 if check else 3]
    if not is_torch(value):
        return found
    import torch

    return tuple(torch.from_numpy(array) for array in found)
