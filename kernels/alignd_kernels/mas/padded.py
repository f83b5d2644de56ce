"""Monotonic alignment search on padded batches, as text-to-speech training code holds them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from alignd_kernels.arrays import host, host_scores, is_torch, on_gpu
from alignd_kernels.dtypes import DType
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.ragged import Int64Array
from alignd_kernels.status import InvalidItemsError, Status


def maximum_path(value: Any, mask: Any, dtype: Any = None, *, check: bool = True) -> Any:
    """The best monotonic path of each item: a drop-in for super_monotonic_align's function of this name.

    Each token has at least one frame, tokens follow in order; on a tie the path stays on its token, seen from the end.
    Kim et al. 2020, "Glow-TTS", algorithm 1.

    Args:
        value: [B, T_text, T_mel] scores, float16, bfloat16, float32 or float64, NumPy or torch, on the CPU or a CUDA
            device. It is only read, on the CPU where it lies, also as a transposed view of [B, T_mel, T_text]. What
            stands outside the mask is ignored, NaN included.
        mask: of the same shape, any dtype: not zero exactly in [0:tokens, 0:frames] of each item.
        dtype: of the result; default float32.
        check: False leaves out the error for failed items and returns the statuses as well; on a CUDA device nothing
            is waited for then.

    Returns:
        path [B, T_text, T_mel] of zeros and ones, of the caller's kind and on the caller's device; with `check=False`
        also the `Status` of each item, int32 [B] (on a CUDA device, `INTERNAL` for a mask that is no rectangle). On the
        CPU, memory of a path that nothing refers to any more is kept for the next one, 256 MiB at most.

    Raises:
        InvalidItemsError: listing every item that has no path: empty, more tokens than frames, NaN or +inf in a score
            that a path can visit, no path of finite score.
        ValueError: for wrong shapes, or a mask that is not a prefix rectangle.
        TypeError: for scores that are not floating-point.
    """
    check_shapes(value, mask)
    if on_gpu(value):
        from alignd_kernels.mas.gpu_padded import maximum_path_on_gpu

        return maximum_path_on_gpu(value, mask, dtype, check)
    from alignd_kernels.mas import cpu
    from alignd_kernels.mas.dense import dense_paths
    from alignd_kernels.mas.masks import rectangle_lengths
    from alignd_kernels.threads import default_pool

    storage, score_type = host_scores(value, strided=True)
    if is_torch(mask) and str(mask.dtype) == "torch.bfloat16":  # NumPy has none
        mask = mask != 0
    tokens, frames = rectangle_lengths(host(mask), default_pool())
    batch, shape = padded_batch(storage, score_type, tokens, frames)
    result = cpu.align(batch, default_pool())
    if check:
        raise_if_failed(result.statuses.tolist(), tokens, frames)
    if not is_torch(value):
        ones = np.ones(1, np.float32 if dtype is None else dtype)
        path = shaped(dense_paths(batch, result, ones, default_pool()), shape, batch.frames_first)
        return path if check else (path, result.statuses)
    import torch

    # NumPy knows no bfloat16: it writes the bits of a one.
    one = torch.ones(1, dtype=torch.float32 if dtype is None else dtype)
    bits = one.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]).numpy()
    path = shaped(dense_paths(batch, result, bits, default_pool()), shape, batch.frames_first)
    tensor = torch.from_numpy(path).view(one.dtype)
    return tensor if check else (tensor, torch.from_numpy(result.statuses))


def padded_batch(
    storage: npt.NDArray[np.generic], score_type: DType, tokens: Int64Array, frames: Int64Array
) -> tuple[MasBatch, tuple[int, int, int]]:
    """The padded array [B, S, T] as a batch, and that shape. It is read where it lies if one of its two inner axes is
    contiguous and the other one is the next, as in a transposed view of [B, T, S]; else from a copy."""
    B, S, T = storage.shape
    frames_first = not storage.flags.c_contiguous and storage.transpose(0, 2, 1).flags.c_contiguous
    flat = storage.transpose(0, 2, 1) if frames_first else np.ascontiguousarray(storage)
    offsets, pitch = np.arange(B, dtype=np.int64) * (S * T), S if frames_first else T
    pitches = np.full(B, pitch, np.int64)
    return MasBatch(flat.reshape(-1), score_type, offsets, tokens, frames, pitches, frames_first=frames_first), (
        B,
        S,
        T,
    )


def shaped(flat: npt.NDArray[Any], shape: tuple[int, int, int], frames_first: bool) -> npt.NDArray[Any]:
    """[B, S, T], in memory as the values are."""
    B, S, T = shape
    return flat.reshape(B, T, S).transpose(0, 2, 1) if frames_first else flat.reshape(shape)


def raise_if_failed(
    statuses: list[int], tokens: Int64Array, frames: Int64Array, why: Callable[[Status, int, int], str] | None = None
) -> None:
    """
    Args:
        why: what is said of an item's status, tokens and frames, instead of `mas.reason`.

    Raises:
        InvalidItemsError: for the items that are not OK, if there are any.
    """
    from alignd_kernels.mas import reason

    why = why or reason
    bad = {index: Status(status) for index, status in enumerate(statuses) if status != Status.OK}
    if bad:
        reasons = {index: why(status, int(tokens[index]), int(frames[index])) for index, status in bad.items()}
        raise InvalidItemsError(bad, reasons)


def check_shapes(value: Any, mask: Any) -> None:
    shape, mask_shape = tuple(np.shape(value)), tuple(np.shape(mask))
    if len(shape) != 3:
        raise ValueError(f"value must be [batch, tokens, frames], not of shape {shape}")
    if len(mask_shape) == 4 and 1 in mask_shape:
        axis = mask_shape.index(1) if mask_shape[1] != 1 else 1
        raise ValueError(
            f"mask has 4 dimensions, {mask_shape}: squeeze the one of size 1, mask.squeeze({axis}), to get the shape "
            f"of value, {shape}"
        )
    if mask_shape != shape:
        raise ValueError(f"mask must have the shape of value, {shape}, not {mask_shape}")
