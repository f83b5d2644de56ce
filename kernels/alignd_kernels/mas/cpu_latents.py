"""Monotonic alignment search from latents on the CPU: lattices by NumPy's matrix products, paths by `mas.cpu`.

A lattice is stored for the search alone. To compute it strip by strip inside the search would save writing and reading
S × T values once, a tenth of the products' time at 80 channels and less at more, and lose BLAS.
"""

import time
from collections.abc import Iterable
from typing import Final

import numpy as np

from alignd_kernels.dtypes import DType
from alignd_kernels.mas import cpu
from alignd_kernels.mas.batch import MasBatch, MasResult
from alignd_kernels.mas.latents import LatentBatch, gaussians, groups_of, lattice, lattice_bytes
from alignd_kernels.ragged import Int64Array, offsets_of
from alignd_kernels.threads import WorkerPool

GROUP_CELLS: Final = 1 << 22
"""Lattice cells that are stored before they are searched, 16 MiB of float32: threads share a group's items."""


def align(batch: LatentBatch, pool: WorkerPool | None = None) -> MasResult:
    """Best path of each item; see `mas.cpu.align`. The score is of the lattice as it was computed."""
    begun = time.perf_counter_ns()
    feasible = (batch.tokens > 0) & (batch.tokens <= batch.frames) & (batch.channels > 0)
    # Of an item that has no path no lattice is computed.
    cells = np.where(feasible, batch.tokens * batch.frames, 0)
    parts = [_search(batch, group, cells, pool) for group in groups_of(cells.tolist(), GROUP_CELLS)]
    durations = np.concatenate([part.durations for part in parts]) if parts else np.zeros(0, np.int32)
    scores = np.concatenate([part.scores for part in parts]) if parts else np.zeros(0)
    statuses = np.concatenate([part.statuses for part in parts]) if parts else np.zeros(0, np.int32)
    return MasResult(durations, scores, statuses, time.perf_counter_ns() - begun)


def _search(batch: LatentBatch, group: slice, cells: Int64Array, pool: WorkerPool | None) -> MasResult:
    offsets = offsets_of(cells[group])
    accumulator = batch.dtype.accumulator
    values = np.empty(int(offsets[-1]), accumulator)
    for place, b in enumerate(range(group.start, group.stop)):
        if cells[b]:
            own = values[offsets[place] : offsets[place + 1]].reshape(int(batch.tokens[b]), int(batch.frames[b]))
            lattice(*gaussians(batch, b), out=own)
    tokens, frames = batch.tokens[group], batch.frames[group]
    tokens = np.where(batch.channels[group] > 0, tokens, 0)  # an item without channels is an empty one
    dtype = DType(np.dtype(accumulator).name)
    found = cpu.align(MasBatch(values, dtype, offsets[:-1], tokens, frames, frames), pool)
    if (tokens == batch.tokens[group]).all():
        return found
    durations = np.zeros(int(batch.tokens[group].sum()), np.int32)
    durations[np.repeat(batch.channels[group] > 0, batch.tokens[group])] = found.durations
    return MasResult(durations, found.scores, found.statuses, found.kernel_ns)


def scratch_bytes(batch: LatentBatch) -> Int64Array:
    """Memory that an item in progress needs beside its input and output, int64 [B]: its lattice (`lattice_bytes`) and
    what the search needs; 0 where S > T. Items are stored together up to 16 MiB."""
    nothing, T = np.zeros(0, batch.dtype.accumulator), batch.frames
    dtype = DType(np.dtype(batch.dtype.accumulator).name)
    search = cpu.scratch_bytes(MasBatch(nothing, dtype, T, batch.tokens, T, T))
    need: Int64Array = np.where(search > 0, lattice_bytes(batch) + search, 0)
    return need


def warm_up(dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from the cache: those of `mas.cpu`."""
    cpu.warm_up({DType(np.dtype(dtype.accumulator).name) for dtype in dtypes})
