"""The expectation as a function that torch differentiates. Imported only where it is called: it needs torch."""

import math
from typing import Any

import numpy as np

from alignd_kernels.arrays import host_scores
from alignd_kernels.differentiable_once import differentiable_once
from alignd_kernels.ragged import Int64Array
from alignd_kernels.stepwise.cpu import StepwiseBatch
from alignd_kernels.threads import default_pool
from alignd_kernels.with_torch import torch_module

torch: Any = torch_module()


class Expectation(torch.autograd.Function):  # type: ignore[misc]
    """Alpha [..., S, T] of energies of that shape; `tokens` and `frames` are of the items, all leading axes in one."""

    @staticmethod
    def forward(
        ctx: Any, energies: Any, initial: Any, tokens: Int64Array, frames: Int64Array, keep: bool, before: bool
    ) -> Any:
        found = kernels(energies).forward(batch_of(energies, tokens, frames, initial, keep, before), default_pool())
        alpha = _tensor(found, energies)
        ctx.save_for_backward(energies, initial, alpha)
        ctx.settings = tokens, frames, keep, before
        return alpha

    @staticmethod
    def backward(ctx: Any, upstream: Any) -> Any:
        energies, initial, alpha = ctx.saved_tensors
        tokens, frames, keep, before = ctx.settings
        batch = batch_of(energies, tokens, frames, initial, keep, before)
        past, given = (_flat(tensor, batch.frames_first).numpy() for tensor in (alpha.detach(), upstream.detach()))
        found, by_initial = kernels(energies).backward(batch, past, given, default_pool())
        name = "stepwise_expectation"
        gradient = differentiable_once(_tensor(found, energies).to(energies.dtype), name)
        if by_initial is None:
            return gradient, None, None, None, None, None
        other = torch.from_numpy(by_initial).view(initial.shape).to(initial.dtype)
        return gradient, differentiable_once(other, name), None, None, None, None


def kernels(energies: Any) -> Any:
    """The module whose functions take a `StepwiseBatch` of these energies, by the device that they are on.

    Raises:
        NotImplementedError: for any but the CPU.
    """
    if energies.device.type == "cpu":
        from alignd_kernels.stepwise import cpu

        return cpu
    raise NotImplementedError(
        f"stepwise attention runs on the CPU only, but the energies are on {energies.device}: pass energies.cpu()"
    )


def batch_of(
    energies: Any,
    tokens: Int64Array,
    frames: Int64Array,
    initial: Any = None,
    keep: bool = True,
    before: bool = False,
) -> StepwiseBatch:
    """Energies [..., S, T] as the kernels take them, read where they lie if one of their last two axes is contiguous
    and the others follow: also a transposed view of [..., T, S]."""
    frames_first = _frames_first(energies)
    storage, dtype = host_scores(_flat(energies.detach(), frames_first))
    if initial is not None:
        kind = torch.float64 if dtype.accumulator is np.float64 else torch.float32
        initial = initial.detach().to(kind).contiguous().view(len(tokens), energies.shape[-2]).numpy()
    return StepwiseBatch(storage, dtype, tokens, frames, initial, keep, before, frames_first)


def _frames_first(energies: Any) -> bool:
    """Whether they lie in memory as [..., T, S]."""
    return bool(not energies.is_contiguous() and energies.transpose(-1, -2).is_contiguous())


def _flat(tensor: Any, frames_first: bool) -> Any:
    """[..., S, T] as [N, S, T], or [N, T, S] where frames come first, contiguous."""
    tensor = tensor.transpose(-1, -2) if frames_first else tensor
    return tensor.reshape(math.prod(tensor.shape[:-2]), *tensor.shape[-2:]).contiguous()


def _tensor(array: Any, energies: Any) -> Any:
    """What the kernels made of these energies, as a tensor that has their shape and lies in memory as they do."""
    S, T = energies.shape[-2:]
    tensor = torch.from_numpy(array)
    if _frames_first(energies):
        return tensor.view(*energies.shape[:-2], T, S).transpose(-1, -2)
    return tensor.view(energies.shape)
