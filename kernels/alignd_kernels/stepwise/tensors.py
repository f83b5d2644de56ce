"""A batch of padded energies as torch tensors, in a layout that kernels read. Imports torch."""

import math
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Padded energies and what is to be done with them; all that are tensors are on one device.

    Attributes:
        energies: contiguous [N, S, T], or [N, T, S] where `frames_first`.
        tokens, frames: of each item, as the device's kernels take lengths.
        initial: of the accumulator's type, contiguous [N, S]: what the attention starts as; None for token 0.
        keep: whether the last token keeps its mass, p = 1; else it loses 1 − p in each frame.
        before: whether the attention starts before frame 0; else in frame 0, whose energies go unused.
        frames_first: which axis of the energies is contiguous; results lie as they do.
    """

    energies: torch.Tensor
    tokens: Any
    frames: Any
    initial: torch.Tensor | None = None
    keep: bool = True
    before: bool = False
    frames_first: bool = False


def accumulator(energies: torch.Tensor) -> torch.dtype:
    """Type in which the kernels sum."""
    return torch.float64 if energies.dtype == torch.float64 else torch.float32


def batch_of(
    energies: torch.Tensor,
    tokens: Any,
    frames: Any,
    initial: torch.Tensor | None = None,
    keep: bool = True,
    before: bool = False,
) -> PaddedBatch:
    """Energies [..., S, T] as the kernels take them, read where they lie if one of their last two axes is contiguous
    and the others follow: also a transposed view of [..., T, S]."""
    frames_first = lie_frames_first(energies)
    values = flat(energies.detach(), frames_first)
    if initial is not None:
        initial = initial.detach().to(accumulator(energies)).contiguous().view(len(values), energies.shape[-2])
    return PaddedBatch(values, tokens, frames, initial, keep, before, frames_first)


def lie_frames_first(energies: torch.Tensor) -> bool:
    """Whether they lie in memory as [..., T, S]."""
    return not energies.is_contiguous() and energies.transpose(-1, -2).is_contiguous()


def flat(tensor: torch.Tensor, frames_first: bool) -> torch.Tensor:
    """[..., S, T] as [N, S, T], or [N, T, S] where frames come first, contiguous."""
    tensor = tensor.transpose(-1, -2) if frames_first else tensor
    return tensor.reshape(math.prod(tensor.shape[:-2]), *tensor.shape[-2:]).contiguous()


def shaped_like(energies: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """What the kernels made of these energies, in their shape; it lies in memory as they do."""
    if lie_frames_first(energies):
        return found.view(energies.transpose(-1, -2).shape).transpose(-1, -2)
    return found.view(energies.shape)
