"""Best paths of transducers on padded batches, and on packed ones, as training code holds them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alignd_kernels.arrays import host_scores, lengths, of_lists, on_gpu
from alignd_kernels.padded import LARGEST, check_blank, int32_labels, like, raise_if_failed, where_it_lies
from alignd_kernels.ragged import Int64Array, offsets_of
from alignd_kernels.status import Status
from alignd_kernels.transducer.batch import TransducerBatch, TransducerResult


def transducer_align(
    log_probs: Any,
    targets: Any = None,
    input_lengths: Any = None,
    target_lengths: Any = None,
    blank: int = 0,
    *,
    modified: bool = False,
    check: bool = True,
) -> Any:
    """The best path of each item's targets through joint log-probs: in which frame each label is emitted.

    On a tie the path comes by blank, seen from the end. Graves 2012, "Sequence Transduction with Recurrent Neural
    Networks"; the modified topology: Tripathi et al. 2019, "Monotonic Recurrent Neural Network Transducer".

    Args:
        log_probs: joint log-probs [B, T, U + 1, V], float16, bfloat16, float32 or float64, NumPy or torch, on the CPU
            or a CUDA device; or packed, [sum of T · (U + 1) over the items, V]: the items' [T, U + 1, V] end to end.
            Rows need not be normalised: they are taken as they are.
        targets: integers [B, U], packed [sum of U], without blanks. None: `log_probs` are reduced to the log-probs of
            blank and of the next label, V = 2.
        input_lengths: integers [B], frames of each item; default T. Packed items need them.
        target_lengths: integers [B], targets of each item; default U. Packed items need them.
        blank: its column.
        modified: one symbol a frame: a label too goes on to the next frame.
        check: False leaves out the error for failed items and returns the statuses as well; on a CUDA device nothing
            is waited for then.

    Returns:
        emission frames int32 [B, U]: the frame in which each label is emitted; durations int32 [B, U]: frames until the
        next label's, of the last one until the end; both 0 in the padding and in failed items, U of a packed batch is
        the largest. Scores float64 [B]: the paths' sums, NaN for failed items. All are of the caller's kind and on the
        caller's device. With `check=False` also the `Status` of each item, int32 [B].

    Raises:
        InvalidItemsError: listing every item that has no path: empty, a target that is blank or out of range, in the
            modified topology more targets than frames, NaN or +inf in a log-prob that a path can take, no path of
            finite score.
        ValueError: for wrong shapes, lengths or blank.
        TypeError: for dtypes that do not fit.
    """
    targets = of_lists(targets, "targets")
    if on_gpu(log_probs):
        from alignd_kernels.transducer.gpu_padded import transducer_align_on_gpu

        return transducer_align_on_gpu(
            log_probs, targets, input_lengths, target_lengths, blank, modified=modified, check=check
        )
    from alignd_kernels.threads import default_pool
    from alignd_kernels.transducer import cpu

    batch = padded_batch(log_probs, targets, input_lengths, target_lengths, blank, modified)
    most_labels = np.shape(log_probs)[2] - 1 if np.ndim(log_probs) == 4 else int(batch.labels.max(initial=0))
    result = cpu.align(batch, default_pool())
    if check:
        raise_if_failed(result.statuses.tolist(), lambda index, status: reason_of(batch, index, status))
    found = (*paths_of(batch, result, most_labels), result.scores, result.statuses)
    return tuple(like(log_probs, array) for array in (found[:3] if check else found))


def padded_batch(
    log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any, blank: int, modified: bool
) -> TransducerBatch:
    """The caller's arrays in host memory as a ragged batch, read where they lie. See `transducer_align`.

    Raises:
        ValueError, TypeError: as `transducer_align`.
    """
    shape = tuple(np.shape(log_probs))
    check_shapes(shape, None if targets is None else tuple(np.shape(targets)), blank)
    layout = _packed if len(shape) == 2 else _padded
    storage, dtype = host_scores(log_probs, strided=True)
    flat, pitches = where_it_lies(storage)
    found = layout(shape, pitches, input_lengths, target_lengths)
    B, V = len(found.frames), shape[-1]
    if targets is None:
        labels, starts = np.ones(int(found.target_offsets[-1]), np.int32), found.target_offsets
    else:
        labels, starts = int32_labels(targets, "targets").reshape(-1), found.target_offsets
    if len(labels) != starts[-1]:
        raise ValueError(f"targets must be the items' end to end, {starts[-1]} by target_lengths, not {len(labels)}")
    return TransducerBatch(
        flat,
        dtype,
        found.offsets,
        found.frames,
        found.labels,
        np.full(B, V, np.int64),
        found.frame_pitches,
        np.full(B, pitches[-2], np.int64),
        labels,
        starts[:-1],
        np.full(B, blank, np.int32),
        modified,
    )


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the items lie: fields as of `TransducerBatch`, with the end of the targets as one more offset."""

    offsets: Int64Array
    frames: Int64Array
    labels: Int64Array
    frame_pitches: Int64Array
    target_offsets: Int64Array


def _padded(shape: tuple[int, ...], pitches: tuple[int, ...], input_lengths: Any, target_lengths: Any) -> _Layout:
    B, T, nodes, _ = shape
    return _Layout(
        np.arange(B, dtype=np.int64) * pitches[0],
        lengths(input_lengths, "input_lengths", B, T),
        lengths(target_lengths, "target_lengths", B, nodes - 1),
        np.full(B, pitches[1], np.int64),
        np.arange(B + 1, dtype=np.int64) * (nodes - 1),
    )


def _packed(shape: tuple[int, ...], pitches: tuple[int, ...], input_lengths: Any, target_lengths: Any) -> _Layout:
    frames, labels = packed_lengths(shape, input_lengths, target_lengths)
    return _Layout(
        offsets_of(frames * (labels + 1))[:-1] * pitches[0],
        frames,
        labels,
        (labels + 1) * pitches[0],
        offsets_of(labels),
    )


def packed_lengths(shape: tuple[int, ...], input_lengths: Any, target_lengths: Any) -> tuple[Int64Array, Int64Array]:
    """Frames and labels of packed items, int64 [B], from lengths in host memory.

    Raises:
        ValueError: one is missing, or they do not make the rows of log-probs of this shape.
        TypeError: they are not integers.
    """
    for given, name in ((input_lengths, "input_lengths"), (target_lengths, "target_lengths")):
        if given is None:
            raise ValueError(f"packed log_probs, of shape {shape}, need {name}")
    B = int(np.shape(input_lengths)[0]) if np.ndim(input_lengths) == 1 else -1
    frames = lengths(input_lengths, "input_lengths", B, LARGEST)
    labels = lengths(target_lengths, "target_lengths", B, LARGEST)
    nodes = sum(T * (U + 1) for T, U in zip(frames.tolist(), labels.tolist()))  # Python's integers: no overflow
    if nodes != shape[0]:
        raise ValueError(f"packed log_probs must have {nodes} rows, T · (U + 1) of each item, not {shape[0]}")
    return frames, labels


def check_shapes(shape: tuple[int, ...], target_shape: tuple[int, ...] | None, blank: int) -> None:
    """Raises:
    ValueError: for shapes of log-probs and targets, or a blank, that do not fit each other.
    """
    if len(shape) not in (2, 4):
        raise ValueError(
            f"log_probs must be [batch, frames, labels + 1, vocabulary] or packed, [nodes, vocabulary], not of shape "
            f"{shape}"
        )
    if len(shape) == 4 and shape[2] < 1:
        raise ValueError(f"log_probs must have one node more than labels, not none: shape {shape}")
    check_blank(blank)
    if target_shape is None:
        if shape[-1] != 2 or blank != 0:
            raise ValueError(
                f"without targets, log_probs must be those of blank and label, 2 columns and blank 0, not "
                f"{shape[-1]} and {blank}"
            )
        return
    if not 0 <= blank < shape[-1]:
        raise ValueError(f"blank is {blank}; it must be within [0, {shape[-1]}), the columns of log_probs")
    if len(shape) == 2 and len(target_shape) != 1:
        raise ValueError(f"targets of packed log_probs must be [labels of all items], not of shape {target_shape}")
    if len(shape) == 4 and target_shape != (shape[0], shape[2] - 1):
        raise ValueError(f"targets must be [{shape[0]}, {shape[2] - 1}] for log_probs {shape}, not {target_shape}")


def paths_of(
    batch: TransducerBatch, result: TransducerResult, most_labels: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Emission frames and durations, int32 [B, most_labels]."""
    B = len(batch)
    real = np.arange(most_labels) < batch.labels[:, None]
    starts = np.zeros((B, most_labels), np.int32)
    starts[real] = result.emission_frames
    ends = np.zeros_like(starts)
    ends[:, :-1] = starts[:, 1:]
    last = np.flatnonzero(batch.labels > 0)
    ends[last, batch.labels[last] - 1] = batch.frames[last]
    real &= (result.statuses == Status.OK)[:, None]
    return starts, np.where(real, ends - starts, np.int32(0))


def reason_of(batch: TransducerBatch, index: int, status: Status) -> str:
    """Why an item has no path."""
    from alignd_kernels.transducer import reason

    first = int(batch.target_offsets[index])
    targets = batch.targets[first : first + int(batch.labels[index])]
    vocabulary, blank = int(batch.vocabulary[index]), int(batch.blanks[index])
    return reason(status, int(batch.frames[index]), targets, vocabulary, blank, batch.modified)
