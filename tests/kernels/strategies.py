"""Hypothesis strategies of ragged batches, and the reference as their judge. Shared by the backends' tests."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from alignd_kernels.ctc import reference as ctc_reference
from alignd_kernels.ctc.batch import STAR, STAR_MAX, CtcBatch, CtcResult
from alignd_kernels.dtypes import DType, widen
from alignd_kernels.mas import reference as mas_reference
from alignd_kernels.mas.batch import MasBatch, MasResult
from alignd_kernels.ragged import offsets_of

Scores = npt.NDArray[np.floating]


def stored(values: npt.ArrayLike, dtype: DType) -> npt.NDArray[np.generic]:
    """Values rounded to `dtype`, in its storage type."""
    array = np.asarray(values, np.float64)
    if dtype is DType.BFLOAT16:
        bits = array.astype(np.float32).view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return np.where(np.isnan(array), 0x7FC0, rounded).astype(np.uint16)
    with np.errstate(over="ignore"):
        return array.astype(dtype.value).view(dtype.storage)


def dyadic(rng: np.random.Generator, shape: tuple[int, ...]) -> Scores:
    """Few values on a grid of 1/4: sums are exact in every accumulator, and ties abound."""
    return rng.integers(-6, 1, shape) / 4


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Scores:
    return rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3)


def with_minus_infinity(rng: np.random.Generator, shape: tuple[int, ...]) -> Scores:
    return np.where(rng.random(shape) < 0.15, -np.inf, dyadic(rng, shape))


def with_bad_cells(rng: np.random.Generator, shape: tuple[int, ...]) -> Scores:
    """NaN and +inf anywhere, few enough that many items stay good."""
    bad = np.where(rng.random(shape) < 0.5, np.nan, np.inf)
    return np.where(rng.random(shape) < 0.5 / max(np.prod(shape), 1), bad, dyadic(rng, shape))


def overflowing(rng: np.random.Generator, shape: tuple[int, ...]) -> Scores:
    """Finite scores whose sums leave float32's range (and float16's, as stored)."""
    return np.where(rng.random(shape) < 0.3, rng.choice([3e38, -3e38], shape), with_minus_infinity(rng, shape))


KINDS: tuple[Callable[..., Scores], ...] = (dyadic, normal, with_minus_infinity, with_bad_cells, overflowing)
GENERATORS = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def mas_batch(items: Sequence[Scores], dtype: DType, gap: int = 0, padding: int = 0) -> MasBatch:
    """Items end to end in the flat buffer, NaN in `gap` elements between them and `padding` after each row."""
    tokens = np.array([item.shape[0] for item in items], np.int64)
    frames = np.array([item.shape[1] for item in items], np.int64)
    pitches = frames + padding
    offsets = offsets_of(tokens * pitches + gap)
    flat = np.full(offsets[-1], np.nan)
    for item, offset, pitch in zip(items, offsets, pitches):
        rows = flat[offset : offset + len(item) * pitch].reshape(len(item), pitch)
        rows[:, : item.shape[1]] = item
    return MasBatch(stored(flat, dtype), dtype, offsets[:-1], tokens, frames, pitches)


@st.composite
def mas_batches(
    draw: st.DrawFn,
    kinds: Sequence[Callable[..., Scores]] = KINDS,
    max_tokens: int = 40,
    max_frames: int = 90,
    max_items: int = 6,
) -> MasBatch:
    rng = draw(GENERATORS)
    dtype, kind = draw(st.sampled_from(DType)), draw(st.sampled_from(kinds))
    slack = st.integers(0, max_frames - max_tokens).map(lambda more: more - 2)
    shapes = draw(st.lists(st.tuples(st.integers(0, max_tokens), slack), max_size=max_items))
    items = [kind(rng, (tokens, max(tokens + more, 0))) for tokens, more in shapes]
    return mas_batch(items, dtype, draw(st.integers(0, 3)), draw(st.integers(0, 3)))


def mas_item(batch: MasBatch, index: int) -> Scores:
    """An item's scores [S, T], in the accumulator's type."""
    S, T, pitch = int(batch.tokens[index]), int(batch.frames[index]), int(batch.pitches[index])
    rows = batch.values[batch.offsets[index] :][: S * pitch].reshape(S, pitch)[:, :T]
    return widen(np.ascontiguousarray(rows), batch.dtype)


def check_mas(batch: MasBatch, result: MasResult) -> None:
    """The result is the reference's, bit for bit."""
    starts = offsets_of(batch.tokens)
    assert result.durations.shape == (starts[-1],)
    for index in range(len(batch)):
        value = mas_item(batch, index)
        with np.errstate(over="ignore", invalid="ignore"):
            status, durations, score = mas_reference.maximum_path(value, batch.dtype.accumulator)
        context = f"item {index}, {value.shape}, {batch.dtype}"
        assert result.statuses[index] == status, context
        np.testing.assert_array_equal(result.durations[starts[index] : starts[index + 1]], durations, context)
        np.testing.assert_array_equal(result.scores[index], score, context)


CtcItem = tuple[Scores, npt.NDArray[np.int32], int, float]
"""log_probs [T, V], targets [L], blank, star score."""


def ctc_batch(items: Sequence[CtcItem], dtype: DType, gap: int = 0, padding: int = 0) -> CtcBatch:
    """Items end to end in the flat buffers, NaN in `gap` elements between them and `padding` after each row."""
    frames = np.array([len(item[0]) for item in items], np.int64)
    vocabulary = np.array([item[0].shape[1] for item in items], np.int64)
    target_lengths = np.array([len(item[1]) for item in items], np.int64)
    pitches = vocabulary + padding
    offsets = offsets_of(frames * pitches + gap)
    target_offsets = offsets_of(target_lengths + gap)
    flat = np.full(offsets[-1], np.nan)
    targets = np.full(target_offsets[-1], -7, np.int32)
    for item, offset, pitch, start in zip(items, offsets, pitches, target_offsets):
        rows = flat[offset : offset + len(item[0]) * pitch].reshape(len(item[0]), pitch)
        rows[:, : item[0].shape[1]] = item[0]
        targets[start : start + len(item[1])] = item[1]
    return CtcBatch(
        stored(flat, dtype),
        dtype,
        offsets[:-1],
        frames,
        vocabulary,
        pitches,
        targets,
        target_offsets[:-1],
        target_lengths,
        np.array([item[2] for item in items], np.int32),
        np.array([item[3] for item in items], np.float32),
    )


def random_targets(
    rng: np.random.Generator, length: int, vocabulary: int, blank: int, stars: float = 0.1
) -> npt.NDArray[np.int32]:
    """Labels without blanks, repeats and stars among them, no two stars in a row."""
    labels = [label for label in range(vocabulary) if label != blank]
    targets = rng.choice(labels, length) if labels else np.full(length, STAR)
    starred = rng.random(length) < stars
    starred[1:] &= ~starred[:-1]
    return np.where(starred, STAR, targets).astype(np.int32)


@st.composite
def ctc_batches(
    draw: st.DrawFn,
    kinds: Sequence[Callable[..., Scores]] = KINDS,
    max_labels: int = 12,
    max_spare: int = 30,
    max_items: int = 6,
) -> CtcBatch:
    """Mostly feasible items, some one or two frames short; a quarter of the batches with a bad target somewhere."""
    rng = draw(GENERATORS)
    dtype, kind = draw(st.sampled_from(DType)), draw(st.sampled_from(kinds))
    # Few columns, so that labels repeat, and the sizes round which backends may change their ways.
    vocabularies = st.one_of(st.integers(1, 7), st.sampled_from([30, 31, 32, 33, 65]))
    sizes = st.tuples(st.integers(0, max_labels), st.integers(-2, max_spare), vocabularies)
    items: list[CtcItem] = []
    for length, spare, vocabulary in draw(st.lists(sizes, max_size=max_items)):
        blank = int(rng.integers(vocabulary))
        targets = random_targets(rng, length, vocabulary, blank)
        if length and draw(st.integers(0, 15)) == 0:
            targets[rng.integers(length)] = rng.choice([STAR, -2, vocabulary, blank])
        if draw(st.integers(0, 31)) == 0:
            blank = int(rng.choice([-1, vocabulary]))
        repeats = int(np.count_nonzero(targets[1:] == targets[:-1]))
        frames = max(length + repeats + spare, 0)
        star = float(rng.choice([0.0, -1.25, STAR_MAX, STAR_MAX, -np.inf, np.inf], p=[0.3, 0.2, 0.2, 0.2, 0.05, 0.05]))
        items.append((kind(rng, (frames, vocabulary)), targets, blank, star))
    return ctc_batch(items, dtype, draw(st.integers(0, 3)), draw(st.integers(0, 3)))


def ctc_item(batch: CtcBatch, index: int) -> CtcItem:
    """An item's log-probs in the accumulator's type, targets, blank and star score."""
    T, V, pitch = int(batch.frames[index]), int(batch.vocabulary[index]), int(batch.pitches[index])
    rows = batch.log_probs[batch.offsets[index] :][: T * pitch].reshape(T, pitch)[:, :V]
    first = int(batch.target_offsets[index])
    targets = batch.targets[first : first + int(batch.target_lengths[index])]
    log_probs = widen(np.ascontiguousarray(rows), batch.dtype)
    return log_probs, targets, int(batch.blanks[index]), float(batch.star_scores[index])


def check_ctc(
    batch: CtcBatch,
    result: CtcResult,
    judge: Callable[..., ctc_reference.CtcAlignment] = ctc_reference.forced_align,
) -> None:
    """The result is the judge's, bit for bit."""
    frames, labels = offsets_of(batch.frames), offsets_of(batch.target_lengths)
    assert result.paths.shape == result.frame_scores.shape == (frames[-1],)
    assert result.durations.shape == (labels[-1],)
    for index in range(len(batch)):
        item = ctc_item(batch, index)
        with np.errstate(over="ignore", invalid="ignore"):
            expected = judge(*item, accumulator=batch.dtype.accumulator)
        context = f"item {index}, {item[0].shape}, {item[1:]}, {batch.dtype}"
        assert result.statuses[index] == expected.status, context
        own = slice(frames[index], frames[index + 1])
        np.testing.assert_array_equal(result.paths[own], expected.path, context)
        np.testing.assert_array_equal(result.frame_scores[own], expected.frame_scores, context)
        np.testing.assert_array_equal(result.durations[labels[index] : labels[index + 1]], expected.durations, context)
        np.testing.assert_array_equal(result.scores[index], expected.score, context)


def same_results(one: Any, other: Any) -> None:
    """Two results of one batch are equal bit for bit, the time aside."""
    for name in type(one).__dataclass_fields__:
        if name != "kernel_ns":
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


def time_ratio(one: Callable[[], object], other: Callable[[], object], times: int = 9) -> float:
    """How much more of this thread's own time `one` takes than `other`: the least of several of each, taken in turns,
    since what else the machine does only adds to them."""
    spent: tuple[list[int], list[int]] = ([], [])
    for _ in range(times):
        for call, own in zip((one, other), spent, strict=True):
            begun = time.thread_time_ns()
            call()
            own.append(time.thread_time_ns() - begun)
    return min(spent[0]) / min(spent[1])
