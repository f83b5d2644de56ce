"""The expectation as a function that torch differentiates. Imports torch."""

from types import ModuleType
from typing import Any

import torch

from alignd_kernels.differentiable_once import differentiable_once
from alignd_kernels.stepwise.tensors import batch_of, flat, shaped_like


class Expectation(torch.autograd.Function):  # type: ignore[misc]
    """Alpha [..., S, T] of energies of that shape; `tokens` and `frames` are of the items, all leading axes in one, as
    the device's kernels take lengths."""

    @staticmethod
    def forward(ctx: Any, energies: Any, initial: Any, tokens: Any, frames: Any, keep: bool, before: bool) -> Any:
        batch = batch_of(energies, tokens, frames, initial, keep, before)
        alpha = shaped_like(energies, kernels(energies).forward(batch))
        ctx.save_for_backward(energies, initial, alpha)
        ctx.settings = tokens, frames, keep, before
        return alpha

    @staticmethod
    def backward(ctx: Any, upstream: Any) -> Any:
        energies, initial, alpha = ctx.saved_tensors
        tokens, frames, keep, before = ctx.settings
        batch = batch_of(energies, tokens, frames, initial, keep, before)
        past, given = (flat(tensor.detach(), batch.frames_first) for tensor in (alpha, upstream))
        found, by_initial = kernels(energies).backward(batch, past, given)
        name = "stepwise_expectation"
        gradient = differentiable_once(shaped_like(energies, found).to(energies.dtype), name)
        if by_initial is None:
            return gradient, None, None, None, None, None
        other = by_initial.view(initial.shape).to(initial.dtype)
        return gradient, differentiable_once(other, name), None, None, None, None


def kernels(energies: Any) -> ModuleType:
    """The module whose functions take a `PaddedBatch` of these energies, by the device that they are on.

    Raises:
        NotImplementedError: for any but the CPU and a CUDA device.
    """
    if energies.device.type == "cpu":
        from alignd_kernels.stepwise import cpu_tensors

        return cpu_tensors
    if energies.device.type == "cuda":
        from alignd_kernels.stepwise import gpu

        return gpu
    raise NotImplementedError(
        "stepwise attention runs on the CPU and on CUDA devices, "
        f"but the energies are on {energies.device}: pass energies.cpu()"
    )
