# mypy: allow-untyped-defs
"""Attention maps on the CPU (Numba): focus rates of all heads, then the alignment of the chosen ones."""

import time
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.attention.batch import MODES, AttentionBatch, AttentionResult
from alignd_kernels.attention.dtw import EDGES, ROWS, STATE, backward, forward, path_words
from alignd_kernels.attention.dtw_tile import LANES
from alignd_kernels.attention.focus import GROUP, first_largest, group_size, key_type, rates_of_group
from alignd_kernels.attention.logarithm import take_logarithms
from alignd_kernels.attention.walk import walk
from alignd_kernels.compile_cache import kernel, part
from alignd_kernels.dtypes import DType
from alignd_kernels.mas import cpu as mas
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.numba_helpers import addresses_of, model_of, take_next
from alignd_kernels.ragged import Int64Array, offsets_of
from alignd_kernels.scratch import from_cache_line
from alignd_kernels.status import Status
from alignd_kernels.threads import WorkerPool

# Fields of `items`, int64 [9, B].
ADDRESS: Final = 0
HEADS: Final = 1
TOKENS: Final = 2
FRAMES: Final = 3
HEAD_PITCH: Final = 4
ROW_PITCH: Final = 5
FIRST_RATE: Final = 6
FIRST_TOKEN: Final = 7
FIRST_LOGARITHM: Final = 8
ITEM_FIELDS: Final = 9

MAS: Final = MODES.index("mas")
DTW: Final = MODES.index("dtw")
STEPWISE: Final = MODES.index("stepwise")

FIXED: Final = ROWS * LANES + STATE + EDGES
"""Accumulators of a thread in mode "dtw" that do not depend on its items."""


def align(batch: AttentionBatch, pool: WorkerPool | None = None) -> AttentionResult:
    """Head and alignment of each item.

    Args:
        batch: items of any shapes, zero included.
        pool: shares a large batch, or the heads of one item, among threads; None does all on the calling thread.

    Raises:
        MemoryError: the scratch (`scratch_bytes`) cannot be had; no result is lost but this batch's.
    """
    begun = time.perf_counter_ns()
    launch = _Launch(batch)
    launch.choose_heads(pool)
    if batch.mode == "mas":
        _align_monotonic(batch, launch, pool)
    else:
        _run(partial(launch.align, np.zeros(1, np.int64)), launch.cells, pool)
    launch.clear_failed()
    elapsed = time.perf_counter_ns() - begun
    return AttentionResult(
        launch.heads, launch.rates, launch.starts, launch.ends, launch.scores, launch.statuses, elapsed
    )


def _run(work: Any, cells: Int64Array, pool: WorkerPool | None) -> None:
    if pool is None:
        work()
    else:
        pool.run_everywhere(work, cells)


def _align_monotonic(batch: AttentionBatch, launch: "_Launch", pool: WorkerPool | None) -> None:
    """Mode "mas": the chosen heads, or their logarithms, are a batch of that family's."""
    chosen = np.flatnonzero(launch.statuses == Status.OK)
    _, _, S, T, head_pitch, row_pitch, _, first, first_logarithm = launch.items[:, chosen]
    if batch.log:
        found = mas.align(MasBatch(launch.logarithms(pool), _aligned_type(batch), first_logarithm, S, T, T), pool)
    else:
        offsets = np.asarray(batch.offsets, np.int64)[chosen] + launch.heads[chosen] * head_pitch
        sources = None if batch.sources is None else batch.sources[chosen]
        found = mas.align(MasBatch(batch.values, batch.dtype, offsets, S, T, row_pitch, sources), pool)
    launch.statuses[chosen], launch.scores[chosen] = found.statuses, found.scores
    begins = offsets_of(S)
    sums = np.cumsum(found.durations, dtype=np.int64)  # over all items
    before = np.concatenate(([0], sums))[begins[:-1]]
    own = np.repeat(first - begins[:-1], S) + np.arange(begins[-1])
    launch.ends[own] = sums - np.repeat(before, S)
    launch.starts[own] = launch.ends[own] - found.durations


def scratch_bytes(batch: AttentionBatch) -> Int64Array:
    """Memory that an item in progress needs beside its input and output, int64 [B].

    For the focus rates, 8 · T stored values. With `log`, S · T accumulators. In mode "mas" what `mas.cpu.scratch_bytes`
    says of [S, T], of the accumulator's type with `log`. In mode "dtw" 8 · ⌈S / 32⌉ · (T + 31) bytes for the
    back-pointers, and S + 2T + 2,176 accumulators. 0 where no alignment is sought: H, S or T below 1, or S > T in mode
    "mas". A thread takes, of each part, as much as the item of its batch that needs most of it; but in mode "mas" the
    logarithms of all items are held at a time.
    """
    H, S, T = (np.array(lengths, np.int64) for lengths in (batch.heads, batch.tokens, batch.frames))
    accumulator = np.dtype(batch.dtype.accumulator)
    need = GROUP * T * key_type(batch.dtype).itemsize
    if batch.log:
        need += S * T * accumulator.itemsize
    if batch.mode == "mas":
        kind = _aligned_type(batch)
        need += mas.scratch_bytes(MasBatch(np.zeros(0, kind.storage), kind, T, S, T, T))
    if batch.mode == "dtw":
        words = np.empty(len(batch), np.int64)
        _count_words(S, T, words)
        need += 4 * words + (S + 2 * T + FIXED) * accumulator.itemsize
    wanted = (H > 0) & (S > 0) & (T > 0) & ((batch.mode != "mas") | (S <= T))
    return np.where(wanted, need, 0)


def _aligned_type(batch: AttentionBatch) -> DType:
    """The type of what is aligned: the values themselves, or their logarithms."""
    return DType(np.dtype(batch.dtype.accumulator).name) if batch.log else batch.dtype


@kernel
def _count_words(S, T, words):
    for b in range(len(words)):
        words[b] = path_words(S[b], T[b])


def warm_up(dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from the cache, so that no later call has to."""
    one = np.ones(1, np.int64)
    for dtype in dtypes:
        for mode in MODES:
            for log in (False, True) if mode != "stepwise" else (False,):
                batch = AttentionBatch(np.zeros(1, dtype.storage), dtype, one - 1, one, one, one, mode, log)
                scratch_bytes(batch)
                align(batch)


class _Launch:
    """The arrays of one batch: what the kernels are told, and what they answer."""

    def __init__(self, batch: AttentionBatch) -> None:
        B = len(batch)
        self._kept, addresses = addresses_of(batch.values, batch.dtype, batch.sources, batch.offsets)
        self._dtype, self._model = batch.dtype, model_of(batch.dtype)
        self._mode, self._log = MODES.index(batch.mode), batch.log
        items = self.items = np.empty((ITEM_FIELDS, B), np.int64)
        items[ADDRESS], items[HEADS], items[TOKENS], items[FRAMES] = addresses, batch.heads, batch.tokens, batch.frames
        items[ROW_PITCH] = batch.frames if batch.row_pitches is None else batch.row_pitches
        items[HEAD_PITCH] = items[TOKENS] * items[ROW_PITCH] if batch.head_pitches is None else batch.head_pitches
        self.cells = np.empty(B, np.int64)
        self.statuses = np.empty(B, np.int32)
        sizes = np.zeros(LARGEST_FIELDS, np.int64)
        _plan(items, self._mode, self.statuses, self.cells, sizes)
        self._rates, self._tokens, self._groups, self._logarithms, *self._largest = sizes.tolist()
        self.heads = np.zeros(B, np.int32)
        self.rates = np.zeros(self._rates, np.float32)
        self.starts, self.ends = np.zeros(self._tokens, np.int32), np.zeros(self._tokens, np.int32)
        self.scores = np.full(B, np.nan)

    def choose_heads(self, pool: WorkerPool | None) -> None:
        """Focus rates and heads of all items; threads share the heads too."""
        groups = np.empty((2, self._groups), np.int64)
        cells = np.empty(self._groups, np.int64)
        _list_groups(self.items, self.statuses, groups, cells)
        bad = np.zeros(len(self.statuses), np.uint8)
        _run(partial(self._rate, np.zeros(1, np.int64), groups, bad), cells, pool)
        _choose(self.items, self.rates, bad, self.heads, self.statuses)

    def _rate(self, cursor: Int64Array, groups: Int64Array, bad: npt.NDArray[np.uint8]) -> None:
        frames = self._largest[1]
        largest, sums = np.empty((GROUP, frames), key_type(self._dtype)), np.empty(GROUP)
        _rate_groups(cursor, self._model, self.items, groups, largest, sums, self.rates, bad)

    def clear_failed(self) -> None:
        _clear_failed(self.items, self.statuses, self.heads, self.rates)

    def logarithms(self, pool: WorkerPool | None) -> npt.NDArray[Any]:
        """Of all chosen heads, end to end."""
        found = np.empty(self._logarithms, self._dtype.accumulator)
        work = partial(self._take_logarithms, np.zeros(1, np.int64), found)
        _run(work, self.cells, pool)
        return found

    def _take_logarithms(self, cursor: Int64Array, found: npt.NDArray[Any]) -> None:
        _take_all_logarithms(cursor, self._model, self.items, self.heads, self.statuses, found)

    def align(self, cursor: Int64Array) -> None:
        """Items on this thread, as long as `cursor` gives any."""
        tokens, frames, words, map_cells = self._largest
        warped, accumulator = self._mode == DTW, self._dtype.accumulator
        room = from_cache_line(ROWS * LANES if warped else 0, accumulator)
        state = from_cache_line(STATE, accumulator)
        edges = np.empty(frames + EDGES if warped else 0, accumulator)
        path_scores = np.empty(tokens + frames if warped else 0, accumulator)
        logarithms = np.empty(map_cells if self._log else 0, accumulator)
        _align_range(
            cursor, self._model, self.items, self._mode, self._log, room, state, edges,
            path_scores, np.empty(words if warped else 0, np.uint32), logarithms,
            self.heads, self.starts, self.ends, self.scores, self.statuses,
        )  # fmt: skip


LARGEST_FIELDS: Final = 8


@kernel
def _plan(items, mode, statuses, cells, sizes):
    """Check each item's lengths, count the cells of a head, say where its results start; in `sizes`, sums of heads,
    tokens, groups of heads and logarithms, and the most tokens, frames, words and cells of one."""
    for b in range(len(statuses)):
        H, S, T = items[HEADS, b], items[TOKENS, b], items[FRAMES, b]
        items[FIRST_RATE, b], items[FIRST_TOKEN, b], items[FIRST_LOGARITHM, b] = sizes[0], sizes[1], sizes[3]
        sizes[0] += max(H, 0)
        sizes[1] += max(S, 0)
        cells[b] = 1
        if H < 1 or S < 1 or T < 1:
            statuses[b] = Status.EMPTY
        elif mode == MAS and S > T:
            statuses[b] = Status.TOO_FEW_FRAMES
        else:
            statuses[b] = Status.OK
            cells[b] = S * T
            sizes[2] += (H + group_size(S) - 1) // group_size(S)
            sizes[3] += S * T
            sizes[4], sizes[5] = max(sizes[4], S), max(sizes[5], T)
            sizes[6], sizes[7] = max(sizes[6], path_words(S, T)), max(sizes[7], S * T)


@kernel
def _list_groups(items, statuses, groups, cells):
    """Which heads are rated together: their item and the first of them."""
    g = 0
    for b in range(len(statuses)):
        if statuses[b] == Status.OK:
            H, S, T = items[HEADS, b], items[TOKENS, b], items[FRAMES, b]
            for head in range(0, H, group_size(S)):
                groups[0, g], groups[1, g] = b, head
                cells[g] = min(group_size(S), H - head) * S * T
                g += 1


@kernel
def _rate_groups(cursor, model, items, groups, largest, sums, rates, bad):
    """The groups that `cursor` gives, on this thread."""
    while True:
        g = take_next(cursor)
        if g >= groups.shape[1]:
            break
        b, head = groups[0, g], groups[1, g]
        S, T = items[TOKENS, b], items[FRAMES, b]
        address = items[ADDRESS, b] + head * items[HEAD_PITCH, b] * model.itemsize
        first = items[FIRST_RATE, b] + head
        own = rates[first : first + min(group_size(S), items[HEADS, b] - head)]
        if rates_of_group(address, items[HEAD_PITCH, b], items[ROW_PITCH, b], S, T, model, largest, sums, own):
            bad[b] = 1


@kernel
def _choose(items, rates, bad, heads, statuses):
    for b in range(len(statuses)):
        if statuses[b] != Status.OK:
            continue
        own = rates[items[FIRST_RATE, b] : items[FIRST_RATE, b] + items[HEADS, b]]
        if bad[b]:
            statuses[b] = Status.NOT_FINITE
        else:
            heads[b] = first_largest(own)


@kernel
def _clear_failed(items, statuses, heads, rates):
    for b in range(len(statuses)):
        if statuses[b] != Status.OK:
            heads[b] = 0
            rates[items[FIRST_RATE, b] : items[FIRST_RATE, b] + max(items[HEADS, b], 0)] = 0


@part
def _head_address(items, b, head, model):
    return items[ADDRESS, b] + np.int64(head) * items[HEAD_PITCH, b] * model.itemsize


@kernel
def _take_all_logarithms(cursor, model, items, heads, statuses, found):
    """Of the items that `cursor` gives, on this thread."""
    while True:
        b = take_next(cursor)
        if b >= len(statuses):
            break
        if statuses[b] == Status.OK:
            S, T, first = items[TOKENS, b], items[FRAMES, b], items[FIRST_LOGARITHM, b]
            address = _head_address(items, b, heads[b], model)
            take_logarithms(address, items[ROW_PITCH, b], S, T, model, found[first : first + S * T])


@part
def _warp(address, pitch, S, T, model, room, state, edges, steps, path_scores, starts, ends):
    """The path's score in float64; not finite if no path's is."""
    best = forward(address, pitch, S, T, model, room, state, edges, steps)
    if not np.isfinite(best):
        return np.nan
    return backward(address, pitch, S, T, model, steps, path_scores, starts, ends)


@kernel
def _align_range(
    cursor, model, items, mode, log, room, state, edges, path_scores, steps, logarithms,
    heads, starts, ends, scores, statuses,
):  # fmt: skip
    """The chosen heads of the items that `cursor` gives, on this thread, in mode "dtw" or "stepwise"."""
    while True:
        b = take_next(cursor)
        if b >= len(statuses):
            break
        if statuses[b] != Status.OK:
            continue
        S, T, pitch = items[TOKENS, b], items[FRAMES, b], items[ROW_PITCH, b]
        first = items[FIRST_TOKEN, b]
        own_starts, own_ends = starts[first : first + S], ends[first : first + S]
        address = _head_address(items, b, heads[b], model)
        if mode == STEPWISE:
            score = walk(address, pitch, S, T, model, own_starts, own_ends)
            failure = Status.MALFORMED
        elif not log:
            score = _warp(address, pitch, S, T, model, room, state, edges, steps, path_scores, own_starts, own_ends)
            failure = Status.NO_FINITE_PATH
        elif take_logarithms(address, pitch, S, T, model, logarithms):
            score, failure = np.nan, Status.NOT_FINITE
        else:
            own = logarithms.ctypes.data
            score = _warp(own, T, S, T, logarithms, room, state, edges, steps, path_scores, own_starts, own_ends)
            failure = Status.NO_FINITE_PATH
        if np.isnan(score):
            statuses[b] = failure
        else:
            scores[b] = state.dtype.type(score)  # one rounding, to the accumulator's type
