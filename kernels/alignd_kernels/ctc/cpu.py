# mypy: allow-untyped-defs
"""CTC forced alignment on the CPU (Numba): items shared among threads, and the lattice of a large one."""

import time
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.compile_cache import kernel
from alignd_kernels.ctc.batch import CtcBatch, CtcResult
from alignd_kernels.ctc.emissions import Item, room_of, way
from alignd_kernels.ctc.item import OK, finish, forward_segments, place_segments, places
from alignd_kernels.ctc.lattice import begin, place_blocks
from alignd_kernels.ctc.plan import KEPT_BYTES, ROWS, SHARED_TILES, plan, scratch_bytes
from alignd_kernels.ctc.targets import check_targets, place_targets
from alignd_kernels.ctc.tile import FRAMES
from alignd_kernels.ctc.vectors import PAIRS
from alignd_kernels.dtypes import DType
from alignd_kernels.numba_helpers import addresses_of, array_at, model_of, unlocked
from alignd_kernels.ragged import Int64Array, offsets_of
from alignd_kernels.threads import WorkerPool

__all__ = ["align", "scratch_bytes", "warm_up"]

# Parts of an item's work. Where threads share its lattice, they are done one by one; else all at once.
BEGIN: Final = 1
FORWARD: Final = 2
FINISH: Final = 4
ALL: Final = BEGIN | FORWARD | FINISH

# Rows of `items`, int64 [11, B]: address, frames, vocabulary, pitch, first target, labels, blank, first frame and label
# of the results, frames to spare, blocks of a segment.
ITEM_ROWS: Final = 11
FRAMES_OF: Final = 1
LABELS_OF: Final = 5
SEGMENT: Final = 10

# Rows of `flags`.
STARRED: Final = 0
SUSPECT: Final = 1

EVERY: Final = 2**62  # blocks or columns of tiles

# Columns of tiles in a block of a lattice that is shared: enough work for a thread, few enough to stay in its cache.
LEAST_WIDTH: Final = 32
MOST_WIDTH: Final = 256


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
    call = _Call(batch, kept_bytes)
    tiles = call.plan.tiles
    if pool is None:
        call.run(0, len(batch))
    elif len(batch):
        # Threads that have items of their own wait for nothing; only an item that would leave others idle is shared.
        call.shared |= (tiles >= shared_tiles) & (2 * pool.threads * tiles > tiles.sum())
        if not call.shared.all():
            pool.run(call.run, np.where(call.shared, 0, tiles * (PAIRS * FRAMES)))
        for index in np.flatnonzero(call.shared).tolist():
            call.share(index, pool)
    elapsed = time.perf_counter_ns() - begun
    return CtcResult(call.paths, call.durations, call.frame_scores, call.scores, call.statuses, elapsed)


def warm_up(dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from the cache, so that no later call has to."""
    one = np.ones(1, np.int64)
    for dtype in dtypes:
        align(
            CtcBatch(
                np.zeros(2, dtype.storage), dtype, one - 1, one, one + 1, one + 1, np.ones(1, np.int32), one - 1, one,
                np.zeros(1, np.int32), np.zeros(1, np.float32),
            )
        )  # fmt: skip


class _Call:
    """A batch in progress: what its threads have in common."""

    def __init__(self, batch: CtcBatch, kept_bytes: int) -> None:
        self.dtype = batch.dtype
        self.kept, addresses = addresses_of(batch.log_probs, batch.dtype, batch.sources, batch.offsets)
        self.targets = unlocked(np.ascontiguousarray(batch.targets, np.int32))
        frames, labels = offsets_of(batch.frames), offsets_of(batch.target_lengths)
        self.items = np.zeros((ITEM_ROWS, len(batch)), np.int64)
        given = (batch.frames, batch.vocabulary, batch.pitches, batch.target_offsets, batch.target_lengths)
        rows: tuple[Int64Array, ...] = (addresses, *given, batch.blanks.astype(np.int64), frames[:-1], labels[:-1])
        for row, values in enumerate(rows):
            self.items[row] = values
        self.star_scores = np.array(batch.star_scores, np.float32)
        self.flags = np.zeros((2, len(batch)), np.bool_)
        self.shared = np.zeros(len(batch), np.bool_)
        self.paths, self.frame_scores = np.zeros(frames[-1], np.int32), np.zeros(frames[-1], np.float32)
        self.durations = np.zeros(labels[-1], np.int32)
        self.scores = np.full(len(batch), np.nan)
        self.statuses = np.zeros(len(batch), np.int32)
        check_targets(self.targets, self.items, self.statuses)
        self.plan = plan(batch, self.statuses == OK, kept_bytes)
        self.items[SEGMENT] = self.plan.segments

    def run(self, start: int, stop: int) -> None:
        """Items start … stop − 1, less those that are shared."""
        own = ~self.shared[start:stop]
        scratch = self._scratch(*(int(np.max(sizes[start:stop], where=own, initial=0)) for sizes in self._sizes()))
        table = int(np.max(self.plan.table[start:stop], where=own, initial=0))
        self._work(ALL, start, stop, (0, EVERY, 0, EVERY), scratch, self._empty(0), self._room(table))

    def share(self, index: int, pool: WorkerPool) -> None:
        """One item, its lattice cut into blocks that the threads of a pool share."""
        T, L = int(self.items[FRAMES_OF, index]), int(self.items[LABELS_OF, index])
        scratch = self._scratch(*(int(sizes[index]) for sizes in self._sizes()))
        carry, table = self._empty(T), int(self.plan.table[index])
        columns = L // PAIRS + 1
        width = min(max(-(-columns // (4 * pool.threads)), LEAST_WIDTH), MOST_WIDTH)

        def block(row: int, column: int) -> None:
            part = (row * ROWS, (row + 1) * ROWS, column * width, (column + 1) * width)
            self._work(FORWARD, index, index + 1, part, scratch, carry, self._room(table))

        whole = (0, EVERY, 0, EVERY)
        self._work(BEGIN, index, index + 1, whole, scratch, carry, self._room(table))
        pool.run_grid(block, -(-T // (ROWS * FRAMES)), -(-columns // width))
        self._work(FINISH, index, index + 1, whole, scratch, carry, self._room(table))

    def _sizes(self) -> tuple[Int64Array, ...]:
        return self.plan.numbers, self.plan.scores, self.plan.steps, self.plan.saved

    def _scratch(self, numbers: int, scores: int, steps: int, saved: int) -> tuple[npt.NDArray[Any], ...]:
        return np.empty(numbers, np.int32), self._empty(scores), np.empty(steps, np.uint32), self._empty(saved)

    def _room(self, table: int) -> npt.NDArray[np.floating]:
        return self._empty(4 * PAIRS * FRAMES + table)

    def _empty(self, size: int) -> npt.NDArray[np.floating]:
        return np.empty(size, self.dtype.accumulator)

    def _work(
        self,
        parts: int,
        start: int,
        stop: int,
        part: tuple[int, int, int, int],
        scratch: tuple[npt.NDArray[Any], ...],
        carry: npt.NDArray[np.floating],
        room: npt.NDArray[np.floating],
    ) -> None:
        _align_range(
            parts, start, stop, part, model_of(self.dtype), self.items, self.targets, self.star_scores, self.shared,
            *scratch, carry, room, self.flags,
            self.paths, self.durations, self.frame_scores, self.scores, self.statuses,
        )  # fmt: skip


@kernel
def _align_range(
    parts, start, stop, part, model, items, all_targets, star_scores, shared,
    numbers, scores, steps, saved, carry, room_floats, flags,
    paths, durations, frame_scores, totals, statuses,
):  # fmt: skip
    """`parts` of the work on items start … stop − 1 whose targets are good, on one thread; of one that is shared
    `FORWARD` does the blocks and the columns of tiles of `part`."""
    for b in range(start, stop):
        if statuses[b] != OK or (shared[b] and parts == ALL):
            continue
        address, T, V, pitch, first, L, blank, first_frame, first_label, spare, segment = items[:, b]
        room = room_of(room_floats)
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
            bad = forward_segments(
                values, item, states, blocks, segment, kept_at, part, room, steps, saved, carry
            )  # fmt: skip
            if bad:  # never taken back: threads that share an item may all say so
                flags[SUSPECT, b] = True
        if parts & FINISH:
            statuses[b], total = finish(
                values, item, targets, states, blocks, segment, kept_at, cone_room, counts, flags[SUSPECT, b],
                room, steps, saved, paths[first_frame : first_frame + T],
                durations[first_label : first_label + L], frame_scores[first_frame : first_frame + T],
            )  # fmt: skip
            totals[b] = room.x.dtype.type(total)  # one rounding, to the accumulator's type
