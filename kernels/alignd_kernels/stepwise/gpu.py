"""Stepwise monotonic attention on a GPU: expectations, their gradients, and hard paths, of tensors that lie there.

All is queued on the device's current stream, in one launch a call, and never waited for. Lengths that lie on the device
are not looked at before: an item that goes beyond its tensor has NaN in all of its results.

Numbers, with ulp = 2⁻²³ (2⁻⁵² for float64): all that is summed is positive, and a step multiplies each term by at most
1 + 7 ulp (of p and 1 − p, the larger one is within 4 ulp, the smaller one within 6, see `gpu_chances`; a product, a
sum), so expectations are off by at most 7 · T ulp, relative, after T frames. What falls below the type's smallest
normal number loses digits and then is 0; the smaller of p and 1 − p is 0 at once below it (energies beyond 87 in
float32, 708 in float64). Of an item the same alone and in any batch, bit for bit.

Beside input and output a launch needs 8 · p bytes for each frame and each border between two strips of 32 tokens, with
p = 1 (2 for float64): 1/16 of float32's energies.
"""

from collections.abc import Iterable
from typing import Any

import torch

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_borders import PATIENCE, borders
from alignd_kernels.gpu_common import (
    DTYPES,
    TORCH_DTYPES,
    check_device,
    current,
    launcher,
    lengths_on,
)
from alignd_kernels.stepwise import gpu_backward, gpu_forward, gpu_hard
from alignd_kernels.stepwise.gpu_backward import stepwise_backward_kernel
from alignd_kernels.stepwise.gpu_forward import stepwise_forward_kernel
from alignd_kernels.stepwise.gpu_hard import stepwise_hard_kernel
from alignd_kernels.stepwise.gpu_item import MAX_PITCH
from alignd_kernels.stepwise.tensors import PaddedBatch, accumulator


def lengths(energies: torch.Tensor, given: Any, name: str, items: int, largest: int) -> torch.Tensor:
    """The caller's lengths as these kernels take them: see `gpu_common.lengths_on`."""
    return lengths_on(energies.device, given, name, items, largest)


def forward(batch: PaddedBatch) -> torch.Tensor:
    """The probability of each token in each frame: of the accumulator's type and the energies' shape, 0 beyond lengths.

    Args:
        batch: on a CUDA device, or the CPU where Triton is interpreted; lengths int64 [N] there. A NaN among the
            energies makes NaN what its mass goes to, and no other item's.

    Raises:
        ValueError: no kernel runs on that device, or there are 2²⁶ tokens or frames or more.
        MemoryError: what is needed does not fit.
    """
    _sizes(batch)
    with current(batch.energies.device):
        alpha = torch.empty(batch.energies.shape, dtype=accumulator(batch.energies), device=batch.energies.device)
        if alpha.numel():
            constants = gpu_forward.constants(DTYPES[batch.energies.dtype], batch.frames_first)
            _run_strips(stepwise_forward_kernel, batch, [], [alpha], constants)
    return alpha


def backward(
    batch: PaddedBatch, alpha: torch.Tensor, upstream: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Derivatives of sum(upstream · alpha) by the energies, 0 beyond lengths, and by `initial`, None where it is.

    Args:
        batch: as for `forward`.
        alpha: its result.
        upstream: of that type and shape, contiguous; what it holds beyond lengths is ignored.

    Raises:
        ValueError, MemoryError: as `forward`.
    """
    _sizes(batch)
    with current(batch.energies.device):
        slopes = torch.empty(alpha.shape, dtype=alpha.dtype, device=alpha.device)
        if batch.initial is None:
            by_initial = alpha.new_empty(0)
        else:
            by_initial = torch.zeros_like(batch.initial)  # what it stays where there are no frames
        if slopes.numel():
            constants = gpu_backward.constants(DTYPES[batch.energies.dtype], batch.frames_first)
            _run_strips(stepwise_backward_kernel, batch, [alpha, upstream], [slopes, by_initial], constants)
    return slopes, None if batch.initial is None else by_initial


def hard(batch: PaddedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """The token of each frame where every choice is made, int32 [N, T], 0 beyond lengths; and statuses, int32 [N]:
    NOT_FINITE where NaN decides, INTERNAL for lengths that go beyond the tensor.

    Args:
        batch: as for `forward`; `initial`, `keep` and `before` are not looked at.

    Raises:
        ValueError, MemoryError: as `forward`.
    """
    energies = batch.energies
    N, S, T = _sizes(batch)
    with current(energies.device):
        paths = torch.empty((N, T), dtype=torch.int32, device=energies.device)
        statuses = torch.empty(N, dtype=torch.int32, device=energies.device)
        if N:
            lengths_there = batch.tokens.contiguous(), batch.frames.contiguous()
            arguments = (energies, *lengths_there, paths, statuses, S, T)
            constants = gpu_hard.constants(DTYPES[energies.dtype], batch.frames_first)
            launcher(stepwise_hard_kernel, energies.device, N, arguments, **constants)()
    return paths, statuses


def warm_up(device: torch.device | str, dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from Triton's cache, so that no later call has to."""
    one = torch.ones(1, dtype=torch.int64, device=device)
    for dtype in dtypes:
        energies = torch.zeros((1, 1, 1), dtype=TORCH_DTYPES[dtype], device=device)
        for frames_first in (False, True):
            batch = PaddedBatch(energies, one, one, frames_first=frames_first)
            alpha = forward(batch)
            backward(batch, alpha, alpha)
            hard(batch)


def _sizes(batch: PaddedBatch) -> tuple[int, int, int]:
    """Items, tokens and frames.

    Raises:
        ValueError: no kernel runs on their device, or counts as many.
    """
    check_device(batch.energies.device)
    N, rows, columns = batch.energies.shape
    if max(rows, columns) > MAX_PITCH:
        raise ValueError(f"energies must have at most {MAX_PITCH} tokens and as many frames, not {max(rows, columns)}")
    return (N, columns, rows) if batch.frames_first else (N, rows, columns)


def _run_strips(
    kernel: Any,
    batch: PaddedBatch,
    read: list[torch.Tensor],
    written: list[torch.Tensor],
    constants: dict[str, object],
) -> None:
    """Queue a kernel of one program for each strip of each item; see `gpu_forward` for its arguments."""
    energies, device = batch.energies, batch.energies.device
    N, S, T = _sizes(batch)
    strips = -(-S // 32)
    words = N * (strips - 1) * T
    planes = 2 if energies.dtype == torch.float64 else 1
    initial = energies.new_empty(0, dtype=accumulator(energies)) if batch.initial is None else batch.initial
    lengths_there = batch.tokens.contiguous(), batch.frames.contiguous()
    settings = (int(batch.initial is not None), int(batch.keep), int(batch.before))
    with borders(device, planes * words, 0, N * strips) as memory:
        arguments = (
            *(energies, *lengths_there, initial, *read, memory.words, memory.tickets, *written),
            *(N, S, T, *settings, memory.first_ticket, memory.epoch, words, PATIENCE),
        )
        launcher(kernel, device, N * strips, arguments, **constants)()
