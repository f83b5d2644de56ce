"""Sums over CTC lattices: the reference against every path one by one, Numba against the reference."""

import dataclasses
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from kernels.strategies import (
    GENERATORS,
    CtcItem,
    ctc_batch,
    ctc_batches,
    ctc_item,
    dyadic,
    normal,
    random_targets,
    same_results,
    stored,
    with_bad_cells,
    with_minus_infinity,
)
from kernels.subprocesses import WITHOUT_AVX_512, X86, run_script
from numba import njit

from alignd_kernels.ctc import cpu_sum, reference, sum_reference, sums
from alignd_kernels.ctc.batch import STAR, STAR_MAX, CtcBatch
from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import offsets_of
from alignd_kernels.status import Status
from alignd_kernels.threads import WorkerPool

SETTINGS = settings(max_examples=100, deadline=None, derandomize=True)
KINDS = [dyadic, normal, with_minus_infinity, with_bad_cells]

TARGETS = [[], [1], [1, 2], [1, 1], [2, 1, 2], [1, 1, 1], [1, STAR, 1], [STAR], [2, 2, 1, 1]]


def labels(values: list[int]) -> np.ndarray:
    return np.array(values, np.int32)


def collapses_to(path: tuple[int, ...]) -> list[int]:
    """What symbols of the frames stand for: runs as one, without blanks."""
    return [symbol for symbol, _ in itertools.groupby(path) if symbol != 0]


def every_path(targets: np.ndarray, frames: int) -> Iterator[list[int]]:
    """The states of each frame, of all paths: those symbols of the frames, by the definition, that collapse to the
    targets, blank being 0; each has one way to be read as states."""
    for path in itertools.product(sorted({0, *targets.tolist()}), repeat=frames):
        if collapses_to(path) != targets.tolist():
            continue
        states, before, label = [], 0, -1
        for symbol in path:
            label += symbol not in (0, before)
            states.append(2 * label + 1 if symbol else 2 * label + 2)
            before = symbol
        yield states


# The reference


@pytest.mark.parametrize("values", TARGETS)
@pytest.mark.parametrize("spare", [0, 1, 3])
@pytest.mark.parametrize("scale", [0.1, 3.0, 200.0])
def test_every_path_is_summed_once(values: list[int], spare: int, scale: float) -> None:
    targets = labels(values)
    T = max(len(values) + int(np.count_nonzero(targets[1:] == targets[:-1])) + spare, 1)
    log_probs = np.random.default_rng(T).standard_normal((T, 4)) * scale
    for star in (-0.5, STAR_MAX):
        x = reference.emissions(log_probs, targets, 0, star)
        paths = list(every_path(targets, T))
        scores = np.array([x[np.arange(T), path].sum() for path in paths])
        total = scores.max() + np.log(np.exp(scores - scores.max()).sum())
        expected = np.zeros(x.shape)
        for path, score in zip(paths, scores):
            expected[np.arange(T), path] += np.exp(score - total)
        status, found, log_likelihood = sum_reference.posteriors(log_probs, targets, 0, star)
        assert status is Status.OK
        np.testing.assert_allclose(log_likelihood, total, 1e-12, 1e-12)
        np.testing.assert_allclose(found, expected, 0, 1e-11)
        cells = {(t, s) for path in paths for t, s in enumerate(path)}
        assert cells == set(sum_reference.visitable(targets, T))


@pytest.mark.parametrize("values", TARGETS)
@pytest.mark.parametrize("star", [-0.5, STAR_MAX])
def test_the_gradient_is_the_slope_of_the_cost(values: list[int], star: float) -> None:
    targets = labels(values)
    log_probs = np.random.default_rng(len(values)).standard_normal((len(values) + 3, 4))
    _, gradient = sum_reference.cost(log_probs, targets, 0, star)
    step = 1e-5
    for cell in np.ndindex(log_probs.shape):
        slopes = []
        for sign in (1, -1):
            moved = log_probs.copy()
            moved[cell] += sign * step
            slopes.append(sign * sum_reference.cost(moved, targets, 0, star)[0])
        np.testing.assert_allclose(sum(slopes) / (2 * step), gradient[cell], 0, 1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("values", [[], [1, 2], [1, 1, 2]])
def test_only_cells_that_a_path_can_visit_matter(values: list[int], bad: float) -> None:
    targets = labels(values)
    log_probs = np.random.default_rng(3).standard_normal((5, 4))
    _, expected, total = sum_reference.posteriors(log_probs, targets)
    symbols = [0 if s % 2 == 0 else values[s // 2] for s in range(2 * len(values) + 1)]
    legal = {(t, symbols[s]) for t, s in sum_reference.visitable(targets, 5)}
    for cell in np.ndindex(log_probs.shape):
        spoilt = log_probs.copy()
        spoilt[cell] = bad
        status, found, log_likelihood = sum_reference.posteriors(spoilt, targets)
        if cell in legal:
            assert status is Status.NOT_FINITE
            assert not found.any()
            cost, gradient = sum_reference.cost(spoilt, targets)
            assert np.isnan(cost)
            assert np.isnan(gradient).all()
        else:
            assert (status, log_likelihood) == (Status.OK, total)
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("shape", "values", "blank", "status"),
    [
        ((0, 3), [], 0, Status.EMPTY),
        ((0, 3), [1], 0, Status.EMPTY),
        ((3, 0), [], 0, Status.EMPTY),
        ((3, 2), [], 2, Status.TARGET_OUT_OF_RANGE),
        ((3, 2), [], -1, Status.TARGET_OUT_OF_RANGE),
        ((3, 2), [2], 0, Status.TARGET_OUT_OF_RANGE),
        ((3, 2), [-2], 0, Status.TARGET_OUT_OF_RANGE),
        ((3, 2), [1], 1, Status.TARGET_IS_BLANK),
        ((3, 2), [STAR, STAR], 0, Status.ADJACENT_STARS),
        ((2, 2), [1, 1], 0, Status.TOO_FEW_FRAMES),
        ((3, 2), [1, 1], 0, Status.OK),
        ((1, 1), [], 0, Status.OK),
    ],
)
def test_statuses(shape: tuple[int, int], values: list[int], blank: int, status: Status) -> None:
    log_probs = np.zeros(shape)
    assert sum_reference.posteriors(log_probs, labels(values), blank)[0] is status
    cost, gradient = sum_reference.cost(log_probs, labels(values), blank)
    if status is Status.TOO_FEW_FRAMES:
        assert cost == np.inf
        assert not gradient.any()
    elif status is not Status.OK:
        assert np.isnan(cost)
        assert np.isnan(gradient).all()
    check(ctc_batch([(log_probs, labels(values), blank, 0.0)], DType.FLOAT32))


# Numba


def ulp(dtype: DType) -> float:
    return float(np.finfo(dtype.accumulator).eps)


def matrices(flat: np.ndarray, frames: np.ndarray, columns: np.ndarray) -> list[np.ndarray]:
    """Items' [T, columns] out of one flat array that holds nothing else."""
    starts = offsets_of(frames * columns)
    assert flat.shape == (starts[-1],)
    sizes = zip(frames.tolist(), columns.tolist())
    return [flat[starts[b] : starts[b + 1]].reshape(size) for b, size in enumerate(sizes)]


def lost_by_logarithms(item: CtcItem) -> float:
    """What the reference itself may be off by: an ulp of its logarithms in each frame."""
    log_probs, targets, blank, star = item
    x = reference.emissions(log_probs, targets, blank, star).astype(np.float64)
    alpha, _ = sum_reference.forward_backward(x, targets)
    return len(x) * 2.0**-52 * float(np.abs(alpha[np.isfinite(alpha)]).max(initial=0))


def check(batch: CtcBatch, pool: WorkerPool | None = None) -> None:
    """Posteriors and costs are the reference's within what `sums` states."""
    found, lost = cpu_sum.posteriors(batch, pool), cpu_sum.costs(batch, pool)
    alone = cpu_sum.costs(batch, pool, gradients=False)
    assert found.posteriors.dtype == lost.costs.dtype == batch.dtype.accumulator
    assert lost.gradients is not None
    assert alone.gradients is None
    np.testing.assert_array_equal(alone.costs, lost.costs)
    np.testing.assert_array_equal(found.statuses, lost.statuses)
    np.testing.assert_array_equal(found.statuses, alone.statuses)
    posteriors = matrices(found.posteriors, batch.frames, 2 * batch.target_lengths + 1)
    gradients = matrices(lost.gradients, batch.frames, batch.vocabulary)
    for b, (states, gradient) in enumerate(zip(posteriors, gradients)):
        item = ctc_item(batch, b)
        T = len(item[0])
        status, expected, total = sum_reference.posteriors(*item)
        cost, slope = sum_reference.cost(*item)
        context = f"item {b}, {item[0].shape}, {item[1:]}, {batch.dtype}"
        assert found.statuses[b] == status, context
        theirs = lost_by_logarithms(item) if status is Status.OK and batch.dtype is DType.FLOAT64 else 0.0
        of_sums, of_cells = 6 * T * ulp(batch.dtype) + theirs, 12 * T * ulp(batch.dtype) + theirs
        np.testing.assert_allclose(found.scores[b], total, 1e-15, of_sums, err_msg=context)
        np.testing.assert_allclose(states, expected, 0, of_cells, err_msg=context)
        np.testing.assert_allclose(gradient, slope, 0, of_cells, err_msg=context)
        np.testing.assert_allclose(lost.costs[b], cost, ulp(batch.dtype), of_sums, err_msg=context)


def random_item(rng: np.random.Generator, frames: int, length: int, vocabulary: int = 5, stars: float = 0.1) -> CtcItem:
    return normal(rng, (frames, vocabulary)), random_targets(rng, length, vocabulary, 0, stars), 0, -1.5


@SETTINGS
@given(ctc_batches(kinds=KINDS))
def test_equals_the_reference(batch: CtcBatch) -> None:
    check(batch)


@settings(SETTINGS, max_examples=15)
@given(ctc_batches(kinds=[dyadic, normal], max_labels=60, max_spare=120, max_items=2))
def test_equals_the_reference_in_longer_items(batch: CtcBatch) -> None:
    check(batch)


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("values", TARGETS)
def test_few_frames_and_few_to_spare(values: list[int], dtype: DType) -> None:
    rng = np.random.default_rng(1)
    least = max(len(values) + sum(one == other for one, other in itertools.pairwise(values)), 1)
    items = [
        (normal(rng, (least + spare, V)), labels(values), 0, star)
        for spare in (-1, 0, 1, 2, 15, 16, 17)
        for V in (3, 40)
        for star in (-0.25, STAR_MAX)
        if least + spare > 0
    ]
    check(ctc_batch(items, dtype, 2, 1))


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("value", [-np.inf, np.nan, np.inf])
@pytest.mark.parametrize("values", [[], [1, 1, 2]])
def test_items_full_of_one_value(values: list[int], value: float, dtype: DType) -> None:
    items = [(np.full((5, 3), value), labels(values), 0, 0.0)]
    check(ctc_batch([*items, random_item(np.random.default_rng(0), 9, 4)], dtype))


@SETTINGS
@given(ctc_batches(kinds=[dyadic, normal]), GENERATORS)
def test_what_no_path_takes_changes_nothing(batch: CtcBatch, rng: np.random.Generator) -> None:
    values = batch.log_probs.copy()
    for b in range(len(batch)):
        log_probs, targets, blank, star = ctc_item(batch, b)
        T, V = log_probs.shape
        pitch = int(batch.pitches[b])
        rows = values[batch.offsets[b] :][: T * pitch].reshape(T, pitch)[:, :V]
        legal = np.zeros((T, V), bool)
        if sum_reference.check_targets(targets, T, V, blank) is Status.OK:
            for t, s in sum_reference.visitable(targets, T):
                column = targets[s // 2] if s % 2 else blank
                if column != STAR:
                    legal[t, column] = True
                elif np.isnan(star):
                    legal[t, np.arange(V) != blank] = True
        garbage = stored(rng.choice([np.nan, np.inf, -np.inf, 1e30], rows.shape), batch.dtype)
        rows[...] = np.where(legal, rows, garbage)
    spoilt = dataclasses.replace(batch, log_probs=values)
    same_results(cpu_sum.posteriors(spoilt), cpu_sum.posteriors(batch))
    same_results(cpu_sum.costs(spoilt), cpu_sum.costs(batch))


@pytest.mark.parametrize("dtype", DType)
def test_long_items_stay_within_the_stated_error(dtype: DType) -> None:
    """Log-probs far from zero: the sum leaves the range of exponentials in the first frame."""
    rng = np.random.default_rng(5)
    check(ctc_batch([(rng.standard_normal((900, 20)) * 3 - 30, random_targets(rng, 60, 20, 3), 3, -20.0)], dtype))


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
def test_equal_labels_keep_what_is_far_below_the_label_before(dtype: DType) -> None:
    """The second of two equal labels is e^-2000 below the first until the end, where only it goes on."""
    log_probs = np.full((60, 3), -1.0)
    log_probs[1:40, 0] = -100.0
    log_probs[20, 0] = -2000.0
    log_probs[40:, 0] = -np.inf
    for values in ([1, 1], [1, 1, 1], [1, 1, 2]):
        check(ctc_batch([(log_probs, labels(values), 0, 0.0)], dtype))


def test_frames_sum_to_one() -> None:
    batch = ctc_batch([random_item(np.random.default_rng(6), 500, 90)], DType.FLOAT32)
    (found,) = matrices(cpu_sum.posteriors(batch).posteriors, batch.frames, 2 * batch.target_lengths + 1)
    np.testing.assert_allclose(found.sum(1, np.float64), 1, 0, 500 * ulp(DType.FLOAT32))


def test_log_probs_whose_sums_overflow_have_no_finite_path() -> None:
    items = [(np.full((3, 2), value), labels([1]), 0, 0.0) for value in (3e38, -3e38)]
    found = cpu_sum.costs(ctc_batch(items, DType.FLOAT32))
    assert found.statuses.tolist() == [Status.NO_FINITE_PATH] * 2
    assert found.costs.tolist() == [np.inf] * 2
    assert found.gradients is not None
    assert not found.gradients.any()


@SETTINGS
@given(ctc_batches(kinds=KINDS, max_items=10))
@example(ctc_batch([], DType.FLOAT32))
def test_threads_and_other_items_change_nothing(batch: CtcBatch) -> None:
    expected, lost = cpu_sum.posteriors(batch), cpu_sum.costs(batch)
    with WorkerPool(3) as pool:
        same_results(cpu_sum.posteriors(batch, pool), expected)
        same_results(cpu_sum.costs(batch, pool), lost)
    every = matrices(expected.posteriors, batch.frames, 2 * batch.target_lengths + 1)
    for b, matrix in enumerate(every):
        alone = cpu_sum.posteriors(batch.take(np.array([b])))
        np.testing.assert_array_equal(alone.posteriors, matrix.reshape(-1))
        np.testing.assert_array_equal(alone.scores, expected.scores[b : b + 1])


def test_large_batches_on_threads() -> None:
    rng = np.random.default_rng(8)
    batch = ctc_batch([random_item(rng, 200, int(rng.integers(90))) for _ in range(40)], DType.FLOAT32)
    with WorkerPool(3) as pool:
        same_results(cpu_sum.costs(batch, pool), cpu_sum.costs(batch))
        same_results(cpu_sum.posteriors(batch, pool), cpu_sum.posteriors(batch))


def test_negative_lengths() -> None:
    one = ctc_batch([random_item(np.random.default_rng(9), 9, 4, stars=0.0)] * 3, DType.FLOAT32)
    frames, target_lengths = np.array([-1, 9, 9]), np.array([4, 4, -2])
    found = cpu_sum.posteriors(dataclasses.replace(one, frames=frames, target_lengths=target_lengths))
    assert found.statuses.tolist() == [Status.EMPTY, Status.OK, Status.EMPTY]
    np.testing.assert_array_equal(found.posteriors[: 9 * 9], cpu_sum.posteriors(one).posteriors[: 9 * 9])


def test_scratch_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(10)
    items = [random_item(rng, 80, 16), random_item(rng, 3, 7), random_item(rng, 5, 0), random_item(rng, 0, 2)]
    allocated: list[np.ndarray] = []
    plain = np.empty

    def counted(*args: Any, **kwargs: Any) -> np.ndarray:
        allocated.append(plain(*args, **kwargs))
        return allocated[-1]

    for dtype, A in ((DType.FLOAT16, 4), (DType.FLOAT64, 8)):
        batch = ctc_batch(items, dtype)
        need = cpu_sum.scratch_bytes(batch)
        repeats = int(np.count_nonzero(np.diff(items[0][1]) == 0))
        spare = 80 - 16 - repeats
        whole = A * (80 + 16 * (2 * spare + 1) + 11 * 17) + 16 * 18
        assert need.tolist() == [whole, 0, A * (5 + 11) + 16 * 2, 0]
        allocated.clear()
        with monkeypatch.context() as patch:
            patch.setattr(np, "empty", counted)
            cpu_sum.posteriors(batch)
        assert sum(array.nbytes for array in allocated) == whole


def test_scratch_of_a_long_item_is_that_of_its_segments() -> None:
    long = ctc_batch([(np.zeros((1, 3)), labels([1] * 2), 0, 0.0)], DType.FLOAT32)
    T, L = 180_000, 50_000
    targets = np.tile(labels([1, 2]), L // 2)
    batch = dataclasses.replace(long, targets=targets, frames=np.array([T]), target_lengths=np.array([L]))
    segment = 601
    shares, columns = segment * (2 * L + 1), 4 * (L + 1) * 300
    assert cpu_sum.scratch_bytes(batch).tolist() == [4 * (shares + columns + 11 * (L + 1)) + 16 * (L + 2)]


@SETTINGS
@given(ctc_batches(kinds=KINDS, max_labels=20, max_spare=60))
def test_segments_change_nothing(batch: CtcBatch) -> None:
    for wanted, columns in ((cpu_sum.STATES, 2 * batch.target_lengths + 1), (cpu_sum.COLUMNS, batch.vocabulary)):
        starts = offsets_of(batch.frames * columns)
        found = []
        for kept_shares in (cpu_sum.KEPT_SHARES, 0):
            out = np.zeros(starts[-1], batch.dtype.accumulator)
            found.append((out, *cpu_sum.sums(batch, wanted, out, (starts[:-1], columns), None, kept_shares)))
        for whole, in_segments in zip(*found):
            np.testing.assert_array_equal(in_segments, whole)


def test_memory_that_cannot_be_had_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = ctc_batch([random_item(np.random.default_rng(11), 9, 3)], DType.FLOAT32)

    def no_memory(*args: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", no_memory)
        with pytest.raises(MemoryError):
            cpu_sum.costs(batch)
    check(batch)


GUARDED = """
from dataclasses import replace
import numpy as np
from kernels.guarded import Guarded
from kernels.strategies import ctc_batch, normal, random_targets, same_results
from alignd_kernels.ctc import cpu_sum
from alignd_kernels.dtypes import DType

def in_segments(batch):
    size, one = int(batch.frames[0] * batch.vocabulary[0]), np.ones(1, np.int64)
    out = np.zeros(size, batch.dtype.accumulator)
    cpu_sum.sums(batch, cpu_sum.COLUMNS, out, (one - 1, batch.vocabulary), None, 0)
    return out


rng = np.random.default_rng(0)
cpu_sum.warm_up()
for dtype in DType:
    for L, spare, V in ((0, 1, 1), (0, 20, 3), (1, 0, 2), (1, 40, 5), (15, 0, 4), (16, 3, 40), (33, 33, 6)):
        for star in (-1.0, np.nan):
            targets = random_targets(rng, L, V, V - 1)
            frames = L + int(np.count_nonzero(targets[1:] == targets[:-1])) + spare
            plain = ctc_batch([(normal(rng, (frames, V)), targets, V - 1, star)], dtype)
            calls = cpu_sum.posteriors, cpu_sum.costs, lambda batch: cpu_sum.costs(batch, gradients=False)
            expected = [call(plain) for call in calls]
            segments = in_segments(plain)
            assert expected[0].statuses[0] == 1
            for at_end in (False, True):
                guarded = Guarded(at_end)
                log_probs, targets = guarded.copy(plain.log_probs), guarded.copy(plain.targets)
                batch = replace(plain, log_probs=log_probs, targets=targets)
                with guarded.everywhere():
                    for call, one in zip(calls, expected):
                        same_results(call(batch), one)
                    np.testing.assert_array_equal(in_segments(batch), segments)
print("all right")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect is POSIX")
def test_nothing_is_read_or_written_beyond_an_array_and_scratch_need_not_be_clean() -> None:
    assert run_script(GUARDED) == ["all", "right"]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("loop", ["label_step", "junction_step", "leave_labels", "leave_junctions"])
def test_loops_are_vectorised(loop: str, kind: type) -> None:
    plain = njit(error_model="numpy", _nrt=False)  # not cached: cached code cannot be inspected
    a, step = [np.ones(9, kind) for _ in range(8)], getattr(sums, loop)
    wrapped, arguments = {
        "label_step": (plain(lambda a, b, c, d, e, f: step(a, b, c, d, e, f)), a[:6]),
        "junction_step": (plain(lambda a, b, c, d, e, f, g, h, x: step(a, b, c, d, e, f, g, h, x)), [*a, kind(1)]),
        "leave_labels": (plain(lambda a, b, c: step(a, b, c)), a[:3]),
        "leave_junctions": (plain(lambda a, b, c, d, e: step(a, b, c, d, e)), a[:5]),
    }[loop]
    wrapped(*arguments)
    assert re.search(r"store <\d+ x ", wrapped.inspect_llvm(wrapped.signatures[0]))


OLDER_MACHINE = r"""
import re
from alignd_kernels.ctc import cpu_sum
from kernels import test_ctc_sums as tests
for values in tests.TARGETS:
    tests.test_few_frames_and_few_to_spare(values, tests.DType.FLOAT64)
codes = cpu_sum._sum_items.inspect_llvm().values()
loops = [len(re.findall(r"store <\d+ x (?:float|double)>", code)) for code in codes]
print("equal", len(loops), min(loops) > 20)
"""


@pytest.mark.skipif(not X86, reason="the settings are those of an x86 processor")
def test_equals_the_reference_on_an_older_processor(tmp_path: Path) -> None:
    """And the loops of the parts are vectorised where they are: in the kernels, of which what is cached has no code.
    Halves are widened there by the transducer's sums."""
    found = run_script(OLDER_MACHINE, ALIGND_CACHE_DIR=str(tmp_path), **WITHOUT_AVX_512)
    assert found == ["equal", "1", "True"]
