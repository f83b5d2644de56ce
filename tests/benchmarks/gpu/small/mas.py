"""Best paths of monotonic alignment search, ragged and padded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignd_kernels.dtypes import DType
from alignd_kernels.mas import gpu
from alignd_kernels.mas import reference as specification
from alignd_kernels.ragged import offsets_of
from benchmarks import peers
from benchmarks.gpu.place import Place
from benchmarks.gpu.small.judge import Scores, grid, mas_batch, same

KERNELS = (gpu,)
SHAPES = [(1, 1), (1, 33), (31, 31), (32, 65), (33, 64), (65, 97), (3, 2), (0, 5), (127, 129), (130, 259)]
"""Tokens and frames: around the edges of strips and chunks, and items that have no path."""


def check(place: Place, dtype: DType, count: int) -> None:
    rng = np.random.default_rng(1)
    check_ragged(place, dtype, [grid(rng, shape) for shape in SHAPES[:count]])
    check_padded(place, dtype)


def check_ragged(place: Place, dtype: DType, items: Sequence[Scores]) -> None:
    batch = mas_batch(items, dtype)
    result = gpu.align(batch, place.device)
    durations = np.split(result.durations, offsets_of(batch.tokens)[1:-1])
    for index, item in enumerate(items):
        name = f"MAS, {dtype.value}, {item.shape}"
        status, expected, score = specification.maximum_path(item, dtype.accumulator)
        same(name, result.statuses[index], status)
        same(name, durations[index], expected)
        same(name, result.scores[index], score)


def check_padded(place: Place, dtype: DType) -> None:
    """A tensor on the device, of which the kernels read a part."""
    torch = peers.torch_module()
    value = grid(np.random.default_rng(2), (2, 9, 21))
    lengths = torch.tensor([[9, 5], [21, 13]], device=place.device)
    tensor = torch.from_numpy(value).to(place.device, getattr(torch, dtype.value))
    durations = gpu.launch(tensor, lengths[0], lengths[1])[0].cpu().numpy()
    for index, (S, T) in enumerate([(9, 21), (5, 13)]):
        _, expected, _ = specification.maximum_path(value[index, :S, :T], dtype.accumulator)
        same(f"MAS, padded, {dtype.value}", durations[index, :S], expected)
