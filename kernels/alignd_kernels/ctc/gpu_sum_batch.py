# mypy: allow-untyped-calls
"""A batch of CTC lattices as the GPU kernels of sums take it."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alignd_kernels.ctc.batch import STAR_MAX, CtcBatch
from alignd_kernels.ctc.gpu import in_words
from alignd_kernels.gpu_batch import OnDevice
from alignd_kernels.gpu_common import (
    TORCH_DTYPES,
    staged,
    to_device,
    with_end,
)
from alignd_kernels.ragged import offsets_of


def strips_of(labels: Any) -> Any:
    """Strips of 32 pairs of an item."""
    return (labels + 32) // 32


def cells_of(labels: Any, frames: Any) -> Any:
    """Accumulators of an item's shares."""
    return strips_of(labels) * (frames - labels + 32) * 64


def border_words_of(labels: Any, frames: Any) -> Any:
    """Words, in each plane, of the borders between an item's strips."""
    return (strips_of(labels) - 1) * (frames - labels + 1)


def has_paths(batch: CtcBatch) -> Any:
    """Which items may have a path, as far as their lengths tell: bool [B]."""
    L, T = batch.target_lengths, batch.frames
    return (L >= 0) & (L <= T) & (T >= 1)


@dataclass(frozen=True, slots=True)
class DeviceBatch(OnDevice):
    """On the device, of one item at least.

    Attributes:
        log_probs, targets: of all items.
        target_words: int32 words of a target.
        target_lengths, frames: int64 [B].
        table: see `gpu_sum_item`.
        star_scores: float32 [B].
        star_is_largest: whether one of them may be NaN.
        widest: strips of the widest item that may have a path.
        longest: frames of the longest item.
        cells, border_words, strips, all_frames: of all items.
        outputs: how many numbers are returned of all frames.
    """

    log_probs: torch.Tensor
    targets: torch.Tensor
    target_words: int
    target_lengths: torch.Tensor
    frames: torch.Tensor
    table: torch.Tensor
    star_scores: torch.Tensor
    star_is_largest: bool
    widest: int
    longest: int
    cells: int
    border_words: int
    strips: int
    all_frames: int
    outputs: int

    @property
    def given(self) -> torch.Tensor:
        return self.log_probs


def on_device(batch: CtcBatch, device: torch.device, states: bool) -> DeviceBatch:
    """A batch of the host's, copied: one copy of the log-probs, one each of all else.

    Args:
        states: what is returned of each frame: its states, or else its columns.
    """
    good = has_paths(batch)
    L, T = np.where(good, batch.target_lengths, 0), np.where(good, batch.frames, 1)  # of others, no path is looked for
    labels, frames = np.maximum(batch.target_lengths, 0), np.maximum(batch.frames, 0)
    columns = 2 * labels + 1 if states else np.maximum(batch.vocabulary, 0)
    sizes = (labels, cells_of(L, T), border_words_of(L, T), strips_of(L), frames, frames * columns)
    starts = [offsets_of(size) for size in sizes]
    totals = [int(row[-1]) for row in starts]
    log_probs, offsets = staged(batch.log_probs, batch.sources, batch.offsets, device, TORCH_DTYPES[batch.dtype])
    of_items = [offsets, batch.vocabulary, batch.pitches, batch.target_offsets, batch.blanks.astype(np.int64)]
    table = with_end([*of_items, *starts, columns, batch.target_lengths, batch.frames])
    there = to_device(table, device, torch.int64)
    return DeviceBatch(
        log_probs,
        to_device(batch.targets, device, torch.int32),
        1,
        there[-2],
        there[-1],
        there,
        to_device(batch.star_scores, device, torch.float32),
        bool(np.isnan(batch.star_scores).any()),
        int(strips_of(L.max())),
        int(frames.max()),
        totals[1],
        totals[2],
        totals[3],
        totals[4],
        totals[5],
    )


def padded(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    frames: torch.Tensor,
    target_lengths: torch.Tensor,
    blank: int,
    star_score: float,
    states: bool,
) -> DeviceBatch:
    """A padded batch that lies on the device already: read where it lies, never waited for.

    Args:
        log_probs: [B, T, V] of float16, bfloat16, float32 or float64; columns contiguous, other strides free.
        targets: integers [B, L].
        frames, target_lengths: int64 [B]; a length beyond the padded size gives `Status.INTERNAL`.
        star_score: NaN for the frame's largest non-blank log-prob.
        states: what is returned of each frame: 2L + 1 states, or else V columns.

    Raises:
        ValueError: columns are not contiguous.
    """
    B, T, V = log_probs.shape
    L = targets.shape[1]
    if V > 1 and log_probs.stride(2) != 1:
        raise ValueError("columns must be contiguous")
    device = log_probs.device
    # The lengths are unknown here: what is enough for any L' ≤ L, T' ≤ T.
    strips = strips_of(L)
    cells, border_words, columns = strips * (T + 32) * 64, (strips - 1) * (T + 1), 2 * L + 1 if states else V
    labels, target_words = in_words(targets)
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    fresh = device.type == "cuda" and torch.cuda.is_current_stream_capturing()  # a graph must own what it reads
    make = _padded_table.__wrapped__ if fresh else _padded_table
    item_strides = (log_probs.stride(0), labels.stride(0), L, cells, border_words, strips, T, T * columns)
    same = (V, log_probs.stride(1), int(blank), columns)
    star = None if math.isnan(star_score) else float(star_score)  # NaN is not equal to itself
    table, star_scores = make(B, item_strides, same, star, device, stream)
    return DeviceBatch(
        log_probs,
        labels,
        target_words,
        target_lengths.contiguous(),
        frames.contiguous(),
        table,
        star_scores,
        star is None,
        strips,
        T,
        B * cells,
        B * border_words,
        B * strips,
        B * T,
        B * T * columns,
    )


@functools.lru_cache(maxsize=64)
def _padded_table(
    B: int,
    item_strides: tuple[int, ...],
    same: tuple[int, ...],
    star_score: float | None,
    device: torch.device,
    stream: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The table and star scores of a padded batch of B items, made on the device: two dozen launches, so they are kept
    for the next one. `stream` is part of the key, as their makers run there."""
    item = torch.arange(B + 1, dtype=torch.int64, device=device)
    log_probs, targets, *starts = (item * stride for stride in item_strides)
    vocabulary, pitch, blank, columns = (torch.full_like(item, value) for value in same)
    stars = torch.full((B,), STAR_MAX if star_score is None else star_score, dtype=torch.float32, device=device)
    return torch.stack([log_probs, vocabulary, pitch, targets, blank, *starts, columns]), stars
