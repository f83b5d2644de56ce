"""Hypothesis strategies of transducer batches, and the reference as their judge. Shared by the backends' tests."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from kernels.strategies import GENERATORS, KINDS, Scores, stored

from alignd_kernels.dtypes import DType, widen
from alignd_kernels.ragged import Int64Array, offsets_of
from alignd_kernels.status import Status
from alignd_kernels.transducer import reference
from alignd_kernels.transducer.batch import TransducerBatch, TransducerResult

TransducerItem = tuple[Scores, npt.NDArray[np.int32], int]
"""log_probs [T, U + 1, V], labels [U], blank."""

PER_ITEM = ("offsets", "frames", "labels", "vocabulary", "frame_pitches", "node_pitches", "target_offsets", "blanks")

UNIT = {np.float32: 2.0**-24, np.float64: 2.0**-53}
"""Half an ulp of 1."""


def transducer_batch(
    items: Sequence[TransducerItem],
    dtype: DType,
    *,
    modified: bool = False,
    gap: int = 0,
    node_padding: int = 0,
    frame_padding: int = 0,
) -> TransducerBatch:
    """Items end to end in the flat buffers, NaN in `gap` elements between them, `node_padding` after each node's
    columns and `frame_padding` after each frame's nodes."""
    frames, nodes, vocabulary = np.array([item[0].shape for item in items], np.int64).reshape(-1, 3).T
    labels = np.array([len(item[1]) for item in items], np.int64)
    node_pitches = vocabulary + node_padding
    frame_pitches = nodes * node_pitches + frame_padding
    offsets = offsets_of(frames * frame_pitches + gap)
    target_offsets = offsets_of(labels + gap)
    flat = np.full(offsets[-1], np.nan)
    targets = np.full(target_offsets[-1], -7, np.int32)
    for b, (log_probs, own_labels, _) in enumerate(items):
        nodes_of(flat, offsets[b], log_probs.shape, frame_pitches[b], node_pitches[b])[...] = log_probs
        targets[target_offsets[b] : target_offsets[b] + labels[b]] = own_labels
    return TransducerBatch(
        stored(flat, dtype),
        dtype,
        offsets[:-1],
        frames,
        labels,
        vocabulary,
        frame_pitches,
        node_pitches,
        targets,
        target_offsets[:-1],
        np.array([item[2] for item in items], np.int32),
        modified,
    )


def nodes_of(
    flat: npt.NDArray[np.generic], offset: int, shape: tuple[int, ...], frame_pitch: int, node_pitch: int
) -> npt.NDArray[np.generic]:
    """An item's [T, U + 1, V] as a view of the buffer that it lies in, which may be written to."""
    if 0 in shape:
        return np.empty(shape, flat.dtype)
    strides = tuple(pitch * flat.itemsize for pitch in (frame_pitch, node_pitch, 1))
    return np.lib.stride_tricks.as_strided(flat[offset:], shape, strides)


def transducer_stored(batch: TransducerBatch, index: int) -> npt.NDArray[np.generic]:
    """An item's log-probs [T, U + 1, V] as they are stored: a view, which may be written to."""
    buffers = batch.log_probs if isinstance(batch.log_probs, tuple) else (batch.log_probs,)
    flat = buffers[0 if batch.sources is None else int(batch.sources[index])]
    shape = int(batch.frames[index]), int(batch.labels[index]) + 1, int(batch.vocabulary[index])
    offset, pitches = int(batch.offsets[index]), (int(batch.frame_pitches[index]), int(batch.node_pitches[index]))
    return nodes_of(flat, offset, shape, *pitches)


def transducer_item(batch: TransducerBatch, index: int) -> TransducerItem:
    """An item's log-probs in the accumulator's type, labels and blank."""
    first = int(batch.target_offsets[index])
    labels = batch.targets[first : first + int(batch.labels[index])]
    log_probs = widen(np.ascontiguousarray(transducer_stored(batch, index)), batch.dtype)
    return log_probs, labels, int(batch.blanks[index])


def status_of_labels(batch: TransducerBatch, index: int) -> Status:
    """What the reference says of an item before its log-probs are read."""
    log_probs, labels, blank = transducer_item(batch, index)
    return reference.check_labels(labels, len(log_probs), log_probs.shape[2], blank, batch.modified)


def transducer_arcs(batch: TransducerBatch, index: int) -> Scores:
    """An item's arcs [T, U + 1, 2], which `status_of_labels` must have found good, in the accumulator's type."""
    return reference.arcs_of(*transducer_item(batch, index))


def sum_tolerance(arcs: npt.NDArray[np.floating], modified: bool, accumulator: type[np.floating]) -> float:
    """Relative, of a probability that is a quotient of sums of products: up to 6 u an arc for its exponential and 2
    for the operations on it, in numerator and denominator; and the reference's own error, of float64 logarithms."""
    T, U = len(arcs), arcs.shape[1] - 1
    steps = (T if modified else T + U) + 1
    sums = np.concatenate([found.ravel() for found in reference.forward_backward(arcs, modified)])
    largest = np.abs(sums[np.isfinite(sums)]).max(initial=1.0)
    return steps * (16 * UNIT[accumulator] + 4 * largest * 2.0**-53)


def legal_arcs(frames: int, labels: int, modified: bool) -> npt.NDArray[np.bool_]:
    """Which arcs a path can take, [T, U + 1, 2]."""
    found = np.zeros((frames, labels + 1, 2), np.bool_)
    for t, u in np.ndindex(frames, labels + 1):
        if reference.legal(t, u, frames, labels, modified):
            for kind, _ in reference.arcs_from(t, u, frames, labels, modified):
                found[t, u, kind] = True
    return found


def read_columns(batch: TransducerBatch, index: int) -> npt.NDArray[np.bool_]:
    """Which of an item's log-probs [T, U + 1, V] a path can take."""
    log_probs, labels, blank = transducer_item(batch, index)
    T, nodes, _ = log_probs.shape
    legal = legal_arcs(T, len(labels), batch.modified)
    found = np.zeros(log_probs.shape, np.bool_)
    for u in range(nodes):
        found[:, u, blank] = legal[:, u, 0]
        if u < len(labels):
            found[:, u, labels[u]] |= legal[:, u, 1]
    return found


def with_garbage(batch: TransducerBatch, rng: np.random.Generator) -> TransducerBatch:
    """The same batch, of one buffer, with something else wherever no path can go; its items must be feasible."""
    log_probs = batch.log_probs
    assert not isinstance(log_probs, tuple)
    other = replace(batch, log_probs=stored(rng.choice([np.nan, np.inf, -np.inf, 1e30], log_probs.shape), batch.dtype))
    for b in range(len(batch)):
        if status_of_labels(batch, b) is Status.OK:
            read = read_columns(batch, b)
            transducer_stored(other, b)[read] = transducer_stored(batch, b)[read]
    return other


def scattered(batch: TransducerBatch, rng: np.random.Generator) -> TransducerBatch:
    """The same items, each in a buffer of its own, the buffers in any order."""
    log_probs = batch.log_probs
    assert not isinstance(log_probs, tuple)
    ends = np.append(batch.offsets[1:], len(log_probs)).astype(np.int64)
    own = [log_probs[first:end].copy() for first, end in zip(batch.offsets, ends)]
    order = rng.permutation(len(batch))
    return replace(
        batch,
        log_probs=tuple(own[b] for b in order) or (log_probs,),
        sources=np.argsort(order).astype(np.int64),
        offsets=np.zeros(len(batch), np.int64),
    )


def some_of(batch: TransducerBatch, items: Int64Array) -> TransducerBatch:
    """A batch of some of the items, in the given order, read where they lie."""
    taken = {name: getattr(batch, name)[items] for name in PER_ITEM}
    return replace(batch, sources=None if batch.sources is None else batch.sources[items], **taken)


def random_labels(rng: np.random.Generator, length: int, vocabulary: int, blank: int) -> npt.NDArray[np.int32]:
    """Labels without blanks; where blank is the only column there are none to draw from, and all are bad."""
    labels = [label for label in range(vocabulary) if label != blank]
    return (rng.choice(labels, length) if labels else np.full(length, blank)).astype(np.int32)


@st.composite
def transducer_batches(
    draw: st.DrawFn,
    kinds: Sequence[Callable[..., Scores]] = KINDS,
    max_frames: int = 20,
    max_labels: int = 18,
    max_items: int = 5,
    modified: bool | None = None,
    dtypes: Sequence[DType] = tuple(DType),
    flawed: bool = True,
) -> TransducerBatch:
    """Frames and labels independent of each other in the standard topology; in the modified one mostly as many frames
    as labels or more. With `flawed`, items of no frames and bad labels or blanks are among them.

    Args:
        modified: the topology; None for either.
    """
    rng = draw(GENERATORS)
    dtype, kind = draw(st.sampled_from(dtypes)), draw(st.sampled_from(kinds))
    one_symbol = draw(st.booleans()) if modified is None else modified
    vocabularies = st.one_of(st.just(2), st.integers(1 if flawed else 2, 9))
    least = 0 if flawed else 1
    sizes = st.tuples(st.integers(least, max_frames), st.integers(0, max_labels), vocabularies)
    items: list[TransducerItem] = []
    for frames, length, vocabulary in draw(st.lists(sizes, max_size=max_items)):
        T = frames
        if one_symbol and length > frames and (not flawed or draw(st.integers(0, 7))):
            T = length + draw(st.integers(0, 4))
        blank = int(rng.integers(vocabulary))
        labels = random_labels(rng, length, vocabulary, blank)
        if flawed and length and draw(st.integers(0, 15)) == 0:
            labels[rng.integers(length)] = rng.choice([-1, vocabulary, blank, 2**31 - 1])
        if flawed and draw(st.integers(0, 31)) == 0:
            blank = int(rng.choice([-1, vocabulary]))
        items.append((kind(rng, (T, length + 1, vocabulary)), labels, blank))
    paddings = {name: draw(st.integers(0, 3)) for name in ("gap", "node_padding", "frame_padding")}
    return transducer_batch(items, dtype, modified=one_symbol, **paddings)


def check_transducer(batch: TransducerBatch, result: TransducerResult) -> None:
    """The result is the reference's, bit for bit."""
    starts = offsets_of(batch.labels)
    assert result.emission_frames.shape == (starts[-1],)
    assert result.scores.shape == result.statuses.shape == (len(batch),)
    for index in range(len(batch)):
        U = int(batch.labels[index])
        status, frames, score = status_of_labels(batch, index), np.zeros(U, np.int32), np.nan
        if status is Status.OK:
            with np.errstate(over="ignore", invalid="ignore"):
                arcs = transducer_arcs(batch, index)
                status, frames, score = reference.align(arcs, batch.modified, batch.dtype.accumulator)
        context = f"item {index}, T = {batch.frames[index]}, U = {U}, {batch.dtype}, modified: {batch.modified}"
        assert result.statuses[index] == status, context
        own = slice(starts[index], starts[index + 1])
        np.testing.assert_array_equal(result.emission_frames[own], frames, context)
        np.testing.assert_array_equal(result.scores[index], score, context)
