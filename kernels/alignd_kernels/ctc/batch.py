"""The ragged batch of CTC forced alignment, and its result."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import Buffers, Int64Array, offsets_of

STAR: Final = -1
"""The wildcard target: an ordinary label of at least one frame that matches anything."""

STAR_MAX: Final = float("nan")
"""As a star score: the largest non-blank log-prob of the frame."""

PER_ITEM: Final = (
    "frames",
    "vocabulary",
    "pitches",
    "target_offsets",
    "target_lengths",
    "blanks",
    "star_scores",
)


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

    def take(self, items: Int64Array) -> "CtcBatch":
        """Some of the items, each read where it lies."""
        buffers = self.log_probs if isinstance(self.log_probs, tuple) else (self.log_probs,)
        values = []
        for b in items.tolist():
            buffer = buffers[0 if self.sources is None else int(self.sources[b])]
            begin, T, V = int(self.offsets[b]), int(self.frames[b]), int(self.vocabulary[b])
            end = begin + (T - 1) * int(self.pitches[b]) + V
            values.append(buffer[begin : end if T > 0 and V > 0 else begin])
        taken = {name: getattr(self, name)[items] for name in PER_ITEM}
        return replace(
            self,
            log_probs=tuple(values),
            sources=np.arange(len(items)),
            **{**taken, "offsets": np.zeros(len(items), np.int64)},
        )


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


def joined(batch: CtcBatch, groups: Sequence[Int64Array], parts: Sequence[CtcResult]) -> CtcResult:
    """The result of a batch from those of all its items in groups."""
    T, L = offsets_of(batch.frames), offsets_of(batch.target_lengths)
    whole = CtcResult(
        np.zeros(T[-1], np.int32),
        np.zeros(L[-1], np.int32),
        np.zeros(T[-1], np.float32),
        np.full(len(batch), np.nan),
        np.zeros(len(batch), np.int32),
        sum(part.kernel_ns for part in parts),
    )
    for group, part in zip(groups, parts):
        whole.scores[group], whole.statuses[group] = part.scores, part.statuses
        frames, labels = offsets_of(batch.frames[group]), offsets_of(batch.target_lengths[group])
        for place, b in enumerate(group.tolist()):
            own = slice(frames[place], frames[place + 1])
            whole.paths[T[b] : T[b + 1]] = part.paths[own]
            whole.frame_scores[T[b] : T[b + 1]] = part.frame_scores[own]
            whole.durations[L[b] : L[b + 1]] = part.durations[labels[place] : labels[place + 1]]
    return whole
