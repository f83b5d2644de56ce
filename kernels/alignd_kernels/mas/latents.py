"""Monotonic alignment search from latents: the lattice is the Gaussian log-likelihood of frames under tokens.

Kim et al. 2020, "Glow-TTS"; Kim et al. 2021, "VITS": x[s, t] = Σ_c log N(z[t, c]; mean[s, c], exp(log_sigma[s, c])²).
With the square multiplied out these are two matrix products.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alignd_kernels.dtypes import DType, widen
from alignd_kernels.ragged import Buffers, Int64Array

LOG_2_PI = float(np.log(2 * np.pi))

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Rows:
    """Matrices of B items, each row-major and whole inside one of `buffers`.

    Attributes:
        buffers: 1-D, of one dtype; or several such, `sources` then names the one of each item.
        offsets: int64 [B], index in its buffer of each item's first element.
        sources: int64 [B]; None for one buffer.
    """

    buffers: Buffers
    offsets: Int64Array
    sources: Int64Array | None = None

    def item(self, b: int, rows: int, columns: int) -> npt.NDArray[np.generic]:
        """[rows, columns], where they lie."""
        buffer = self.buffers
        if isinstance(buffer, tuple):
            buffer = buffer[0 if self.sources is None else int(self.sources[b])]
        begin = int(self.offsets[b])
        found: npt.NDArray[np.generic] = buffer[begin : begin + rows * columns].reshape(rows, columns)
        return found


@dataclass(frozen=True, slots=True)
class LatentBatch:
    """Latents and Gaussians of B items.

    Attributes:
        latents: z, [frames[b], channels[b]] of each item, of `dtype.storage`.
        means: [tokens[b], channels[b]] of each item.
        log_sigmas: as `means`; None for sigmas of 1.
        dtype: type of all of them.
        tokens: int64 [B], S of each item.
        frames: int64 [B], T of each item.
        channels: int64 [B], C of each item.
    """

    latents: Rows
    means: Rows
    log_sigmas: Rows | None
    dtype: DType
    tokens: Int64Array
    frames: Int64Array
    channels: Int64Array

    def __len__(self) -> int:
        return len(self.tokens)


def gaussians(batch: LatentBatch, b: int) -> tuple[FloatArray, FloatArray, FloatArray | None]:
    """z [T, C], mean [S, C] and log_sigma [S, C] of an item in the accumulator's type."""
    S, T, C = int(batch.tokens[b]), int(batch.frames[b]), int(batch.channels[b])
    latents = widen(batch.latents.item(b, T, C), batch.dtype)
    means = widen(batch.means.item(b, S, C), batch.dtype)
    return latents, means, None if batch.log_sigmas is None else widen(batch.log_sigmas.item(b, S, C), batch.dtype)


def lattice(z: FloatArray, mean: FloatArray, log_sigma: FloatArray | None, out: FloatArray | None = None) -> FloatArray:
    """Log-likelihood of each frame under each token, [S, T], in the arguments' type.

    Args:
        z: [T, C].
        mean: [S, C].
        log_sigma: [S, C]; None for zeros.
        out: where to, [S, T]; None for memory of its own.

    The square is multiplied out, so its rounding is relative to Σ z²/σ² + mean²/σ², not to their difference: the error
    of a cell is at most about (C + 4) · 2⁻²⁴ of that sum in float32.
    """
    C = z.shape[1]
    half = z.dtype.type(-0.5)
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it has a status
        if log_sigma is None:
            found: FloatArray = np.matmul(mean, z.T, out=out)
            found += (half * np.einsum("sc,sc->s", mean, mean) - z.dtype.type(0.5 * C * LOG_2_PI))[:, None]
            found += half * np.einsum("tc,tc->t", z, z)
            return found
        inverse = np.exp(-2 * log_sigma)
        scaled = mean * inverse
        found = np.matmul(scaled, z.T, out=out)
        constant = half * np.einsum("sc,sc->s", mean, scaled) - log_sigma.sum(1) - z.dtype.type(0.5 * C * LOG_2_PI)
        found += np.matmul(half * inverse, (z * z).T)
        found += constant[:, None]
    return found


def reference_lattice(z: FloatArray, mean: FloatArray, log_sigma: FloatArray | None) -> npt.NDArray[np.float64]:
    """`lattice` in plain loops in float64: the specification."""
    S, T = len(mean), len(z)
    x = np.zeros((S, T))
    for s in range(S):
        for t in range(T):
            for c in range(z.shape[1]):
                log_s = 0.0 if log_sigma is None else float(log_sigma[s, c])
                distance = (float(z[t, c]) - float(mean[s, c])) / np.exp(log_s)
                x[s, t] += -0.5 * LOG_2_PI - log_s - 0.5 * distance * distance
    return x


def lattice_bytes(batch: LatentBatch) -> Int64Array:
    """Memory that an item's lattice takes while it is computed and searched, int64 [B]: S × T twice over, and S + T
    rows of C widened and scaled, in the accumulator's type."""
    size = np.dtype(batch.dtype.accumulator).itemsize
    S, T, C = batch.tokens, batch.frames, batch.channels
    need: Int64Array = size * (2 * S * T + 3 * S * C + 2 * T * C)
    return need


def groups_of(cells: Sequence[int], most: int) -> list[slice]:
    """Consecutive items that are searched together: as many as hold `most` cells, or one."""
    groups, begin, held = [], 0, 0
    for b, count in enumerate(cells):
        if b > begin and held + count > most:
            groups.append(slice(begin, b))
            begin, held = b, 0
        held += count
    if begin < len(cells):
        groups.append(slice(begin, len(cells)))
    return groups
