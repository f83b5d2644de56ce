# mypy: allow-untyped-calls
"""A batch of transducer lattices as the GPU kernels take it, and the launch that reads its arcs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from alignd_kernels.gpu_batch import OnDevice
from alignd_kernels.gpu_common import TORCH_DTYPES, launcher, with_end
from alignd_kernels.gpu_copies import staged, to_device
from alignd_kernels.gpu_table import Row, each, padded_table, same
from alignd_kernels.ragged import offsets_of
from alignd_kernels.transducer import gpu_arcs
from alignd_kernels.transducer.batch import TransducerBatch
from alignd_kernels.transducer.gpu_arcs import transducer_arcs_kernel
from alignd_kernels.transducer.gpu_item import MAX_STEPS, NOTHING_WRONG, PADDING_ROWS, ROWS_PER_TILE

PADDING: Final = PADDING_ROWS * 32
"""Cells before the first item's and after the last one's."""


def strips_of(labels: Any) -> Any:
    """Strips of 32 label positions of an item."""
    return labels // 32 + 1


def _rows(frames: Any, skew: int) -> Any:
    """Rows of a strip's cells."""
    return frames + 2 + 31 * skew


def sizes_of(frames: Any, labels: Any, skew: int) -> tuple[Any, Any, Any, Any, Any]:
    """How many cells, words of back-pointers, words of borders (in each plane), strips and tiles an item has."""
    strips = strips_of(labels)
    rows = _rows(frames, skew)
    words = strips * ((frames + 31 * skew) // 32 + 1) * 32
    return strips * rows * 32, words, (strips - 1) * (frames + 1), strips, strips * -(-rows // ROWS_PER_TILE.value)


def has_paths(batch: TransducerBatch) -> Any:
    """Which items may have a path, as far as their lengths tell: bool [B]."""
    T, U = batch.frames, batch.labels
    fits = (T >= 1) & (U >= 0) & (batch.vocabulary >= 1) & (MAX_STEPS.value >= T + U)
    return fits & (U <= T) if batch.modified else fits


@dataclass(frozen=True, slots=True)
class DeviceBatch(OnDevice):
    """On the device.

    Attributes:
        log_probs: of all items, in any shape.
        targets: int32.
        frames, labels: int64 [B].
        table: see `gpu_item`.
        skew: 1, or 0 in the modified topology.
        widest: strips of the widest item that may have a path.
        totals: of all items, what `sizes_of` tells of one.
        emissions, path_scores, nodes: of all items, how many labels; frames and labels; nodes as they are returned.
    """

    log_probs: torch.Tensor
    targets: torch.Tensor
    frames: torch.Tensor
    labels: torch.Tensor
    table: torch.Tensor
    skew: int
    widest: int
    totals: tuple[int, int, int, int, int]
    emissions: int
    path_scores: int
    nodes: int

    @property
    def given(self) -> torch.Tensor:
        return self.log_probs

    def arcs(self) -> tuple[torch.Tensor, torch.Tensor, Callable[[], None]]:
        """Memory for `transducer_arcs_kernel`'s `arcs` and `checked`, and what launches it."""
        arcs = self.empty(2 * (self.totals[0] + 2 * PADDING))
        checked = torch.full((self.items,), NOTHING_WRONG, dtype=torch.int32, device=self.device)
        arguments = (
            *(self.log_probs, self.targets, self.frames, self.labels, self.table),
            *(arcs, checked, self.items + 1, self.items, self.skew),
        )
        # One tile at least: of no items that can be looked at, the last one's program finds that out.
        launch = launcher(
            transducer_arcs_kernel,
            self.device,
            max(1, self.totals[-1]),
            arguments,
            **gpu_arcs.constants(self.dtype),
        )
        return arcs, checked, launch


def on_device(batch: TransducerBatch, device: torch.device) -> DeviceBatch:
    """A batch of the host's, of one item at least, copied: one copy of the log-probs, one of all else."""
    skew = 0 if batch.modified else 1
    good = has_paths(batch)
    T, U = np.where(good, batch.frames, 1), np.where(good, batch.labels, 0)  # of others, no path is looked for
    *sizes, _ = sizes_of(T, U, skew)
    looked_at = (batch.frames >= 1) & (batch.vocabulary >= 1) & (batch.labels >= 0)  # of those, the labels are
    tiles = np.where(looked_at, sizes_of(T, np.maximum(batch.labels, 0), skew)[-1], 0)
    nodes = np.maximum(batch.frames, 0) * (np.maximum(batch.labels, -1) + 1)
    starts = [offsets_of(size) for size in (nodes, batch.labels, batch.frames, *sizes, tiles)]
    totals = [int(row[-1]) for row in starts]
    starts[3] += PADDING
    log_probs, offsets = staged(batch.log_probs, batch.sources, batch.offsets, device, TORCH_DTYPES[batch.dtype])
    places = [offsets, batch.frame_pitches, batch.node_pitches, batch.blanks.astype(np.int64), batch.vocabulary]
    table = with_end(
        [*places, batch.target_offsets, starts[0], batch.labels + 1, *starts[1:], batch.frames, batch.labels]
    )
    there, targets = to_device(device, table, batch.targets)
    return DeviceBatch(
        log_probs,
        targets,
        there[-2],
        there[-1],
        there,
        skew,
        int(strips_of(U.max())),
        (totals[3], totals[4], totals[5], totals[6], totals[7]),
        totals[1],
        totals[1] + totals[2],
        totals[0],
    )


def padded(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    frames: torch.Tensor,
    labels: torch.Tensor,
    blank: int,
    modified: bool,
) -> DeviceBatch:
    """A padded batch that lies on the device already, of one item at least: read where it lies, never waited for.

    Args:
        log_probs: [B, T, U + 1, V] of float16, bfloat16, float32 or float64; columns contiguous, other strides free.
        targets: integers [B, U].
        frames, labels: int64 [B]; a length beyond the padded size gives `Status.INTERNAL`.

    Raises:
        ValueError: columns are not contiguous.
    """
    B, T, nodes, V = log_probs.shape
    if V > 1 and log_probs.stride(3) != 1:
        raise ValueError("columns must be contiguous")
    U, skew, device = nodes - 1, 0 if modified else 1, log_probs.device
    sizes = sizes_of(T, U, skew)
    item_stride, *strides = log_probs.stride()[:3]
    cells, *others = sizes
    rows = (
        *(*each(item_stride), *same(*strides, int(blank), V), *each(U, T * nodes), *same(nodes)),
        *(*each(U, T), Row(cells, PADDING), *each(*others)),
    )
    table = padded_table(device, B, rows)
    return DeviceBatch(
        log_probs,
        narrowed(targets, V).contiguous(),
        frames.contiguous(),
        labels.contiguous(),
        table,
        skew,
        sizes[3],
        (B * sizes[0], B * sizes[1], B * sizes[2], B * sizes[3], B * sizes[4]),
        B * U,
        B * (T + U),
        B * T * nodes,
    )


def packed(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    frames: torch.Tensor,
    labels: torch.Tensor,
    blank: int,
    modified: bool,
    largest: tuple[int, int],
) -> DeviceBatch:
    """A batch without padding that lies on the device already, of one item at least: never waited for.

    Args:
        log_probs: [N, V], contiguous, the nodes of all items end to end, node (t, u) of an item at t (U + 1) + u.
        targets: integers, the items' labels end to end.
        frames, labels: int64 [B]; what does not fit into `log_probs` and `targets` gives `Status.INTERNAL`, and so do
            lengths beyond `largest`.
        largest: of the frames, and of the labels.
    """
    (N, V), B, device, skew = log_probs.shape, len(frames), log_probs.device, 0 if modified else 1
    T, U = largest
    nodes = frames.clamp(min=0) * (labels.clamp(min=-1) + 1)
    # None begins or ends outside: an item that does not fit finds less room than it needs.
    starts = [
        torch.cat([size.new_zeros(1), size.cumsum(0)]).clamp(max=room)
        for size, room in ((nodes, N), (labels.clamp(min=0), len(targets)))
    ]
    item = torch.arange(B + 1, dtype=torch.int64, device=device)
    nodes_a_frame = torch.cat([labels + 1, labels.new_zeros(1)])
    sizes = sizes_of(T, U, skew)
    cells, *others = (item * size for size in sizes)
    same = [torch.full_like(item, value) for value in (V, blank, V)]
    rows = [starts[0] * V, nodes_a_frame * V, *same, starts[1], starts[0], nodes_a_frame, starts[1], item * T]
    return DeviceBatch(
        log_probs,
        narrowed(targets, V).contiguous(),
        torch.where(labels > U, T + 1, frames),
        labels.contiguous(),
        torch.stack([*rows, cells + PADDING, *others]),
        skew,
        sizes[3],
        (B * sizes[0], B * sizes[1], B * sizes[2], B * sizes[3], B * sizes[4]),
        len(targets),
        B * T + len(targets),
        N,
    )


def there(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    frames: torch.Tensor,
    labels: torch.Tensor,
    blank: int,
    modified: bool,
    largest: tuple[int, int] | None,
) -> DeviceBatch:
    """A batch that lies on the device already: see `padded`, for log-probs [B, T, U + 1, V], and `packed`, [N, V].

    Args:
        largest: of all frames, and of all labels, for [N, V]. None looks it up, which waits for the device.

    Raises:
        ValueError: columns, or items end to end, are not contiguous.
    """
    if log_probs.dim() == 4:
        return padded(log_probs, targets, frames, labels, blank, modified)
    if not log_probs.is_contiguous():
        raise ValueError("log-probs of items end to end must be contiguous")
    if largest is None:
        most = torch.stack([frames.max(), labels.max()]).clamp(min=0).tolist()
        largest = (most[0], most[1])
    return packed(log_probs, targets, frames, labels, blank, modified, largest)


def narrowed(targets: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Targets as int32; of int64, those that it does not hold stay out of the vocabulary's range."""
    if targets.dtype == torch.int64:
        targets = targets.clamp(-1, vocabulary)
    return targets.to(torch.int32)
