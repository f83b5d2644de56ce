# mypy: allow-untyped-calls
"""Batches of soft monotonic alignment on a GPU, as the kernels take them: copied from the host, or padded tensors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_batch import OnDevice
from alignd_kernels.gpu_common import DTYPES, TORCH_DTYPES, with_end
from alignd_kernels.gpu_copies import staged, to_device
from alignd_kernels.gpu_table import each, padded_table, same
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.mas.gpu_item import MAX_PITCH
from alignd_kernels.mas.gpu_sum_item import FRAMES_PER_CHUNK
from alignd_kernels.ragged import offsets_of


def strips_of(tokens: Any) -> Any:
    """How many strips of 32 tokens."""
    return -(-tokens // 32)


def shares_of(tokens: Any, frames: Any, dtype: DType) -> Any:
    """Cells of whole strips and chunks in which a path can be, of items that have one."""
    N = FRAMES_PER_CHUNK[dtype]
    return strips_of(tokens) * ((frames - tokens + 30 + N) // N + 1) * N * 32


def border_words(tokens: Any, frames: Any) -> Any:
    """Words, in each plane, of the borders between an item's strips: one for each frame that visits a token."""
    return (strips_of(tokens) - 1) * (frames - tokens + 1)


@dataclass(frozen=True, slots=True, eq=False)
class DeviceBatch(OnDevice):
    """Attributes:
    values: of all items.
    tokens, frames: int64 [B].
    table: see `gpu_sum_item`.
    frames_first: the items' layout, and that of what is found.
    widest: strips of the widest item that may have a path.
    shares, border_words, strips, cells: of all items; cells as they are returned.
    """

    values: torch.Tensor
    tokens: torch.Tensor
    frames: torch.Tensor
    table: torch.Tensor
    frames_first: bool
    widest: int
    shares: int
    border_words: int
    strips: int
    cells: int

    @property
    def given(self) -> torch.Tensor:
        return self.values


def on_device(batch: MasBatch, device: torch.device) -> DeviceBatch:
    """A batch of the host's, of one item at least, copied: one copy of the scores, one of all else."""
    good = (batch.tokens >= 1) & (batch.tokens <= batch.frames)
    S, T = np.where(good, batch.tokens, 1), np.where(good, batch.frames, 1)  # of others, nothing is summed
    tokens, frames = np.maximum(batch.tokens, 0), np.maximum(batch.frames, 0)
    sizes = (tokens, frames, shares_of(S, T, batch.dtype), border_words(S, T), strips_of(S), tokens * frames)
    starts = [offsets_of(size) for size in sizes]
    values, offsets = staged(batch.values, batch.sources, batch.offsets, device, TORCH_DTYPES[batch.dtype])
    found_pitch = tokens if batch.frames_first else frames
    table = with_end([offsets, batch.pitches, *starts, found_pitch, batch.tokens, batch.frames])
    (there,) = to_device(device, table)
    return DeviceBatch(
        values,
        there[-2],
        there[-1],
        there,
        batch.frames_first,
        int(strips_of(S).max()),
        *(int(row[-1]) for row in starts[2:]),
    )


def padded(value: torch.Tensor, tokens: torch.Tensor, frames: torch.Tensor) -> DeviceBatch:
    """A padded batch that lies on the device already, of one item at least: never waited for, and read where it lies
    if its tokens or its frames are contiguous.

    Args:
        value: [B, S, T] of float16, bfloat16, float32 or float64.
        tokens, frames: int64 [B]; a length beyond the padded size gives `Status.INTERNAL`.
    """
    B, S, T = value.shape
    frames_first = S > 1 and T > 1 and value.stride(2) != 1 and value.stride(1) == 1
    columns = 1 if frames_first else 2
    if (value.shape[columns] > 1 and value.stride(columns) != 1) or abs(value.stride(3 - columns)) > MAX_PITCH.value:
        value, frames_first = value.contiguous(), False
    pitch = value.stride(2 if frames_first else 1)
    device = value.device
    # The lengths are unknown here: what is enough for any S' ≤ S, T' ≤ T.
    widest = max(1, strips_of(S))
    sizes = (S, T, widest * shares_of(1, T, DTYPES[value.dtype]), (widest - 1) * T, widest, S * T)
    rows = (*each(value.stride(0)), *same(pitch), *each(*sizes), *same(S if frames_first else T))
    table = padded_table(device, B, rows)
    return DeviceBatch(
        value,
        tokens.contiguous(),
        frames.contiguous(),
        table,
        frames_first,
        widest,
        *(B * size for size in sizes[2:]),
    )
