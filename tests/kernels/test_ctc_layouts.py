"""How a CTC item is cut into tiles, segments and blocks, where it lies, and how threads share it, changes nothing."""

import mmap
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from kernels.ctc_rowwise import forced_align as rowwise
from kernels.strategies import (
    GENERATORS,
    KINDS,
    CtcItem,
    Scores,
    check_ctc,
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
from kernels.subprocesses import run_script

import alignd_kernels as ak
from alignd_kernels.ctc import cpu, reference
from alignd_kernels.ctc.batch import STAR_MAX, CtcBatch
from alignd_kernels.ctc.plan import KEPT_BYTES, SHARED_TILES
from alignd_kernels.dtypes import DType
from alignd_kernels.threads import WorkerPool

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)
EDGES = (1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)
VOCABULARIES = (1, 2, 15, 16, 17, 31, 32, 33, 64, 65, 700)

Kind = Callable[[np.random.Generator, tuple[int, ...]], Scores]


def item(rng: np.random.Generator, kind: Kind, labels: int, spare: int, vocabulary: int, star: float = 0.0) -> CtcItem:
    """Of as many frames as its targets, repeats among them, need, and `spare` more."""
    blank = int(rng.integers(vocabulary))
    targets = random_targets(rng, labels, vocabulary, blank, 0.1 if vocabulary > 1 else 0.0)
    if vocabulary == 1:
        targets = targets[:1]  # a wildcard: nothing else is left
    repeats = int(np.count_nonzero(targets[1:] == targets[:-1]))
    return kind(rng, (len(targets) + repeats + spare, vocabulary)), targets, blank, star


@SETTINGS
@given(ctc_batches(kinds=KINDS))
def test_the_judge_of_long_items_is_the_reference(batch: CtcBatch) -> None:
    for index in range(len(batch)):
        one = ctc_item(batch, index)
        with np.errstate(over="ignore", invalid="ignore"):
            found, expected = (
                judge(*one, accumulator=batch.dtype.accumulator) for judge in (rowwise, reference.forced_align)
            )
        same_results(found, expected)


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_sizes_at_the_edges_of_tiles_and_blocks(dtype: DType, vocabulary: int) -> None:
    rng = np.random.default_rng(vocabulary)
    sizes = [(labels, int(spare)) for labels in EDGES for spare in (0, 1, rng.choice([15, 16, 17, 64]))]
    items = [item(rng, dyadic, *size, vocabulary, rng.choice([-0.5, STAR_MAX])) for size in sizes]
    batch = ctc_batch(items, dtype, gap=vocabulary % 2, padding=vocabulary % 3)
    whole = cpu.align(batch)
    check_ctc(batch, whole, rowwise)
    same_results(cpu.align_with(batch, None, 0, SHARED_TILES), whole)


@pytest.mark.parametrize("repeated", [1, 2, 16, 33, 100])
def test_repeats_that_fill_all_frames(repeated: int) -> None:
    rng = np.random.default_rng(repeated)
    targets = np.repeat(np.array([2, 1, 2], np.int32), repeated)
    T = 2 * len(targets) - 3
    items = [(dyadic(rng, (T + spare, 3)), targets, 0, 0.0) for spare in (-1, 0, 1)]
    batch = ctc_batch(items, DType.FLOAT32)
    check_ctc(batch, cpu.align(batch), rowwise)


LONG = [(4097, 1), (4097, 33), (4097, 500), (4097, 2047), (4097, 4097), (4095, 4000)]


@pytest.mark.parametrize(("frames", "labels"), LONG)
@pytest.mark.parametrize("kind", [dyadic, normal, with_minus_infinity, with_bad_cells])
def test_segments_and_wavefronts_give_what_one_thread_does_at_once(
    frames: int, labels: int, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(labels)
    vocabulary = int(rng.choice([20, 50]))
    targets = np.arange(labels, dtype=np.int32) % (vocabulary - 1) + 1  # no repeats: labels may fill all frames
    items = [(kind(rng, (frames, vocabulary)), targets, 0, 0.0), item(rng, dyadic, 5, 9, vocabulary)]
    batch = ctc_batch(items, DType.FLOAT32)
    whole = cpu.align(batch)
    check_ctc(batch, whole, rowwise)
    monkeypatch.setattr(cpu, "LEAST_WIDTH", 1)
    monkeypatch.setattr(cpu, "MOST_WIDTH", 3)
    with WorkerPool(3) as pool:
        for kept_bytes, shared_tiles in ((0, 1), (KEPT_BYTES, 1), (0, SHARED_TILES)):
            same_results(cpu.align_with(batch, pool, kept_bytes, shared_tiles), whole)


@SETTINGS
@given(ctc_batches(max_labels=90, max_spare=200, max_items=4))
def test_segments_change_nothing(batch: CtcBatch) -> None:
    same_results(cpu.align_with(batch, None, 0, SHARED_TILES), cpu.align(batch))


@settings(SETTINGS, max_examples=20)
@given(ctc_batches(max_items=4))
def test_concurrent_callers_share_lattices(batch: CtcBatch) -> None:
    alone = cpu.align(batch)
    with WorkerPool(2) as pool, ThreadPoolExecutor(4) as callers:
        for found in callers.map(lambda _: cpu.align_with(batch, pool, 0, 1), range(8)):
            same_results(found, alone)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_shared_lattice_after_a_fork() -> None:
    batch = ctc_batch([item(np.random.default_rng(3), normal, 300, 700, 20)], DType.FLOAT32)
    alone = cpu.align(batch)
    with WorkerPool(2) as pool:
        same_results(cpu.align_with(batch, pool, 0, 1), alone)
        child = os.fork()
        if child == 0:
            try:
                same_results(cpu.align_with(batch, pool, 0, 1), alone)
            except BaseException:
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0


@SETTINGS
@given(ctc_batches(), GENERATORS)
def test_items_may_lie_in_several_buffers(batch: CtcBatch, rng: np.random.Generator) -> None:
    ends = np.append(batch.offsets[1:], len(batch.log_probs)).astype(np.int64)
    own = tuple(batch.log_probs[first:end].copy() for first, end in zip(batch.offsets, ends))
    order = rng.permutation(len(batch))
    scattered = replace(
        batch,
        log_probs=tuple(own[b] for b in order) or (batch.log_probs,),
        sources=np.argsort(order).astype(np.int64),
        offsets=np.zeros(len(batch), np.int64),
    )
    same_results(cpu.align(scattered), cpu.align(batch))


@pytest.mark.parametrize("vocabulary", [3, 20, 40, 2000])
def test_offsets_past_2_to_the_31(vocabulary: int) -> None:
    one = item(np.random.default_rng(7), dyadic, 17, 40, vocabulary)
    near = ctc_batch([one], DType.FLOAT32)
    size = (1 << 31) + 500_000  # bytes that are never touched cost no memory
    values = np.frombuffer(mmap.mmap(-1, 4 * size), np.float32)
    start = size - len(near.log_probs)
    values[start:] = near.log_probs
    found = cpu.align(replace(near, log_probs=values, offsets=np.array([start])))
    same_results(found, cpu.align(near))
    check_ctc(near, found)


@pytest.mark.parametrize("vocabulary", [3, 20, 40, 2000])
def test_rows_that_lie_2_to_the_31_apart(vocabulary: int) -> None:
    frames, pitch = 19, (1 << 31) // 16 + 5
    one = item(np.random.default_rng(8), dyadic, 3, frames - 3, vocabulary)
    one = (one[0][:frames], *one[1:])
    near = ctc_batch([one], DType.FLOAT16)
    values = np.frombuffer(mmap.mmap(-1, 2 * ((frames - 1) * pitch + vocabulary), mmap.MAP_PRIVATE), np.uint16)
    for t, row in enumerate(stored(one[0], DType.FLOAT16)):
        values[t * pitch : t * pitch + vocabulary] = row
    found = cpu.align(replace(near, log_probs=values, pitches=np.array([pitch])))
    same_results(found, cpu.align(near))
    check_ctc(near, found)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_a_transposed_padded_batch_is_read_where_it_lies(dtype: type) -> None:
    rng = np.random.default_rng(3)
    emitted = rng.integers(-6, 1, (70, 3, 33)).astype(dtype)  # [T, B, V]
    targets = rng.integers(1, 33, (3, 20))
    lengths = np.array([70, 50, 41])
    found = ak.forced_align(emitted.transpose(1, 0, 2), targets, lengths)
    expected = ak.forced_align(np.ascontiguousarray(emitted.transpose(1, 0, 2)), targets, lengths)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize(("frames", "labels", "vocabulary"), [(100, 20, 32), (1500, 300, 191), (9000, 4000, 32)])
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
def test_scratch_is_what_is_stated(
    frames: int, labels: int, vocabulary: int, dtype: DType, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = np.arange(labels, dtype=np.int32) % 30 + 1
    batch = ctc_batch([(normal(np.random.default_rng(9), (frames, vocabulary)), targets, 0, 0.0)], dtype)
    taken, plain = [0], np.empty

    def empty(shape: object, dtype: object = float) -> np.ndarray:
        array = plain(shape, dtype)
        taken[0] += array.nbytes
        return array

    monkeypatch.setattr(np, "empty", empty)
    assert cpu.align(batch).statuses.tolist() == [ak.Status.OK]
    results = 8 * frames + 4 * labels + 8 + 4
    others = 8 * cpu.ITEM_FIELDS + results
    stated = int(cpu.scratch_bytes(batch)[0])
    assert stated / 1.2 <= taken[0] - others <= stated


GUARDED = """
from dataclasses import fields, replace
import numpy as np
from kernels.guarded import Guarded
from kernels.strategies import ctc_batch, dyadic, random_targets, same_results
from alignd_kernels.ctc import cpu
from alignd_kernels.ctc.dense import dense
from alignd_kernels.dtypes import DType
from alignd_kernels.threads import WorkerPool

rng = np.random.default_rng(0)
sizes = [(1, 0), (1, 40), (15, 2), (16, 16), (17, 31), (31, 64), (32, 33), (33, 15), (65, 100), (200, 300)]
cpu.LEAST_WIDTH = 1
cpu.warm_up()
with WorkerPool(2) as pool:
    for dtype in DType:
        for V in (1, 2, 15, 16, 17, 31, 32, 33, 65, 500):
            for labels, spare in sizes:
                blank = int(rng.integers(V))
                targets = random_targets(rng, labels if V > 1 else 1, V, blank)
                repeats = np.count_nonzero(targets[1:] == targets[:-1])
                x = dyadic(rng, (len(targets) + repeats + spare, V))
                plain = ctc_batch([(x, targets, blank, star) for star in (-0.5, np.nan)], dtype)
                expected = cpu.align(plain)
                labels_expected, scores_expected = dense(plain, expected, len(x) + 3, None)
                for at_end in (False, True):
                    guarded = Guarded(at_end)
                    batch = replace(plain, **{
                        field.name: guarded.copy(getattr(plain, field.name))
                        for field in fields(plain)
                        if isinstance(getattr(plain, field.name), np.ndarray)
                    })
                    with guarded.everywhere():
                        for limits in ((1 << 30, 1 << 30), (0, 1 << 30), (0, 1)):
                            found = cpu.align_with(batch, pool, *limits)
                            same_results(found, expected)
                        painted = dense(batch, found, len(x) + 3, None)
                    assert np.array_equal(painted[0], labels_expected) and np.array_equal(painted[1], scores_expected)
print("all right")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect is POSIX")
def test_nothing_is_read_or_written_beyond_an_array_and_scratch_need_not_be_clean() -> None:
    assert run_script(GUARDED) == ["all", "right"]
