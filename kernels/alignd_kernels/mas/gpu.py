"""Monotonic alignment search on a GPU. Imported only where one is used (or Triton's interpreter): it needs torch."""

import numpy as np
import torch

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_common import (
    DTYPES,
    TORCH_DTYPES,
    Stopwatch,
    accumulator_of,
    check_device,
    current,
    launcher,
    to_device,
    to_host,
    with_end,
)
from alignd_kernels.mas.batch import MasBatch, MasResult, row_major
from alignd_kernels.mas.gpu_kernel import TOKENS_PER_THREAD, constants, mas_best_path_kernel
from alignd_kernels.ragged import Int64Array, offsets_of


def _rows(tokens: Int64Array, frames: Int64Array) -> Int64Array:
    """Scores in scratch of each item: a strip's left and right border by frame."""
    return np.where((tokens >= 1) & (tokens <= frames), 2 * frames, 0)


def _words(tokens: Int64Array, frames: Int64Array, dtype: DType) -> Int64Array:
    """Words of back-pointers of each item: for whole strips, the chunks of 32 frames that a strip can be in."""
    width = 32 * TOKENS_PER_THREAD[dtype]
    strips = -(-tokens // width)
    chunks = (frames - tokens + width - 1) // 32 + 1
    return np.where((tokens >= 1) & (tokens <= frames), strips * chunks * width, 0)


def scratch_bytes(batch: MasBatch) -> Int64Array:
    """Device memory that each item needs beside its input and output, int64 [B]: about S·(T − S)/8 + 8·T bytes.

    Exactly 4·⌈S/W⌉·W·(⌊(T − S + W − 1)/32⌋ + 1) + 2·T·a, with a the accumulator's size (4, or 8 for float64) and
    W = 64 (32 for float64); 0 for an item that has no path.
    """
    size = np.dtype(batch.dtype.accumulator).itemsize
    return 4 * _words(batch.tokens, batch.frames, batch.dtype) + size * _rows(batch.tokens, batch.frames)


def _enqueue(
    values: torch.Tensor, table: torch.Tensor, durations: torch.Tensor, row_count: int, word_count: int
) -> tuple[torch.Tensor, torch.Tensor, Stopwatch]:
    """Queue the kernel on the current stream and return its scores and statuses, without waiting for it."""
    device = values.device
    dtype = DTYPES[values.dtype]
    items = table.shape[1] - 1
    scores = torch.empty(items, dtype=torch.float64, device=device)
    statuses = torch.empty(items, dtype=torch.int32, device=device)
    rows = torch.empty(row_count, dtype=accumulator_of(dtype), device=device)
    bits = torch.empty(word_count, dtype=torch.int32, device=device)
    stopwatch = Stopwatch(device)
    launch = launcher(
        mas_best_path_kernel,
        device,
        items,
        (values, table, durations, scores, statuses, rows, bits, items + 1),
        **constants(dtype),
    )
    with stopwatch:
        launch()
    return scores, statuses, stopwatch


def align(batch: MasBatch, device: torch.device | str) -> MasResult:
    """Best paths of a batch: one copy in, one kernel launch, one copy out, on the device's current stream.

    Args:
        batch: any lengths, also of no items.
        device: a CUDA device, or "cpu" where Triton is interpreted.

    Raises:
        ValueError: no kernel runs on `device`.
        MemoryError: the batch and its `scratch_bytes` do not fit.
    """
    device = torch.device(device)
    check_device(device)
    if len(batch) == 0:
        return MasResult(np.zeros(0, np.int32), np.zeros(0), np.zeros(0, np.int32), 0)
    values, offsets, pitches = row_major(batch)
    starts = offsets_of(batch.tokens)
    rows = offsets_of(_rows(batch.tokens, batch.frames))
    words = offsets_of(_words(batch.tokens, batch.frames, batch.dtype))
    table = with_end([offsets, batch.tokens, batch.frames, pitches, starts, rows, words])
    with current(device):
        durations = torch.empty(int(starts[-1]), dtype=torch.int32, device=device)
        scores, statuses, stopwatch = _enqueue(
            to_device(values, device, TORCH_DTYPES[batch.dtype]),
            to_device(table, device, torch.int64),
            durations,
            int(rows[-1]),
            int(words[-1]),
        )
        host = to_host([durations, scores, statuses])
    return MasResult(host[0], host[1], host[2], stopwatch.elapsed_ns())


def launch(
    value: torch.Tensor, tokens: torch.Tensor, frames: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Best paths of a padded batch that lies on the device already: queued on the current stream, never waited for.

    Args:
        value: [B, S, T] of float16, bfloat16, float32 or float64; frames contiguous, other strides free.
        tokens: int64 [B] on the same device, each ≤ S.
        frames: int64 [B] on the same device, each ≤ T.

    Returns:
        durations int32 [B, S], zero in the padding and for failed items; scores float64 [B]; statuses int32 [B]. A
        length beyond the padded size gives `Status.INTERNAL`.

    Raises:
        MemoryError: what is needed beside the input does not fit.
        ValueError: wrong device, or frames not contiguous.
    """
    check_device(value.device)
    B, S, T = value.shape
    if T > 1 and value.stride(2) != 1:
        raise ValueError("frames must be contiguous")
    device = value.device
    durations = torch.zeros((B, S), dtype=torch.int32, device=device)
    if B == 0:
        return (
            durations,
            torch.zeros(0, dtype=torch.float64, device=device),
            torch.zeros(0, dtype=torch.int32, device=device),
        )
    # The lengths are unknown here: rows and words for any S' ≤ S, T' ≤ T.
    width = 32 * TOKENS_PER_THREAD[DTYPES[value.dtype]]
    word_count = -(-S // width) * width * ((T + width - 1) // 32 + 1)
    with current(device):
        item = torch.arange(B + 1, dtype=torch.int64, device=device)
        table = torch.zeros((7, B + 1), dtype=torch.int64, device=device)
        table[0] = item * value.stride(0)
        table[1, :B] = tokens
        table[2, :B] = frames
        table[3] = value.stride(1)
        table[4] = item * S
        table[5] = item * (2 * T)
        table[6] = item * word_count
        scores, statuses, _ = _enqueue(value, table, durations, B * 2 * T, B * word_count)
    return durations, scores, statuses
