"""The CPU's kernels of stepwise monotonic attention for torch tensors. Imports torch."""

from typing import Any

import torch

from alignd_kernels import arrays
from alignd_kernels.arrays import host_scores
from alignd_kernels.ragged import Int64Array
from alignd_kernels.status import Status
from alignd_kernels.stepwise import cpu
from alignd_kernels.stepwise.tensors import PaddedBatch
from alignd_kernels.threads import default_pool


def lengths(energies: torch.Tensor, given: Any, name: str, items: int, largest: int) -> Int64Array:
    """The caller's lengths as these kernels take them: see `arrays.lengths`."""
    return arrays.lengths(given, name, items, largest)


def forward(batch: PaddedBatch) -> torch.Tensor:
    """See `cpu.forward`."""
    return torch.from_numpy(cpu.forward(_on_host(batch), default_pool()))


def backward(
    batch: PaddedBatch, alpha: torch.Tensor, upstream: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """See `cpu.backward`."""
    found, by_initial = cpu.backward(_on_host(batch), alpha.numpy(), upstream.numpy(), default_pool())
    return torch.from_numpy(found), None if by_initial is None else torch.from_numpy(by_initial)


def hard(batch: PaddedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Paths, see `cpu.hard`, and statuses int32 [N]."""
    paths, good = cpu.hard(_on_host(batch))
    return torch.from_numpy(paths), torch.where(torch.from_numpy(good), int(Status.OK), int(Status.NOT_FINITE))


def _on_host(batch: PaddedBatch) -> cpu.StepwiseBatch:
    storage, dtype = host_scores(batch.energies)
    initial = None if batch.initial is None else batch.initial.numpy()
    return cpu.StepwiseBatch(
        storage, dtype, batch.tokens, batch.frames, initial, batch.keep, batch.before, batch.frames_first
    )
