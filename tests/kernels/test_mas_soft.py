"""Sums over monotonic paths by Numba against the reference: posteriors, costs, gradients."""

import dataclasses
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernels.strategies import (
    GENERATORS,
    dyadic,
    mas_batch,
    mas_batches,
    mas_item,
    normal,
    same_results,
    stored,
    with_bad_cells,
    with_minus_infinity,
)
from kernels.subprocesses import run_script
from numba import njit

import alignd_kernels as ak
from alignd_kernels.dtypes import DType
from alignd_kernels.mas import cpu_sum, soft_blank, soft_reference
from alignd_kernels.mas.batch import MasBatch, row_major
from alignd_kernels.ragged import offsets_of
from alignd_kernels.status import Status
from alignd_kernels.threads import WorkerPool

SETTINGS = settings(max_examples=100, deadline=None, derandomize=True)
KINDS = [dyadic, normal, with_minus_infinity, with_bad_cells]


def ulp(dtype: DType) -> float:
    return float(np.finfo(dtype.accumulator).eps)


def turned(batch: MasBatch) -> MasBatch:
    """The same items, [T, S] in memory, with NaN between rows and items."""
    pitches = batch.tokens + 3
    offsets = offsets_of(batch.frames * pitches + 2)
    flat = stored(np.full(offsets[-1], np.nan), batch.dtype)
    for b, (S, T) in enumerate(zip(batch.tokens.tolist(), batch.frames.tolist())):
        rows = batch.values[batch.offsets[b] :][: S * batch.pitches[b]].reshape(S, batch.pitches[b])
        flat[offsets[b] : offsets[b] + T * pitches[b]].reshape(T, pitches[b])[:, :S] = rows[:, :T].T
    return dataclasses.replace(batch, values=flat, offsets=offsets[:-1], pitches=pitches, frames_first=True)


def matrices(flat: np.ndarray, batch: MasBatch) -> list[np.ndarray]:
    """What was found for each item, as [S, T]."""
    starts = offsets_of(batch.tokens * batch.frames)
    assert flat.shape == (starts[-1],)
    found = []
    for b, (S, T) in enumerate(zip(batch.tokens.tolist(), batch.frames.tolist())):
        own = flat[starts[b] : starts[b + 1]]
        found.append(own.reshape(T, S).T if batch.frames_first else own.reshape(S, T))
    return found


def lost_by_logarithms(value: np.ndarray) -> float:
    """What the reference itself may be off by: an ulp of its logarithms in each frame."""
    alpha, _ = soft_reference.forward_backward(value)
    return value.shape[1] * 2.0**-52 * float(np.abs(alpha[np.isfinite(alpha)]).max(initial=0))


def check(batch: MasBatch, pool: WorkerPool | None = None) -> None:
    """Posteriors and costs are the reference's within what `cpu_sum` states."""
    found, lost = cpu_sum.posteriors(batch, pool), cpu_sum.costs(batch, pool)
    alone = cpu_sum.costs(batch, pool, gradients=False)
    assert found.posteriors.dtype == lost.costs.dtype == batch.dtype.accumulator
    assert lost.gradients is not None
    assert alone.gradients is None
    np.testing.assert_array_equal(alone.costs, lost.costs)
    np.testing.assert_array_equal(found.statuses, lost.statuses)
    np.testing.assert_array_equal(found.statuses, alone.statuses)
    plain = row_major(batch)
    each = zip(matrices(found.posteriors, batch), matrices(lost.gradients, batch))
    for b, (posteriors, gradient) in enumerate(each):
        value = mas_item(plain, b).astype(np.float64)
        T = value.shape[1]
        status, expected, total = soft_reference.posteriors(value)
        cost, slope = soft_reference.cost(value)
        context = f"item {b}, {value.shape}, {batch.dtype}"
        assert found.statuses[b] == status, context
        theirs = lost_by_logarithms(value) if status is Status.OK and batch.dtype is DType.FLOAT64 else 0.0
        of_sums, of_cells = 4 * T * ulp(batch.dtype) + theirs, 8 * T * ulp(batch.dtype) + theirs
        np.testing.assert_allclose(found.scores[b], total, 1e-15, of_sums, err_msg=context)
        np.testing.assert_allclose(posteriors, expected, 0, of_cells, err_msg=context)
        np.testing.assert_allclose(gradient, slope, 0, of_cells, err_msg=context)
        np.testing.assert_allclose(lost.costs[b], cost, ulp(batch.dtype), of_sums, err_msg=context)


@SETTINGS
@given(mas_batches(kinds=KINDS), st.booleans())
def test_equals_the_reference(batch: MasBatch, frames_first: bool) -> None:
    check(turned(batch) if frames_first else batch)


@settings(SETTINGS, max_examples=15)
@given(mas_batches(max_tokens=150, max_frames=400, max_items=2, kinds=[dyadic, normal]), st.booleans())
def test_equals_the_reference_in_longer_items(batch: MasBatch, frames_first: bool) -> None:
    check(turned(batch) if frames_first else batch)


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("frames_first", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 50), (50, 50), (49, 50), (16, 32), (17, 33), (15, 31), (2, 17), (5, 4), (0, 3), (3, 0)]
)
def test_shapes(shape: tuple[int, int], dtype: DType, frames_first: bool) -> None:
    batch = mas_batch([normal(np.random.default_rng(1), shape)] * 2, dtype, 1, 1)
    check(turned(batch) if frames_first else batch)


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("value", [-np.inf, np.nan, np.inf])
def test_items_full_of_one_value(dtype: DType, value: float) -> None:
    batch = mas_batch([np.full((3, 5), value), dyadic(np.random.default_rng(0), (3, 5))], dtype)
    check(batch)
    check(turned(batch))


@SETTINGS
@given(mas_batches(kinds=[dyadic, normal]), GENERATORS)
def test_what_stands_outside_the_band_changes_nothing(batch: MasBatch, rng: np.random.Generator) -> None:
    values = batch.values.copy()
    for b in range(len(batch)):
        S, T, pitch = int(batch.tokens[b]), int(batch.frames[b]), int(batch.pitches[b])
        rows = values[batch.offsets[b] :][: S * pitch].reshape(S, pitch)[:, :T]
        garbage = stored(rng.choice([np.nan, np.inf, -np.inf, 1e30], rows.shape), batch.dtype)
        legal = np.zeros((S, T), bool)
        for cell in soft_reference.visitable(S, T):
            legal[cell] = True
        rows[...] = np.where(legal, rows, garbage)
    spoilt = dataclasses.replace(batch, values=values)
    for one, other in ((spoilt, batch), (turned(spoilt), turned(batch))):
        same_results(cpu_sum.posteriors(one), cpu_sum.posteriors(other))
        same_results(cpu_sum.costs(one), cpu_sum.costs(other))


@pytest.mark.parametrize("dtype", DType)
def test_long_items_stay_within_the_stated_error(dtype: DType) -> None:
    """Scores far from zero: the sum leaves the range of exponentials in the first frame."""
    rng = np.random.default_rng(5)
    check(mas_batch([rng.standard_normal((60, 2000)) * 3 - 30], dtype))


@pytest.mark.parametrize("shift", [-1000.0, 1000.0])
def test_unlikely_beginnings_are_kept(shift: float) -> None:
    """The only way to the end is e^-2000 below another, which ends nowhere: no common scale of a frame would do."""
    value = np.full((3, 60), shift)
    value[1, 1:40] += 100
    value[1:, 40:] = -np.inf
    value[2, 5:] = 0
    check(mas_batch([value], DType.FLOAT32))
    check(mas_batch([value], DType.FLOAT64))


def test_frames_sum_to_one() -> None:
    batch = mas_batch([normal(np.random.default_rng(6), (40, 500))], DType.FLOAT32)
    sums = matrices(cpu_sum.posteriors(batch).posteriors, batch)[0].sum(0, np.float64)
    np.testing.assert_allclose(sums, 1, 0, 500 * ulp(DType.FLOAT32))


def test_sums_that_overflow_have_no_finite_path() -> None:
    huge = mas_batch([np.full((1, 3), 3e38), np.full((1, 3), -3e38)], DType.FLOAT32)
    found = cpu_sum.posteriors(huge)
    assert found.statuses.tolist() == [Status.NO_FINITE_PATH] * 2
    assert not found.posteriors.any()
    assert cpu_sum.costs(huge).costs.tolist() == [np.inf] * 2


@SETTINGS
@given(mas_batches(kinds=KINDS, max_items=10))
@example(mas_batch([], DType.FLOAT32))
def test_threads_and_other_items_change_nothing(batch: MasBatch) -> None:
    expected = cpu_sum.posteriors(batch)
    with WorkerPool(3) as pool:
        same_results(cpu_sum.posteriors(batch, pool), expected)
    for b, matrix in enumerate(matrices(expected.posteriors, batch)):
        own = {name: getattr(batch, name)[b : b + 1] for name in ("offsets", "tokens", "frames", "pitches")}
        alone = cpu_sum.posteriors(dataclasses.replace(batch, **own))
        np.testing.assert_array_equal(alone.posteriors, matrix.reshape(-1))
        np.testing.assert_array_equal(alone.scores, expected.scores[b : b + 1])


def test_large_batches_on_threads() -> None:
    rng = np.random.default_rng(8)
    batch = mas_batch([normal(rng, (60, 200)) for _ in range(40)], DType.FLOAT32)
    with WorkerPool(3) as pool:
        for one in (batch, turned(batch)):
            same_results(cpu_sum.costs(one, pool), cpu_sum.costs(one))


def test_several_buffers_and_negative_lengths() -> None:
    one = mas_batch([dyadic(np.random.default_rng(b), (4, 9)) for b in range(3)], DType.FLOAT32)
    parts = tuple(one.values[b * 36 : (b + 1) * 36].copy() for b in range(3))
    apart = dataclasses.replace(one, values=parts, offsets=np.zeros(3, np.int64), sources=np.arange(3))
    same_results(cpu_sum.posteriors(apart), cpu_sum.posteriors(one))
    none = dataclasses.replace(one, tokens=np.array([-1, 4, 4]))
    found = cpu_sum.posteriors(none)
    assert found.statuses.tolist() == [Status.EMPTY, Status.OK, Status.OK]
    np.testing.assert_array_equal(found.posteriors, cpu_sum.posteriors(one).posteriors[36:])


def test_scratch_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = mas_batch([np.zeros((16, 80)), np.zeros((3, 2)), np.zeros((0, 5))], DType.FLOAT32)
    need = cpu_sum.scratch_bytes(batch)
    assert need[1:].tolist() == [0, 0]
    allocated = []
    plain = np.empty

    def counted(*args: object, **kwargs: object) -> np.ndarray:
        allocated.append(plain(*args, **kwargs))
        return allocated[-1]

    for one in (batch, turned(batch)):
        allocated.clear()
        with monkeypatch.context() as patch:
            patch.setattr(np, "empty", counted)
            cpu_sum.posteriors(one)
        assert sum(array.nbytes for array in allocated if array.dtype == np.float32) == cpu_sum.scratch_bytes(one)[0]


GUARDED = """
import numpy as np
from kernels.guarded import Guarded
from kernels.strategies import dyadic, same_results, stored
from alignd_kernels.dtypes import DType
from alignd_kernels.mas import cpu_sum
from alignd_kernels.mas.batch import MasBatch

rng = np.random.default_rng(0)
one = np.ones(1, np.int64)
cpu_sum.warm_up()
for at_end in (False, True):
    for dtype in DType:
        for S, T in ((1, 1), (1, 40), (15, 17), (16, 16), (17, 33), (32, 64), (33, 47), (99, 133)):
            for frames_first in (False, True):
                flat = stored(dyadic(rng, (T, S) if frames_first else (S, T)).reshape(-1), dtype)
                pitch = S * one if frames_first else T * one
                batch = MasBatch(flat, dtype, 0 * one, S * one, T * one, pitch, frames_first=frames_first)
                expected = cpu_sum.posteriors(batch), cpu_sum.costs(batch), cpu_sum.costs(batch, gradients=False)
                guarded = Guarded(at_end)
                values = guarded.copy(flat)
                batch = MasBatch(values, dtype, 0 * one, S * one, T * one, pitch, frames_first=frames_first)
                with guarded.everywhere():
                    same_results(cpu_sum.posteriors(batch), expected[0])
                    same_results(cpu_sum.costs(batch), expected[1])
                    same_results(cpu_sum.costs(batch, gradients=False), expected[2])
print("all right")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect is POSIX")
def test_nothing_is_read_or_written_beyond_an_array_and_scratch_need_not_be_clean() -> None:
    assert run_script(GUARDED) == ["all", "right"]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(
    "loop", [cpu_sum.step, cpu_sum.normalise, cpu_sum.split, cpu_sum.add, soft_blank._merge, soft_blank._emit]
)
def test_loops_are_vectorised(loop: Any, kind: type) -> None:
    plain = njit(error_model="numpy", _nrt=False)  # not cached: cached code cannot be inspected
    a, one = [np.ones(9, kind) for _ in range(4)], kind(1)
    wrapped, arguments = {
        cpu_sum.step: (plain(lambda row, M, E, shares: loop(row, M, E, shares)), (a[0][1:], *a[1:])),
        cpu_sum.normalise: (plain(lambda M, E: loop(M, E)), a[:2]),
        cpu_sum.split: (plain(lambda shares, mass, moving, sign: loop(shares, mass, moving, sign)), (*a[:3], one)),
        cpu_sum.add: (plain(lambda to, what: loop(to, what)), a[:2]),
        soft_blank._merge: (plain(lambda M, E, others, E_others: loop(M, E, others, E_others)), a),
        soft_blank._emit: (plain(lambda M, E, row, level: loop(M, E, row, level)), (*a[:3], one)),
    }[loop]
    wrapped(*arguments)
    assert re.search(r"store <\d+ x ", wrapped.inspect_llvm(wrapped.signatures[0]))


GENERIC = r"""
import re
from alignd_kernels.mas import cpu_sum
from kernels.strategies import mas_batch, normal
from kernels.test_mas_soft import check, turned
import numpy as np
from alignd_kernels.dtypes import DType
for dtype in (DType.FLOAT16, DType.FLOAT64):
    batch = mas_batch([normal(np.random.default_rng(0), (40, 90))], dtype)
    check(batch)
    check(turned(batch))
codes = cpu_sum._sum_items.inspect_llvm().values()
loops = [len(re.findall(r"store <\d+ x (?:float|double)>", code)) for code in codes]
print("equal", len(loops), min(loops) > 10)
"""


def test_kernels_need_no_particular_processor(tmp_path: Path) -> None:
    """And the loops of the parts are vectorised where they are: in the kernels, of which what is cached has no code."""
    path = os.pathsep.join(filter(None, sys.path))
    generic = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    found = run_script(GENERIC, ALIGND_CACHE_DIR=str(tmp_path), PYTHONPATH=path, **generic)
    assert found == ["equal", "2", "True"]


# padded batches


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("torch", "bfloat16"), *((kind, f"float{n}") for kind in ("numpy", "torch") for n in (16, 32, 64))],
)
def test_padded(kind: str, transposed: bool, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 15, 7) if transposed else (3, 7, 15)))
    tensor = tensor.to(getattr(torch, dtype))
    tensor = tensor.transpose(1, 2) if transposed else tensor
    sizes = [(7, 15), (3, 9), (1, 4)]
    mask = torch.zeros(3, 7, 15)
    for b, (S, T) in enumerate(sizes):
        mask[b, :S, :T] = 1
    tensor[mask == 0] = np.nan
    value = tensor if kind == "torch" else tensor.numpy()
    posteriors, scores = ak.mas_posteriors(value, mask if kind == "torch" else mask.numpy())
    assert type(posteriors) is type(scores) is type(value)
    assert str(posteriors.dtype).removeprefix("torch.") == ("float64" if dtype == "float64" else "float32")
    assert str(scores.dtype).removeprefix("torch.") == "float64"
    for b, (S, T) in enumerate(sizes):
        _, expected, total = soft_reference.posteriors(tensor[b, :S, :T].double().numpy())
        np.testing.assert_allclose(np.asarray(posteriors[b, :S, :T]), expected, 0, 1e-5)
        np.testing.assert_allclose(float(scores[b]), total, 0, 1e-5)
    assert not np.asarray(posteriors)[mask.numpy() == 0].any()


def test_padded_items_without_a_path_are_listed_or_told_by_status() -> None:
    value, mask = np.zeros((3, 4, 6), np.float32), np.zeros((3, 4, 6))
    for b, (S, T) in enumerate([(4, 6), (4, 3), (2, 5)]):
        mask[b, :S, :T] = 1
    value[2, 1, 2] = np.nan
    with pytest.raises(ak.InvalidItemsError, match="more tokens") as caught:
        ak.mas_posteriors(value, mask)
    assert caught.value.statuses == {1: Status.TOO_FEW_FRAMES, 2: Status.NOT_FINITE}
    posteriors, scores, statuses = ak.mas_posteriors(value, mask, check=False)
    assert statuses.tolist() == [Status.OK, Status.TOO_FEW_FRAMES, Status.NOT_FINITE]
    assert not posteriors[1:].any()
    assert np.isnan(scores).tolist() == [False, True, True]


def test_padded_bad_arguments() -> None:
    with pytest.raises(ValueError, match="must be \\[batch"):
        ak.mas_posteriors(np.zeros((2, 3)), np.ones((2, 3)))
    with pytest.raises(TypeError, match="float16, bfloat16"):
        ak.mas_posteriors(np.zeros((1, 2, 3), int), np.ones((1, 2, 3)))
    torch = pytest.importorskip("torch")
    elsewhere = torch.zeros(1, 2, 3, device="meta")
    with pytest.raises(NotImplementedError, match="\\.cpu\\(\\)"):
        ak.mas_posteriors(elsewhere, torch.ones(1, 2, 3))


def test_sums_beyond_what_exponents_hold_are_no_finite_path() -> None:
    """Not wrong in silence: float64 holds them."""
    value, mask = np.full((1, 3, 2000), -1e4, np.float32), np.ones((1, 3, 2000), bool)
    with pytest.raises(ak.InvalidItemsError, match="sums overflow"):
        ak.mas_posteriors(value, mask)
    posteriors, _ = ak.mas_posteriors(value.astype(np.float64), mask)
    np.testing.assert_allclose(posteriors[0].sum(0), 1, atol=1e-9)
