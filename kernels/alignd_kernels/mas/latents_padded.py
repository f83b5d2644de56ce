"""Monotonic alignment search from latents on padded batches, as flow-based text-to-speech holds them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from alignd_kernels.arrays import host_scores, is_torch, lengths, on_gpu
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.mas.latents import LatentBatch, Rows, reason
from alignd_kernels.mas.padded import shaped
from alignd_kernels.padded import like, raise_if_failed
from alignd_kernels.ragged import Int64Array


def maximum_path_from_latents(
    z: Any,
    mean: Any,
    log_sigma: Any = None,
    frame_lengths: Any = None,
    token_lengths: Any = None,
    *,
    check: bool = True,
) -> Any:
    """The best monotonic path of each item by the Gaussian log-likelihoods of its latents under its tokens.

    `maximum_path` of x[s, t] = Σ_c log N(z[t, c]; mean[s, c], exp(log_sigma[s, c])²), which is computed on the way.
    Kim et al. 2020, "Glow-TTS", section 3.1; Kim et al. 2021, "VITS", section 2.2.1.

    Args:
        z: latents [B, frames, channels], float16, bfloat16, float32 or float64, NumPy or torch, on the CPU or a CUDA
            device. On the CPU float32 and float64 are read where they lie, also as a transposed view of
            [B, channels, frames]: VITS has channels first. What stands beyond an item's lengths is ignored, NaN
            included.
        mean: [B, tokens, channels], of z's dtype.
        log_sigma: as `mean`, natural logarithms of standard deviations; None for standard deviations of 1.
        frame_lengths: integers [B]; None for all frames.
        token_lengths: integers [B]; None for all tokens.
        check: False leaves out the error for failed items and returns the statuses as well; on a CUDA device nothing
            is waited for then.

    Returns:
        path [B, tokens, frames] of zeros and ones, float32, of z's kind and on its device; with `check=False` also the
        `Status` of each item, int32 [B] (on a CUDA device, `INTERNAL` for a length beyond the padded size). On the CPU
        the lattice of an item is the same in any batch. On a GPU it comes from batched products in float32 (float64 for
        float64), never TF32, whose rounding may differ with the batch's shape, and choose another of two paths that are
        nearly as good: in float32 a cell is off by about (C + 10) · 2⁻²⁴ of Σ (z² + mean²) / σ² + |log σ| + 1 at most,
        with z and mean less the average of the item's means.

    Raises:
        InvalidItemsError: listing every item that has no path: empty, more tokens than frames, NaN in a log-likelihood
            that a path can visit, no path of finite score.
        ValueError: for shapes or lengths that contradict each other.
        TypeError: for dtypes that do not fit.
    """
    check_latents(z, mean, log_sigma)
    if on_gpu(z):
        from alignd_kernels.mas.gpu_latents_padded import maximum_path_from_latents_on_gpu

        return maximum_path_from_latents_on_gpu(z, mean, log_sigma, frame_lengths, token_lengths, check)
    from alignd_kernels.mas import cpu_latents
    from alignd_kernels.mas.dense import dense_paths
    from alignd_kernels.threads import default_pool

    (B, T, C), S = np.shape(z), np.shape(mean)[1]
    storage, dtype = host_scores(z, strided=True)
    latents, means, log_sigmas = (None if x is None else _rows(x) for x in (storage, _host(mean), _host(log_sigma)))
    assert latents is not None
    assert means is not None
    frames = lengths(frame_lengths, "frame_lengths", B, T)
    tokens = lengths(token_lengths, "token_lengths", B, S)
    batch = LatentBatch(latents, means, log_sigmas, dtype, tokens, frames, np.full(B, C, np.int64))
    result = cpu_latents.align(batch, default_pool())
    if check:
        raise_if_failed(result.statuses.tolist(), lambda b, status: reason(status, int(tokens[b]), int(frames[b]), C))
    lattices = _padded(B, S, T, tokens, frames, dtype)
    path = shaped(dense_paths(lattices, result, np.ones(1, np.float32), default_pool()), (B, S, T), False)
    return like(z, path) if check else (like(z, path), like(z, result.statuses))


def _host(array: Any) -> npt.NDArray[np.generic] | None:
    return None if array is None else host_scores(array, strided=True)[0]


def _rows(storage: npt.NDArray[np.generic]) -> Rows:
    """The matrices of [B, rows, channels] where they lie; of an array with turned axes or odd steps, a copy's."""
    size = storage.itemsize
    if storage.size == 0 or any(stride < 0 or stride % size for stride in storage.strides):
        storage = np.ascontiguousarray(storage)
    item, row, channel = (stride // size for stride in storage.strides)
    reach = (
        1 + sum((n - 1) * stride // size for n, stride in zip(storage.shape, storage.strides)) if storage.size else 0
    )
    flat = np.lib.stride_tricks.as_strided(storage, (reach,), (size,), writeable=False)
    return Rows(flat, np.arange(len(storage), dtype=np.int64) * item, steps=(row, channel))


def _padded(B: int, S: int, T: int, tokens: Int64Array, frames: Int64Array, dtype: Any) -> MasBatch:
    """Where the items lie in a padded lattice; of its cells there is one."""
    cells = np.broadcast_to(np.zeros(1, dtype.accumulator), (B * S * T,))
    return MasBatch(cells, dtype, np.arange(B, dtype=np.int64) * (S * T), tokens, frames, np.full(B, T, np.int64))


def check_latents(z: Any, mean: Any, log_sigma: Any) -> None:
    """Raises:
    ValueError: for shapes that contradict each other.
    TypeError: for more than one dtype.
    """
    shape, mean_shape = tuple(np.shape(z)), tuple(np.shape(mean))
    if len(shape) != 3 or len(mean_shape) != 3:
        raise ValueError(
            f"z must be [batch, frames, channels] and mean [batch, tokens, channels], not of shapes {shape} and "
            f"{mean_shape}"
        )
    if mean_shape[::2] != shape[::2]:
        raise ValueError(
            f"mean's shape {mean_shape} does not go with z's, {shape}: z is [batch, frames, channels], mean [batch, "
            "tokens, channels]; VITS has channels first: pass z.transpose(1, 2)"
        )
    if log_sigma is not None and tuple(np.shape(log_sigma)) != mean_shape:
        raise ValueError(f"log_sigma must have the shape of mean, {mean_shape}, not {tuple(np.shape(log_sigma))}")
    for name, array in (("mean", mean), ("log_sigma", log_sigma)):
        if array is not None and _dtype(array) != _dtype(z):
            raise TypeError(f"{name} is {_dtype(array)}, but z is {_dtype(z)}: convert one of them")


def _dtype(array: Any) -> str:
    """Its name, the same for NumPy and torch."""
    return str(array.dtype).removeprefix("torch.") if is_torch(array) else np.asarray(array).dtype.name
