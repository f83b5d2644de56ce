# mypy: allow-untyped-defs
"""Monotonic alignment search on the CPU (Numba)."""

import time
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.compile_cache import kernel
from alignd_kernels.dtypes import DType
from alignd_kernels.mas.batch import END_TO_END, MasBatch, MasResult
from alignd_kernels.mas.lattice import (
    backward,
    begin,
    forward,
    item_words,
    strip_count,
    strip_tiles,
    visited_not_finite,
)
from alignd_kernels.mas.tile import STRIP_VECTORS
from alignd_kernels.numba_helpers import addresses_of, kernel_values, lane_count, lanes, model_of, take_next, unlocked
from alignd_kernels.ragged import Int64Array
from alignd_kernels.status import Status
from alignd_kernels.threads import WorkerPool

OK: Final = int(Status.OK)
EMPTY: Final = int(Status.EMPTY)
TOO_FEW_FRAMES: Final = int(Status.TOO_FEW_FRAMES)
NOT_FINITE: Final = int(Status.NOT_FINITE)
NO_FINITE_PATH: Final = int(Status.NO_FINITE_PATH)

CACHE_LINE: Final = 64
VECTOR_BYTES: Final = 64

ITEM_FIELDS: Final = 7  # see `lattice`; and where its path starts

GRID_CELLS: Final = 10_000_000
"""Cells of an item's band past which threads share it: below, handing over blocks costs more than it saves."""

CHUNKS_PER_THREAD: Final = 32
"""Of a batch of many small items: enough for threads to finish together."""

BLOCK_STRIPS: Final = 4
BLOCK_TILES: Final = 128
"""A block of 128 tokens × 2048 frames takes about 0.1 ms."""

HIGHEST_BLOCK: Final = 32
"""Strips of a block where tokens are contiguous: as many as leave four blocks one above the other, up to this."""

NO_ITEMS: Final = np.zeros(0, np.int64)

BEGIN: Final = 1
FORWARD: Final = 2
FINISH: Final = 4
EVERYTHING: Final = np.array([0, 2**62, 0, 2**62])
"""Strips and tiles of a block that holds any item."""


def align(batch: MasBatch, pool: WorkerPool | None = None, *, paths: bool = False) -> MasResult:
    """Best path of each item.

    Args:
        batch: items of any lengths, zero included.
        pool: shares a large batch, or a large item, among threads; None does all on the calling thread.
        paths: whether `MasResult.paths` is filled.

    Raises:
        MemoryError: the scratch for an item (`scratch_bytes`) cannot be had; no result is lost but this batch's.
    """
    begun = time.perf_counter_ns()
    launch = _Launch(batch, paths)
    if pool is None or pool.threads == 1:
        launch.run(_cursor(0, max(1, len(batch))), len(batch))
    else:
        first = 0
        for b in [*np.flatnonzero(launch.band > GRID_CELLS).tolist(), len(batch)]:
            if first < b:
                cursor = _cursor(first, max(1, (b - first) // (pool.threads * CHUNKS_PER_THREAD)))
                pool.run_everywhere(partial(launch.run, cursor, b), launch.band[first:b])
            if b < len(batch):
                launch.run_together(b, pool)
            first = b + 1
    elapsed = time.perf_counter_ns() - begun
    return MasResult(launch.durations, launch.scores, launch.statuses, elapsed, launch.paths if paths else None)


def scratch_bytes(batch: MasBatch) -> Int64Array:
    """Memory that an item in progress needs beside its input and output, int64 [B].

    4 N · ⌈S / 2N⌉ · ⌊(T − S + 4N − 2) / N⌋ for the back-pointers and S + 2T + 4N accumulators, with tiles of N = 16
    (8 for float64) tokens and frames; 0 where S > T. A thread takes, of each part, as much as the item of its batch
    that needs most of it: the sum is that of the largest item where one is the largest in all.
    """
    found = np.empty(len(batch), np.int64)
    _survey(_compiled(batch.tokens), _compiled(batch.frames), lane_count(batch.dtype), found)
    return found


def demand(tokens: Int64Array, frames: Int64Array, dtype: DType) -> tuple[int, int, int]:
    """What items of these lengths, int64 [B], ask for: lattice cells, and `scratch_bytes` of all and of the largest.

    In one compiled call, since a service asks it of every request: NumPy's half a dozen take three times as long.
    """
    cells, scratch, largest = _survey(_compiled(tokens), _compiled(frames), lane_count(dtype), NO_ITEMS)
    return cells, scratch, largest


def _compiled(lengths: Int64Array) -> Int64Array:
    """Of the one kind that the kernels are compiled for."""
    return unlocked(np.ascontiguousarray(lengths, np.int64))


@kernel
def _survey(tokens, frames, N, found):
    """Cells, and scratch of all items and of the largest; if there is room in `found`, of each."""
    cells = total = largest = 0
    accumulator = VECTOR_BYTES // N
    for b in range(len(tokens)):
        S, T = tokens[b], frames[b]
        whole = 2 * item_words(S, T, N) + (S + 2 * T + 2 * STRIP_VECTORS * N) * accumulator
        need = whole if 0 < S <= T else 0
        if len(found):
            found[b] = need
        cells += S * T
        total += need
        largest = max(largest, need)
    return cells, total, largest


def warm_up(dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from the cache, so that no later call has to."""
    one = np.ones(1, np.int64)
    for dtype in dtypes:
        batch = MasBatch(np.zeros(1, dtype.storage), dtype, one - 1, one, one, one)
        scratch_bytes(batch)
        align(batch)


def _cursor(first: int, items: int) -> Int64Array:
    """What threads take chunks of so many items off: the chunks that are taken, and what tells the items in one."""
    return np.array([0, first, items])


class _Launch:
    """The arrays of one batch: what the kernel is told, and what it answers."""

    def __init__(self, batch: MasBatch, paths: bool) -> None:
        self._model = model_of(batch.dtype)
        if isinstance(batch.values, tuple):
            self._kept, addresses = addresses_of(batch.values, batch.dtype, batch.sources, batch.offsets)
            values, offsets = self._model, addresses // batch.dtype.storage.itemsize
        else:
            self._kept = values = kernel_values(batch.values, batch.dtype)
            offsets = batch.offsets
        self._dtype = batch.dtype
        self._frames_first = batch.frames_first
        self._items = np.empty((ITEM_FIELDS, len(batch)), np.int64)
        end_to_end = offsets is END_TO_END
        for field, given in enumerate((0 if end_to_end else offsets, batch.tokens, batch.frames, batch.pitches)):
            self._items[field] = given
        self._starts = np.empty(len(batch) + 1, np.int64)
        self.band = np.empty(len(batch), np.int64)
        self._largest = np.zeros(4, np.int64)
        _plan(self._items, values, end_to_end, self._frames_first, self._starts, self.band, self._largest)
        self.paths = np.zeros(int(self._largest[3]) if paths else 0, np.int32)
        self.durations = np.zeros(self._starts[-1], np.int32)
        self.scores = np.full(len(batch), np.nan)
        self.statuses = np.zeros(len(batch), np.int32)

    def run(self, cursor: Int64Array, stop: int) -> None:
        """Items before `stop`, on this thread, as long as `cursor` gives any."""
        scratch = self._scratch()
        self._call(BEGIN | FORWARD | FINISH, cursor, stop, EVERYTHING, scratch, np.zeros(1, np.uint8))

    def run_together(self, b: int, pool: WorkerPool) -> None:
        """One item, its lattice shared among threads in blocks."""
        scratch = self._scratch()
        _, S, T, _, ahead, _, _ = self._items[:, b].tolist()
        N = lane_count(self._dtype)
        strips, tiles = -(-S // (STRIP_VECTORS * N)), (T - 1 + ahead) // N + 1
        height = max(BLOCK_STRIPS, min(strips // 4, HIGHEST_BLOCK)) if self._frames_first else BLOCK_STRIPS
        width = max(1, BLOCK_STRIPS * BLOCK_TILES // height)
        suspect = np.zeros(-(-strips // height), np.uint8)
        self._call(BEGIN, _cursor(b, 1), b + 1, EVERYTHING, scratch, suspect)

        def block(row: int, column: int) -> None:
            strip, tile = row * height, column * width
            bounds = np.array([strip, min(strip + height, strips), tile, tile + width])
            self._call(FORWARD, _cursor(b, 1), b + 1, bounds, scratch, suspect[row : row + 1])

        pool.run_grid(block, len(suspect), -(-tiles // width))
        self._call(FINISH, _cursor(b, 1), b + 1, EVERYTHING, scratch, suspect.max(keepdims=True))

    def _scratch(self) -> tuple[npt.NDArray[Any], ...]:
        """V, edges, scores of the path, back-pointers: enough for the largest item."""
        S, T, words, _ = self._largest.tolist()
        accumulator, N = self._dtype.accumulator, lane_count(self._dtype)
        V, edges = np.empty(S + STRIP_VECTORS * N, accumulator), np.empty(T + 2 * N, accumulator)
        return V, edges, np.empty(T, accumulator), np.empty(words, np.uint16)

    def _call(
        self,
        stages: int,
        cursor: Int64Array,
        stop: int,
        block: Int64Array,
        scratch: tuple[npt.NDArray[Any], ...],
        suspect: npt.NDArray[np.uint8],
    ) -> None:
        _align_range(
            self._model, self._items, self._frames_first, stages, cursor, stop, block, *scratch, suspect,
            self._starts, self.durations, self.paths, self.scores, self.statuses,
        )  # fmt: skip


@kernel
def _plan(items, values, end_to_end, frames_first, starts, band, largest):
    """Complete the table of the items; where each one's durations start, its cells; the largest of tokens, frames and
    words, and the sum of frames. Items' places are given as indices in `values`, or from address 0 if that is empty;
    unless they are `end_to_end`."""
    N, size = lanes(values), values.itemsize
    base = values.ctypes.data if len(values) else 0
    starts[0] = place = 0
    for b in range(items.shape[1]):
        S, T = items[1, b], items[2, b]
        items[0, b] = base + (place if end_to_end else items[0, b]) * size
        place += S * T
        starts[b + 1] = starts[b] + max(S, 0)
        feasible = 0 < S <= T
        # Tiles begin where cache lines do, so that no line is loaded twice; if that is so in all rows.
        apart = items[3, b] * size % CACHE_LINE != 0
        items[4, b] = 0 if frames_first or apart else items[0, b] % CACHE_LINE // size % N
        items[6, b] = largest[3]
        largest[3] += max(T, 0)
        items[5, b] = strip_tiles(S, T, N) if feasible else 0
        band[b] = S * (T - S + 1) if feasible else 0
        if feasible:
            largest[0], largest[1] = max(largest[0], S), max(largest[1], T)
            largest[2] = max(largest[2], item_words(S, T, N))


@kernel
def _align_range(
    model, items, frames_first, stages, cursor, stop, block,
    V, edges, path_scores, bits, suspect, starts, durations, paths, scores, statuses,
):  # fmt: skip
    """`stages` of the items before `stop` that `cursor` gives, on this thread; of lattices, what is in the block."""
    while True:
        chunk = cursor[1] + take_next(cursor) * cursor[2]
        if chunk >= stop:
            break
        end = min(chunk + cursor[2], stop)
        for b in range(chunk, end):
            S, T = items[1, b], items[2, b]
            if S <= 0 or T <= 0:
                statuses[b] = EMPTY
                continue
            if S > T:
                statuses[b] = TOO_FEW_FRAMES
                continue
            later = items[0, min(b + 1, end - 1)]
            item = (items[0, b], S, T, items[3, b], items[4, b], items[5, b], later)
            strips = strip_count(S, lanes(model))
            if stages & BEGIN:
                suspect[0] = 0
                begin(item, V, edges)
            if stages & FORWARD:
                last = min(block[1], strips)
                suspect[0] |= forward(
                    item, frames_first, False, model, block[0], last, block[2], block[3], V, edges, bits
                )
            if not stages & FINISH:
                continue
            if suspect[0]:
                if visited_not_finite(item, frames_first, model):
                    statuses[b] = NOT_FINITE
                    continue
                # It stands beyond the band, or sums overflow: this time without what stands there.
                begin(item, V, edges)
                forward(item, frames_first, True, model, 0, strips, 0, 2**62, V, edges, bits)
            if not np.isfinite(V[S - 1]):
                statuses[b] = NO_FINITE_PATH
                continue
            own = durations[starts[b] : starts[b] + S]
            path = paths[items[6, b] : items[6, b] + T] if len(paths) else paths
            backward(item, frames_first, model, bits, own, path, path_scores[:T])
            total = 0.0
            for t in range(T):  # in frame order
                total += np.float64(path_scores[t])
            scores[b] = V.dtype.type(total)  # one rounding, to the accumulator's type
            statuses[b] = OK
