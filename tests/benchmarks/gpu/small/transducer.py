"""Best paths of transducers, and sums over all of theirs, in both topologies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import offsets_of
from alignd_kernels.transducer import gpu, gpu_sum
from alignd_kernels.transducer import reference as specification
from alignd_kernels.transducer.batch import reduced
from benchmarks.gpu.place import Place
from benchmarks.gpu.small.judge import Scores, grid, joined, lengths, near, same

KERNELS = (gpu, gpu_sum)
SHAPES = [(1, 0), (2, 3), (33, 31), (31, 32), (5, 33), (65, 64), (3, 5), (0, 2), (130, 9)]
"""Frames and labels."""


def check(place: Place, dtype: DType, count: int) -> None:
    rng = np.random.default_rng(1)
    for modified in (False, True):
        items = [grid(rng, (T, U + 1, 2)) for T, U in SHAPES[:count]]
        check_ragged(place, dtype, items, modified)


def check_ragged(place: Place, dtype: DType, items: Sequence[Scores], modified: bool) -> None:
    arcs, starts = joined(items, dtype)
    labels = lengths(items, 1) - 1
    batch = reduced(arcs, dtype, starts[:-1], lengths(items, 0), labels, modified=modified)
    result = gpu.align(batch, place.device)
    sums = gpu_sum.costs(batch, place.device)
    assert sums.gradients is not None
    emissions = np.split(result.emission_frames, offsets_of(labels)[1:-1])
    for index, item in enumerate(items):
        name = f"transducer, {dtype.value}, {item.shape}{', modified' * modified}"
        T, U = len(item), item.shape[1] - 1
        status = specification.check_labels(np.ones(U, np.int32), T, 2, 0, modified)
        if status == status.OK:
            status, expected, score = specification.align(item, modified, dtype.accumulator)
            same(name, emissions[index], expected)
            same(name, result.scores[index], score)
            cost, slopes = specification.cost(item, modified)
            near(f"{name}: cost", sums.costs[index], cost)
            near(f"{name}: gradient", sums.gradients[starts[index] : starts[index + 1]], slopes.reshape(-1))
        same(name, result.statuses[index], status)
        same(name, sums.statuses[index], status)
