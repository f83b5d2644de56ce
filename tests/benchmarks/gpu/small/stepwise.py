"""Stepwise monotonic attention: expectations, their gradients and hard paths, in both layouts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alignd_kernels.dtypes import DType
from alignd_kernels.status import Status
from alignd_kernels.stepwise import gpu
from alignd_kernels.stepwise import reference as specification
from alignd_kernels.stepwise.tensors import PaddedBatch
from benchmarks import peers
from benchmarks.gpu.place import Place
from benchmarks.gpu.small.judge import Scores, grid, near, same

KERNELS = (gpu,)
SHAPES = [(3, 7), (1, 2), (33, 40), (32, 65), (64, 33), (5, 1), (65, 70), (31, 31), (2, 129), (0, 4)]
"""Tokens and frames, padded to the largest."""


def check(place: Place, dtype: DType, count: int) -> None:
    rng = np.random.default_rng(1)
    shapes = SHAPES[:count]
    S, T = (max(sizes) for sizes in zip(*shapes))
    # Above 0 and below in equal parts: staying and moving both matter.
    energies = grid(rng, (count, S, T)) + np.float32(0.75)
    upstream = grid(rng, (count, S, T))
    for frames_first in (False, True):
        check_layout(place, dtype, energies, upstream, shapes, frames_first)


def check_layout(
    place: Place, dtype: DType, energies: Scores, upstream: Scores, shapes: list[tuple[int, int]], frames_first: bool
) -> None:
    torch = peers.torch_module()

    def there(values: Scores, stored: str) -> object:
        turned = values.transpose(0, 2, 1) if frames_first else values
        return torch.from_numpy(np.ascontiguousarray(turned)).to(place.device, getattr(torch, stored))

    def back(tensor: object) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = torch.as_tensor(tensor).double().cpu().numpy()
        return found.transpose(0, 2, 1) if frames_first else found

    lengths = torch.tensor(shapes, device=place.device).T.contiguous()
    batch = PaddedBatch(there(energies, dtype.value), lengths[0], lengths[1], frames_first=frames_first)
    alpha = gpu.forward(batch)
    slopes, _ = gpu.backward(batch, alpha, there(upstream, np.dtype(dtype.accumulator).name))
    paths, statuses = (found.cpu().numpy() for found in gpu.hard(batch))
    for index, (S, T) in enumerate(shapes):
        name = f"stepwise, {dtype.value}, {S} × {T}{', tokens contiguous' * frames_first}"
        own, given = energies[index, :S, :T], upstream[index, :S, :T]
        near(f"{name}: expectation", back(alpha)[index, :S, :T], specification.expectation(own))
        near(f"{name}: gradient", back(slopes)[index, :S, :T], specification.gradient(own, given)[0])
        same(f"{name}: hard", paths[index, :T], specification.hard(own) if S else np.zeros(T))
        same(f"{name}: status", statuses[index], Status.OK)
