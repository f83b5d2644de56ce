"""Where MAS items lie, and how threads share them, changes nothing: layouts, buffers, wavefronts, far offsets."""

import mmap
import sys
from dataclasses import replace

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
    with_bad_cells,
)
from kernels.subprocesses import run_script

import alignd_kernels as ak
from alignd_kernels import mas
from alignd_kernels.dtypes import DType
from alignd_kernels.mas import cpu
from alignd_kernels.mas.batch import MasBatch, paths_of, row_major
from alignd_kernels.ragged import offsets_of
from alignd_kernels.threads import WorkerPool

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)
EDGES = (1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)


def turned(batch: MasBatch, gap: int) -> MasBatch:
    """The same items [frames, tokens], NaN in `gap` elements after each frame's tokens."""
    pitches = batch.tokens + gap
    offsets = offsets_of(batch.frames * pitches)
    flat = stored(np.full(offsets[-1], np.nan), batch.dtype)
    for b in range(len(batch)):
        S, T, pitch = int(batch.tokens[b]), int(batch.frames[b]), int(pitches[b])
        rows = batch.values[batch.offsets[b] :][: S * int(batch.pitches[b])].reshape(S, -1)[:, :T] if S else None
        if rows is not None:
            flat[offsets[b] : offsets[b + 1]].reshape(T, pitch)[:, :S] = rows.T
    return replace(batch, values=flat, offsets=offsets[:-1], pitches=pitches, frames_first=True)


@SETTINGS
@given(mas_batches(max_tokens=80, max_frames=150, max_items=3), GENERATORS)
def test_frames_first_gives_the_same(batch: MasBatch, rng: np.random.Generator) -> None:
    other = turned(batch, int(rng.integers(0, 3)))
    same_results(cpu.align(other), cpu.align(batch))
    upright = row_major(other)
    assert not upright.frames_first
    same_results(cpu.align(upright), cpu.align(batch))


@SETTINGS
@given(mas_batches(max_items=6), GENERATORS)
def test_items_may_lie_in_several_buffers(batch: MasBatch, rng: np.random.Generator) -> None:
    ends = np.append(batch.offsets[1:], len(batch.values)).astype(np.int64)
    own = tuple(batch.values[first:end].copy() for first, end in zip(batch.offsets, ends))
    order = rng.permutation(len(batch))
    scattered = replace(
        batch,
        values=tuple(own[b] for b in order) or (batch.values,),
        sources=np.argsort(order).astype(np.int64),
        offsets=np.zeros(len(batch), np.int64),
    )
    same_results(cpu.align(scattered), cpu.align(batch))


@SETTINGS
@given(mas_batches(max_items=6))
def test_paths_are_what_durations_say(batch: MasBatch) -> None:
    result = cpu.align(batch, paths=True)
    same_results(replace(result, paths=None), cpu.align(batch))
    np.testing.assert_array_equal(result.paths, paths_of(batch, result))
    starts, frames = offsets_of(batch.tokens), offsets_of(batch.frames)
    for b in np.flatnonzero(result.statuses == ak.Status.OK):
        own = result.durations[starts[b] : starts[b + 1]]
        expected = np.repeat(np.arange(len(own)), own)
        np.testing.assert_array_equal(result.paths[frames[b] : frames[b + 1]], expected)
    same_results(mas.align(batch, paths=True), result)


def test_several_buffers_need_their_sources() -> None:
    batch = mas_batch([np.zeros((2, 3))], DType.FLOAT32)
    with pytest.raises(ValueError, match="sources"):
        cpu.align(replace(batch, values=(batch.values,)))


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("S", EDGES)
def test_sizes_at_the_edges_of_strips_and_tiles(dtype: DType, S: int) -> None:
    rng = np.random.default_rng(S)
    batch = mas_batch([dyadic(rng, (S, S + more)) for more in (0, 1, 15, 16, 17, 64)], dtype, padding=S % 3)
    check_mas(batch, cpu.align(batch))
    same_results(cpu.align(turned(batch, 0)), cpu.align(batch))


@pytest.mark.parametrize(("S", "T"), [(1, 4097), (33, 4097), (4097, 4097), (500, 2049), (4095, 4097)])
@pytest.mark.parametrize("kind", [dyadic, normal, with_bad_cells])
@pytest.mark.parametrize("frames_first", [False, True])
def test_a_wavefront_gives_what_one_thread_does(
    S: int, T: int, kind, frames_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = mas_batch([kind(np.random.default_rng(T), (S, T)), dyadic(np.random.default_rng(1), (5, 9))], DType.FLOAT32)
    batch = turned(batch, 1) if frames_first else batch
    alone = cpu.align(batch)
    monkeypatch.setattr(cpu, "GRID_CELLS", 10)
    monkeypatch.setattr(cpu, "BLOCK_STRIPS", 2)
    monkeypatch.setattr(cpu, "BLOCK_TILES", 3)
    with WorkerPool(3) as pool:
        same_results(cpu.align(batch, pool), alone)


def test_offsets_past_2_to_the_31() -> None:
    size = (1 << 31) + 5000  # bytes that are never touched cost no memory
    values = np.frombuffer(mmap.mmap(-1, 4 * size), np.float32)
    near = mas_batch([dyadic(np.random.default_rng(7), (17, 60))], DType.FLOAT32)
    far = replace(near, values=values, offsets=np.array([size - 17 * 60]))
    values[size - 17 * 60 :] = near.values
    same_results(cpu.align(far), cpu.align(near))
    check_mas(near, cpu.align(far))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_a_transposed_padded_batch_is_read_where_it_lies(dtype: type) -> None:
    rng = np.random.default_rng(3)
    value = rng.integers(-6, 1, (3, 70, 33)).astype(dtype)  # [B, T, S]
    mask = np.zeros((3, 70, 33), dtype)
    for b, (T, S) in enumerate([(70, 33), (50, 20), (33, 33)]):
        mask[b, :T, :S] = 1
    path = ak.maximum_path(value.transpose(0, 2, 1), mask.transpose(0, 2, 1))
    expected = ak.maximum_path(np.ascontiguousarray(value.transpose(0, 2, 1)), mask.transpose(0, 2, 1).copy())
    np.testing.assert_array_equal(path, expected)
    assert path.transpose(0, 2, 1).flags.c_contiguous


GUARDED = """
import numpy as np
from kernels.guarded import Guarded
from kernels.strategies import dyadic, same_results, stored
from alignd_kernels.dtypes import DType
from alignd_kernels.mas import cpu
from alignd_kernels.mas.batch import MasBatch

rng = np.random.default_rng(0)
one = np.ones(1, np.int64)
cpu.warm_up()
for at_end in (False, True):
    for dtype in DType:
        for S, T in ((1, 1), (1, 40), (15, 17), (16, 16), (17, 33), (31, 95), (32, 64), (33, 47), (65, 130), (99, 333)):
            for frames_first in (False, True):
                flat = stored(dyadic(rng, (T, S) if frames_first else (S, T)).reshape(-1), dtype)
                pitch = S * one if frames_first else T * one
                batch = MasBatch(flat, dtype, 0 * one, S * one, T * one, pitch, frames_first=frames_first)
                expected = cpu.align(batch)
                guarded = Guarded(at_end)
                values = guarded.copy(flat)
                batch = MasBatch(values, dtype, 0 * one, S * one, T * one, pitch, frames_first=frames_first)
                with guarded.everywhere():
                    same_results(cpu.align(batch), expected)
print("all right")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect is POSIX")
def test_nothing_is_read_or_written_beyond_an_array_and_scratch_need_not_be_clean() -> None:
    assert run_script(GUARDED) == ["all", "right"]


def test_strategies_turn_what_they_read_back() -> None:
    value = dyadic(np.random.default_rng(4), (3, 9))
    batch = mas_batch([value], DType.FLOAT32)
    np.testing.assert_array_equal(turned(batch, 2).values.reshape(9, 5)[:, :3].T, mas_item(batch, 0))
