"""CTC forced alignment on a GPU. Imported only where one is used (or Triton's interpreter): it needs torch."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from alignd_kernels.ctc.batch import CtcBatch, CtcResult
from alignd_kernels.ctc.gpu_kernel import constants, ctc_best_path_kernel
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
from alignd_kernels.ragged import Int64Array, as_one, offsets_of


class DeviceResult(NamedTuple):
    """Best paths on the device: as `CtcResult`, in the layout of the batch."""

    paths: torch.Tensor
    durations: torch.Tensor
    frame_scores: torch.Tensor
    scores: torch.Tensor
    statuses: torch.Tensor


def _rows(labels: Int64Array, frames: Int64Array) -> Int64Array:
    """Scores in scratch of each item, by frame: a strip's left and right border, the star's."""
    return np.where((labels >= 1) & (labels <= frames), 3 * frames, 0)


def _words(labels: Int64Array, frames: Int64Array) -> Int64Array:
    """Words of back-pointers of each item: for strips of 32 pairs, the chunks of 32 frames that a strip can be in."""
    strips = labels // 32 + 1
    chunks = (frames - labels + 31) // 32 + 1
    return np.where((labels >= 1) & (labels <= frames), strips * chunks * 96, 0)


def scratch_bytes(batch: CtcBatch) -> Int64Array:
    """Device memory that each item needs beside its input and output, int64 [B]: about 3·L·(T − L)/8 + 12·T bytes.

    Exactly 384·(⌊L/32⌋ + 1)·(⌊(T − L + 31)/32⌋ + 1) + 3·T·a, with a the accumulator's size (4, or 8 for float64); 0 for
    an item that has no path whatever its labels.
    """
    size = np.dtype(batch.dtype.accumulator).itemsize
    labels, frames = batch.target_lengths, batch.frames
    return 4 * _words(labels, frames) + size * _rows(labels, frames)


def _enqueue(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    table: torch.Tensor,
    star_scores: torch.Tensor,
    outputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    row_count: int,
    word_count: int,
) -> tuple[DeviceResult, Stopwatch]:
    """Queue the kernel on the current stream, without waiting for it. `outputs`: paths, durations, frame scores."""
    device = log_probs.device
    dtype = DTYPES[log_probs.dtype]
    items = table.shape[1] - 1
    scores = torch.empty(items, dtype=torch.float64, device=device)
    statuses = torch.empty(items, dtype=torch.int32, device=device)
    rows = torch.empty(row_count, dtype=accumulator_of(dtype), device=device)
    bits = torch.empty(word_count, dtype=torch.int32, device=device)
    stopwatch = Stopwatch(device)
    launch = launcher(
        ctc_best_path_kernel,
        device,
        items,
        (log_probs, targets, table, star_scores, *outputs, scores, statuses, rows, bits, items + 1),
        **constants(dtype),
    )
    with stopwatch:
        launch()
    return DeviceResult(*outputs, scores, statuses), stopwatch


def align(batch: CtcBatch, device: torch.device | str) -> CtcResult:
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
        none = np.zeros(0, np.int32)
        return CtcResult(none, none, np.zeros(0, np.float32), np.zeros(0), none, 0)
    log_probs, offsets = as_one(batch.log_probs, batch.sources, batch.offsets)
    path_starts = offsets_of(batch.frames)
    label_starts = offsets_of(batch.target_lengths)
    rows = offsets_of(_rows(batch.target_lengths, batch.frames))
    words = offsets_of(_words(batch.target_lengths, batch.frames))
    table = with_end(
        [
            offsets,
            batch.frames,
            batch.vocabulary,
            batch.pitches,
            batch.target_offsets,
            batch.target_lengths,
            batch.blanks.astype(np.int64),
            path_starts,
            label_starts,
            rows,
            words,
        ]
    )
    with current(device):
        outputs = (
            torch.empty(int(path_starts[-1]), dtype=torch.int32, device=device),
            torch.empty(int(label_starts[-1]), dtype=torch.int32, device=device),
            torch.empty(int(path_starts[-1]), dtype=torch.float32, device=device),
        )
        result, stopwatch = _enqueue(
            to_device(log_probs, device, TORCH_DTYPES[batch.dtype]),
            to_device(batch.targets, device, torch.int32),
            to_device(table, device, torch.int64),
            to_device(batch.star_scores, device, torch.float32),
            outputs,
            int(rows[-1]),
            int(words[-1]),
        )
        host = to_host(result)
    return CtcResult(host[0], host[1], host[2], host[3], host[4], stopwatch.elapsed_ns())


def warm_up(device: torch.device | str, dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from Triton's cache, so that no later call has to."""
    one = np.ones(1, np.int64)
    for dtype in dtypes:
        target, star = np.ones(1, np.int32), np.zeros(1, np.float32)
        log_probs = np.zeros(2, dtype.storage)
        align(
            CtcBatch(log_probs, dtype, one - 1, one, 2 * one, 2 * one, target, one - 1, one, 0 * target, star), device
        )


def launch(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    frames: torch.Tensor,
    target_lengths: torch.Tensor,
    *,
    blank: int = 0,
    star_score: float = 0.0,
) -> DeviceResult:
    """Best paths of a padded batch that lies on the device already: queued on the current stream, never waited for.

    Args:
        log_probs: [B, T, V] of float16, bfloat16, float32 or float64; columns contiguous, other strides free.
        targets: integers [B, L] on the same device; `STAR` is the wildcard.
        frames: int64 [B] on the same device, each ≤ T.
        target_lengths: int64 [B] on the same device, each ≤ L.
        blank: its column.
        star_score: log-prob of a wildcard's frames; NaN for the frame's largest non-blank log-prob.

    Returns:
        paths int32 [B, T], durations int32 [B, L], frame_scores float32 [B, T], zero in the padding and for failed
        items; scores float64 [B]; statuses int32 [B]. A length beyond the padded size gives `Status.INTERNAL`.

    Raises:
        MemoryError: what is needed beside the input does not fit.
        ValueError: wrong device, or columns not contiguous.
    """
    check_device(log_probs.device)
    B, T, V = log_probs.shape
    L = targets.shape[1]
    if V > 1 and log_probs.stride(2) != 1:
        raise ValueError("columns must be contiguous")
    device = log_probs.device
    outputs = (
        torch.zeros((B, T), dtype=torch.int32, device=device),
        torch.zeros((B, L), dtype=torch.int32, device=device),
        torch.zeros((B, T), dtype=torch.float32, device=device),
    )
    if B == 0:
        scores = torch.zeros(0, dtype=torch.float64, device=device)
        return DeviceResult(*outputs, scores, torch.zeros(0, dtype=torch.int32, device=device))
    # The lengths are unknown here: rows and words for any L' ≤ L, T' ≤ T.
    word_count = (L // 32 + 1) * ((T + 31) // 32 + 1) * 96
    with current(device):
        item = torch.arange(B + 1, dtype=torch.int64, device=device)
        table = torch.zeros((11, B + 1), dtype=torch.int64, device=device)
        table[0] = item * log_probs.stride(0)
        table[1, :B] = frames
        table[2] = V
        table[3] = log_probs.stride(1)
        table[4] = item * L
        table[5, :B] = target_lengths
        table[6] = blank
        table[7] = item * T
        table[8] = item * L
        table[9] = item * (3 * T)
        table[10] = item * word_count
        labels = targets.clamp(-(2**31), 2**31 - 1).to(torch.int32).contiguous()  # what is out of range stays so
        star_scores = torch.full((B,), star_score, dtype=torch.float32, device=device)
        result, _ = _enqueue(log_probs, labels, table, star_scores, outputs, B * 3 * T, B * word_count)
    return result
