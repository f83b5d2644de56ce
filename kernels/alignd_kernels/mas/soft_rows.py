# mypy: allow-untyped-defs
"""Softmax over each frame's own columns, and what it adds to the gradient of a sum over paths (Numba)."""

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.compile_cache import kernel, part
from alignd_kernels.dtypes import DType
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.numba_helpers import addresses_of, array_at, model_of, widen
from alignd_kernels.ragged import Int64Array
from alignd_kernels.threads import WorkerPool
from alignd_kernels.vector_math import exp

LANES: Final = 16
"""Partial sums and maxima that are kept apart, since LLVM does not change the order of one sum's terms."""

CELL_WORK: Final = 4
"""What a cell costs, in cells of the search for the best path."""

FloatArray = npt.NDArray[np.floating]


def normalisers(
    batch: MasBatch, blank: float, starts: Int64Array, pool: WorkerPool
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.float64]]:
    """What turns rows of scores into log-probabilities.

    Args:
        batch: the items, `frames_first`.
        blank: score of one more column; −inf for none.
        starts: int64 [B + 1], where an item's frames begin in what is returned.
        pool: shares the items among threads.

    Returns:
        The largest score of each frame, the sum of exp(score − largest), both of the accumulator's type [starts[-1]];
        and float64 [B], each item's sum over frames of the logarithm of the sum of the exponentials of its scores. It
        is NaN where a score is NaN or +inf, −inf where a frame has no finite one.
    """
    kept, items = _items(batch, starts[:-1])
    kind = batch.dtype.accumulator
    peaks, totals, logs = np.zeros(starts[-1], kind), np.ones(starts[-1], kind), np.zeros(len(batch))

    def work(start: int, stop: int) -> None:
        lanes = np.empty(LANES, kind)
        _normalise(model_of(batch.dtype), items, kind(blank), start, stop, lanes, peaks, totals, logs)

    pool.run(work, items[1] * items[2] * CELL_WORK)
    del kept
    return peaks, totals, logs


def gradients(
    batch: MasBatch,
    normaliser: tuple[FloatArray, FloatArray],
    starts: Int64Array,
    weights: npt.NDArray[np.float64],
    minus: FloatArray,
    out: FloatArray,
    rows: tuple[Int64Array, Int64Array],
    pool: WorkerPool,
) -> None:
    """out = weight · (softmax + minus), of each item; NaN where the weight is, 0 where the weight is.

    Args:
        batch: the items, `frames_first`.
        normaliser: peaks and totals of `normalisers`.
        starts: int64 [B + 1], where an item's frames begin in them.
        weights: float64 [B].
        minus: of the accumulator's type, 1-D: minus the posteriors.
        out: the same.
        rows: int64 [B] each, where in `minus` and `out` an item's first row begins, and how far it is to the next.
        pool: shares the items among threads.
    """
    kept, items = _items(batch, starts[:-1])
    first, apart = (np.ascontiguousarray(field, np.int64) for field in rows)
    model, scale = model_of(batch.dtype), weights.astype(batch.dtype.accumulator)

    def work(start: int, stop: int) -> None:
        _subtract(model, items, start, stop, *normaliser, scale, minus, out, first, apart)

    pool.run(work, items[1] * items[2] * CELL_WORK)
    del kept


def warm_up(dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from the cache, so that no later call has to."""
    one, starts = np.ones(1, np.int64), np.arange(2)
    for dtype in dtypes:
        batch = MasBatch(np.zeros(1, dtype.storage), dtype, one - 1, one, one, one, frames_first=True)
        with WorkerPool(1) as pool:
            peaks, totals, _ = normalisers(batch, -1.0, starts, pool)
            row = np.zeros(1, dtype.accumulator)
            gradients(batch, (peaks, totals), starts, np.ones(1), row, row.copy(), (one - 1, one), pool)


def _items(batch: MasBatch, starts: Int64Array) -> tuple[object, Int64Array]:
    kept, addresses = addresses_of(batch.values, batch.dtype, batch.sources, batch.offsets)
    items = np.empty((5, len(batch)), np.int64)
    for field, given in enumerate((addresses, batch.tokens, batch.frames, batch.pitches, starts)):
        items[field] = given
    return kept, items


@kernel
def _normalise(model, items, blank, start, stop, lanes, peaks, totals, logs):
    for b in range(start, stop):
        S, T, first = items[1, b], items[2, b], items[4, b]
        for t in range(T):
            row = array_at(items[0, b] + t * items[3, b] * model.itemsize, S, model)
            peak = _largest(row, lanes, blank)
            if peak > -np.inf:
                total = _sum_of_exp(row, lanes, peak, blank)
                peaks[first + t], totals[first + t] = peak, total
                logs[b] += np.float64(peak) + np.log(np.float64(total))
            else:
                logs[b] = np.nan if _has_nan(row) else logs[b] - np.inf
            if not logs[b] < np.inf:
                logs[b] = np.nan
                break


@part
def _largest(row, lanes, blank):
    """Of a row with NaN any value, as comparisons with NaN go: the sum of exponentials shows it."""
    lanes[:] = blank
    whole = len(row) - len(row) % LANES
    for first in range(0, whole, LANES):
        some = row[first : first + LANES]
        for lane in range(LANES):
            x = widen(some[lane])
            lanes[lane] = lanes[lane] if lanes[lane] > x else x
    for s in range(whole, len(row)):
        x = widen(row[s])
        lanes[0] = lanes[0] if lanes[0] > x else x
    peak = blank
    for lane in range(LANES):
        peak = peak if peak > lanes[lane] else lanes[lane]
    return peak


@part
def _has_nan(row):
    found = False
    for s in range(len(row)):
        found |= np.isnan(widen(row[s]))
    return found


@part
def _sum_of_exp(row, lanes, peak, blank):
    lanes[:] = 0
    whole = len(row) - len(row) % LANES
    for first in range(0, whole, LANES):
        some = row[first : first + LANES]
        for lane in range(LANES):
            lanes[lane] += exp(widen(some[lane]) - peak)
    total = exp(blank - peak)
    for s in range(whole, len(row)):
        total += exp(widen(row[s]) - peak)
    for lane in range(LANES):
        total += lanes[lane]
    return total


@kernel
def _subtract(model, items, start, stop, peaks, totals, weights, minus, out, first, apart):
    for b in range(start, stop):
        S, T = items[1, b], items[2, b]
        for t in range(T):
            place = first[b] + t * apart[b]
            own = out[place : place + S]
            if weights[b] != weights[b] or weights[b] == 0:
                own[:] = weights[b]
                continue
            row = array_at(items[0, b] + t * items[3, b] * model.itemsize, S, model)
            frame = items[4, b] + t
            _subtract_row(row, peaks[frame], weights[b] / totals[frame], weights[b], minus[place : place + S], own)


@part
def _subtract_row(row, peak, scale, weight, minus, out):
    for s in range(len(row)):
        out[s] = exp(widen(row[s]) - peak) * scale + minus[s] * weight
