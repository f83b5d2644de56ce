"""Monotonic alignment search from latents on a GPU: lattices by torch's matrix products, paths by `mas.gpu`.

With the square multiplied out a lattice is two products, of 1/σ² with z² and of mean/σ² with z. Before, the average of
an item's means is taken off both, which no distance notices: squares that are far larger than their difference leave
little of it. And products are in float32 proper: TF32 keeps 10 bits of what a difference of squares is made of.
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_common import TORCH_DTYPES, Stopwatch, check_device, current
from alignd_kernels.gpu_copies import staged
from alignd_kernels.mas import gpu
from alignd_kernels.mas.batch import MasBatch, MasResult
from alignd_kernels.mas.latents import LOG_2_PI, LatentBatch, Rows
from alignd_kernels.ragged import Int64Array, offsets_of


class Weighed(NamedTuple):
    """What lattices are products of: tensors of one accumulator's type, all [.., frames, channels] as z or [.., tokens,
    channels] as the means, or flat.

    Attributes:
        z: the latents.
        squares: z².
        scaled: mean/σ².
        inverse: 1/σ²; None for 1.
        terms: −½ mean²/σ² − log σ, whose sum over channels is a token's own share.
    """

    z: torch.Tensor
    squares: torch.Tensor
    scaled: torch.Tensor
    inverse: torch.Tensor | None
    terms: torch.Tensor


def align(batch: LatentBatch, device: torch.device | str) -> MasResult:
    """Best path of each item; see `mas.gpu.align`. The score is of the lattice as it was computed.

    One copy in of each of z, means and log_sigmas (none of what lies on the device), and one wait, at the copy out. An
    item's products are its own calls of torch's, so that neither their shapes nor what is chosen by these depend on the
    batch's other items: its lattice is the same alone and in any batch where the library answers the same call by the
    same bits, which cuBLAS promises for one version, one kind of device and one stream at a time. Beyond that, products
    have a tolerance, in float32 about (C + 10) · 2⁻²⁴ of Σ (z² + mean²) / σ² + |log σ| + 1 over the channels, with z
    and mean less the average of the item's means; and the path is the best one of the lattice as it was computed. An
    infinite mean makes that average infinite, and the item `NOT_FINITE`, which on the CPU may be `NO_FINITE_PATH`.

    Raises:
        ValueError: no kernel runs on `device`; matrices are not row-major, or log_sigmas lie otherwise than means.
        MemoryError: the batch and its `scratch_bytes` do not fit.
    """
    device = torch.device(device)
    check_device(device)
    dtype = DType(np.dtype(batch.dtype.accumulator).name)
    tokens = np.where(batch.channels > 0, batch.tokens, 0)  # an item without channels is an empty one
    starts = offsets_of(np.where(batch.feasible, batch.tokens * batch.frames, 0))  # of others no lattice is computed
    with current(device):
        z, frame_starts = _there(batch.latents, batch.dtype, device)
        mean, token_starts = _there(batch.means, batch.dtype, device)
        log_sigma = None
        if batch.log_sigmas is not None:
            log_sigma, sigma_starts = _there(batch.log_sigmas, batch.dtype, device)
            if len(log_sigma) != len(mean) or (sigma_starts != token_starts).any():
                raise ValueError("log_sigmas must lie as the means do")
        values = torch.empty(int(starts[-1]), dtype=TORCH_DTYPES[dtype], device=device)
        lengths = batch.frames, batch.tokens, batch.channels
        stopwatch = Stopwatch(device)
        with stopwatch, precise(device):
            z, mean = z.to(values.dtype), mean.to(values.dtype)
            log_sigma = None if log_sigma is None else log_sigma.to(values.dtype)
            # At places of their own: items may share what they are made of, and each takes its own average off.
            near_frames = offsets_of(np.where(batch.feasible, batch.frames * batch.channels, 0))
            near_tokens = offsets_of(np.where(batch.feasible, batch.tokens * batch.channels, 0))
            near_z, near_mean = z.new_empty(int(near_frames[-1])), mean.new_empty(int(near_tokens[-1]))
            near_sigma = None if log_sigma is None else near_mean.clone()
            good = [(b, *(int(of[b]) for of in lengths)) for b in np.flatnonzero(batch.feasible).tolist()]
            for b, T, S, C in good:
                own = _matrix(mean, (int(token_starts[b]), S), C)
                average, there = own.mean(1, keepdim=True), (int(near_tokens[b]), S)
                near = _matrix(near_z, (int(near_frames[b]), T), C)
                torch.sub(_matrix(z, (int(frame_starts[b]), T), C), average, out=near)
                torch.sub(own, average, out=_matrix(near_mean, there, C))
                if log_sigma is not None and near_sigma is not None:
                    _matrix(near_sigma, there, C).copy_(_matrix(log_sigma, (int(token_starts[b]), S), C))
            whole = weighed(near_z, near_mean, near_sigma)
            for b, T, S, C in good:
                of_frames, of_tokens = (int(near_frames[b]), T), (int(near_tokens[b]), S)
                each = zip(whole, (of_frames, of_frames, of_tokens, of_tokens, of_tokens))
                item = Weighed(*(None if x is None else _matrix(x, at, C) for x, at in each))
                fill(item, values[int(starts[b]) : int(starts[b + 1])].view(1, S, T))
        found = gpu.align(MasBatch(values, dtype, starts[:-1], tokens, batch.frames, batch.frames), device)
    durations = np.zeros(int(batch.tokens.sum()), np.int32)
    durations[np.repeat(batch.channels > 0, batch.tokens)] = found.durations
    return MasResult(durations, found.scores, found.statuses, stopwatch.elapsed_ns() + found.kernel_ns)


def _there(rows: Rows, dtype: DType, device: torch.device) -> tuple[torch.Tensor, Int64Array]:
    """All matrices end to end on the device, as they are stored, and where each begins."""
    if rows.steps is not None:
        raise ValueError("on a GPU, each item's matrices must be row-major")
    return staged(rows.buffers, rows.sources, rows.offsets, device, TORCH_DTYPES[dtype], joined=True)


def _matrix(flat: torch.Tensor, at: tuple[int, int], C: int) -> torch.Tensor:
    """[1, rows, C] of an item, from its first element and its rows."""
    begin, rows = at
    return flat[begin : begin + rows * C].view(1, rows, C)


_settings = threading.Lock()


@contextlib.contextmanager
def precise(device: torch.device) -> Iterator[None]:
    """Products as exact as their tensors' type: no TF32, no automatic halves. The first is a setting of torch's that
    all threads share, and lanes are threads: one at a time, and as it was afterwards. Nothing within may wait."""
    matmul = torch.backends.cuda.matmul
    name, exact = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    with _settings, torch.autocast(device.type, enabled=False):
        before = getattr(matmul, name)
        setattr(matmul, name, exact)
        try:
            yield
        finally:
            setattr(matmul, name, before)


def weighed(z: torch.Tensor, mean: torch.Tensor, log_sigma: torch.Tensor | None) -> Weighed:
    """Of all items at once, element by element.

    Args:
        z: of the accumulator's type, of any shape.
        mean: likewise.
        log_sigma: of the shape of `mean`; None for 0.
    """
    if log_sigma is None:
        return Weighed(z, z * z, mean, None, mean * mean * -0.5)
    inverse = torch.exp(-2 * log_sigma)
    scaled = mean * inverse
    return Weighed(z, z * z, scaled, inverse, mean * scaled * -0.5 - log_sigma)


def fill(gaussians: Weighed, out: torch.Tensor) -> None:
    """Lattices, within `precise`.

    Args:
        gaussians: of n items of one padded shape.
        out: [n, tokens, frames].
    """
    z, squares, scaled, inverse, terms = gaussians
    constants = terms.sum(-1, keepdim=True) - 0.5 * z.shape[-1] * LOG_2_PI
    torch.baddbmm(constants, scaled, z.transpose(1, 2), out=out)
    if inverse is None:
        out.add_(squares.sum(-1)[:, None], alpha=-0.5)
    else:
        out.baddbmm_(inverse, squares.transpose(1, 2), alpha=-0.5)


def scratch_bytes(batch: LatentBatch) -> Int64Array:
    """Memory on the device beside input and output, int64 [B]: 3·T·C + 8·S·C accumulators for what the products are of,
    widened halves among it; and for an item that may have a path S·T for its lattice, and what its search needs."""
    accumulator = DType(np.dtype(batch.dtype.accumulator).name)
    nothing, S, T = np.zeros(0, accumulator.storage), batch.tokens, batch.frames
    search = gpu.scratch_bytes(MasBatch(nothing, accumulator, T, S, T, T))
    size = accumulator.storage.itemsize
    lattice = np.where(batch.feasible, size * S * T + search, 0)
    need: Int64Array = size * (3 * T + 8 * S) * batch.channels + lattice
    return need


def warm_up(device: torch.device | str, dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Load what batches of these types use: torch's products, and the kernels of `mas.gpu`, which are compiled."""
    wanted = set(dtypes)
    gpu.warm_up(device, {DType(np.dtype(dtype.accumulator).name) for dtype in wanted})
    one = np.ones(1, np.int64)
    for dtype in wanted:
        rows = Rows(np.zeros(1, dtype.storage), one - 1)
        align(LatentBatch(rows, rows, rows, dtype, one, one, one), device)
