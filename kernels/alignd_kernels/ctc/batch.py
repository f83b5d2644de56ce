"""The ragged batch of CTC forced alignment, and its result."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import Buffers, Int64Array

STAR: Final = -1
"""The wildcard target: an ordinary label of at least one frame that matches anything."""

STAR_MAX: Final = float("nan")
"""As a star score: the largest non-blank log-prob of the frame."""


@dataclass(frozen=True, slots=True)
class CtcBatch:
    """Emissions and targets of B items; item b is a matrix [frames[b], vocabulary[b]] inside `log_probs`.

    Attributes:
        log_probs: 1-D, of `dtype.storage`; or several such, `sources` then names the one of each item.
        dtype: type of the emissions.
        offsets: int64 [B], index in its buffer of each item's cell (0, 0).
        frames: int64 [B], T of each item.
        vocabulary: int64 [B], columns V of each item.
        pitches: int64 [B], elements from a frame's row to the next; columns are contiguous.
        targets: int32, the items' labels; `STAR` is the wildcard.
        target_offsets: int64 [B], index in `targets` of each item's first label.
        target_lengths: int64 [B], L of each item.
        blanks: int32 [B], blank's column of each item.
        star_scores: float32 [B], log-prob of a wildcard's frame; NaN (`STAR_MAX`) for the largest non-blank one.
        sources: int64 [B], index in `log_probs` of each item's buffer; None for one buffer.
    """

    log_probs: Buffers
    dtype: DType
    offsets: Int64Array
    frames: Int64Array
    vocabulary: Int64Array
    pitches: Int64Array
    targets: npt.NDArray[np.int32]
    target_offsets: Int64Array
    target_lengths: Int64Array
    blanks: npt.NDArray[np.int32]
    star_scores: npt.NDArray[np.float32]
    sources: Int64Array | None = None

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True, slots=True)
class CtcResult:
    """Best paths of a `CtcBatch`. What belongs to a failed item is zero, its score NaN.

    Attributes:
        paths: int32, the items' [T] end to end: states 0 … 2L, even ones blank, state 2i + 1 label i.
        durations: int32, the items' [L] end to end: non-blank frames of each label.
        frame_scores: float32, the items' [T] end to end: log-prob of each frame on the path.
        scores: float64 [B], the path's sum in frame order in float64, rounded once to the accumulator's type.
        statuses: int32 [B], `Status` of each item.
        kernel_ns: time in the kernels, copies excluded.
    """

    paths: npt.NDArray[np.int32]
    durations: npt.NDArray[np.int32]
    frame_scores: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float64]
    statuses: npt.NDArray[np.int32]
    kernel_ns: int
