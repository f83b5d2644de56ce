# mypy: allow-untyped-calls
"""A batch of attention maps as the GPU kernels take it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from alignd_kernels.attention.batch import AttentionBatch, Mode
from alignd_kernels.attention.gpu_item import FRAMES_PER_BLOCK, MAX_STEPS, PADDING_ROWS
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_batch import OnDevice
from alignd_kernels.gpu_common import TORCH_DTYPES, with_end
from alignd_kernels.gpu_copies import staged, to_device
from alignd_kernels.gpu_table import each, padded_table, same
from alignd_kernels.mas import gpu as mas
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.mas.gpu_item import MAX_PITCH
from alignd_kernels.ragged import offsets_of


class Sizes(NamedTuple):
    """How much an item, or all of them, have of each thing that `gpu_item.ROWS` tells of: heads, largest values,
    tokens, frames, blocks of frames, cells or logarithms, words of back-pointers, of borders (in each plane), strips
    and tiles."""

    rates: Any
    largest: Any
    tokens: Any
    frames: Any
    blocks: Any
    cells: Any
    bits: Any
    borders: Any
    strips: Any
    tiles: Any


def _up(sizes: Any, block: int) -> Any:
    return -(-sizes // block)


def sizes_of(heads: Any, tokens: Any, frames: Any, mode: Mode, log: bool) -> Sizes:
    """Of items whose lengths are not negative."""
    H, S, T = heads, tokens, frames
    none = 0 * S
    cells = bits = borders = strips = tiles = none
    if mode == "dtw":
        strips = _up(S, 32)
        cells = strips * (T + 31) * 32
        bits = strips * _up(T + 31, 32) * 64
        borders = np.maximum(strips - 1, 0) * T
        tiles = strips * _up(T + 31, 32)
    elif mode == "mas" and log:
        cells = S * T
        tiles = _up(S, 32) * _up(T, 32)
    return Sizes(H, H * T, S, T, H * _up(T, FRAMES_PER_BLOCK.value), cells, bits, borders, strips, tiles)


def may_align(batch: AttentionBatch) -> Any:
    """Which items are aligned, as far as their lengths tell: bool [B]."""
    H, S, T = batch.heads, batch.tokens, batch.frames
    fits = (H >= 1) & (S >= 1) & (T >= 1) & (MAX_STEPS.value >= S + T)
    return fits & (S <= T) if batch.mode == "mas" else fits


def aligned_type(dtype: DType, log: bool) -> DType:
    """Of what is aligned: the values themselves, or their logarithms."""
    return DType(np.dtype(dtype.accumulator).name) if log else dtype


Search = Callable[[torch.Tensor | None], mas.Launch]
"""Makes, of the logarithms if they are aligned, the launch of monotonic alignment search; row `VALUES` of its table is
its own if they are not."""


@dataclass(frozen=True, slots=True)
class DeviceBatch(OnDevice):
    """On the device.

    Attributes:
        values: of all items, in any shape.
        tokens, frames: int64 [B].
        table: see `gpu_item`.
        mode, log: as in `AttentionBatch`.
        groups: of 32 heads, of the item that has most.
        widest: strips of the widest item.
        totals: of all items.
        search: for mode "mas".
    """

    values: torch.Tensor
    tokens: torch.Tensor
    frames: torch.Tensor
    table: torch.Tensor
    mode: Mode
    log: bool
    groups: int
    widest: int
    totals: Sizes
    search: Search

    @property
    def given(self) -> torch.Tensor:
        return self.values

    def zeros(self, size: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        """The same, cleared."""
        return torch.zeros(size, dtype=dtype, device=self.device)

    def cells(self) -> torch.Tensor:
        """Memory for cells, and what is read behind them; or for logarithms."""
        return self.empty(self.totals.cells + (PADDING_ROWS * 32 if self.mode == "dtw" else 0))


def on_device(batch: AttentionBatch, device: torch.device) -> DeviceBatch:
    """A batch of the host's, of one item at least, copied: one copy of the values, one of all else."""
    good = may_align(batch)
    H, S, T = (np.maximum(np.asarray(sizes, np.int64), 0) for sizes in (batch.heads, batch.tokens, batch.frames))
    heads, tokens, frames = (np.where(good, lengths, 0) for lengths in (H, S, T))
    of_good = sizes_of(heads, tokens, frames, batch.mode, batch.log)
    sizes = of_good._replace(rates=H, tokens=S, frames=T)
    starts = [offsets_of(size) for size in sizes]
    totals = Sizes(*(int(row[-1]) for row in starts))
    rows = batch.frames if batch.row_pitches is None else batch.row_pitches
    head_pitches = batch.tokens * rows if batch.head_pitches is None else batch.head_pitches
    values, offsets = staged(batch.values, batch.sources, batch.offsets, device, TORCH_DTYPES[batch.dtype])
    table = with_end([offsets, head_pitches, rows, *starts, batch.tokens, batch.frames])
    (there,) = to_device(device, table)
    kind = aligned_type(batch.dtype, batch.log)

    def search(logarithms: torch.Tensor | None) -> mas.Launch:
        maps, begins, pitches = (values, offsets, rows) if logarithms is None else (logarithms, starts[5][:-1], T)
        return mas.ragged(MasBatch(maps, kind, begins, S, T, pitches), device)

    return DeviceBatch(
        values,
        there[-2],
        there[-1],
        there,
        batch.mode,
        batch.log,
        max(1, int(_up(of_good.rates, 32).max())),
        max(1, int(of_good.strips.max())),
        totals,
        search,
    )


def padded(attention: torch.Tensor, tokens: torch.Tensor, frames: torch.Tensor, mode: Mode, log: bool) -> DeviceBatch:
    """A padded batch that lies on the device already, of one item at least: read where it lies, never waited for.

    Args:
        attention: [B, H, S, T] of float16, bfloat16, float32 or float64; frames contiguous, other strides free.
        tokens, frames: int64 [B]; a length beyond the padded size gives `Status.INTERNAL`.

    Raises:
        ValueError: frames are not contiguous.
    """
    B, H, S, T = attention.shape
    if T > 1 and attention.stride(3) != 1:
        raise ValueError("frames must be contiguous")
    if abs(attention.stride(2)) > MAX_PITCH.value:
        attention = attention.contiguous()
    device = attention.device
    sizes = Sizes(*map(int, sizes_of(H, S, T, mode, log)))
    strides = attention.stride()
    table = padded_table(device, B, (*each(strides[0]), *same(*strides[1:3]), *each(*sizes)))

    def search(logarithms: torch.Tensor | None) -> mas.Launch:
        if logarithms is not None:
            return mas.padded(logarithms.view(B, S, T), tokens, frames)
        # Of any head: where an item's chosen one begins is written into the table.
        launch = mas.padded(attention[:, 0] if H else attention.new_zeros((B, S, T)), tokens, frames)
        return launch._replace(table=launch.table.clone())

    return DeviceBatch(
        attention,
        tokens.contiguous(),
        frames.contiguous(),
        table,
        mode,
        log,
        max(1, int(_up(H, 32))),
        max(1, sizes.strips),
        Sizes(*(B * size for size in sizes)),
        search,
    )
