"""Sums over all paths of monotonic alignment search, tokens first and frames first."""

from __future__ import annotations

import dataclasses

import numpy as np

from alignd_kernels.dtypes import DType
from alignd_kernels.mas import gpu_sum
from alignd_kernels.mas import soft_reference as specification
from alignd_kernels.ragged import offsets_of
from benchmarks.gpu.place import Place
from benchmarks.gpu.small.judge import grid, mas_batch, near, same
from benchmarks.gpu.small.mas import SHAPES

KERNELS = (gpu_sum,)


def check(place: Place, dtype: DType, count: int) -> None:
    rng = np.random.default_rng(1)
    items = [grid(rng, shape) for shape in SHAPES[:count]]
    for frames_first in (False, True):
        batch = mas_batch([np.ascontiguousarray(item.T) for item in items] if frames_first else items, dtype)
        if frames_first:
            batch = dataclasses.replace(batch, tokens=batch.frames, frames=batch.tokens, frames_first=True)
        nodes = gpu_sum.posteriors(batch, place.device)
        sums = gpu_sum.costs(batch, place.device)
        assert sums.gradients is not None
        starts = offsets_of(batch.tokens * batch.frames)
        for index, item in enumerate(items):
            name = f"soft MAS, {dtype.value}, {item.shape}{', frames first' * frames_first}"
            status, expected, _ = specification.posteriors(item)
            cost, slopes = specification.cost(item)
            own = slice(starts[index], starts[index + 1])
            turned = [(matrix.T if frames_first else matrix).reshape(-1) for matrix in (expected, slopes)]
            same(name, nodes.statuses[index], status)
            near(f"{name}: posteriors", nodes.posteriors[own], turned[0])
            near(f"{name}: cost", sums.costs[index], cost)
            near(f"{name}: gradient", sums.gradients[own], turned[1])
