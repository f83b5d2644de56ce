"""Attention maps: focus rates, and the chosen head in every mode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignd_kernels.attention import gpu
from alignd_kernels.attention import reference as specification
from alignd_kernels.attention.batch import MODES, AttentionBatch, Mode
from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import offsets_of
from benchmarks.gpu.place import Place
from benchmarks.gpu.small.judge import Scores, grid, joined, lengths, same

KERNELS = (gpu,)
SHAPES = [(2, 5, 9), (1, 33, 40), (3, 1, 5), (1, 32, 31), (2, 65, 70), (1, 4, 1), (0, 3, 4), (2, 31, 129)]
"""Heads, tokens and frames."""


def check(place: Place, dtype: DType, count: int) -> None:
    rng = np.random.default_rng(1)
    maps = [grid(rng, shape) for shape in SHAPES[:count]]
    for mode in MODES:
        # For the walk, probabilities: of them 0 … 7/8 in eighths.
        check_mode(place, dtype, [item * np.float32(-0.5) for item in maps] if mode == "stepwise" else maps, mode)


def check_mode(place: Place, dtype: DType, items: Sequence[Scores], mode: Mode) -> None:
    values, starts = joined(items, dtype)
    heads, tokens, frames = (lengths(items, axis) for axis in range(3))
    batch = AttentionBatch(values, dtype, starts[:-1], heads, tokens, frames, mode)
    result = gpu.align(batch, place.device)
    begins, ends = (np.split(found, offsets_of(tokens)[1:-1]) for found in (result.starts, result.ends))
    rates = np.split(result.focus_rates, offsets_of(heads)[1:-1])
    for index, item in enumerate(items):
        name = f"attention, {mode}, {dtype.value}, {item.shape}"
        expected = specification.align(item, mode, accumulator=dtype.accumulator)
        same(name, result.statuses[index], expected.status)
        same(f"{name}: head", result.heads[index], expected.head)
        same(f"{name}: focus rates", rates[index], expected.focus_rates)
        same(f"{name}: starts", begins[index], expected.starts)
        same(f"{name}: ends", ends[index], expected.ends)
        same(f"{name}: score", np.float32(result.scores[index]), np.float32(expected.score))
