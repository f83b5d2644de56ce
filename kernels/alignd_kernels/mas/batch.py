"""The ragged batch of monotonic alignment search, and its result."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import Buffers, Int64Array, as_one, offsets_of
from alignd_kernels.status import Status

END_TO_END: Final = np.zeros(0, np.int64)
"""Instead of a batch's offsets, on the CPU: its items follow each other without gaps, in one buffer, from its start."""


@dataclass(frozen=True, slots=True)
class MasBatch:
    """Scores of B items; item b is a matrix [tokens[b], frames[b]] inside `values`.

    Attributes:
        values: 1-D, of `dtype.storage`; or several such, `sources` then names the one of each item.
        dtype: type of the scores.
        offsets: int64 [B], index in its buffer of each item's cell (0, 0); or `END_TO_END`.
        tokens: int64 [B], S of each item.
        frames: int64 [B], T of each item.
        pitches: int64 [B], elements from a token's row to the next; frames are contiguous. With `frames_first`, from
            a frame's row to the next; tokens are contiguous.
        sources: int64 [B], index in `values` of each item's buffer; None for one buffer.
        frames_first: whether the items lie [frames, tokens].
    """

    values: Buffers
    dtype: DType
    offsets: Int64Array
    tokens: Int64Array
    frames: Int64Array
    pitches: Int64Array
    sources: Int64Array | None = None
    frames_first: bool = False

    def __len__(self) -> int:
        return len(self.tokens)


def row_major(batch: MasBatch) -> MasBatch:
    """The batch with its items [tokens, frames]; copied if they lie the other way."""
    if not batch.frames_first:
        return batch
    values, offsets = as_one(batch.values, batch.sources, batch.offsets)
    begins = offsets_of(batch.tokens * batch.frames)
    turned = np.empty(begins[-1], values.dtype)
    for b, (S, T, pitch) in enumerate(zip(batch.tokens.tolist(), batch.frames.tolist(), batch.pitches.tolist())):
        if S > 0 and T > 0:
            steps = values.itemsize, pitch * values.itemsize
            item = np.lib.stride_tricks.as_strided(values[offsets[b] :], (S, T), steps, writeable=False)
            turned[begins[b] : begins[b + 1]].reshape(S, T)[...] = item
    return MasBatch(turned, batch.dtype, begins[:-1], batch.tokens, batch.frames, batch.frames)


@dataclass(frozen=True, slots=True)
class MasResult:
    """Best paths of a `MasBatch`. What belongs to a failed item is zero, its score NaN.

    Attributes:
        durations: int32, the items' [S] end to end: frames of each token.
        scores: float64 [B], the path's sum in frame order in float64, rounded once to the accumulator's type.
        statuses: int32 [B], `Status` of each item.
        kernel_ns: time in the kernels, copies excluded.
        paths: int32, the items' [T] end to end: the token of each frame; None where it was not asked for.
    """

    durations: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float64]
    statuses: npt.NDArray[np.int32]
    kernel_ns: int
    paths: npt.NDArray[np.int32] | None = None


def paths_of(batch: MasBatch, result: MasResult) -> npt.NDArray[np.int32]:
    """What `MasResult.paths` is, from the durations."""
    starts = offsets_of(batch.tokens)
    S, T = np.maximum(batch.tokens, 0), np.maximum(batch.frames, 0)
    within = (np.arange(starts[-1]) - np.repeat(starts[:-1], S)).astype(np.int32)
    paths = np.zeros(int(T.sum()), np.int32)
    paths[np.repeat(result.statuses == Status.OK, T)] = np.repeat(within, result.durations)
    return paths
