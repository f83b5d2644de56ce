"""Monotonic alignment search from latents on the CPU: lattices by `gaussian_cells`, paths by `mas.cpu`.

A lattice is stored for its search alone, as many items' at a time as caches hold. It is not what two matrix products
give, but closer to the truth: distances are squared, not squares subtracted.
"""

import time
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.dtypes import DType
from alignd_kernels.mas import cpu, gaussian_cells
from alignd_kernels.mas.batch import MasBatch, MasResult
from alignd_kernels.mas.gaussian_cells import CELLS, CHANNELS, FIELDS, FRAMES, LOG_SIGMA, MEAN, PITCH, TOKENS, Z
from alignd_kernels.mas.latents import LatentBatch, Rows, groups_of
from alignd_kernels.mas.tile import STRIP_VECTORS
from alignd_kernels.numba_helpers import addresses_of, lane_count
from alignd_kernels.ragged import Int64Array, offsets_of
from alignd_kernels.scratch import from_cache_line
from alignd_kernels.threads import WorkerPool

GROUP_CELLS: Final = 1 << 22
"""Lattice cells that are stored before they are searched, 16 MiB of float32: threads share a group's strips."""


def align(batch: LatentBatch, pool: WorkerPool | None = None) -> MasResult:
    """Best path of each item; see `mas.cpu.align`. The score is of the lattice as it was computed.

    With u = 2⁻²⁴ (2⁻⁵³ for float64) and d the distance in standard deviations, a cell is off by at most about
    u · (½(C + 10) · Σ d² + Σ |d · mean| / σ + 2 · |Σ log σ + ½ C log 2π|). An item's lattice is bit for bit the same
    alone and in any batch.
    """
    begun = time.perf_counter_ns()
    cells = np.where(batch.feasible, batch.frames * _pitches(batch), 0)
    parts = [_search(batch, group, pool) for group in groups_of(cells.tolist(), GROUP_CELLS)]
    durations = np.concatenate([part.durations for part in parts]) if parts else np.zeros(0, np.int32)
    scores = np.concatenate([part.scores for part in parts]) if parts else np.zeros(0)
    statuses = np.concatenate([part.statuses for part in parts]) if parts else np.zeros(0, np.int32)
    return MasResult(durations, scores, statuses, time.perf_counter_ns() - begun)


def _pitches(batch: LatentBatch) -> Int64Array:
    """Elements from a frame's cells to the next one's: whole cache lines, and an odd number of them, since rows at a
    distance of a power of two fall on each other in the caches."""
    N = lane_count(batch.dtype)
    pitches: Int64Array = ((batch.tokens + N - 1) // N | 1) * N
    return pitches


def _search(batch: LatentBatch, group: slice, pool: WorkerPool | None) -> MasResult:
    found = cpu.align(lattices(batch, group, pool), pool)
    filled = batch.channels[group] > 0  # an item without channels is an empty one
    if filled.all():
        return found
    tokens = batch.tokens[group]
    durations = np.zeros(int(tokens.sum()), np.int32)
    durations[np.repeat(filled, tokens)] = found.durations
    return MasResult(durations, found.scores, found.statuses, found.kernel_ns)


def lattices(batch: LatentBatch, group: slice, pool: WorkerPool | None = None) -> MasBatch:
    """Of a group of items, the cells that paths can visit: tokens contiguous, without tokens where without channels."""
    accumulator, pitches, feasible = batch.dtype.accumulator, _pitches(batch)[group], batch.feasible[group]
    tokens, frames, channels = batch.tokens[group], batch.frames[group], batch.channels[group]
    size = np.dtype(accumulator).itemsize
    offsets = offsets_of(np.where(feasible, frames * pitches, 0))
    values = from_cache_line(int(offsets[-1]), accumulator)
    items, kept = _table(batch, group)
    items[CELLS], items[PITCH] = values.ctypes.data + offsets[:-1] * size, pitches * size
    if batch.dtype.storage.itemsize == 2:
        kept.append(_widen(batch.dtype, items, offsets_of(np.where(feasible, frames * channels, 0)), pool))
    P = STRIP_VECTORS * lane_count(batch.dtype)
    strips = np.where(feasible, -(-tokens // P), 0)
    starts = offsets_of(strips)
    tasks = np.stack(
        [np.repeat(np.arange(len(strips)), strips), np.arange(starts[-1]) - np.repeat(starts[:-1], strips)]
    )
    run = partial(gaussian_cells.fill, batch.dtype, items, tasks, np.zeros(1, np.int64))
    _everywhere(pool, run, (frames * channels)[tasks[0]])
    dtype = DType(np.dtype(accumulator).name)
    empty = np.where(channels > 0, tokens, 0)
    return MasBatch(values, dtype, offsets[:-1], empty, frames, pitches, frames_first=True)


def _table(batch: LatentBatch, group: slice) -> tuple[Int64Array, list[Any]]:
    """What `gaussian_cells` knows of the items, but for their cells; and what must live as long as it is in use."""
    items = np.zeros((FIELDS, group.stop - group.start), np.int64)
    items[TOKENS], items[FRAMES] = batch.tokens[group], batch.frames[group]
    items[CHANNELS] = batch.channels[group]
    size, kept = batch.dtype.storage.itemsize, []
    for field, rows in ((Z, batch.latents), (MEAN, batch.means), (LOG_SIGMA, batch.log_sigmas)):
        if rows is not None:
            owner, addresses = _addresses(rows, batch.dtype, group)
            items[field] = addresses
            row, channel = rows.steps or (items[CHANNELS], 1)
            items[field + 1], items[field + 2] = row * size, channel * size
            kept.append(owner)
    return items, kept


def _addresses(rows: Rows, dtype: DType, group: slice) -> tuple[object, Int64Array]:
    sources = None if rows.sources is None else rows.sources[group]
    return addresses_of(rows.buffers, dtype, sources, rows.offsets[group])


def _widen(dtype: DType, items: Int64Array, starts: Int64Array, pool: WorkerPool | None) -> npt.NDArray[Any]:
    """The latents in the accumulator's type, which the items then refer to."""
    wide = np.empty(int(starts[-1]), dtype.accumulator)
    run = partial(gaussian_cells.widened, dtype, items.copy(), np.zeros(1, np.int64), wide, starts)
    _everywhere(pool, run, np.diff(starts))
    items[Z] = wide.ctypes.data + starts[:-1] * wide.itemsize
    items[Z + 1], items[Z + 2] = items[CHANNELS] * wide.itemsize, wide.itemsize
    return wide


def _everywhere(pool: WorkerPool | None, run: Any, costs: Int64Array) -> None:
    if pool is None:
        run()
    else:
        pool.run_everywhere(run, costs)


def scratch_bytes(batch: LatentBatch) -> Int64Array:
    """Memory that an item in progress needs beside its input and output, int64 [B]: in the accumulator's type T rows of
    its lattice, S rounded up to an odd number of cache lines, z widened if it is of half precision, and a strip's
    weights, 64 rows of C; and what the search needs. 0 where S > T. Items are stored together up to 16 MiB."""
    nothing, T, C = np.zeros(0, batch.dtype.accumulator), batch.frames, batch.channels
    size, half = nothing.itemsize, batch.dtype.storage.itemsize == 2
    search = cpu.scratch_bytes(MasBatch(nothing, DType(nothing.dtype.name), T, batch.tokens, T, T))
    rows = T * _pitches(batch) + (T * C if half else 0) + 2 * STRIP_VECTORS * lane_count(batch.dtype) * C
    need: Int64Array = np.where(search > 0, size * rows + search, 0)
    return need


def warm_up(dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from the cache: those of `mas.cpu` too."""
    wanted = set(dtypes)
    cpu.warm_up({DType(np.dtype(dtype.accumulator).name) for dtype in wanted})
    one = np.ones(1, np.int64)
    for dtype in wanted:
        rows = Rows(np.zeros(1, dtype.storage), one - 1)
        align(LatentBatch(rows, rows, rows, dtype, one, one, one))
