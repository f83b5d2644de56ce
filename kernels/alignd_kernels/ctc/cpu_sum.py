# mypy: allow-untyped-defs
"""Sums over all paths of CTC lattices on the CPU (Numba): posteriors, costs and their gradients."""

import time
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.compile_cache import kernel, part
from alignd_kernels.ctc.batch import CtcBatch
from alignd_kernels.ctc.sum_batch import CtcCosts, CtcPosteriors
from alignd_kernels.ctc.sums import OK, backward, forward
from alignd_kernels.ctc.targets import TARGET_OUT_OF_RANGE, check_item, place_targets
from alignd_kernels.dtypes import DType
from alignd_kernels.numba_helpers import addresses_of, model_of, take_next, unlocked
from alignd_kernels.ragged import Int64Array, offsets_of
from alignd_kernels.status import Status
from alignd_kernels.sums import costs_of
from alignd_kernels.threads import WorkerPool

# Fields of `items`, int64 [13, B]: address, frames, vocabulary, pitch, first target, labels, blank; where in the output
# the first row begins, and how far it is to the next; frames to spare; frames of a segment, accumulators for the shares
# of one and for the columns before each (`sums`).
TOO_FEW_FRAMES: Final = int(Status.TOO_FEW_FRAMES)
NOT_FINITE: Final = int(Status.NOT_FINITE)
NO_FINITE_PATH: Final = int(Status.NO_FINITE_PATH)

ITEM_FIELDS: Final = 13
FRAMES_OF: Final = 1
LABELS_OF: Final = 5
BLANK: Final = 6
SPARE: Final = 9
SEGMENT: Final = 10
SHARES: Final = 11
SAVED: Final = 12

# What is wanted beside the sums: nothing, the states' posteriors, minus those of the columns.
SUMS: Final = 0
STATES: Final = 1
COLUMNS: Final = 2

KEPT_SHARES: Final = 1 << 24
"""Shares up to which those of all frames are kept."""

ROWS: Final = 11
"""Arrays of L + 1 accumulators in which an item is summed."""

CELL_WORK: Final = 16
"""What a label's cell, with the blank beside it, costs, in cells of the search for the best path."""


def posteriors(batch: CtcBatch, pool: WorkerPool | None = None) -> CtcPosteriors:
    """The probability of each state in each frame, and the log-likelihood, within the error that `sums` states.

    Args:
        batch: items of any lengths, without targets too.
        pool: shares a batch among threads, item by item; None does all on the calling thread.

    Raises:
        MemoryError: the scratch for an item (`scratch_bytes`) cannot be had; no result is lost but this batch's.
    """
    begun = time.perf_counter_ns()
    T, states = np.maximum(batch.frames, 0), 2 * np.maximum(batch.target_lengths, 0) + 1
    starts = offsets_of(T * states)
    found = np.zeros(int(starts[-1]), batch.dtype.accumulator)
    scores, statuses = sums(batch, STATES, found, (starts[:-1], states), pool)
    return CtcPosteriors(found, scores, statuses, time.perf_counter_ns() - begun)


def costs(batch: CtcBatch, pool: WorkerPool | None = None, gradients: bool = True) -> CtcCosts:
    """Negative log-likelihoods, and their gradients by the log-probs. Arguments and errors as for `posteriors`.

    Args:
        gradients: whether they are wanted.
    """
    begun = time.perf_counter_ns()
    T, V = np.maximum(batch.frames, 0), np.maximum(batch.vocabulary, 0)
    starts = offsets_of(T * V)
    found = np.zeros(int(starts[-1]) if gradients else 0, batch.dtype.accumulator)
    scores, statuses = sums(batch, COLUMNS if gradients else SUMS, found, (starts[:-1], V), pool)
    values = costs_of(scores, statuses).astype(batch.dtype.accumulator)
    return CtcCosts(values, found if gradients else None, statuses, time.perf_counter_ns() - begun)


def scratch_bytes(batch: CtcBatch) -> Int64Array:
    """Memory that an item in progress needs beside its input and output, int64 [B].

    With N = T − L − R frames to spare, R of them for the blanks between equal neighbours, and A bytes of an
    accumulator: A (T + L (2N + 1) + 11 (L + 1)) + 16 (L + 2). Where T + L (2N + 1) is more than `KEPT_SHARES`, instead
    of it, with segments of G = ⌊√(2T)⌋ + 1 frames: G (2 min(L, N + 1) + 1) + 4 (L + 1) ⌈T/G⌉. 0 for items that have no
    paths. A thread takes, of each part, as much as the item of its batch that needs most of it. Costs without gradients
    take 2L + 1 in place of T + L (2N + 1).
    """
    items, statuses, _ = _plan_of(batch, KEPT_SHARES)
    floats = items[SHARES] + items[SAVED] + ROWS * (items[LABELS_OF] + 1)
    found = floats * np.dtype(batch.dtype.accumulator).itemsize + 16 * (items[LABELS_OF] + 2)
    return np.where(statuses == OK, found, 0).astype(np.int64)


def warm_up(dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from the cache, so that no later call has to."""
    one = np.ones(1, np.int64)
    for dtype in dtypes:
        batch = CtcBatch(
            np.zeros(2, dtype.storage), dtype, one - 1, one, one + 1, one + 1, np.ones(1, np.int32), one - 1, one,
            np.zeros(1, np.int32), np.zeros(1, np.float32),
        )  # fmt: skip
        posteriors(batch)


def sums(
    batch: CtcBatch,
    wanted: int,
    out: npt.NDArray[np.floating],
    rows: tuple[Int64Array, Int64Array],
    pool: WorkerPool | None,
    kept_shares: int = KEPT_SHARES,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]:
    """Log-likelihood and status of each item, and what is wanted written where the caller wants it.

    Args:
        batch: the items.
        wanted: `SUMS`, `STATES` or `COLUMNS`; the last are NaN for items with a cost of NaN.
        out: of the accumulator's type, 1-D and zero.
        rows: int64 [B] each, where in `out` an item's first row begins, and how far it is to the next.
        pool: shares the items among threads.
        kept_shares: the results are the same with any other.
    """
    kept, addresses = addresses_of(batch.log_probs, batch.dtype, batch.sources, batch.offsets)
    items, statuses, targets = _plan_of(batch, kept_shares)
    items[0] = addresses
    items[BLANK + 1], items[BLANK + 2] = rows
    stars, scores = np.array(batch.star_scores, np.float32), np.full(len(batch), np.nan)
    good = statuses == OK
    L, words, columns = (int(items[field, good].max(initial=0)) for field in (LABELS_OF, SHARES, SAVED))
    cursor = np.zeros(1, np.int64)

    def work() -> None:
        kind = batch.dtype.accumulator
        room, numbers = np.empty((ROWS, L + 1), kind), np.empty((2, L + 2), np.int64)
        shares, saved = np.empty(words if wanted else 2 * L + 1, kind), np.empty(columns if wanted else 0, kind)
        _sum_items(model_of(batch.dtype), items, targets, stars, wanted, cursor, room, numbers, shares, saved, out,
                   scores, statuses)  # fmt: skip

    if pool is None or pool.threads == 1:
        work()
    else:
        pool.run_everywhere(work, (items[LABELS_OF] * items[SPARE] + items[FRAMES_OF]) * good * CELL_WORK + 1)
    del kept
    return scores, statuses


def _plan_of(batch: CtcBatch, kept_shares: int) -> tuple[Int64Array, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """`items` without addresses and rows, the statuses that targets and lengths alone decide, the targets."""
    targets = unlocked(np.ascontiguousarray(batch.targets, np.int32))
    items, statuses = np.zeros((ITEM_FIELDS, len(batch)), np.int64), np.zeros(len(batch), np.int32)
    given = (batch.frames, batch.vocabulary, batch.pitches, batch.target_offsets, batch.target_lengths)
    for field, values in enumerate(given):
        items[field + 1] = values
    items[BLANK] = batch.blanks
    _plan(items, targets, statuses, kept_shares)
    return items, statuses, targets


@kernel
def _plan(items, targets, statuses, kept_shares):
    for b in range(len(statuses)):
        T, V, first, L, blank = items[1, b], items[2, b], items[4, b], items[5, b], items[6, b]
        statuses[b], spare = check(targets[first : first + max(L, 0)], T, V, L, blank)
        items[SPARE, b] = spare
        segment, shares, saved = T, T + L * (2 * spare + 1), 0
        if shares > kept_shares:
            # About as much for the columns, of four rows, as for the shares.
            segment = np.int64(np.sqrt(2.0 * max(T, 0))) + 1
            shares, saved = segment * (2 * min(L, spare + 1) + 1), 4 * (L + 1) * ((T + segment - 1) // segment)
        items[SEGMENT, b], items[SHARES, b], items[SAVED, b] = segment, shares, saved


@part
def check(targets, T, V, L, blank):
    """As the reference's `check_targets`, and the number of frames to spare; a negative number of labels is empty."""
    if L != 0 or T <= 0 or V <= 0:
        return check_item(targets, T, V, blank)
    return (OK if 0 <= blank < V else TARGET_OUT_OF_RANGE), T


@kernel
def _sum_items(
    model, items, targets, stars, wanted, cursor, room, numbers, shares, saved, out, scores, statuses
):  # fmt: skip
    """The items that `cursor` gives, on this thread. See `sums`."""
    while True:
        b = take_next(cursor)
        if b >= items.shape[1]:
            break
        T, V, L, blank, spare = items[1, b], items[2, b], items[5, b], items[6, b], items[9, b]
        first, apart = items[7, b], items[8, b]
        if statuses[b] == OK:
            columns, reached = numbers[0, : L + 2], numbers[1, : L + 2]
            starred = place_targets(targets[items[4, b] : items[4, b] + L], V, columns, reached)
            reached[L + 1] = T - spare  # the last blank can be visited to the end
            cells = (items[0, b], T, V, items[3, b], L, blank, spare)
            star = np.float64(stars[b])
            segment = items[SEGMENT, b] if wanted != SUMS else T
            total, last, used = forward(
                cells, model, starred, star, columns, reached, room, shares, saved, segment, wanted != SUMS
            )
            if used < 0:
                statuses[b] = NOT_FINITE
            elif not np.isfinite(total):
                statuses[b] = NO_FINITE_PATH
            else:
                scores[b] = total
                if wanted != SUMS:
                    place = (first, apart, wanted == STATES)
                    backward(
                        cells, model, starred, star, columns, reached, last, used, room, shares, saved, segment, place,
                        out,
                    )  # fmt: skip
        status = statuses[b]
        if wanted == COLUMNS and status != OK and status != TOO_FEW_FRAMES and status != NO_FINITE_PATH:
            for t in range(T):
                out[first + t * apart : first + t * apart + max(V, 0)] = np.nan
