# mypy: allow-untyped-defs
"""Best paths of transducer lattices on the CPU (Numba): items shared among threads."""

import time
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.compile_cache import kernel, part
from alignd_kernels.dtypes import DType
from alignd_kernels.numba_helpers import addresses_of, model_of, take_next, unlocked
from alignd_kernels.ragged import Int64Array, offsets_of
from alignd_kernels.scratch import from_cache_line
from alignd_kernels.status import Status
from alignd_kernels.threads import WorkerPool
from alignd_kernels.transducer.batch import TransducerBatch, TransducerResult, reduced
from alignd_kernels.transducer.lattice import ROWS, any_not_finite, backward, forward, item_words, last_row
from alignd_kernels.transducer.skew import Item
from alignd_kernels.transducer.strip import LANES

# Fields of `items`, int64 [9, B].
ADDRESS: Final = 0
FRAMES: Final = 1
LABELS: Final = 2
VOCABULARY: Final = 3
FRAME_PITCH: Final = 4
NODE_PITCH: Final = 5
BLANK: Final = 6
FIRST_TARGET: Final = 7
FIRST_RESULT: Final = 8
ITEM_FIELDS: Final = 9


def align(batch: TransducerBatch, pool: WorkerPool | None = None) -> TransducerResult:
    """Best path of each item.

    Args:
        batch: items of any lengths, zero included.
        pool: shares a large batch among threads; None does all on the calling thread.

    Raises:
        MemoryError: the scratch for an item (`scratch_bytes`) cannot be had; no result is lost but this batch's.
    """
    begun = time.perf_counter_ns()
    launch = _Launch(batch)
    work = partial(launch.run, np.zeros(1, np.int64))
    if pool is None:
        work()
    else:
        pool.run_everywhere(work, launch.cells)
    elapsed = time.perf_counter_ns() - begun
    return TransducerResult(launch.emission_frames, launch.scores, launch.statuses, elapsed)


def scratch_bytes(batch: TransducerBatch) -> Int64Array:
    """Memory that an item in progress needs beside its input and output, int64 [B].

    4 · ⌈(U + 1) / 32⌉ · (T + 32) for the back-pointers, with T − U + 1 in place of T in the modified topology, and
    2 R + 4,192 accumulators, where R = T + U, in the modified topology T; 0 where no path is sought: T < 1, U < 0 or,
    in the modified topology, U > T. A thread takes, of each part, as much as the item of its batch that needs most of
    it: the sum is that of the largest item where one is the largest in all.
    """
    found = np.empty(len(batch), np.int64)
    frames, labels = np.array(batch.frames, np.int64), np.array(batch.labels, np.int64)  # of one kind for the compiler
    accumulator = np.dtype(batch.dtype.accumulator).itemsize
    _scratch(frames, labels, int(not batch.modified), accumulator, FIXED, found)
    return found


FIXED: Final = 2 * ROWS * LANES + 3 * LANES
"""Accumulators of a thread that do not depend on its items: what is gathered at a time, a strip's scores, alignment."""


@kernel
def _scratch(frames, labels, slant, accumulator, fixed, found):
    for b in range(len(frames)):
        T, U = frames[b], labels[b]
        whole = 4 * item_words(T, U, slant) + (2 * last_row(T, U, slant) + fixed) * accumulator
        found[b] = whole if T > 0 and U >= 0 and (slant != 0 or U <= T) else 0


def warm_up(dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from the cache, so that no later call has to."""
    one = np.ones(1, np.int64)
    for dtype in dtypes:
        batch = reduced(np.zeros(4, dtype.storage), dtype, one - 1, one, one)
        scratch_bytes(batch)
        align(batch)


class _Launch:
    """The arrays of one batch: what the kernel is told, and what it answers."""

    def __init__(self, batch: TransducerBatch) -> None:
        B = len(batch)
        self._kept, addresses = addresses_of(batch.log_probs, batch.dtype, batch.sources, batch.offsets)
        self._model, self._accumulator = model_of(batch.dtype), batch.dtype.accumulator
        self._slant = int(not batch.modified)
        self._targets = unlocked(np.ascontiguousarray(batch.targets, np.int32))
        starts = offsets_of(batch.labels)
        self._items = np.empty((ITEM_FIELDS, B), np.int64)
        self._items[ADDRESS], self._items[FRAMES], self._items[LABELS] = addresses, batch.frames, batch.labels
        self._items[VOCABULARY], self._items[BLANK] = batch.vocabulary, batch.blanks
        self._items[FRAME_PITCH], self._items[NODE_PITCH] = batch.frame_pitches, batch.node_pitches
        self._items[FIRST_TARGET], self._items[FIRST_RESULT] = batch.target_offsets, starts[:-1]
        self.cells = np.empty(B, np.int64)
        self.statuses = np.empty(B, np.int32)
        self._largest = np.zeros(2, np.int64)
        _plan(self._items, self._targets, self._slant, self.cells, self.statuses, self._largest)
        self.emission_frames = np.zeros(starts[-1], np.int32)
        self.scores = np.full(B, np.nan)

    def run(self, cursor: Int64Array) -> None:
        """Items on this thread, as long as `cursor` gives any."""
        _align_range(
            cursor, self._model, self._items, self._targets, self._slant, *self._scratch(),
            self.emission_frames, self.scores, self.statuses,
        )  # fmt: skip

    def _scratch(self) -> tuple[npt.NDArray[Any], ...]:
        """Blanks, labels, V, edges, scores of the path, back-pointers: enough for the largest item."""
        rows, words = self._largest.tolist()
        blanks, labels = from_cache_line(2 * ROWS * LANES, self._accumulator).reshape(2, ROWS, LANES)
        V, edges = from_cache_line(LANES, self._accumulator), np.empty(rows + 1, self._accumulator)
        return blanks, labels, V, edges, np.empty(rows, self._accumulator), np.empty(words, np.uint32)


@part
def _check_item(targets, T, U, V, blank, slant):
    """`Status.OK`, or what `reference.check_labels` says."""
    if T < 1 or U < 0 or V < 1:
        return Status.EMPTY
    if not 0 <= blank < V:
        return Status.TARGET_OUT_OF_RANGE
    for y in targets:
        if not 0 <= y < V:
            return Status.TARGET_OUT_OF_RANGE
        if y == blank:
            return Status.TARGET_IS_BLANK
    return Status.TOO_FEW_FRAMES if slant == 0 and U > T else Status.OK


@kernel
def _plan(items, targets, slant, cells, statuses, largest):
    """Check each item's labels, count its cells, and find the most rows and words of all."""
    for b in range(len(statuses)):
        T, U, first = items[FRAMES, b], items[LABELS, b], items[FIRST_TARGET, b]
        own = targets[first : first + max(U, 0)]
        statuses[b] = _check_item(own, T, U, items[VOCABULARY, b], items[BLANK, b], slant)
        cells[b] = 1
        if statuses[b] == Status.OK:
            cells[b] = T * (U + 1)
            largest[0] = max(largest[0], last_row(T, U, slant))
            largest[1] = max(largest[1], item_words(T, U, slant))


@kernel
def _align_range(
    cursor, model, items, targets, slant, blanks, labels, V, edges, path_scores, steps,
    emission_frames, scores, statuses,
):  # fmt: skip
    """The items that `cursor` gives, on this thread."""
    while True:
        b = take_next(cursor)
        if b >= len(statuses):
            break
        if statuses[b] != Status.OK:
            continue
        T, U = items[FRAMES, b], items[LABELS, b]
        pitches = items[FRAME_PITCH, b], items[NODE_PITCH, b]
        item = Item(items[ADDRESS, b], T, U, pitches[0], pitches[1], items[BLANK, b], slant)
        columns = targets[items[FIRST_TARGET, b] : items[FIRST_TARGET, b] + U]
        paired = items[VOCABULARY, b] == 2 and item.blank == 0 and item.node_pitch == 2
        suspect = forward(item, columns, paired, model, blanks, labels, V, edges, steps)
        best = V[U & (LANES - 1)]
        # +inf in an arc that a path can take gives +inf in the end, or NaN on the way.
        if (suspect or not best < np.inf) and any_not_finite(item, columns, paired, model, blanks, labels):
            statuses[b] = Status.NOT_FINITE
            continue
        if not np.isfinite(best):
            statuses[b] = Status.NO_FINITE_PATH
            continue
        own = emission_frames[items[FIRST_RESULT, b] : items[FIRST_RESULT, b] + U]
        backward(item, columns, model, steps, own, path_scores)
        total = 0.0
        for row in range(last_row(T, U, slant)):  # in path order
            total += np.float64(path_scores[row])
        scores[b] = V.dtype.type(total)  # one rounding, to the accumulator's type
