"""Monotonic alignment search from latents on a GPU: lattices by torch's matrix products, paths by `mas.gpu`.

Products are in float32 proper: TF32 keeps 10 bits of what a difference of squares is made of.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from alignd_kernels.dtypes import DType
from alignd_kernels.mas import gpu
from alignd_kernels.mas.batch import MasBatch, MasResult
from alignd_kernels.mas.latents import LOG_2_PI, LatentBatch, gaussians, lattice_bytes
from alignd_kernels.ragged import Int64Array, offsets_of


def align(batch: LatentBatch, device: str) -> MasResult:
    """Best path of each item; see `mas.gpu.align`. The score is of the lattice as it was computed."""
    begun = time.perf_counter_ns()
    feasible = (batch.tokens > 0) & (batch.tokens <= batch.frames) & (batch.channels > 0)
    cells = np.where(feasible, batch.tokens * batch.frames, 0)
    offsets = offsets_of(cells)
    accumulator = DType(np.dtype(batch.dtype.accumulator).name)
    values = torch.empty(int(offsets[-1]), dtype=getattr(torch, accumulator.value), device=device)
    for b in np.flatnonzero(cells).tolist():
        own = values[int(offsets[b]) : int(offsets[b + 1])].view(int(batch.tokens[b]), int(batch.frames[b]))
        z, mean, log_sigma = (None if x is None else torch.from_numpy(x).to(device) for x in gaussians(batch, b))
        _lattice(z, mean, log_sigma, own)
    tokens = np.where(batch.channels > 0, batch.tokens, 0)
    found = gpu.align(MasBatch(values, accumulator, offsets[:-1], tokens, batch.frames, batch.frames), device)
    durations = np.zeros(int(batch.tokens.sum()), np.int32)
    durations[np.repeat(batch.channels > 0, batch.tokens)] = found.durations
    return MasResult(durations, found.scores, found.statuses, time.perf_counter_ns() - begun)


_settings = threading.Lock()


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """Torch's setting is the process's, and lanes are threads: one at a time, and as it was afterwards."""
    matmul = torch.backends.cuda.matmul
    name, exact = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    with _settings:
        before = getattr(matmul, name)
        setattr(matmul, name, exact)
        try:
            yield
        finally:
            setattr(matmul, name, before)


def _lattice(z: Any, mean: Any, log_sigma: Any, out: Any) -> None:
    """`latents.lattice` on the device."""
    with _without_tf32():
        inverse = torch.ones_like(mean) if log_sigma is None else torch.exp(-2 * log_sigma)
        scaled = mean * inverse
        torch.matmul(scaled, z.T, out=out)
        out.addmm_(inverse, (z * z).T, alpha=-0.5)
        constant = -0.5 * (mean * scaled).sum(1) - 0.5 * z.shape[1] * LOG_2_PI
        out += (constant if log_sigma is None else constant - log_sigma.sum(1))[:, None]


def scratch_bytes(batch: LatentBatch) -> Int64Array:
    """Memory on the device beside input and output, int64 [B]: the lattice and what its search needs."""
    accumulator = DType(np.dtype(batch.dtype.accumulator).name)
    nothing, T = np.zeros(0, accumulator.storage), batch.frames
    search = gpu.scratch_bytes(MasBatch(nothing, accumulator, T, batch.tokens, T, T))
    need: Int64Array = np.where(search > 0, lattice_bytes(batch) + search, 0)
    return need


def warm_up(device: str) -> None:
    """The kernels are those of `mas.gpu`."""
    gpu.warm_up(device)
