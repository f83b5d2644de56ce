# mypy: allow-untyped-defs
"""Sums over all paths of monotonic alignment search on the CPU (Numba): posteriors, costs and their gradients.

A frame is a column over tokens, held as mantissas and exponents (`vector_math`), so that nothing leaves a type's range
and the error does not grow with the scores. Of each cell is kept which share of its sum came by staying on the token.
The way back needs nothing else: the posteriors of a frame are what those of the next one send back by these shares,
without an exponential, and sum to 1 in every frame.

Numbers, with ulp = 2⁻²³ (2⁻⁵² for float64) and scores up to 20,000 in magnitude: a step multiplies what it sums by at
most 1 + 4 ulp (an exponential, two sums' terms, a product), as if the item had other scores, off by that much each. So
the log-likelihood is off by at most 4 · T ulp, and posteriors, of which each share is rounded too, by at most 8 · T
ulp; over 2,000 frames of float32 that is 0.001 and 0.002 at worst. Larger scores add their own ulp for each frame.
Where the log-likelihood is beyond ±5.8 million in float32, exponents would not be exact: no path is finite then.
"""

import time
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.compile_cache import kernel, part
from alignd_kernels.dtypes import DType
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.mas.soft_batch import MasCosts, MasPosteriors
from alignd_kernels.numba_helpers import addresses_of, array_at, model_of, take_next, widen
from alignd_kernels.ragged import Int64Array, offsets_of
from alignd_kernels.status import Status
from alignd_kernels.sums import BLOCK, costs_of, normalise, not_finite, summed
from alignd_kernels.threads import WorkerPool
from alignd_kernels.vector_math import exp_parts, power_of_two

OK: Final = int(Status.OK)
EMPTY: Final = int(Status.EMPTY)
TOO_FEW_FRAMES: Final = int(Status.TOO_FEW_FRAMES)
NOT_FINITE: Final = int(Status.NOT_FINITE)
NO_FINITE_PATH: Final = int(Status.NO_FINITE_PATH)

CELL_WORK: Final = 8
"""What a cell costs, in cells of the search for the best path, by which the pool reckons."""


def posteriors(batch: MasBatch, pool: WorkerPool | None = None) -> MasPosteriors:
    """The probability of each cell, and the log-likelihood.

    Args:
        batch: items of any lengths, zero included.
        pool: shares a batch among threads, item by item; None does all on the calling thread.

    Raises:
        MemoryError: the scratch for an item (`scratch_bytes`) cannot be had; no result is lost but this batch's.
    """
    begun = time.perf_counter_ns()
    found = np.zeros(_cells(batch), batch.dtype.accumulator)
    scores, statuses = sums(batch, found, _rows_of(batch), 1, pool)
    return MasPosteriors(found, scores, statuses, time.perf_counter_ns() - begun)


def costs(batch: MasBatch, pool: WorkerPool | None = None, gradients: bool = True) -> MasCosts:
    """Negative log-likelihoods, and their gradients by the scores. Arguments and errors as for `posteriors`.

    Args:
        gradients: whether they are wanted.
    """
    begun = time.perf_counter_ns()
    found = np.zeros(_cells(batch) if gradients else 0, batch.dtype.accumulator)
    scores, statuses = sums(batch, found, _rows_of(batch), -1 if gradients else 0, pool)
    values = costs_of(scores, statuses).astype(batch.dtype.accumulator)
    return MasCosts(values, found if gradients else None, statuses, time.perf_counter_ns() - begun)


def scratch_bytes(batch: MasBatch) -> Int64Array:
    """Memory that an item in progress needs beside its input and output, int64 [B].

    S · T + 20 S + 2 T + 4 accumulators, with S in place of S · T where the batch is `frames_first`; 0 where S > T. A
    thread takes, of each part, as much as the item of its batch that needs most of it.
    """
    S, T = batch.tokens, batch.frames
    shares = S if batch.frames_first else S * T
    found = (shares + (BLOCK + 4) * S + 2 * T + 4) * np.dtype(batch.dtype.accumulator).itemsize
    return np.where((S > 0) & (S <= T), found, 0).astype(np.int64)


def warm_up(dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from the cache, so that no later call has to."""
    one = np.ones(1, np.int64)
    for dtype in dtypes:
        posteriors(MasBatch(np.zeros(1, dtype.storage), dtype, one - 1, one, one, one))


def sums(
    batch: MasBatch,
    out: npt.NDArray[np.floating],
    rows: tuple[Int64Array, Int64Array],
    factor: int,
    pool: WorkerPool | None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]:
    """Log-likelihood and status of each item, and its posteriors times a factor written where the caller wants them.

    Args:
        batch: the items.
        out: of the accumulator's type, 1-D and zero.
        rows: int64 [B] each, where in `out` an item's first row begins, and how far it is to the next.
        factor: 1, or −1 for gradients, which are NaN in items with a bad score; 0 leaves `out` alone.
        pool: shares the items among threads.
    """
    kept, addresses = addresses_of(batch.values, batch.dtype, batch.sources, batch.offsets)
    items = np.empty((6, len(batch)), np.int64)
    for field, given in enumerate((addresses, batch.tokens, batch.frames, batch.pitches, *rows)):
        items[field] = given
    scores, statuses = np.full(len(batch), np.nan), np.zeros(len(batch), np.int32)
    feasible = (items[1] > 0) & (items[1] <= items[2])
    S, T = (int(items[field, feasible].max(initial=0)) for field in (1, 2))
    cells = items[1] * items[2] * feasible
    words = 0 if batch.frames_first or not factor else int(cells.max(initial=0))
    cursor = np.zeros(1, np.int64)

    def work() -> None:
        kind = batch.dtype.accumulator
        columns, shares = np.empty((2, S + T + 1), kind), np.empty(max(words, S), kind)
        turned, back = np.empty((BLOCK, S), kind), np.empty((2, S + 1), kind)
        _sum_items(
            model_of(batch.dtype), items, batch.frames_first, factor, cursor, columns, turned, shares, back, out,
            scores, statuses,
        )  # fmt: skip

    if pool is None or pool.threads == 1:
        work()
    else:
        pool.run_everywhere(work, cells * CELL_WORK)
    del kept
    return scores, statuses


def _cells(batch: MasBatch) -> int:
    return int((np.maximum(batch.tokens, 0) * np.maximum(batch.frames, 0)).sum())


def _rows_of(batch: MasBatch) -> tuple[Int64Array, Int64Array]:
    """Items end to end: where their rows begin, and how far they are apart."""
    S, T = np.maximum(batch.tokens, 0), np.maximum(batch.frames, 0)
    return offsets_of(S * T)[:-1], S if batch.frames_first else T


@kernel
def _sum_items(
    model, items, frames_first, factor, cursor, columns, turned, shares, back, out, scores, statuses,
):  # fmt: skip
    """The items that `cursor` gives, on this thread. See `sums`."""
    while True:
        b = take_next(cursor)
        if b >= items.shape[1]:
            break
        S, T = items[1, b], items[2, b]
        first, pitch = items[4, b], items[5, b]
        if S <= 0 or T <= 0:
            statuses[b] = EMPTY
            continue
        if S > T:
            statuses[b] = TOO_FEW_FRAMES
            continue
        cells = (items[0, b], S, T, items[3, b])
        # Where tokens are contiguous, what is kept of a cell stands where its posterior will.
        kept = out if frames_first and factor else shares
        place = (first, pitch) if frames_first and factor else (0, S if factor else 0)
        scores[b], good = forward(cells, frames_first, model, columns, turned, kept, place)
        if not good:
            status = NOT_FINITE if _visits_bad(cells, frames_first, model) else NO_FINITE_PATH
            statuses[b] = status
            scores[b] = np.nan
            if factor:
                rows, length = (T, S) if frames_first else (S, T)
                for row in range(rows):
                    own = out[first + row * pitch : first + row * pitch + length]
                    own[:] = np.nan if status == NOT_FINITE and factor < 0 else 0.0
            continue
        statuses[b] = OK
        if factor:
            backward(S, T, back, kept, place, factor)
            if not frames_first:
                _turn_back(S, T, shares, out, first, pitch)


@part
def first_token(t, S, T):
    """The first token that a path can be on in frame t."""
    return max(0, S - T + t)


@part
def end_token(t, S):
    """One past the last token that a path can be on in frame t."""
    return min(S, t + 1)


@part
def forward(cells, frames_first, model, columns, turned, shares, place):
    """Log-likelihood of an item, and whether it is finite; the shares of all cells, from `place[0]` on, frames
    `place[1]` apart.

    Token s of frame t stands at T − 1 − t + s of the columns: its predecessor by moving on stood there, by staying one
    further. So a column overwrites the one before, and each of its cells what no later one reads.
    """
    address, S, T, pitch = cells
    mantissas, exponents = columns[0, : S + T + 1], columns[1, : S + T + 1]
    mantissas[:] = 1
    exponents[:] = -np.inf
    exponents[T - 1] = 0  # the virtual cell before (0, 0)
    bad = False
    for t in range(T):
        begin, end = first_token(t, S, T), end_token(t, S)
        M = mantissas[T - 1 - t + begin : T - t + end]
        E = exponents[T - 1 - t + begin : T - t + end]
        own = shares[place[0] + t * place[1] + begin : place[0] + t * place[1] + end]
        if frames_first:
            step(array_at(address + (t * pitch + begin) * model.itemsize, end - begin, model), M, E, own)
        else:
            if t % BLOCK == 0:
                _turn(cells, model, t, turned)
            step(turned[t % BLOCK, begin:end], M, E, own)
        bad |= not_finite(E[: end - begin])
        if t % BLOCK == BLOCK - 1:
            normalise(M[: end - begin], E[: end - begin])
    found = summed(np.log(np.float64(mantissas[S - 1])) + np.float64(exponents[S - 1]) * np.log(2.0), exponents)
    return found, not bad and np.isfinite(found)


@part
def step(row, M, E, shares):
    """One frame of the tokens that a path can be on: M[s] and E[s] hold what token s − 1 had before it, M[s + 1] and
    E[s + 1] what token s had.

    Loops run from 0 over arrays cut to what they need, here and below: an index that might be negative keeps LLVM from
    vectorising, and so do more than four arrays, whose overlaps it would have to rule out.
    """
    for s in range(len(row)):
        f, n = exp_parts(widen(row[s]))
        top = E[s] if E[s] > E[s + 1] else E[s + 1]
        stay = M[s + 1] * power_of_two(E[s + 1] - top)
        both = stay + M[s] * power_of_two(E[s] - top)
        shares[s] = stay / both if both > 0 else both
        M[s] = both * f
        E[s] = top + n


@part
def backward(S, T, back, shares, place, factor):
    """Put each cell's posterior times the factor in place of its share."""
    mass, moving = back[0], back[1]
    mass[: S + 1] = 0
    mass[S - 1] = 1
    sign = mass.dtype.type(factor)
    for t in range(T - 1, -1, -1):
        begin, end = first_token(t, S, T), end_token(t, S)
        own = shares[place[0] + t * place[1] + begin : place[0] + t * place[1] + end]
        split(own, mass[begin:end], moving[begin:end], sign)
        add(mass[max(begin, 1) - 1 : end - 1], moving[max(begin, 1) : end])


@part
def split(shares, mass, moving, sign):
    """What stays of the mass and what moves on, by shares, in whose place the mass itself is put, with a sign."""
    for s in range(len(mass)):
        here = mass[s]
        stay = here * shares[s]
        shares[s] = here * sign
        moving[s] = here - stay
        mass[s] = stay


@part
def add(to, what):
    for s in range(len(to)):
        to[s] += what[s]


@part
def _turn(cells, model, t, turned):
    """Frames t … t + BLOCK − 1 as rows over tokens, of those cells that a path can visit at least."""
    address, S, T, pitch = cells
    count = min(BLOCK, T - t)
    for s in range(first_token(t, S, T), end_token(t + count - 1, S)):
        row = array_at(address + (s * pitch + t) * model.itemsize, count, model)
        for k in range(count):
            turned[k, s] = widen(row[k])


@part
def _turn_back(S, T, found, out, first, pitch):
    """Rows over tokens as rows over frames, in blocks that stay in cache; of the cells that a path can visit."""
    for t in range(0, T, BLOCK):
        count = min(BLOCK, T - t)
        for s in range(first_token(t, S, T), end_token(t + count - 1, S)):
            for u in range(max(t, s), min(t + count, T - S + s + 1)):
                out[first + s * pitch + u] = found[u * S + s]


@part
def _visits_bad(cells, frames_first, model):
    """Whether a score that a path can visit is NaN or +inf."""
    address, S, T, pitch = cells
    for t in range(T):
        for s in range(first_token(t, S, T), end_token(t, S)):
            place = t * pitch + s if frames_first else s * pitch + t
            if not widen(array_at(address + place * model.itemsize, 1, model)[0]) < np.inf:
                return True
    return False
