"""Monotonic alignment search on a GPU. Imported only where one is used (or Triton's interpreter): it needs torch."""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_borders import PATIENCE, borders
from alignd_kernels.gpu_common import (
    DTYPES,
    TORCH_DTYPES,
    Stopwatch,
    accumulator_of,
    check_device,
    current,
    launcher,
    with_end,
)
from alignd_kernels.gpu_copies import staged, to_device, to_host, together
from alignd_kernels.gpu_table import each, padded_table, same
from alignd_kernels.mas import gpu_forward, gpu_trace
from alignd_kernels.mas.batch import MasBatch, MasResult, row_major
from alignd_kernels.mas.gpu_forward import mas_forward_kernel
from alignd_kernels.mas.gpu_item import MAX_CHUNKS, MAX_PITCH, TOKENS_PER_THREAD
from alignd_kernels.mas.gpu_trace import CHUNKS_PER_PROGRAM, mas_trace_kernel
from alignd_kernels.ragged import Int64Array, offsets_of

FUSED_CHUNKS: Final = 32
"""Of items whose way back, some 0.6 µs a chunk on one warp, takes less than what a second launch costs the host."""


class DeviceResult(NamedTuple):
    """Best paths on the device: as `MasResult`, in the layout of the batch."""

    durations: torch.Tensor
    paths: torch.Tensor
    scores: torch.Tensor
    statuses: torch.Tensor


def _width(dtype: DType) -> int:
    """Tokens of a strip."""
    return 32 * TOKENS_PER_THREAD[dtype]


def _planes(dtype: DType) -> int:
    """Words of a border for each frame."""
    return 2 if dtype is DType.FLOAT64 else 1


def _words(tokens: Any, frames: Any, width: int) -> Any:
    """Words of back-pointers of items that have a path: for whole strips, the chunks that a strip can be in."""
    return -(-tokens // width) * width * ((frames - tokens + width + 30) // 32 + 1)


def _border_words(tokens: Any, frames: Any, width: int) -> Any:
    """Words, in each plane, of the borders between an item's strips: one for each frame that visits a token."""
    return (-(-tokens // width) - 1) * (frames - tokens + 1)


def scratch_bytes(batch: MasBatch) -> Int64Array:
    """Device memory that each item needs beside its input and output, int64 [B]: about 0.3·S·T bytes for float32.

    Exactly 5·⌈S/W⌉·W·(⌊(T − S + W + 30)/32⌋ + 1) for the way back, 8·p·(⌈S/W⌉ − 1)·(T − S + 1) for the borders
    and (4 + a)·T for the path, with a the accumulator's size (4, or 8 for float64), W = 64 and p = 1 (32 and 2 for
    float64); 0 for an item that has no path.
    """
    S, T = batch.tokens, batch.frames
    size, width = np.dtype(batch.dtype.accumulator).itemsize, _width(batch.dtype)
    need = 5 * _words(S, T, width) + 8 * _planes(batch.dtype) * _border_words(S, T, width) + (4 + size) * T
    return np.where((S >= 1) & (S <= T), need, 0)


class Launch(NamedTuple):
    """A batch as the kernels take it.

    Attributes:
        values: of all items.
        tokens, frames: int64 [B].
        table: see `gpu_item`.
        durations, paths: outputs, cleared.
        strips: of the widest item that may have a path.
        chunks: of the longest one.
        strip_count, word_count, border_count: of all items.
    """

    values: torch.Tensor
    tokens: torch.Tensor
    frames: torch.Tensor
    table: torch.Tensor
    durations: torch.Tensor
    paths: torch.Tensor
    strips: int
    chunks: int
    strip_count: int
    word_count: int
    border_count: int

    def enqueue(self, stopwatch: Stopwatch | None = None) -> DeviceResult:
        """Queue the kernels on the current stream, without waiting for them."""
        device, dtype, items = self.values.device, DTYPES[self.values.dtype], self.table.shape[1] - 1
        scores, statuses = together(device, (items, torch.float64), (items, torch.int32))
        best = torch.empty(items, dtype=torch.float64, device=device)
        trouble = torch.empty(self.strip_count, dtype=torch.int32, device=device)
        bits = torch.empty(self.word_count, dtype=torch.int32, device=device)
        moved = torch.empty(self.word_count, dtype=torch.int8, device=device)
        on_path = torch.empty(self.paths.numel(), dtype=accumulator_of(dtype), device=device)
        item = (self.values, self.tokens, self.frames, self.table, self.durations)
        left, found = (bits, moved, best, trouble), (self.paths, scores, statuses, on_path)
        fused = self.chunks <= FUSED_CHUNKS and gpu_forward.fusible(dtype)
        programs = items * self.strips
        with borders(device, _planes(dtype) * self.border_count, items, programs) as memory:
            state = (memory.first_ticket, memory.epoch, self.border_count, PATIENCE)
            strips = (*item, memory.words, memory.tickets, *left, memory.arrivals, *found, items + 1, items, *state)
            launches = [launcher(mas_forward_kernel, device, programs, strips, **gpu_forward.constants(dtype, fused))]
            if not fused:
                chunks = (*item, *left, memory.arrivals, *found, items + 1, items)
                groups = items * -(-self.chunks // CHUNKS_PER_PROGRAM)
                launches.append(launcher(mas_trace_kernel, device, groups, chunks, **gpu_trace.constants(dtype)))
            with stopwatch or nullcontext():
                for launch in launches:
                    launch()
        return DeviceResult(self.durations, self.paths, scores, statuses)


def align(batch: MasBatch, device: torch.device | str, *, paths: bool = False) -> MasResult:
    """Best paths of a batch: two copies in, one or two kernel launches, two copies out, on the device's current stream.

    Args:
        batch: any lengths, also of no items.
        device: a CUDA device, or "cpu" where Triton is interpreted.
        paths: whether `MasResult.paths` is filled.

    Raises:
        ValueError: no kernel runs on `device`.
        MemoryError: the batch and its `scratch_bytes` do not fit.
    """
    device = torch.device(device)
    check_device(device)
    if len(batch) == 0:
        none = np.zeros(0, np.int32)
        return MasResult(none, np.zeros(0), none, 0, none if paths else None)
    batch = row_major(batch)
    with current(device):
        stopwatch = Stopwatch(device)
        result = ragged(batch, device).enqueue(stopwatch)
        wanted = [result.durations, result.scores, result.statuses, *([result.paths] if paths else [])]
        host = to_host(wanted)
    return MasResult(host[0], host[1], host[2], stopwatch.elapsed_ns(), host[3] if paths else None)


def ragged(batch: MasBatch, device: torch.device) -> Launch:
    """A row-major batch of one item at least, copied to the device (its scores only if they do not lie there already)
    as the kernels take it. Row `gpu_item.VALUES` of the table is the launch's own: what writes to it moves the items.
    """
    width = _width(batch.dtype)
    good = (batch.tokens >= 1) & (batch.tokens <= batch.frames)
    S, T = np.where(good, batch.tokens, 1), np.where(good, batch.frames, 1)  # of others, no path is looked for
    starts = [
        offsets_of(size)
        for size in (batch.tokens, _words(S, T, width), _border_words(S, T, width), -(-S // width), batch.frames)
    ]
    all_tokens, words, border_words, strips, all_frames = (int(row[-1]) for row in starts)
    values, offsets = staged(batch.values, batch.sources, batch.offsets, device, TORCH_DTYPES[batch.dtype])
    table = with_end([offsets, batch.pitches, *starts, batch.tokens, batch.frames])
    (table_there,) = to_device(device, table)
    # In this order, as paths are not always wanted.
    durations, paths = together(device, (all_tokens, torch.int32), (all_frames, torch.int32), cleared=True)
    return Launch(
        values,
        table_there[-2],
        table_there[-1],
        table_there,
        durations,
        paths,
        -(-int(S.max()) // width),
        min(-(-int(T.max()) // 32), MAX_CHUNKS.value),
        strips,
        words,
        border_words,
    )


def warm_up(device: torch.device | str, dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from Triton's cache, so that no later call has to."""
    one = np.ones(1, np.int64)
    for dtype in dtypes:
        for frames in (1, 32 * FUSED_CHUNKS + 1) if gpu_forward.fusible(dtype) else (1,):
            values = np.zeros(frames, dtype.storage)
            align(MasBatch(values, dtype, one - 1, one, frames * one, frames * one), device)


def launch(value: torch.Tensor, tokens: torch.Tensor, frames: torch.Tensor) -> DeviceResult:
    """Best paths of a padded batch that lies on the device already: queued on the current stream, never waited for.

    Args:
        value: [B, S, T] of float16, bfloat16, float32 or float64; frames contiguous, other strides free.
        tokens: int64 [B] on the same device, each ≤ S.
        frames: int64 [B] on the same device, each ≤ T.

    Returns:
        durations int32 [B, S] and paths int32 [B, T], zero in the padding and for failed items; scores float64 [B];
        statuses int32 [B]. A length beyond the padded size gives `Status.INTERNAL`.

    Raises:
        MemoryError: what is needed beside the input does not fit.
        ValueError: wrong device, or frames not contiguous.
    """
    check_device(value.device)
    B, S, T = value.shape
    if T > 1 and value.stride(2) != 1:
        raise ValueError("frames must be contiguous")
    if abs(value.stride(1)) > MAX_PITCH.value:
        value = value.contiguous()
    device = value.device
    if B == 0:
        none = torch.zeros(0, dtype=torch.int32, device=device)
        empty = torch.zeros(0, dtype=torch.float64, device=device)
        return DeviceResult(none.reshape(0, S), none.reshape(0, T), empty, none)
    with current(device):
        return padded(value, tokens, frames).enqueue()


def padded(value: torch.Tensor, tokens: torch.Tensor, frames: torch.Tensor) -> Launch:
    """A padded batch of one item at least as the kernels take it: see `launch`. Its table may be used by others too."""
    B, S, T = value.shape
    device, width = value.device, _width(DTYPES[value.dtype])
    # The lengths are unknown here: what is enough for any S' ≤ S, T' ≤ T.
    strips = max(1, -(-S // width))
    words = strips * width * ((T + width + 30) // 32 + 1)
    sizes = (S, words, (strips - 1) * T, strips, T)
    table = padded_table(device, B, (*each(value.stride(0)), *same(value.stride(1)), *each(*sizes)))
    return Launch(
        value,
        tokens.contiguous(),
        frames.contiguous(),
        table,
        torch.zeros((B, S), dtype=torch.int32, device=device),
        torch.zeros((B, T), dtype=torch.int32, device=device),
        strips,
        min(max(1, -(-T // 32)), MAX_CHUNKS.value),
        B * strips,
        B * words,
        B * (strips - 1) * T,
    )
