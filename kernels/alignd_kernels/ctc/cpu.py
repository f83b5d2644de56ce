# mypy: allow-untyped-defs
"""CTC forced alignment on the CPU (Numba).

States are handled as pairs (blank i, label i), i = 0 … L, the last one without its label. A frame visits the pairs that
a legal path can be in, N at a time; what it reads of the emissions is gathered first. Back-pointers are three bits a
pair, kept for the reachable band only.
"""

import time
from collections.abc import Iterable
from typing import Final

import numpy as np
from numba import njit

from alignd_kernels.compile_cache import kernel
from alignd_kernels.ctc.batch import STAR, CtcBatch, CtcResult
from alignd_kernels.ctc.emissions import gather, star_value, visited_not_finite
from alignd_kernels.ctc.step import SMALL, advance_pairs, look_up
from alignd_kernels.ctc.targets import check_targets, visiting_times
from alignd_kernels.dtypes import DType
from alignd_kernels.numba_helpers import kernel_values, lane_count, lanes, unlocked, widen
from alignd_kernels.ragged import Int64Array, as_one, offsets_of
from alignd_kernels.status import Status
from alignd_kernels.threads import WorkerPool

OK: Final = int(Status.OK)
NOT_FINITE: Final = int(Status.NOT_FINITE)
NO_FINITE_PATH: Final = int(Status.NO_FINITE_PATH)

ROWS: Final = 4  # blanks, labels, emissions, skip penalties
EMISSIONS: Final = 2
TIMES: Final = 3  # first and last frame of each label, positions of the wildcards


def align(batch: CtcBatch, pool: WorkerPool | None = None) -> CtcResult:
    """Best path of each item.

    Args:
        batch: items of any lengths, zero included.
        pool: shares a large batch among threads; None does all on the calling thread.

    Raises:
        MemoryError: the scratch for an item (`scratch_bytes`) cannot be had; no result is lost but this batch's.
    """
    accumulator = batch.dtype.accumulator
    flat, offsets = as_one(batch.log_probs, batch.sources, batch.offsets)
    log_probs = kernel_values(flat, batch.dtype)
    targets = unlocked(np.ascontiguousarray(batch.targets, np.int32))
    items = np.stack(
        [
            offsets, batch.frames, batch.vocabulary, batch.pitches,
            batch.target_offsets, batch.target_lengths, batch.blanks.astype(np.int64),
            offsets_of(batch.frames)[:-1], offsets_of(batch.target_lengths)[:-1],
        ]
    )  # fmt: skip
    star_scores = np.array(batch.star_scores, np.float32)
    statuses = np.zeros(len(batch), np.int32)
    slack = np.zeros(len(batch), np.int64)
    scores = np.full(len(batch), np.nan)
    all_frames, all_labels = int(np.maximum(batch.frames, 0).sum()), int(np.maximum(batch.target_lengths, 0).sum())
    paths, frame_scores = np.zeros(all_frames, np.int32), np.zeros(all_frames, np.float32)
    durations = np.zeros(all_labels, np.int32)

    begun = time.perf_counter_ns()
    check_targets(targets, items, statuses, slack)
    N = lane_count(batch.dtype)
    row_words = np.where(statuses == OK, _row_words(batch.target_lengths, slack, N), 0)

    def work(start: int, stop: int) -> None:
        labels = int(np.max(batch.target_lengths[start:stop], where=statuses[start:stop] == OK, initial=0))
        rows = np.empty((ROWS, labels + 1 + N), accumulator)
        times = np.empty((TIMES, labels), np.int64)
        columns = np.empty(labels + N, np.int32)
        table = np.zeros(SMALL, accumulator)
        steps = np.empty(int(np.max(row_words[start:stop] * batch.frames[start:stop], initial=0)), np.uint16)
        _align_range(
            log_probs, targets, items, star_scores, row_words, start, stop,
            rows, times, columns, table, steps, paths, durations, frame_scores, scores, statuses,
        )  # fmt: skip

    if len(batch):
        if pool is None:
            work(0, len(batch))
        else:
            pool.run(work, batch.frames * np.minimum(batch.target_lengths + 1, slack + 2))
    elapsed = time.perf_counter_ns() - begun
    return CtcResult(paths, durations, frame_scores, scores, statuses, elapsed)


def scratch_bytes(batch: CtcBatch) -> Int64Array:
    """Memory that an item in progress needs beside its input and output, int64 [B]; an upper bound.

    6 T · ⌈min(L + 1, T − L + 2) / N⌉ for the back-pointers, 4 (L + 1 + N) accumulators and 28 (L + N), with
    N = 16 (8 for float64).
    """
    N = lane_count(batch.dtype)
    accumulator = np.dtype(batch.dtype.accumulator).itemsize
    L = batch.target_lengths
    whole = 2 * batch.frames * _row_words(L, batch.frames - L, N) + ROWS * (L + 1 + N) * accumulator + 28 * (L + N)
    return np.where((L > 0) & (batch.frames >= L), whole, 0)


def warm_up(dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from the cache, so that no later call has to."""
    one = np.ones(1, np.int64)
    for dtype in dtypes:
        zeros = np.zeros(2, dtype.storage)
        align(
            CtcBatch(
                zeros, dtype, one - 1, one, one + 1, one + 1, np.ones(1, np.int32), one - 1, one,
                np.zeros(1, np.int32), np.zeros(1, np.float32),
            )
        )  # fmt: skip


def _row_words(target_lengths: Int64Array, slack: Int64Array, N: int) -> Int64Array:
    """Words of one frame's back-pointers: three for N pairs.

    With K = T − L − repeats frames to spare a label can be visited at K + 1 frames and a pair at K + 2; each pair
    starts at least a frame later than the one before.
    """
    return np.asarray(3 * ((np.minimum(target_lengths + 1, slack + 2) + N - 1) // N))


@njit(nogil=True)
def _forward(log_probs, offset, pitch, V, targets, T, blank, star_score, row_words, rows, times, columns, table, steps):
    """Fill the back-pointers. Returns V of the last label and the last blank in the last frame, and whether any V was
    NaN or +inf when its state was left for good (both stay in a state once they are there, and nothing else brings them
    there but overflow)."""
    L = len(targets)
    N = lanes(rows)
    first, last, stars = times[0], times[1], times[2]
    blanks, labels, x, penalties = rows[0], rows[1], rows[EMISSIONS], rows[3]
    star_count = visiting_times(targets, T, first, last, penalties, stars)
    # Label i stands at i + 1, so that label -1 exists and is out of reach.
    blanks[:] = -np.inf
    labels[:] = -np.inf
    blanks[0] = 0.0  # the virtual frame before the first: paths start in blank 0 or, one step on, in label 0
    # A small vocabulary is looked up in registers; the wildcard's log-prob is then one more column.
    small = V < SMALL or (V == SMALL and star_count == 0)
    if small:
        columns[L:] = 0
        for i in range(L):
            columns[i] = V if targets[i] == STAR else targets[i]
    low_blank = low_label = high_blank = high_label = 0
    suspect = False
    for t in range(T):
        # Labels low … high - 1 and blanks low … high - 1 can be visited in this frame. A state that was left for good
        # is on the way to none of them, so what is computed for those below does no harm.
        while high_label < L and first[high_label] <= t:
            high_label += 1
        while high_blank <= L and (high_blank == 0 or first[high_blank - 1] < t):
            high_blank += 1
        while last[low_label] < t:
            low_label += 1
        while low_blank < L and last[low_blank] <= t:
            low_blank += 1
        row = log_probs[offset + t * pitch : offset + t * pitch + V]
        if small:
            for v in range(V):
                table[v] = widen(row[v])
            if star_count:
                table[V] = star_value(row, blank, star_score)
            for k in range(low_label, high_label, N):
                look_up(table, columns, x, k)
        else:
            gather(row, targets[low_label:high_label], x[low_label:high_label])
            if star_count:
                value = star_value(row, blank, star_score)
                for k in range(star_count):
                    x[stars[k]] = value
        x_blank = rows.dtype.type(widen(row[blank]))
        vectors = (max(high_blank, high_label) - low_label + N - 1) // N
        for k in range(vectors - 1, -1, -1):
            advance_pairs(
                low_label + k * N, x_blank, x, penalties, blanks, labels, high_blank, high_label,
                steps, t * row_words + 3 * k,
            )  # fmt: skip
        # At most one label and one blank are left for good in a frame before the last.
        if last[low_label] == t and not labels[low_label + 1] < np.inf:
            suspect = True
        if low_blank < min(L, high_blank) and last[low_blank] == t + 1 and not blanks[low_blank] < np.inf:
            suspect = True
    if not labels[L] < np.inf or not blanks[L] < np.inf:
        suspect = True
    return labels[L], blanks[L], suspect


@njit(nogil=True)
def _backward(rows, T, L, on_label, last, row_words, steps, path, durations):
    """Follow the back-pointers from the last frame to the first."""
    N = lanes(rows)
    i, label = (L - 1, True) if on_label else (L, False)
    low = L - 1
    for t in range(T - 1, -1, -1):
        path[t] = 2 * i + label
        if label:
            durations[i] += 1
        if t == 0:
            break
        while low > 0 and last[low - 1] >= t:
            low -= 1
        word = t * row_words + (i - low) // N * 3
        bit = (i - low) % N
        if not label:
            if (steps[word] >> bit) & 1:
                i, label = i - 1, True
        elif (steps[word + 2] >> bit) & 1:
            i -= 1
        elif (steps[word + 1] >> bit) & 1:
            label = False


@njit(nogil=True)
def _score(log_probs, offset, pitch, V, targets, blank, star_score, path, frame_scores):
    """Log-prob of each frame; the path's own sum in frame order, in float64."""
    total = 0.0
    for t in range(len(path)):
        row = log_probs[offset + t * pitch : offset + t * pitch + V]
        state = path[t]
        y = np.int64(targets[state >> 1]) if state & 1 else blank
        x = star_value(row, blank, star_score) if y == STAR else np.float64(widen(row[y]))
        frame_scores[t] = x
        total += x
    return total


@kernel
def _align_range(
    log_probs, all_targets, items, star_scores, row_words, start, stop,
    rows, times, columns, table, steps, paths, durations, frame_scores, scores, statuses,
):  # fmt: skip
    """Items start … stop − 1 whose targets are good, on one thread."""
    for b in range(start, stop):
        if statuses[b] != OK:
            continue
        offset, T, V, pitch = items[0, b], items[1, b], items[2, b], items[3, b]
        L, blank, star_score = items[5, b], items[6, b], star_scores[b]
        targets = all_targets[items[4, b] : items[4, b] + L]
        final_label, final_blank, suspect = _forward(
            log_probs, offset, pitch, V, targets, T, blank, star_score, row_words[b],
            rows, times, columns, table, steps,
        )  # fmt: skip
        if suspect and visited_not_finite(
            log_probs, offset, pitch, V, targets, T, blank, star_score, times, rows[EMISSIONS], columns
        ):
            statuses[b] = NOT_FINITE
            continue
        on_label = final_label >= final_blank
        if not np.isfinite(final_label if on_label else final_blank):
            statuses[b] = NO_FINITE_PATH
            continue
        path = paths[items[7, b] : items[7, b] + T]
        own = durations[items[8, b] : items[8, b] + L]
        _backward(rows, T, L, on_label, times[1], row_words[b], steps, path, own)
        own_scores = frame_scores[items[7, b] : items[7, b] + T]
        total = _score(log_probs, offset, pitch, V, targets, blank, star_score, path, own_scores)
        scores[b] = rows.dtype.type(total)  # one rounding, to the accumulator's type
