# mypy: allow-untyped-defs
"""Sums over transducer lattices on the CPU (Numba): posteriors, costs and their gradients."""

import time
from collections.abc import Iterable
from functools import partial
from typing import Final

import numpy as np

from alignd_kernels.compile_cache import kernel, part
from alignd_kernels.dtypes import DType
from alignd_kernels.numba_helpers import addresses_of, array_at, model_of, take_next, unlocked
from alignd_kernels.ragged import Int64Array
from alignd_kernels.status import Status
from alignd_kernels.threads import WorkerPool
from alignd_kernels.transducer.batch import TransducerBatch, TransducerCosts, TransducerPosteriors
from alignd_kernels.transducer.log_sums import log_sums
from alignd_kernels.transducer.scaled import EXACT
from alignd_kernels.transducer.sums import (
    PRECISE,
    backward,
    deliver,
    forward,
    gather,
    lay_out,
    log_of,
    steps_of,
    to_scaled,
)

OK: Final = int(Status.OK)
EMPTY: Final = int(Status.EMPTY)
TOO_FEW_FRAMES: Final = int(Status.TOO_FEW_FRAMES)
NOT_FINITE: Final = int(Status.NOT_FINITE)
NO_FINITE_PATH: Final = int(Status.NO_FINITE_PATH)
TARGET_OUT_OF_RANGE: Final = int(Status.TARGET_OUT_OF_RANGE)
TARGET_IS_BLANK: Final = int(Status.TARGET_IS_BLANK)
UNDECIDED: Final = 0
"""No status: the item is left to `log_sums`."""

# Fields of `items`, int64 [9, B]: address, frames, labels, vocabulary, pitches of frames and of nodes, first target,
# blank; and the first of its nodes in the results.
ITEM_FIELDS: Final = 9
BLANK: Final = 7

# What of each lattice is wanted: nothing but its sum, its nodes' probabilities, its arcs' gradients.
SUM: Final = 0
NODES: Final = 1
ARCS: Final = 2

# Parts of the scratch: arcs or nodes of an item in its steps' order, nodes of one step, steps.
ROOM: Final = 0
WIDTH: Final = 1
STEPS: Final = 2

LEAST: Final = -EXACT / 2
"""Exponents of sums from here on: where log-probs above 0 bring no more than `MOST_UPWARD` in all, those of all paths
that matter beside such a sum are exact, and those of others, exact or not, far below."""

MOST_UPWARD: Final = EXACT / 4

NEGLIGIBLE: Final = 64
"""Powers of two by which a sum outweighs what is neglected beside it."""

LN_2: Final = 0.6931471805599453

CELLS_A_NODE: Final = 12
"""A node takes as long as so many of the cells that a pool counts: most of it is reading two columns of a row."""


def posteriors(batch: TransducerBatch, pool: WorkerPool | None = None) -> TransducerPosteriors:
    """The probability of each node and the log-likelihood of the labels, of each item.

    Scores err by at most 8 (N + 1) u beside their own rounding, probabilities by at most 16 (N + 1) u relative, where
    u is half an ulp of 1 of the accumulator and N = T + U, the arcs of a path (modified: T): a path's probability is a
    product of N factors, each with 3 u of its exponential, and 2 u of a product and a sum; a posterior is a quotient of
    two such sums. Errors do not all go one way: over T = 1500, U = 300 a hundredth of these bounds has been seen.
    Probabilities below 2⁻⁹⁰ (float64: 2⁻⁹⁹⁰) may be 0.

    Args:
        batch: items of any lengths, zero included.
        pool: shares the items among threads; None does all on the calling thread.

    Raises:
        MemoryError: the scratch for an item (`scratch_bytes`) cannot be had; no result is lost but this batch's.
    """
    begun = time.perf_counter_ns()
    launch = _Launch(batch, NODES, 1.0)
    launch.run(pool)
    elapsed = time.perf_counter_ns() - begun
    return TransducerPosteriors(launch.found, launch.totals, launch.statuses, elapsed)


def costs(
    batch: TransducerBatch,
    pool: WorkerPool | None = None,
    *,
    fastemit_lambda: float = 0.0,
    gradients: bool = True,
) -> TransducerCosts:
    """Negative log-likelihoods, and their gradients by the arcs. Errors as of `posteriors`: gradients as probabilities.

    Args:
        batch: items of any lengths, zero included.
        pool: shares the items among threads; None does all on the calling thread.
        fastemit_lambda: gradients of labels are multiplied by 1 + this.
        gradients: whether they are wanted.

    Raises:
        MemoryError: the scratch for an item (`scratch_bytes`) cannot be had; no result is lost but this batch's.
    """
    begun = time.perf_counter_ns()
    launch = _Launch(batch, ARCS if gradients else SUM, 1.0 + fastemit_lambda)
    launch.run(pool)
    found = (0.0 - launch.totals).astype(batch.dtype.accumulator)
    found[launch.statuses == NO_FINITE_PATH] = np.inf
    elapsed = time.perf_counter_ns() - begun
    return TransducerCosts(found, launch.found if gradients else None, launch.statuses, elapsed)


def scratch_bytes(batch: TransducerBatch, *, gradients: bool = True) -> Int64Array:
    """Memory that an item in progress needs beside its input and output, int64 [B]: A bytes of an accumulator.

    With N = T + U and R = T (U + 1) + N + 3 (modified: N = T, R = (U + 1) (T − U + 1) + N + 2):
    2A (3R + 2 (U + 3)) + 8 (N + 1), of posteriors too; 2A (2R + 2 (U + 3)) + 8 (N + 1) for costs without gradients.
    0 for items that cannot be computed. Items whose log-probs are so large that they are done in logarithms take
    16 (T + 1) (U + 1) after that. A thread takes, of each part, as much as the item of its batch that needs most of it.
    """
    launch = _Launch(batch, ARCS if gradients else SUM, 1.0, found=False)
    room, width, steps = launch.sizes.T
    itemsize = np.dtype(batch.dtype.accumulator).itemsize
    return np.asarray(2 * itemsize * ((3 if gradients else 2) * room + 2 * width) + 8 * steps, np.int64)


def warm_up(dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from the cache, so that no later call has to."""
    one, zero = np.ones(1, np.int64), np.zeros(1, np.int64)
    for dtype in dtypes:
        for value in (0.0, np.finfo(np.float16).min):
            scores = np.full(1, value, np.float32 if dtype is DType.BFLOAT16 else dtype.value)
            storage = scores.view(np.uint16)[1:] if dtype is DType.BFLOAT16 else scores.view(dtype.storage)
            batch = TransducerBatch(
                storage, dtype, zero, one, zero, one, one, one, np.zeros(0, np.int32), zero, np.zeros(1, np.int32)
            )
            costs(batch)


class _Launch:
    """The arrays of one batch: what the kernel is told, and what it answers."""

    def __init__(self, batch: TransducerBatch, wanted: int, label_factor: float, found: bool = True) -> None:
        B = len(batch)
        self._kept, addresses = addresses_of(batch.log_probs, batch.dtype, batch.sources, batch.offsets)
        self._model, self._accumulator = model_of(batch.dtype), batch.dtype.accumulator
        self._targets = unlocked(np.ascontiguousarray(batch.targets, np.int32))
        self._modified, self._wanted, self._label_factor = batch.modified, wanted, label_factor
        self._items = np.empty((ITEM_FIELDS, B), np.int64)
        given = (batch.frames, batch.labels, batch.vocabulary, batch.frame_pitches, batch.node_pitches)
        for field, values in enumerate((addresses, *given, batch.target_offsets)):
            self._items[field] = values
        self._items[BLANK] = batch.blanks
        self.sizes = np.zeros((B, 3), np.int64)
        self.statuses = np.empty(B, np.int32)
        nodes = np.zeros(1, np.int64)
        _plan(self._items, self._targets, self._modified, self.sizes, self.statuses, nodes)
        self.totals = np.full(B, np.nan)
        self.found = np.empty(int(nodes[0]) * wanted if found else 0, self._accumulator)

    def run(self, pool: WorkerPool | None) -> None:
        """All items."""
        work = partial(self._work, np.zeros(1, np.int64))
        if pool is None:
            work()
        else:
            pool.run_everywhere(work, self.sizes[:, ROOM] * CELLS_A_NODE + 1)
        for index in np.flatnonzero(self.statuses == UNDECIDED).tolist():
            self._in_logarithms(index)

    def _work(self, cursor: Int64Array) -> None:
        """Items on this thread, as long as `cursor` gives any."""
        room, width, steps = self.sizes.max(axis=0, initial=0).tolist()
        size = room * (2 if self._wanted == SUM else 3) + 2 * width
        _sum_range(
            self._model, self._modified, self._wanted, self._label_factor, cursor, self._items, self._targets,
            self.sizes, np.empty(size, self._accumulator), np.empty(size, self._accumulator), np.empty(steps, np.int64),
            self.found, self.totals, self.statuses,
        )  # fmt: skip

    def _in_logarithms(self, index: int) -> None:
        """One item for which the usual numbers are too small."""
        address, T, U, V, frame_pitch, node_pitch, first, blank, start = self._items[:, index].tolist()
        own = self.found[start * self._wanted : (start + T * (U + 1)) * self._wanted]
        own[:] = 0
        alpha, beta = np.empty((2, (T + 1) * (U + 1)))
        labels = self._targets[first : first + U]
        log_sums(
            self._model, address, T, U, frame_pitch, node_pitch, V, labels, blank, self._modified,
            self._label_factor, self._wanted, alpha, beta, own,
        )  # fmt: skip
        with np.errstate(over="ignore"):
            finite = bool(np.isfinite(beta[0] if self._wanted == NODES else self._accumulator(beta[0])))
        self.statuses[index] = OK if finite else NO_FINITE_PATH
        if finite:
            self.totals[index] = beta[0]
        else:
            own[:] = 0


@part
def check_item(labels, T, U, V, blank, modified):
    """What the reference's `check_labels` says; a negative number of labels is an empty item too."""
    if T < 1 or V < 1 or U < 0:
        return EMPTY
    if not 0 <= blank < V:
        return TARGET_OUT_OF_RANGE
    for u in range(U):
        if not 0 <= labels[u] < V:
            return TARGET_OUT_OF_RANGE
        if labels[u] == blank:
            return TARGET_IS_BLANK
    return TOO_FEW_FRAMES if modified and U > T else OK


@kernel
def _plan(items, targets, modified, sizes, statuses, nodes):
    """Check each item's labels, complete its fields and sizes, and the total of nodes."""
    for b in range(len(statuses)):
        T, U, V, first, blank = items[1, b], items[2, b], items[3, b], items[6, b], items[7, b]
        statuses[b] = check_item(targets[first : first + max(U, 0)], T, U, V, blank, modified)
        items[8, b] = nodes[0]
        nodes[0] += max(T, 0) * (max(U, 0) + 1)
        if statuses[b] == OK:
            N, _ = steps_of(T, U, modified)
            possible = (U + 1) * (T - U + 1) if modified else T * (U + 1) + 1
            sizes[b, ROOM], sizes[b, WIDTH], sizes[b, STEPS] = possible + N + 2, U + 3, N + 1


@kernel
def _sum_range(
    model, modified, wanted, label_factor, cursor, items, targets, sizes, mantissas, exponents, bases,
    found, totals, statuses,
):  # fmt: skip
    """The items that `cursor` gives, on this thread; `UNDECIDED` those that need logarithms."""
    while True:
        b = take_next(cursor)
        if b >= len(statuses):
            break
        address, T, U, V, frame_pitch, node_pitch, first, blank, start = items[:, b]
        own = found[start * wanted : (start + max(T, 0) * (max(U, 0) + 1)) * wanted]
        if statuses[b] != OK:
            own[:] = np.nan if wanted == ARCS else 0.0
            continue
        R = sizes[b, ROOM]
        blank_m, label_m, m = mantissas[:R], mantissas[R : 2 * R], mantissas[2 * R :]
        blank_e, label_e, e = exponents[:R], exponents[R : 2 * R], exponents[2 * R :]
        base = bases[: sizes[b, STEPS]]
        N, slack = steps_of(T, U, modified)
        lay_out(U, N, slack, base)
        values = array_at(address, (T - 1) * frame_pitch + U * node_pitch + V, model)
        labels = targets[first : first + U]
        gather(values, T, U, frame_pitch, node_pitch, labels, blank, modified, base, blank_m, label_m)
        bad, beyond, upward, low = to_scaled(mantissas[: 2 * R], exponents[: 2 * R], MOST_UPWARD / N)
        if bad:
            statuses[b] = NOT_FINITE
            own[:] = np.nan if wanted == ARCS else 0.0
            continue
        if beyond or (low and upward):
            statuses[b] = UNDECIDED
            continue
        end = forward(U, N, slack, base, wanted != SUM, blank_m, blank_e, label_m, label_e, m, e)
        total_m, total_e = m[end], e[end]
        if total_e == -np.inf:
            statuses[b] = NO_FINITE_PATH
            own[:] = 0.0
            continue
        # Of the up to 2ᴺ paths, those with a log-prob that is low must not matter.
        if total_e < LEAST or (low and total_e < N + NEGLIGIBLE - PRECISE / LN_2):
            statuses[b] = UNDECIDED
            continue
        totals[b] = log_of(total_m, total_e)
        if wanted != SUM:
            # The forward sums end where the two rows of the backward ones begin.
            backward(
                U, N, slack, base, blank_m, blank_e, label_m, label_e, m, e, m[R:], e[R:],
                total_m, total_e, label_factor, wanted == NODES,
            )  # fmt: skip
            deliver(T, U, modified, base, blank_m, label_m, wanted, own)
