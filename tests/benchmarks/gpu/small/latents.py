"""Best paths from latents, ragged and padded: torch's products, and the search of what they give.

Frames lie on the means of their tokens, and all tokens share their deviations: no rounding of the products decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignd_kernels.dtypes import DType
from alignd_kernels.mas import gpu_latents
from alignd_kernels.mas import reference as specification
from alignd_kernels.mas.gpu_latents_padded import maximum_path_from_latents_on_gpu
from alignd_kernels.mas.latents import LatentBatch, Rows, reference_lattice
from alignd_kernels.ragged import offsets_of
from alignd_kernels.status import Status
from benchmarks import peers
from benchmarks.gpu.place import Place
from benchmarks.gpu.small.judge import Scores, grid, joined, lengths, near, same

KERNELS = (gpu_latents,)
SHAPES = [(3, 7, 5), (4, 3, 4), (33, 64, 3), (1, 1, 1), (31, 33, 17), (3, 9, 0), (65, 70, 2), (0, 5, 4), (2, 129, 33)]
"""Tokens, frames and channels."""

Item = tuple[Scores, Scores, Scores]
"""z [T, C], mean [S, C], log_sigma [S, C]."""


def item_of(rng: np.random.Generator, S: int, T: int, C: int) -> Item:
    """Neighbouring tokens differ in their first channel, if there is one."""
    mean = grid(rng, (S, C))
    if C:
        mean[:, 0] = np.arange(S) % 2
    z = mean[np.arange(T) * S // T] if S else np.zeros((T, C), np.float32)
    return z, mean, np.tile(grid(rng, (1, C)) / 4, (S, 1))


def check(place: Place, dtype: DType, count: int) -> None:
    rng = np.random.default_rng(1)
    check_ragged(place, dtype, [item_of(rng, *shape) for shape in SHAPES[:count]])
    check_padded(place, dtype, [item_of(rng, *shape) for shape in ((3, 8, 4), (2, 5, 4))])


def expected_of(item: Item, dtype: DType) -> tuple[Status, np.ndarray, float]:
    """Status, durations and score."""
    z, mean, log_sigma = item
    if not z.shape[1]:
        return Status.EMPTY, np.zeros(len(mean), np.int32), np.nan
    lattice = reference_lattice(z, mean, log_sigma)
    status, durations, score = specification.maximum_path(lattice, dtype.accumulator)
    return status, durations, float(score)


def check_ragged(place: Place, dtype: DType, items: Sequence[Item]) -> None:
    latents, means, log_sigmas = (
        Rows(values, starts[:-1]) for values, starts in (joined(parts, dtype) for parts in zip(*items))
    )
    z, mean, _ = zip(*items)
    tokens = lengths(mean, 0)
    batch = LatentBatch(latents, means, log_sigmas, dtype, tokens, lengths(z, 0), lengths(z, 1))
    result = gpu_latents.align(batch, place.device)
    durations = np.split(result.durations, offsets_of(tokens)[1:-1])
    for index, item in enumerate(items):
        name = f"latents, {dtype.value}, {len(item[1])} tokens, {item[0].shape}"
        status, expected, score = expected_of(item, dtype)
        same(name, result.statuses[index], status)
        same(name, durations[index], expected)
        near(f"{name}: score", result.scores[index], score)


def check_padded(place: Place, dtype: DType, items: Sequence[Item]) -> None:
    """Tensors on the device, of which the kernels read a part; what lies beyond is NaN."""
    torch = peers.torch_module()
    z, mean, log_sigma = (padded(parts) for parts in zip(*items))
    frames, tokens = (torch.tensor([len(item[part]) for item in items], device=place.device) for part in (0, 1))
    kind = getattr(torch, dtype.value)
    latents, means, log_sigmas = (torch.from_numpy(one).to(place.device, kind) for one in (z, mean, log_sigma))
    path = maximum_path_from_latents_on_gpu(latents, means, log_sigmas, frames, tokens, True)
    assert not isinstance(path, tuple)
    for index, item in enumerate(items):
        S, T = len(item[1]), len(item[0])
        found = path[index].cpu().numpy()
        same(f"latents, padded, {dtype.value}", found[:S, :T].sum(1), expected_of(item, dtype)[1])
        same(f"latents, padded, {dtype.value}: beyond", found.sum(), T)


def padded(parts: Sequence[Scores]) -> Scores:
    """[B, rows, channels] of matrices of as many channels."""
    found = np.full((len(parts), max(map(len, parts)), parts[0].shape[1]), np.nan, np.float32)
    for index, part in enumerate(parts):
        found[index, : len(part)] = part
    return found
