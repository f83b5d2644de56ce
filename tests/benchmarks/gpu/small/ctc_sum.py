"""Sums over all paths of CTC."""

from __future__ import annotations

import numpy as np

from alignd_kernels.ctc import gpu_sum
from alignd_kernels.ctc import sum_reference as specification
from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import offsets_of
from benchmarks.gpu.place import Place
from benchmarks.gpu.small.ctc import SHAPES, STAR_SCORE, items_of
from benchmarks.gpu.small.judge import ctc_batch, near, same

KERNELS = (gpu_sum,)
NO_LABELS = (5, 3, 0)
"""Legal here: all frames are blank."""


def check(place: Place, dtype: DType, count: int) -> None:
    items = items_of(np.random.default_rng(1), [NO_LABELS, *SHAPES[: count - 1]])
    batch = ctc_batch(items, dtype, STAR_SCORE)
    nodes = gpu_sum.posteriors(batch, place.device)
    sums = gpu_sum.costs(batch, place.device)
    assert sums.gradients is not None
    states = offsets_of(batch.frames * (2 * batch.target_lengths + 1))
    cells = offsets_of(batch.frames * batch.vocabulary)
    for index, (item, targets) in enumerate(items):
        name = f"CTC's sums, {dtype.value}, {item.shape}, {len(targets)} labels"
        status, expected, _ = specification.posteriors(item, targets, star_score=STAR_SCORE)
        cost, slopes = specification.cost(item, targets, star_score=STAR_SCORE)
        same(name, nodes.statuses[index], status)
        near(f"{name}: posteriors", nodes.posteriors[states[index] : states[index + 1]], expected.reshape(-1))
        near(f"{name}: cost", sums.costs[index], cost)
        near(f"{name}: gradient", sums.gradients[cells[index] : cells[index + 1]], slopes.reshape(-1))
