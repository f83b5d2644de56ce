"""Best paths of transducers by Numba against the reference."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from kernels.strategies import GENERATORS, dyadic, normal, same_results, stored, time_ratio
from kernels.transducer_strategies import (
    check_transducer,
    random_labels,
    read_columns,
    some_of,
    transducer_batch,
    transducer_batches,
    transducer_stored,
    with_garbage,
)

from alignd_kernels.dtypes import DType, widen
from alignd_kernels.ragged import offsets_of
from alignd_kernels.status import Status
from alignd_kernels.threads import WorkerPool
from alignd_kernels.transducer import cpu
from alignd_kernels.transducer.batch import TransducerBatch, reduced

SETTINGS = settings(max_examples=150, deadline=None, derandomize=True)
FEW = settings(SETTINGS, max_examples=30)
EDGES = (0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65)


def one_item(T: int, U: int, V: int, dtype: DType, *, modified: bool = False, seed: int = 1) -> TransducerBatch:
    """Blank is the first column where there are two, so that reduced log-probs are among them, else any."""
    rng = np.random.default_rng(seed)
    blank = 0 if V == 2 else int(rng.integers(V))
    return transducer_batch(
        [(dyadic(rng, (T, U + 1, V)), random_labels(rng, U, V, blank), blank)], dtype, modified=modified
    )


@SETTINGS
@given(transducer_batches())
def test_equals_the_reference(batch: TransducerBatch) -> None:
    check_transducer(batch, cpu.align(batch))


@FEW
@given(transducer_batches(kinds=[dyadic, normal], max_frames=100, max_labels=70, max_items=2, flawed=False))
def test_equals_the_reference_beyond_one_strip(batch: TransducerBatch) -> None:
    check_transducer(batch, cpu.align(batch))


@pytest.mark.parametrize("modified", [False, True])
@pytest.mark.parametrize("V", [2, 3])
@pytest.mark.parametrize("dtype", DType)
def test_labels_and_frames_at_the_edges_of_vectors(dtype: DType, V: int, modified: bool) -> None:
    for U in EDGES:
        for T in {1, 8, 33, U - 1, U, U + 1} - {-1, 0}:
            batch = one_item(T, U, V, dtype, modified=modified, seed=T)
            check_transducer(batch, cpu.align(batch))


@pytest.mark.parametrize("modified", [False, True])
@pytest.mark.parametrize("V", [2, 3])
def test_many_strips_and_blocks_of_rows(V: int, modified: bool) -> None:
    batch = one_item(300, 130, V, DType.FLOAT32, modified=modified)
    check_transducer(batch, cpu.align(batch))


@SETTINGS
@given(transducer_batches(kinds=[dyadic, normal], flawed=False), GENERATORS)
def test_what_no_path_can_take_changes_nothing(batch: TransducerBatch, rng: np.random.Generator) -> None:
    same_results(cpu.align(with_garbage(batch, rng)), cpu.align(batch))


@SETTINGS
@given(transducer_batches(kinds=[dyadic, normal], flawed=False), GENERATORS)
def test_one_bad_arc_that_a_path_can_take_is_found(batch: TransducerBatch, rng: np.random.Generator) -> None:
    expected = cpu.align(batch).statuses.copy()
    bad_batch = dataclasses.replace(batch, log_probs=batch.log_probs.copy())
    for index in np.flatnonzero(expected == Status.OK):
        places = np.argwhere(read_columns(batch, index))
        bad = stored(rng.choice([np.nan, np.inf]), batch.dtype)
        transducer_stored(bad_batch, index)[tuple(places[rng.integers(len(places))])] = bad
        expected[index] = Status.NOT_FINITE
    result = cpu.align(bad_batch)
    np.testing.assert_array_equal(result.statuses, expected)
    assert np.isnan(result.scores[expected == Status.NOT_FINITE]).all()
    check_transducer(bad_batch, result)


@pytest.mark.parametrize("V", [2, 5])
def test_a_bad_item_takes_no_longer_than_a_good_one(V: int) -> None:
    good = one_item(200, 80, V, DType.FLOAT32)  # which the caches hold, whatever else the machine does
    bad = dataclasses.replace(good, log_probs=good.log_probs.copy())
    transducer_stored(bad, 0)[-1, -1, bad.blanks[0]] = np.nan
    assert cpu.align(bad).statuses.tolist() == [Status.NOT_FINITE]
    assert time_ratio(lambda: cpu.align(bad), lambda: cpu.align(good)) < 4


@FEW
@given(transducer_batches(max_items=8))
def test_a_batch_equals_its_items_alone(batch: TransducerBatch) -> None:
    whole = cpu.align(batch)
    starts = offsets_of(batch.labels)
    for index in range(len(batch)):
        alone = cpu.align(some_of(batch, np.array([index])))
        np.testing.assert_array_equal(alone.emission_frames, whole.emission_frames[starts[index] : starts[index + 1]])
        np.testing.assert_array_equal(alone.scores, whole.scores[index : index + 1])
        np.testing.assert_array_equal(alone.statuses, whole.statuses[index : index + 1])


@pytest.mark.parametrize("modified", [False, True])
@pytest.mark.parametrize("dtype", DType)
def test_threads_change_nothing(dtype: DType, modified: bool) -> None:
    rng = np.random.default_rng(2)
    items = []
    for U, more in rng.integers(0, 90, (60, 2)):
        V = int(rng.integers(2, 5))
        items.append((normal(rng, (U + more + 1, U + 1, V)), random_labels(rng, U, V, 0), 0))
    batch = transducer_batch(items, dtype, modified=modified)
    with WorkerPool(3) as pool:
        same_results(cpu.align(batch, pool), cpu.align(batch))


@pytest.mark.parametrize(("modified", "expected"), [(False, [0, 0, 0]), (True, [0, 1, 2])])
def test_all_ties_come_by_blank_seen_from_the_end(modified: bool, expected: list[int]) -> None:
    batch = transducer_batch([(np.zeros((5, 4, 2)), np.ones(3, np.int32), 0)], DType.FLOAT32, modified=modified)
    result = cpu.align(batch)
    assert result.emission_frames.tolist() == expected
    assert result.scores.tolist() == [0.0]


def test_negative_lengths_are_empty_items() -> None:
    item = (np.zeros((2, 3, 2)), np.ones(2, np.int32), 0)
    batch = transducer_batch([item] * 3, DType.FLOAT32)
    batch = dataclasses.replace(batch, frames=np.array([-4, 2, 2]), labels=np.array([2, -1, 2]))
    result = cpu.align(batch)
    assert result.statuses.tolist() == [Status.EMPTY, Status.EMPTY, Status.OK]
    assert result.emission_frames.tolist() == [0, 0, 0, 0]
    assert cpu.scratch_bytes(batch)[:2].tolist() == [0, 0]


def test_no_items() -> None:
    result = cpu.align(transducer_batch([], DType.FLOAT32))
    assert len(result.statuses) == len(result.emission_frames) == len(result.scores) == 0


def test_one_arc_alone_decides_which_way_a_path_goes() -> None:
    """Labels are taken where their arc is the only good one, in the very frame."""
    T, U = 40, 35
    rng = np.random.default_rng(9)
    for modified in (False, True):
        frames = np.sort(rng.choice(T, U, replace=False)) if modified else np.sort(rng.integers(0, T, U))
        log_probs = np.full((T, U + 1, 2), -1.0)
        log_probs[frames, np.arange(U), 1] = 0.0
        result = cpu.align(transducer_batch([(log_probs, np.ones(U), 0)], DType.FLOAT32, modified=modified))
        assert result.emission_frames.tolist() == frames.tolist()
        assert result.scores.tolist() == [-float(T - U if modified else T)]


@pytest.mark.parametrize("modified", [False, True])
@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16])
def test_every_half_is_widened_exactly(dtype: DType, modified: bool) -> None:
    """As the only arc of a path: a blank, or a label with one symbol a frame; in reduced and in dense log-probs."""
    every = np.arange(2**16, dtype=np.uint16)
    expected = widen(every, dtype)
    finite = np.isfinite(expected)
    failures = np.where(expected == -np.inf, Status.NO_FINITE_PATH, Status.NOT_FINITE)
    one = np.ones(2**16, np.int64)
    for U, V, place in ((0, 2, 0), (0, 3, 0), *(((1, 2, 1), (1, 3, 1)) if modified else ())):
        nodes = np.zeros((2**16, U + 1, V), np.uint16)
        nodes[:, 0, place] = every
        batch = TransducerBatch(
            nodes.reshape(-1), dtype, np.arange(2**16) * (U + 1) * V, one, U * one, V * one, V * (U + 1) * one, V * one,
            np.ones(2**16, np.int32), np.arange(2**16), np.zeros(2**16, np.int32), modified,
        )  # fmt: skip
        result = cpu.align(batch)
        np.testing.assert_array_equal(result.scores[finite], expected[finite])
        np.testing.assert_array_equal(result.statuses, np.where(finite, Status.OK, failures))


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16])
def test_every_half_is_widened_exactly_within_a_tile_too(dtype: DType) -> None:
    """Each at (40, 5), where neither frames nor labels end: the path goes by it, and the other arcs are 0."""
    every = np.arange(2**16, dtype=np.uint16)
    finite = every[np.isfinite(widen(every, dtype))]
    T, U = 81, 15
    nodes = stored(np.full((T, U + 1, 2), -np.inf), dtype)
    nodes[:41, 5, 0] = nodes[41:, U, 0] = nodes[0, :5, 1] = nodes[41, 5:U, 1] = 0
    one = np.ones(1, np.int64)
    for half in finite[::7]:
        nodes[40, 5, 0] = half
        result = cpu.align(reduced(nodes.reshape(-1), dtype, 0 * one, T * one, U * one))
        assert result.scores.tolist() == [float(widen(np.array([half], np.uint16), dtype)[0])]


def test_scratch_is_stated_and_small() -> None:
    items = [(np.zeros((1, 1, 2)), np.zeros(0, np.int32), 0)] * 4
    sizes = dataclasses.replace(
        transducer_batch(items, DType.FLOAT32),
        frames=np.array([400, 400, 0, 100_000]),
        labels=np.array([63, 500, 5, 5000]),
    )
    need = cpu.scratch_bytes(sizes)
    assert need.dtype == np.int64
    assert need[0] == 4 * 2 * (400 + 32) + (2 * (400 + 63) + 4192) * 4
    assert need[2] == 0
    assert need[3] < 1.01 * 100_000 * 5001 / 8 + 4 * 2 * 105_000 + 20_000
    modified = cpu.scratch_bytes(dataclasses.replace(sizes, modified=True))
    assert modified[0] == 4 * 2 * (400 - 63 + 1 + 32) + (2 * 400 + 4192) * 4
    assert modified[1] == 0


def test_no_more_scratch_than_stated_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    empty = np.empty

    def counted(shape: object, dtype: object = float) -> np.ndarray:
        found = empty(shape, dtype)
        taken.append(found.nbytes)
        return found

    for batch in (one_item(700, 90, 2, DType.FLOAT32), one_item(300, 70, 3, DType.FLOAT64, modified=True)):
        taken.clear()
        with monkeypatch.context() as patch:
            patch.setattr(np, "empty", counted)
            cpu.align(batch)
        table = 8 * cpu.ITEM_FIELDS + 8 + 4  # of one item; cells and status
        stated = int(cpu.scratch_bytes(batch)[0])
        assert stated / 1.1 <= sum(taken) - table <= stated


def test_memory_that_cannot_be_had_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = one_item(3, 2, 2, DType.FLOAT32)

    def no_memory(*args: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", no_memory)
        with pytest.raises(MemoryError):
            cpu.align(batch)
    check_transducer(batch, cpu.align(batch))
