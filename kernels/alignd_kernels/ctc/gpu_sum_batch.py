# mypy: allow-untyped-calls
"""A batch of CTC lattices as the GPU kernels of sums take it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alignd_kernels.ctc.batch import CtcBatch
from alignd_kernels.ctc.gpu import in_words, padded_stars
from alignd_kernels.gpu_batch import OnDevice
from alignd_kernels.gpu_common import TORCH_DTYPES, with_end
from alignd_kernels.gpu_copies import staged, to_device
from alignd_kernels.gpu_table import each, padded_table, same
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
    """A batch of the host's, copied: one copy of the log-probs, one of all else.

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
    there, targets, star_scores = to_device(device, table, batch.targets, batch.star_scores)
    return DeviceBatch(
        log_probs,
        targets,
        1,
        there[-2],
        there[-1],
        there,
        star_scores,
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
    rows = (
        *(*each(log_probs.stride(0)), *same(V, log_probs.stride(1)), *each(labels.stride(0)), *same(int(blank))),
        *(*each(L, cells, border_words, strips, T, T * columns), *same(columns)),
    )
    star = None if math.isnan(star_score) else float(star_score)  # NaN is not equal to itself
    return DeviceBatch(
        log_probs,
        labels,
        target_words,
        target_lengths.contiguous(),
        frames.contiguous(),
        padded_table(device, B, rows),
        padded_stars(device, B, star),
        star is None,
        strips,
        T,
        B * cells,
        B * border_words,
        B * strips,
        B * T,
        B * T * columns,
    )
