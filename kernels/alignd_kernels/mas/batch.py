"""The ragged batch of monotonic alignment search, and its result."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import Int64Array


@dataclass(frozen=True, slots=True)
class MasBatch:
    """Scores of B items; item b is a matrix [tokens[b], frames[b]] inside `values`.

    Attributes:
        values: 1-D, of `dtype.storage`.
        dtype: type of the scores.
        offsets: int64 [B], index in `values` of each item's cell (0, 0).
        tokens: int64 [B], S of each item.
        frames: int64 [B], T of each item.
        pitches: int64 [B], elements from a token's row to the next; frames are contiguous.
    """

    values: npt.NDArray[np.generic]
    dtype: DType
    offsets: Int64Array
    tokens: Int64Array
    frames: Int64Array
    pitches: Int64Array

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class MasResult:
    """Best paths of a `MasBatch`. What belongs to a failed item is zero, its score NaN.

    Attributes:
        durations: int32, the items' [S] end to end: frames of each token. The path is `repeat(arange(S), durations)`.
        scores: float64 [B], the path's sum in frame order in float64, rounded once to the accumulator's type.
        statuses: int32 [B], `Status` of each item.
        kernel_ns: time in the kernels, copies excluded.
    """

    durations: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float64]
    statuses: npt.NDArray[np.int32]
    kernel_ns: int
