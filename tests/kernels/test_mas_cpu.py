"""Monotonic alignment search by Numba against the reference."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from kernels.strategies import (
    GENERATORS,
    check_mas,
    dyadic,
    mas_batch,
    mas_batches,
    mas_item,
    normal,
    same_results,
    stored,
    time_ratio,
)
from numba import njit

from alignd_kernels.dtypes import DType, widen
from alignd_kernels.mas import cpu
from alignd_kernels.mas.batch import END_TO_END, MasBatch
from alignd_kernels.mas.tile import advance_inner
from alignd_kernels.numba_helpers import model_of
from alignd_kernels.ragged import offsets_of
from alignd_kernels.status import Status
from alignd_kernels.threads import WorkerPool

SETTINGS = settings(max_examples=150, deadline=None, derandomize=True)
FEW = settings(SETTINGS, max_examples=30)


def legal(tokens: int, frames: int) -> np.ndarray:
    """Which cells of a lattice some legal path visits."""
    token, frame = np.arange(tokens)[:, None], np.arange(frames)
    return (token <= frame) & (token >= tokens - frames + frame)


@SETTINGS
@given(mas_batches())
def test_equals_the_reference(batch: MasBatch) -> None:
    check_mas(batch, cpu.align(batch))


@FEW
@given(mas_batches(max_tokens=150, max_frames=400, max_items=2, kinds=[dyadic, normal]))
def test_equals_the_reference_beyond_one_tile(batch: MasBatch) -> None:
    check_mas(batch, cpu.align(batch))


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 50), (50, 50), (49, 50), (16, 32), (17, 33), (15, 31), (64, 65), (8, 64)]
)
def test_shapes_at_the_edges_of_tiles(dtype: DType, shape: tuple[int, int]) -> None:
    batch = mas_batch([dyadic(np.random.default_rng(1), shape)], dtype)
    check_mas(batch, cpu.align(batch))


@SETTINGS
@given(mas_batches(kinds=[dyadic, normal]), GENERATORS)
def test_what_stands_outside_the_band_changes_nothing(batch: MasBatch, rng: np.random.Generator) -> None:
    values = batch.values.copy()
    for index in range(len(batch)):
        S, T, pitch = int(batch.tokens[index]), int(batch.frames[index]), int(batch.pitches[index])
        rows = values[batch.offsets[index] :][: S * pitch].reshape(S, pitch)[:, :T]
        garbage = stored(rng.choice([np.nan, np.inf, -np.inf, 1e30], rows.shape), batch.dtype)
        rows[...] = np.where(legal(S, T), rows, garbage)
    same_results(cpu.align(dataclasses.replace(batch, values=values)), cpu.align(batch))


@SETTINGS
@given(mas_batches(kinds=[dyadic, normal]), GENERATORS)
def test_one_bad_cell_on_a_legal_path_is_found(batch: MasBatch, rng: np.random.Generator) -> None:
    values, expected = batch.values.copy(), cpu.align(batch).statuses.copy()
    for index in np.flatnonzero(expected == Status.OK):
        cells = np.argwhere(legal(batch.tokens[index], batch.frames[index]))
        token, frame = cells[rng.integers(len(cells))]
        bad = stored(rng.choice([np.nan, np.inf]), batch.dtype)
        values[batch.offsets[index] + token * batch.pitches[index] + frame] = bad
        expected[index] = Status.NOT_FINITE
    result = cpu.align(dataclasses.replace(batch, values=values))
    np.testing.assert_array_equal(result.statuses, expected)
    assert np.isnan(result.scores[expected == Status.NOT_FINITE]).all()


@pytest.mark.parametrize("dtype", DType)
def test_a_bad_item_takes_no_longer_than_a_good_one(dtype: DType) -> None:
    values = normal(np.random.default_rng(5), (1000, 4000))
    good = mas_batch([values], dtype)
    values[-1, -1] = np.nan
    bad = mas_batch([values], dtype)
    assert cpu.align(bad).statuses.tolist() == [Status.NOT_FINITE]
    assert time_ratio(lambda: cpu.align(bad), lambda: cpu.align(good)) < 4


@FEW
@given(mas_batches(max_items=12))
def test_a_batch_equals_its_items_alone(batch: MasBatch) -> None:
    whole = cpu.align(batch)
    starts = offsets_of(batch.tokens)
    for index in range(len(batch)):
        one = slice(index, index + 1)
        item = dataclasses.replace(
            batch,
            offsets=batch.offsets[one],
            tokens=batch.tokens[one],
            frames=batch.frames[one],
            pitches=batch.pitches[one],
        )
        alone = cpu.align(item)
        np.testing.assert_array_equal(alone.durations, whole.durations[starts[index] : starts[index + 1]])
        np.testing.assert_array_equal(alone.scores, whole.scores[one])
        np.testing.assert_array_equal(alone.statuses, whole.statuses[one])


@pytest.mark.parametrize("dtype", DType)
def test_threads_change_nothing(dtype: DType) -> None:
    rng = np.random.default_rng(2)
    shapes = [(int(s), int(s) + int(more)) for s, more in rng.integers(0, 120, (60, 2))]
    batch = mas_batch([normal(rng, shape) for shape in shapes], dtype)
    with WorkerPool(3) as pool:
        same_results(cpu.align(batch, pool), cpu.align(batch))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count", [127, 128, 300])
def test_small_items_taken_in_chunks(threads: int, count: int) -> None:
    """Failed ones among them, at the chunks' ends too: an item fetches what the next one reads, whatever that is."""
    rng = np.random.default_rng(count)
    items = [normal(rng, (int(s), int(s) + int(more))) for s, more in rng.integers((1, 0), (40, 90), (count, 2))]
    for b in range(0, count, 3):
        items[b] = [np.zeros((0, 5)), np.zeros((4, 3)), np.full((2, 3), np.nan), np.full((2, 3), -np.inf)][b // 3 % 4]
    batch = mas_batch(items, DType.FLOAT32)
    with WorkerPool(threads) as pool:
        check_mas(batch, cpu.align(batch, pool, paths=True))


def test_all_ties_give_the_last_tokens_the_fewest_moves() -> None:
    """Published behaviour of Glow-TTS and super-monotonic-align on zeros."""
    result = cpu.align(mas_batch([np.zeros((3, 7))], DType.FLOAT32))
    assert result.durations.tolist() == [1, 1, 5]


def test_a_negative_length_is_an_empty_item() -> None:
    batch = dataclasses.replace(mas_batch([np.zeros((2, 3))] * 2, DType.FLOAT32), tokens=np.array([-4, 2]))
    result = cpu.align(batch)
    assert result.statuses.tolist() == [Status.EMPTY, Status.OK]
    assert result.durations.tolist() == [1, 2]


def test_no_items() -> None:
    result = cpu.align(mas_batch([], DType.FLOAT32))
    assert len(result.statuses) == len(result.durations) == len(result.scores) == 0


@pytest.mark.parametrize("dtype", DType)
def test_read_only_and_unaligned_buffers(dtype: DType) -> None:
    batch = mas_batch([normal(np.random.default_rng(3), (5, 20))], dtype)
    expected = cpu.align(batch)
    raw = b"x" + batch.values.tobytes()
    unaligned = np.frombuffer(raw, batch.values.dtype, offset=1)
    assert not unaligned.flags.writeable
    same_results(cpu.align(dataclasses.replace(batch, values=unaligned)), expected)
    read_only = np.frombuffer(batch.values.tobytes(), batch.values.dtype)
    same_results(cpu.align(dataclasses.replace(batch, values=read_only)), expected)


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16])
def test_every_half_is_widened_exactly(dtype: DType) -> None:
    every = np.arange(2**16, dtype=np.uint16)
    one = np.ones(2**16, np.int64)
    result = cpu.align(MasBatch(every, dtype, np.arange(2**16), one, one, one))
    expected = widen(every, dtype)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(result.scores[finite], expected[finite])
    failures = np.where(expected == -np.inf, Status.NO_FINITE_PATH, Status.NOT_FINITE)
    np.testing.assert_array_equal(result.statuses, np.where(finite, Status.OK, failures))


inner = advance_inner[False]


@njit
def walk(model, values, V, edges, bits):
    inner(model, values.ctypes.data, 32, V.ctypes.data, edges.ctypes.data, bits.ctypes.data, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16])
def test_every_half_is_widened_exactly_in_a_tile_too(dtype: DType) -> None:
    """Tokens in ascending order and zeros after the first frame: nothing moves, so V is what the first frame gave."""
    every = np.arange(2**16, dtype=np.uint16)
    finite = every[np.isfinite(widen(every, dtype))]
    for part in finite[np.argsort(widen(finite, dtype), kind="stable")].reshape(-1, 32):
        values = np.zeros((32, 16), np.uint16)
        values[:, 0] = part
        V, edges = np.zeros(32, np.float32), np.full(16, -np.inf, np.float32)
        walk(model_of(dtype), values, V, edges, np.zeros(16 * 2, np.uint16))
        np.testing.assert_array_equal(V, widen(part, dtype))


def test_scratch_is_stated_and_small() -> None:
    batch = mas_batch([np.zeros((160, 800)), np.zeros((3, 2)), np.zeros((0, 5))], DType.FLOAT32)
    need = cpu.scratch_bytes(batch)
    assert need.dtype == np.int64
    assert 160 * 800 / 8 < need[0] < 160 * 800 / 2
    assert need[1:].tolist() == [0, 0]


@FEW
@given(mas_batches())
def test_demand_is_the_sum_of_all_and_the_largest(batch: MasBatch) -> None:
    need, cells = cpu.scratch_bytes(batch), batch.tokens * batch.frames
    largest = int(need.max(initial=0))
    assert cpu.demand(batch.tokens, batch.frames, batch.dtype) == (int(cells.sum()), int(need.sum()), largest)


@pytest.mark.parametrize("dtype", DType)
def test_items_end_to_end_need_no_offsets(dtype: DType) -> None:
    sizes = [(3, 40), (0, 5), (70, 90), (2, 1), (1, 1)]
    rng = np.random.default_rng(8)
    values = stored(np.concatenate([rng.standard_normal(S * T) for S, T in sizes]), dtype)
    tokens, frames = np.array(sizes).T
    offsets = offsets_of(tokens * frames)[:-1]
    told = cpu.align(MasBatch(values, dtype, offsets, tokens, frames, frames))
    same_results(cpu.align(MasBatch(values, dtype, END_TO_END, tokens, frames, frames)), told)
    assert told.statuses.tolist() == [Status.OK, Status.EMPTY, Status.OK, Status.TOO_FEW_FRAMES, Status.OK]


def test_memory_that_cannot_be_had_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = mas_batch([np.zeros((2, 3))] * 3, DType.FLOAT32)

    def no_memory(*args: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", no_memory)
        with pytest.raises(MemoryError):
            cpu.align(batch)
    check_mas(batch, cpu.align(batch))


def test_strategies_read_back_what_they_wrote() -> None:
    value = dyadic(np.random.default_rng(4), (3, 9))
    for dtype in DType:
        np.testing.assert_array_equal(mas_item(mas_batch([value, value], dtype, gap=2, padding=1), 1), value)
