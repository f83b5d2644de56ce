# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""What the transducer's kernels know of an item, in Triton's language: where its nodes and strips lie.

Nodes are cut into strips of 32 label positions u, laid from the right: the last strip ends with u = U, the first one
may begin left of u = 0. A strip takes one *step* at a time. In the standard topology, `skew` is 1: a label's arc stays
in its frame, so thread l is at frame n − l in step n; what a node needs, of itself and of the thread on its left, is
then of the step before. In the modified topology both arcs go to the next frame, and `skew` is 0: all threads are at
frame n. Nothing else differs.

What there is for each node (its two arcs; sums) lies in *cells* [strip, row, 32], where node (t, u) of thread l has row
t + skew·l + 1: what a strip reads in a step lies side by side. Row 0 is that of frame −1, the last one that of frame T.

`table` has a row of int64 [items + 1] for each of `ROWS`; where a row tells where an item's part of an array begins,
its next entry tells where that part ends.
"""

from typing import Final

import triton
import triton.language as tl

from alignd_kernels.gpu_language import (
    EMPTY,
    INTERNAL,
    NO_FINITE_PATH,
    NOT_FINITE,
    OK,
    TARGET_IS_BLANK,
    TARGET_OUT_OF_RANGE,
    TOO_FEW_FRAMES,
    entry_of,
    item_at,
    room_of,
)

ROWS: Final = (
    "log_probs",
    "frame_pitch",
    "node_pitch",
    "blank",
    "vocabulary",
    "targets",
    "nodes",
    "nodes_a_frame",
    "labels",
    "frames",
    "cells",
    "bits",
    "borders",
    "strips",
    "tiles",
)
"""Index of (0, 0, 0), elements from a frame, and from a node, to the next; blank's column, columns; index of the first
label; begin of the item's part of what is returned for each node, and nodes from a frame to the next there; begin of
its part of what there is for each label; of frames (both together: of the scores on its path); of cells; of back-
pointers; of the borders' words; of what there is for each strip; its first tile, a program that reads or writes
`ROWS_PER_TILE` rows of a strip."""

LOG_PROBS, FRAME_PITCH, NODE_PITCH, BLANK, VOCABULARY, TARGETS = (tl.constexpr(row) for row in range(6))
NODES, NODES_A_FRAME, LABELS, FRAMES, CELLS = (tl.constexpr(row) for row in range(6, 11))
BITS, BORDERS, STRIPS, TILES = (tl.constexpr(row) for row in range(11, len(ROWS)))

MAX_STEPS = tl.constexpr(2**30 - 8)
"""Frames and labels together: kernels count in int32, and note a label's place and what is wrong with it in one."""

NOTHING_WRONG: Final = 2**31 - 1
"""What `checked` holds of an item at first. Kernels lower it: to twice the place of a label that is out of range, one
more for one that is blank; to `BAD_ARC`, or to `LARGE_ARC`, for which see `gpu_scaled`: the lowest counts, as the
specification checks in this order."""

BAD_ARC = tl.constexpr(2**31 - 3)
LARGE_ARC = tl.constexpr(2**31 - 2)

PADDING_ROWS: Final = 128
"""Before the first and after the last cell: a strip's last steps, of which nothing is used, read beyond its rows."""

ROWS_PER_TILE = tl.constexpr(32)


@triton.jit
def strips_of(U):
    return U // 32 + 1


@triton.jit
def rows_of(T, skew):
    """Rows of a strip's cells: frames −1 … T, of thread 0 and of thread 31."""
    return T + 2 + 31 * skew


@triton.jit
def steps_of(T, skew):
    """Until thread 31 is at frame T."""
    return T + 1 + 31 * skew


@triton.jit
def left_of_strip(U, strip):
    """Its first label position."""
    return U + 1 - (strips_of(U) - strip) * 32


@triton.jit
def status_of_lengths(table, pitch_of_table, b, frames, labels, skew):
    """OK, or why an item of such lengths is not aligned, its labels aside. All int64 but `skew`."""
    blank = entry_of(table, pitch_of_table, b, BLANK)
    vocabulary = entry_of(table, pitch_of_table, b, VOCABULARY)
    cells = strips_of(labels) * rows_of(frames, skew) * 32
    status = tl.where(cells <= room_of(table, pitch_of_table, b, CELLS), OK, INTERNAL)
    status = tl.where((skew == 0) & (labels > frames), TOO_FEW_FRAMES, status)
    status = tl.where((blank < 0) | (blank >= vocabulary), TARGET_OUT_OF_RANGE, status)
    status = tl.where((frames < 1) | (vocabulary < 1) | (labels < 0), EMPTY, status)
    beyond = (frames > room_of(table, pitch_of_table, b, FRAMES)) | (labels > room_of(table, pitch_of_table, b, LABELS))
    beyond |= frames * (labels + 1) > room_of(table, pitch_of_table, b, NODES)
    return tl.where(beyond | (frames + labels > MAX_STEPS), INTERNAL, status)


@triton.jit
def status_with_labels(table, pitch_of_table, b, frames, labels, skew, checked):
    """`status_of_lengths`, or what is wrong with a label, as `transducer_arcs_kernel` has found."""
    status = status_of_lengths(table, pitch_of_table, b, frames, labels, skew)
    found = tl.load(checked + b)
    wrong = tl.where(found % 2 == 1, TARGET_IS_BLANK, TARGET_OUT_OF_RANGE)
    return tl.where(found < BAD_ARC, wrong, status)


@triton.jit
def status_of_sum(checked, trouble, finite):
    """Of an item whose lengths and labels are good, when all its strips have ended.

    Args:
        checked: what `transducer_arcs_kernel` has found.
        trouble: what went wrong in any strip: a border that did not come.
        finite: whether the best path's score, or the sum of all, is.
    """
    status = tl.where(finite, OK, NO_FINITE_PATH)
    status = tl.where(checked == BAD_ARC, NOT_FINITE, status)
    return tl.where(trouble != 0, INTERNAL, status)


@triton.jit
def item_of_tile(table, pitch_of_table, items, tile):
    """The item that a tile is of."""
    return item_at(table, pitch_of_table, items, tile, TILES)
