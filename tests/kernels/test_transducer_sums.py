"""Sums over transducer lattices by Numba against the reference."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from kernels.strategies import GENERATORS, dyadic, normal, same_results, stored, time_ratio
from kernels.subprocesses import WITHOUT_AVX_512, X86, run_script
from kernels.transducer_strategies import (
    UNIT,
    legal_arcs,
    random_labels,
    read_columns,
    scattered,
    some_of,
    status_of_labels,
    sum_tolerance,
    transducer_arcs,
    transducer_batch,
    transducer_batches,
    transducer_item,
    transducer_stored,
    with_garbage,
)

from alignd_kernels.dtypes import DType
from alignd_kernels.status import Status
from alignd_kernels.threads import WorkerPool
from alignd_kernels.transducer import cpu_sum, reference
from alignd_kernels.transducer.batch import TransducerBatch, TransducerCosts, TransducerPosteriors, reduced

SETTINGS = settings(max_examples=120, deadline=None, derandomize=True)
FEW = settings(SETTINGS, max_examples=40)
FASTEMIT = 0.25
TOPOLOGIES = pytest.mark.parametrize("modified", [False, True], ids=["standard", "modified"])
TINY = {np.float32: 2.0**-80, np.float64: 2.0**-880}
"""Probabilities from here on are not told from 0."""


def close(found: npt.ArrayLike, expected: npt.ArrayLike, relative: float, tiny: float, context: str) -> None:
    np.testing.assert_allclose(found, expected, rtol=relative, atol=tiny, err_msg=context)


def check_sums(batch: TransducerBatch, costs: TransducerCosts, posteriors: TransducerPosteriors) -> None:
    """Both are the reference's, within the tolerance; what is NaN, infinite or 0 there is so here."""
    accumulator, end = batch.dtype.accumulator, 0
    assert costs.gradients is not None
    assert costs.costs.dtype == costs.gradients.dtype == posteriors.posteriors.dtype == accumulator
    for index in range(len(batch)):
        T, nodes, _ = transducer_item(batch, index)[0].shape
        begin, end = end, end + T * nodes
        gradients = costs.gradients[2 * begin : 2 * end].reshape(T, nodes, 2)
        occupied = posteriors.posteriors[begin:end].reshape(T, nodes)
        context = f"item {index}, T = {T}, U = {nodes - 1}, {batch.dtype}, modified: {batch.modified}"
        status = status_of_labels(batch, index)
        if status is not Status.OK:
            assert costs.statuses[index] == posteriors.statuses[index] == status, context
            assert np.isnan([costs.costs[index], posteriors.scores[index]]).all(), context
            assert np.isnan(gradients).all(), context
            assert not occupied.any(), context
            continue
        arcs = transducer_arcs(batch, index)
        status, probabilities, score = reference.posteriors(arcs, batch.modified)
        cost, expected = reference.cost(arcs, batch.modified, FASTEMIT)
        slack = 0.0
        if status is Status.OK:
            slack = sum_tolerance(arcs, batch.modified, accumulator)
            with np.errstate(over="ignore"):
                rounded = accumulator(cost)
            if np.isinf(rounded):  # finite in float64 only
                cost, expected, status = np.inf, np.zeros_like(expected), Status.NO_FINITE_PATH
        assert costs.statuses[index] == status, context
        assert posteriors.statuses[index] == (Status.OK if np.isfinite(score) else status), context
        close(costs.costs[index], cost, UNIT[accumulator], slack, context)
        close(posteriors.scores[index], score, 4 * UNIT[np.float64], slack, context)
        close(gradients, expected, slack, TINY[accumulator], context)
        close(occupied, probabilities, slack, TINY[accumulator], context)


def check(batch: TransducerBatch) -> None:
    check_sums(batch, cpu_sum.costs(batch, fastemit_lambda=FASTEMIT), cpu_sum.posteriors(batch))


@SETTINGS
@given(transducer_batches())
def test_equals_the_reference(batch: TransducerBatch) -> None:
    check(batch)


@FEW
@given(transducer_batches(kinds=[dyadic, normal], max_frames=70, max_labels=60, max_items=2))
def test_equals_the_reference_on_longer_items(batch: TransducerBatch) -> None:
    check(batch)


@TOPOLOGIES
@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("labels", [0, 1, 2, 15, 16, 17, 33])
def test_few_frames_and_few_to_spare(dtype: DType, labels: int, modified: bool) -> None:
    rng = np.random.default_rng(labels)
    frames = [max(labels + spare, 1) for spare in (-1, 0, 1, 16)] if modified else [1, 2, 16, 33]
    items = [(normal(rng, (T, labels + 1, 5)), random_labels(rng, labels, 5, 4), 4) for T in frames]
    check(transducer_batch(items, dtype, modified=modified))


@SETTINGS
@given(transducer_batches(kinds=[dyadic, normal], flawed=False), GENERATORS)
def test_what_no_path_takes_changes_nothing(batch: TransducerBatch, rng: np.random.Generator) -> None:
    other = with_garbage(batch, rng)
    same_results(cpu_sum.costs(other), cpu_sum.costs(batch))
    same_results(cpu_sum.posteriors(other), cpu_sum.posteriors(batch))


@SETTINGS
@given(transducer_batches(kinds=[dyadic, normal], flawed=False), GENERATORS)
def test_one_bad_arc_that_a_path_can_take_is_found(batch: TransducerBatch, rng: np.random.Generator) -> None:
    for index in range(len(batch)):
        taken = np.argwhere(read_columns(batch, index))
        place = tuple(taken[rng.integers(len(taken))])
        transducer_stored(batch, index)[place] = stored(rng.choice([np.nan, np.inf]), batch.dtype)
    found = cpu_sum.costs(batch)
    assert found.gradients is not None
    assert (found.statuses == Status.NOT_FINITE).all()
    assert np.isnan(found.costs).all()
    assert np.isnan(found.gradients).all()
    check(batch)


@TOPOLOGIES
@pytest.mark.parametrize("dtype", DType)
def test_without_gradients_costs_are_the_same(dtype: DType, modified: bool) -> None:
    rng = np.random.default_rng(1)
    sizes = [(1, 0), (1, 1), (9, 4), (40, 40), (31, 7)]
    items = [(normal(rng, (T, U + 1, 4)), random_labels(rng, U, 4, 0), 0) for T, U in sizes]
    batch = transducer_batch(items, dtype, modified=modified)
    whole, bare = cpu_sum.costs(batch), cpu_sum.costs(batch, gradients=False)
    assert bare.gradients is None
    np.testing.assert_array_equal(bare.costs, whole.costs)
    np.testing.assert_array_equal(bare.statuses, whole.statuses)


@TOPOLOGIES
@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("mask", [-1e4, -6e4, -1e9, -1e30, -np.inf])
def test_masked_arcs(dtype: DType, mask: float, modified: bool) -> None:
    """Beside other paths a mask weighs nothing; where every path meets it, it counts as what it is."""
    rng = np.random.default_rng(2)
    x = normal(rng, (12, 6, 3))
    some, every = x.copy(), x.copy()
    some[rng.random(x.shape) < 0.2] = mask
    every[5] = mask
    items = [(values, np.array([1, 2, 1, 2, 2], np.int32), 0) for values in (some, every, np.full_like(x, mask))]
    if dtype is DType.FLOAT16 and mask < -65504:
        mask = -np.inf
    check(transducer_batch(items, dtype, modified=modified))


@TOPOLOGIES
def test_a_mask_on_the_best_path_of_an_unlikely_item(modified: bool) -> None:
    """Two paths: one of many steps of −50, one through a single −9,000: neither may be taken for nothing."""
    x = np.zeros((200, 2, 2))
    x[:, 0, 0] = -50.0
    x[1:-1, 0, 1] = -1e6
    x[0, 0, 1] = -9000.0
    batch = transducer_batch([(x, np.array([1], np.int32), 0)], DType.FLOAT32, modified=modified)
    check(batch)
    assert 8999 < cpu_sum.costs(batch).costs[0] < 9001


@pytest.mark.parametrize("shift", [1.0, 90.0, 9000.0, 1e6])
def test_rows_that_are_not_normalised(shift: float) -> None:
    rng = np.random.default_rng(3)
    x = normal(rng, (30, 9, 3)) + shift
    labels = random_labels(rng, 8, 3, 0)
    for modified in (False, True):
        check(transducer_batch([(x, labels, 0)], DType.FLOAT64, modified=modified))
        check(transducer_batch([(x, labels, 0)], DType.FLOAT32, modified=modified))


def long_item(rng: np.random.Generator, frames: int, labels: int) -> npt.NDArray[np.float32]:
    """Blank and label log-probs of a model that knows its labels roughly, with thousands of nats between nodes."""
    t, u = np.arange(frames)[:, None], np.arange(labels + 1)[None, :]
    lag = (t / frames - u / (labels + 1)) * 40 + rng.standard_normal((frames, labels + 1))
    label = -np.logaddexp(0, -lag)
    return np.stack([np.log1p(-np.exp(np.minimum(label, -1e-6))), label], axis=-1).astype(np.float32)


@TOPOLOGIES
def test_error_over_a_long_item(modified: bool) -> None:
    """In float32 as in float64, within a hundredth of the bound: errors do not all go one way."""
    T, U = 1500, 300
    arcs = long_item(np.random.default_rng(4), T, U)
    shape = np.zeros(1, np.int64), np.array([T]), np.array([U])
    single = cpu_sum.costs(reduced(arcs.ravel(), DType.FLOAT32, *shape, modified=modified))
    double = cpu_sum.costs(reduced(arcs.astype(np.float64).ravel(), DType.FLOAT64, *shape, modified=modified))
    bound = (T + U + 1) * 16 * 2.0**-24
    assert single.gradients is not None
    assert double.gradients is not None
    close(single.costs, double.costs, 2.0**-24, bound / 100, "cost")
    close(single.gradients, double.gradients, bound / 20, 1e-20, "gradients")
    by_frame = single.gradients.reshape(T, U + 1, 2)[:, :, 0].sum(1)
    if not modified:
        close(by_frame, -np.ones(T), bound / 20, 0, "each frame is left by one blank")


@FEW
@given(transducer_batches(kinds=[normal], max_items=8), GENERATORS)
def test_items_alone_and_in_other_places_are_the_same_bit_for_bit(
    batch: TransducerBatch, rng: np.random.Generator
) -> None:
    whole = cpu_sum.costs(batch)
    same_results(cpu_sum.costs(scattered(batch, rng)), whole)
    same_results(cpu_sum.posteriors(scattered(batch, rng)), cpu_sum.posteriors(batch))
    assert whole.gradients is not None
    sizes = 2 * batch.frames * (batch.labels + 1)
    for index, end in enumerate(np.cumsum(sizes)):
        alone = cpu_sum.costs(some_of(batch, np.array([index])))
        np.testing.assert_array_equal(alone.costs, whole.costs[index : index + 1])
        np.testing.assert_array_equal(alone.gradients, whole.gradients[end - sizes[index] : end])


@TOPOLOGIES
@pytest.mark.parametrize("dtype", DType)
def test_threads_change_nothing(dtype: DType, modified: bool) -> None:
    rng = np.random.default_rng(6)
    sizes = rng.integers(1, 60, (50, 2))
    items = [(normal(rng, (T + U * modified, U + 1, 3)), random_labels(rng, U, 3, 1), 1) for T, U in sizes]
    batch = transducer_batch(items, dtype, modified=modified)
    with WorkerPool(3) as pool:
        same_results(cpu_sum.costs(batch, pool), cpu_sum.costs(batch))
        same_results(cpu_sum.posteriors(batch, pool), cpu_sum.posteriors(batch))


@pytest.mark.parametrize("dtype", DType)
def test_arcs_are_counted_over_all_paths(dtype: DType) -> None:
    """Each path leaves each frame by one blank and takes each label once."""
    rng = np.random.default_rng(7)
    batch = transducer_batch([(normal(rng, (20, 8, 3)), random_labels(rng, 7, 3, 0), 0)], dtype)
    gradients = cpu_sum.costs(batch).gradients
    assert gradients is not None
    taken = -gradients.reshape(20, 8, 2)
    close(taken[:, :, 0].sum(1), np.ones(20), 28 * 16 * 2.0**-24, 0, "frames")
    close(taken[:, :7, 1].sum(0), np.ones(7), 28 * 16 * 2.0**-24, 0, "labels")
    assert not taken[~legal_arcs(20, 7, False)].any()


def test_a_bad_item_takes_no_longer_than_a_good_one() -> None:
    x = long_item(np.random.default_rng(9), 600, 200)
    shape = np.zeros(1, np.int64), np.array([600]), np.array([200])
    bad, impossible = x.copy(), x.copy()
    bad[-1, -1, 0] = np.nan
    impossible[300] = -np.inf
    good, *others = (reduced(arcs.ravel(), DType.FLOAT32, *shape) for arcs in (x, bad, impossible))
    statuses = [cpu_sum.costs(other).statuses[0] for other in others]
    assert statuses == [Status.NOT_FINITE, Status.NO_FINITE_PATH]
    for other in others:
        assert time_ratio(lambda other=other: cpu_sum.costs(other), lambda: cpu_sum.costs(good)) < 2


def test_no_items_and_negative_lengths() -> None:
    found = cpu_sum.costs(transducer_batch([], DType.FLOAT32))
    assert found.gradients is not None
    assert len(found.costs) == len(found.statuses) == len(found.gradients) == 0
    x = np.zeros((3, 2, 2))
    batch = transducer_batch([(x, np.array([1], np.int32), 0)] * 3, DType.FLOAT32)
    batch = replace(batch, frames=np.array([-1, 3, 3]), labels=np.array([1, -4, 1]))
    assert cpu_sum.costs(batch).statuses.tolist() == [Status.EMPTY, Status.EMPTY, Status.OK]


def test_scratch_is_stated() -> None:
    good, bad = (np.zeros((50, 11, 3)), np.ones(10, np.int32), 0), (np.zeros((50, 11, 3)), np.zeros(10, np.int32), 0)
    for dtype, A in ((DType.FLOAT16, 4), (DType.FLOAT64, 8)):
        batch = transducer_batch([good, bad], dtype)
        room = 50 * 11 + 60 + 3
        assert cpu_sum.scratch_bytes(batch).tolist() == [2 * A * (3 * room + 26) + 8 * 61, 0]
        assert cpu_sum.scratch_bytes(batch, gradients=False).tolist() == [2 * A * (2 * room + 26) + 8 * 61, 0]
        one = replace(batch, modified=True)
        room = 11 * 41 + 50 + 2
        assert cpu_sum.scratch_bytes(one).tolist() == [2 * A * (3 * room + 26) + 8 * 51, 0]


def test_memory_that_cannot_be_had_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = transducer_batch([(np.zeros((4, 2, 3)), np.array([1], np.int32), 0)], DType.FLOAT32)

    def no_memory(*args: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", no_memory)
        with pytest.raises(MemoryError):
            cpu_sum.costs(batch)
    check(batch)


NOTHING_BESIDE_ITS_ARRAYS = """
from dataclasses import replace
import numpy as np
from kernels.guarded import Guarded
from kernels.strategies import normal, same_results
from kernels.transducer_strategies import random_labels, transducer_batch
from alignd_kernels.dtypes import DType
from alignd_kernels.transducer import cpu_sum

rng = np.random.default_rng(12)
for modified in (False, True):
    for dtype in DType:
        for T, U in ((1, 0), (1, 1), (7, 7), (33, 2), (40, 17), (3 + 60 * modified, 60)):
            for largest in (1.0, 1e5):
                item = normal(rng, (T, U + 1, 3)) * largest, random_labels(rng, U, 3, 2), 2
                plain = transducer_batch([item], dtype, modified=modified)
                expected = cpu_sum.costs(plain), cpu_sum.posteriors(plain)
                for at_end in (True, False):
                    guarded = Guarded(at_end)
                    batch = replace(
                        plain, log_probs=guarded.copy(plain.log_probs), targets=guarded.copy(plain.targets)
                    )
                    with guarded.everywhere():
                        found = cpu_sum.costs(batch), cpu_sum.posteriors(batch)
                    for one, other in zip(found, expected):
                        same_results(one, other)
print("done")
"""


def test_nothing_is_touched_beside_its_arrays() -> None:
    assert run_script(NOTHING_BESIDE_ITS_ARRAYS) == ["done"]


OLDER_MACHINE = """
from kernels import test_transducer_sums as tests
for labels in (0, 2, 17, 33):
    for modified in (False, True):
        tests.test_few_frames_and_few_to_spare(tests.DType.FLOAT16, labels, modified)
print("done")
"""


@pytest.mark.skipif(not X86, reason="the settings are those of an x86 processor")
def test_equals_the_reference_on_an_older_processor() -> None:
    """In halves; CTC's sums are in float64 there."""
    assert run_script(OLDER_MACHINE, **WITHOUT_AVX_512) == ["done"]
