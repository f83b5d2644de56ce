"""Monotonic alignment search from latents: the lattice is the Gaussian log-likelihood of frames under tokens.

Kim et al. 2020, "Glow-TTS"; Kim et al. 2021, "VITS": x[s, t] = Σ_c log N(z[t, c]; mean[s, c], exp(log_sigma[s, c])²).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import Buffers, Int64Array
from alignd_kernels.status import Status

LOG_2_PI = float(np.log(2 * np.pi))

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Rows:
    """Matrices of B items.

    Attributes:
        buffers: 1-D, of one dtype; or several such, `sources` then names the one of each item.
        offsets: int64 [B], index in its buffer of each item's first element.
        sources: int64 [B]; None for one buffer.
        steps: elements from a row to the next and from a channel to the next, of all items; None where each is
            row-major and whole.
    """

    buffers: Buffers
    offsets: Int64Array
    sources: Int64Array | None = None
    steps: tuple[int, int] | None = None


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

    @property
    def feasible(self) -> npt.NDArray[np.bool_]:
        """bool [B]: where a path may be found. Of other items no lattice is computed."""
        found: npt.NDArray[np.bool_] = (self.tokens > 0) & (self.tokens <= self.frames) & (self.channels > 0)
        return found


def reference_lattice(z: FloatArray, mean: FloatArray, log_sigma: FloatArray | None) -> npt.NDArray[np.float64]:
    """The lattice [S, T] in plain loops in float64: the specification.

    Args:
        z: [T, C].
        mean: [S, C].
        log_sigma: [S, C]; None for zeros.
    """
    S, T = len(mean), len(z)
    x = np.zeros((S, T))
    for s in range(S):
        for t in range(T):
            for c in range(z.shape[1]):
                log_s = 0.0 if log_sigma is None else float(log_sigma[s, c])
                distance = (float(z[t, c]) - float(mean[s, c])) / np.exp(log_s)
                x[s, t] += -0.5 * LOG_2_PI - log_s - 0.5 * distance * distance
    return x


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


def reason(status: Status | int, tokens: int, frames: int, channels: int) -> str:
    """One sentence on why an item of these sizes has no path, and what would help."""
    size = f"{tokens} tokens, {frames} frames, {channels} channels"
    match Status(status):
        case Status.EMPTY:
            return f"empty item ({size}): it needs at least one of each"
        case Status.TOO_FEW_FRAMES:
            return f"more tokens ({tokens}) than frames ({frames}): every token needs at least one frame"
        case Status.NOT_FINITE:
            return f"NaN in a latent, a mean or a log_sigma that a path can visit, or infinities that make one ({size})"
        case Status.NO_FINITE_PATH:
            return f"every path meets a log-likelihood of -inf ({size}): an infinite value, or squares that overflow"
        case other:
            from alignd_kernels import mas

            return mas.reason(other, tokens, frames)
