"""The ragged batch of transducer (RNN-T) lattices, and what is found in them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import Buffers, Int64Array, offsets_of


@dataclass(frozen=True, slots=True)
class TransducerBatch:
    """Joint log-probs and labels of B items; item b is a tensor [frames[b], labels[b] + 1, vocabulary[b]] inside
    `log_probs`. Joint log-probs that are reduced to blank and label, [frames, labels + 1, 2], are a vocabulary of two
    columns, the blank 0 and every target 1 (`reduced`).

    Attributes:
        log_probs: 1-D, of `dtype.storage`; or several such, `sources` then names the one of each item.
        dtype: type of the log-probs.
        offsets: int64 [B], index in its buffer of each item's element (0, 0, 0).
        frames: int64 [B], T of each item.
        labels: int64 [B], U of each item; 0 is legal.
        vocabulary: int64 [B], columns V of each item.
        frame_pitches: int64 [B], elements from a frame to the next.
        node_pitches: int64 [B], elements from node (t, u) to (t, u + 1); columns are contiguous.
        targets: int32, the items' labels.
        target_offsets: int64 [B], index in `targets` of each item's first label.
        blanks: int32 [B], blank's column of each item.
        modified: one symbol a frame: a label too goes on to the next frame.
        sources: int64 [B], index in `log_probs` of each item's buffer; None for one buffer.
    """

    log_probs: Buffers
    dtype: DType
    offsets: Int64Array
    frames: Int64Array
    labels: Int64Array
    vocabulary: Int64Array
    frame_pitches: Int64Array
    node_pitches: Int64Array
    targets: npt.NDArray[np.int32]
    target_offsets: Int64Array
    blanks: npt.NDArray[np.int32]
    modified: bool = False
    sources: Int64Array | None = None

    def __len__(self) -> int:
        return len(self.frames)


def reduced(
    arcs: Buffers,
    dtype: DType,
    offsets: Int64Array,
    frames: Int64Array,
    labels: Int64Array,
    *,
    modified: bool = False,
    sources: Int64Array | None = None,
) -> TransducerBatch:
    """The batch of items [frames, labels + 1, 2], row-major: log-probs of blank and of the next label in each node."""
    starts = offsets_of(labels)
    two = np.full(len(frames), 2, np.int64)
    return TransducerBatch(
        arcs,
        dtype,
        offsets,
        frames,
        labels,
        two,
        2 * (labels + 1),
        two,
        np.ones(int(starts[-1]), np.int32),
        starts[:-1],
        np.zeros(len(frames), np.int32),
        modified,
        sources,
    )


@dataclass(frozen=True, slots=True)
class TransducerResult:
    """Best paths of a `TransducerBatch`. What belongs to a failed item is zero, its score NaN.

    Attributes:
        emission_frames: int32, the items' [U] end to end: the frame in which each label is emitted. A label lasts until
            the next one's frame, the last one until T.
        scores: float64 [B], the path's sum along the path in float64, rounded once to the accumulator's type.
        statuses: int32 [B], `Status` of each item.
        kernel_ns: time in the kernels, copies excluded.
    """

    emission_frames: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float64]
    statuses: npt.NDArray[np.int32]
    kernel_ns: int


@dataclass(frozen=True, slots=True)
class TransducerPosteriors:
    """Sums over all paths of a `TransducerBatch`. What belongs to a failed item is zero, its score NaN.

    Attributes:
        posteriors: of the accumulator's type, the items' [T, U + 1] end to end: the probability that a path visits the
            node, given the labels.
        scores: float64 [B], log-likelihood of the labels.
        statuses: int32 [B], `Status` of each item.
        kernel_ns: time in the kernels, copies excluded.
    """

    posteriors: npt.NDArray[np.floating]
    scores: npt.NDArray[np.float64]
    statuses: npt.NDArray[np.int32]
    kernel_ns: int


@dataclass(frozen=True, slots=True)
class TransducerCosts:
    """Negative log-likelihoods of a `TransducerBatch` and their gradients.

    Attributes:
        costs: of the accumulator's type [B]: +inf where no path has a finite score, NaN where an arc that a path can
            take is NaN or +inf; NaN too for items that cannot be computed at all, which their status tells.
        gradients: of the accumulator's type, the items' [T, U + 1, 2] end to end: derivative of the cost by the
            log-prob of each node's blank and label, 0 on arcs that no path can take. All 0 where the cost is +inf, all
            NaN where it is NaN. None where they were not asked for.
        statuses: int32 [B], `Status` of each item.
        kernel_ns: time in the kernels, copies excluded.
    """

    costs: npt.NDArray[np.floating]
    gradients: npt.NDArray[np.floating] | None
    statuses: npt.NDArray[np.int32]
    kernel_ns: int
