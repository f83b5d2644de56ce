# mypy: allow-untyped-defs
"""CTC forced alignment on the CPU (Numba): items shared among threads, and the lattice of a large one."""

import time
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.compile_cache import kernel
from alignd_kernels.ctc import dense
from alignd_kernels.ctc.batch import CtcBatch, CtcResult
from alignd_kernels.ctc.emissions import Item, room_of, way
from alignd_kernels.ctc.item import OK, failed, finish, forward_segments, place_segments, places
from alignd_kernels.ctc.lattice import begin, place_blocks
from alignd_kernels.ctc.plan import (
    KEPT_BYTES,
    NUMBERS,
    ROWS,
    SAVED,
    SCORES,
    SEGMENT,
    SHARED_TILES,
    SIZES,
    STEPS,
    TABLE,
    TILES,
    item_sizes,
    scratch_bytes,
)
from alignd_kernels.ctc.targets import check_item, place_targets
from alignd_kernels.ctc.tile import FRAMES
from alignd_kernels.dtypes import DType
from alignd_kernels.numba_helpers import addresses_of, array_at, model_of, take_next, unlocked
from alignd_kernels.ragged import Int64Array
from alignd_kernels.threads import WorkerPool
from alignd_kernels.vectors import PAIRS

__all__ = ["align", "scratch_bytes", "warm_up"]

# Parts of an item's work. Where threads share its lattice, they are done one by one; else all at once.
BEGIN: Final = 1
FORWARD: Final = 2
FINISH: Final = 4
ALL: Final = BEGIN | FORWARD | FINISH

# Fields of `items`, int64 [11, B]: address, frames, vocabulary, pitch, first target, labels, blank, first frame and
# label of the results, frames to spare, blocks of a segment.
ITEM_FIELDS: Final = 11
FRAMES_OF: Final = 1
LABELS_OF: Final = 5
BLANK: Final = 6

# Rows of `flags`.
STARRED: Final = 0
SUSPECT: Final = 1

EVERYTHING: Final = (0, 2**62, 0, 2**62)
"""Blocks and columns of tiles within bounds that hold any item."""

# Columns of tiles in a block of a lattice that is shared: enough work for a thread, few enough to stay in its cache.
LEAST_WIDTH: Final = 32
MOST_WIDTH: Final = 256

CACHE_LINE: Final = 64


def align(batch: CtcBatch, pool: WorkerPool | None = None) -> CtcResult:
    """Best path of each item.

    Args:
        batch: items of any lengths, zero included.
        pool: shares a large batch, and a large item, among threads; None does all on the calling thread.

    Raises:
        MemoryError: the scratch for an item (`scratch_bytes`) cannot be had; no result is lost but this batch's.
    """
    return align_with(batch, pool, KEPT_BYTES, SHARED_TILES)


def align_with(batch: CtcBatch, pool: WorkerPool | None, kept_bytes: int, shared_tiles: int) -> CtcResult:
    """`align` with other limits than `KEPT_BYTES` and `SHARED_TILES`; results are the same."""
    begun = time.perf_counter_ns()
    launch = _Launch(batch, kept_bytes)
    if pool is None:
        launch.run(np.zeros(1, np.int64))
    else:
        launch.choose_shared(shared_tiles, pool.threads)
        pool.run_everywhere(partial(launch.run, np.zeros(1, np.int64)), launch.own_cells())
        for index in np.flatnonzero(launch.shared).tolist():
            launch.share(index, pool)
    elapsed = time.perf_counter_ns() - begun
    return CtcResult(launch.paths, launch.durations, launch.frame_scores, launch.scores, launch.statuses, elapsed)


def warm_up(dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from the cache, so that no later call has to."""
    one = np.ones(1, np.int64)
    wanted = tuple(dtypes)
    dense.warm_up(wanted)
    for dtype in wanted:
        batch = CtcBatch(
            np.zeros(2, dtype.storage), dtype, one - 1, one, one + 1, one + 1, np.ones(1, np.int32), one - 1, one,
            np.zeros(1, np.int32), np.zeros(1, np.float32),
        )  # fmt: skip
        scratch_bytes(batch)
        align(batch)


class _Launch:
    """The arrays of one batch: what the kernel is told, and what it answers."""

    def __init__(self, batch: CtcBatch, kept_bytes: int) -> None:
        B = len(batch)
        self._kept, addresses = addresses_of(batch.log_probs, batch.dtype, batch.sources, batch.offsets)
        self._model, self._accumulator = model_of(batch.dtype), batch.dtype.accumulator
        self._targets = unlocked(np.ascontiguousarray(batch.targets, np.int32))
        self._items = np.empty((ITEM_FIELDS, B), np.int64)
        given = (batch.frames, batch.vocabulary, batch.pitches, batch.target_offsets, batch.target_lengths)
        for field, values in enumerate((addresses, *given)):
            self._items[field] = values
        self._items[BLANK] = batch.blanks
        self._star_scores = np.array(batch.star_scores, np.float32)
        self._flags = np.zeros((2, B), np.bool_)
        self._sizes = np.zeros((B, SIZES), np.int64)
        self.shared = np.zeros(B, np.bool_)
        self.statuses = np.empty(B, np.int32)
        totals = np.zeros(2, np.int64)
        _plan(self._items, self._targets, kept_bytes, self._sizes, self.statuses, totals)
        frames, labels = totals.tolist()
        # One block, which the C library gives again for the next batch; of several it would hand pages back in between.
        block = np.empty(2 * frames + labels, np.int32)
        self.paths, self.frame_scores = block[:frames], block[frames : 2 * frames].view(np.float32)
        self.durations = block[2 * frames :]
        self.scores = np.empty(B)

    def choose_shared(self, shared_tiles: int, threads: int) -> None:
        """Threads that have items of their own wait for nothing: only an item that leaves others idle is shared."""
        tiles = self._sizes[:, TILES]
        self.shared = (tiles >= shared_tiles) & (2 * threads * tiles > tiles.sum())

    def own_cells(self) -> Int64Array:
        """Cells of each item that is not shared; at least 1."""
        return np.where(self.shared, 0, self._sizes[:, TILES] * (PAIRS * FRAMES)) + 1

    def run(self, cursor: Int64Array) -> None:
        """Items that are not shared, on this thread, as long as `cursor` gives any."""
        largest = self._sizes[~self.shared].max(axis=0, initial=0).tolist()
        self._work(ALL, cursor, len(self.statuses), EVERYTHING, self._scratch(largest), self._empty(0), largest[TABLE])

    def share(self, index: int, pool: WorkerPool) -> None:
        """One item, its lattice cut into blocks that the threads of a pool share."""
        sizes = self._sizes[index].tolist()
        T, L = int(self._items[FRAMES_OF, index]), int(self._items[LABELS_OF, index])
        scratch, carry, columns = self._scratch(sizes), self._empty(T), L // PAIRS + 1
        width = min(max(-(-columns // (4 * pool.threads)), LEAST_WIDTH), MOST_WIDTH)

        def work(parts: int, bounds: tuple[int, int, int, int]) -> None:
            self._work(parts, np.array([index]), index + 1, bounds, scratch, carry, sizes[TABLE])

        def block(row: int, column: int) -> None:
            work(FORWARD, (row * ROWS, (row + 1) * ROWS, column * width, (column + 1) * width))

        work(BEGIN, EVERYTHING)
        pool.run_grid(block, -(-T // (ROWS * FRAMES)), -(-columns // width))
        work(FINISH, EVERYTHING)

    def _scratch(self, sizes: list[int]) -> tuple[npt.NDArray[Any], ...]:
        numbers, steps = np.empty(sizes[NUMBERS], np.int32), np.empty(sizes[STEPS], np.uint32)
        return numbers, self._empty(sizes[SCORES]), steps, self._empty(sizes[SAVED])

    def _empty(self, size: int) -> npt.NDArray[np.floating]:
        """Scratch from the start of a cache line on: vectors that lie in two of them would be twice the work."""
        itemsize = np.dtype(self._accumulator).itemsize
        room = np.empty(size + CACHE_LINE // itemsize, self._accumulator)
        start = -room.ctypes.data % CACHE_LINE // itemsize
        return room[start : start + size]

    def _work(
        self,
        parts: int,
        cursor: Int64Array,
        stop: int,
        bounds: tuple[int, int, int, int],
        scratch: tuple[npt.NDArray[Any], ...],
        carry: npt.NDArray[np.floating],
        table: int,
    ) -> None:
        room = self._empty(4 * PAIRS * FRAMES + table)
        _align_range(
            parts, cursor, stop, bounds, self._model, self._items, self._targets, self._star_scores, self.shared,
            *scratch, carry, room, self._flags,
            self.paths, self.durations, self.frame_scores, self.scores, self.statuses,
        )  # fmt: skip


@kernel
def _plan(items, targets, kept_bytes, sizes, statuses, totals):
    """Check each item's targets, complete its fields and sizes, and the totals of frames and labels."""
    for b in range(len(statuses)):
        T, V, first, L, blank = items[1, b], items[2, b], items[4, b], max(items[5, b], 0), items[6, b]
        statuses[b], items[9, b] = check_item(targets[first : first + L], T, V, blank)
        if statuses[b] == OK:
            item_sizes(T, L, V, kept_bytes, sizes[b])
        items[7, b], items[8, b], items[10, b] = totals[0], totals[1], sizes[b, SEGMENT]
        totals[0] += max(T, 0)
        totals[1] += L


@kernel
def _align_range(
    parts, cursor, stop, bounds, model, items, all_targets, star_scores, shared,
    numbers, scores, steps, saved, carry, room_floats, flags,
    paths, durations, frame_scores, totals, statuses,
):  # fmt: skip
    """`parts` of the items before `stop` that `cursor` gives, on this thread; `FORWARD` within the bounds."""
    room = room_of(room_floats)
    while True:
        b = take_next(cursor)
        if b >= stop:
            break
        if shared[b] and parts == ALL:
            continue
        address, T, V, pitch, first, L, blank, first_frame, first_label, spare, segment = items[:, b]
        own, own_labels = slice(first_frame, first_frame + max(T, 0)), slice(first_label, first_label + max(L, 0))
        if statuses[b] != OK:
            totals[b] = failed(paths[own], durations[own_labels], frame_scores[own])
            continue
        targets = all_targets[first : first + L]
        states, blocks, kept_at, cone_room, counts = places(T, L, segment, numbers, scores)
        if parts & BEGIN:
            flags[STARRED, b] = place_targets(targets, V, states.columns, states.reached)
            place_blocks(T, L, spare, states.reached, blocks)
            place_segments(blocks, segment, kept_at)
            begin(states)
        starred = flags[STARRED, b]
        how = way(room.table, V, L, starred)
        item = Item(T, L, V, pitch, blank, np.float64(star_scores[b]), starred, how, spare)
        values = array_at(address, (T - 1) * pitch + V, model)
        if parts & FORWARD:
            bad = forward_segments(values, item, states, blocks, segment, kept_at, bounds, room, steps, saved, carry)
            if bad:  # never taken back: threads that share an item may all say so
                flags[SUSPECT, b] = True
        if parts & FINISH:
            statuses[b], total = finish(
                values, item, targets, states, blocks, segment, kept_at, cone_room, counts, flags[SUSPECT, b],
                room, steps, saved, paths[own], durations[own_labels], frame_scores[own],
            )  # fmt: skip
            if statuses[b] != OK:
                total = failed(paths[own], durations[own_labels], frame_scores[own])
            totals[b] = room.x.dtype.type(total)  # one rounding, to the accumulator's type
