# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""What the kernels of CTC's sums know of an item, in Triton's language.

Pairs and strips are `gpu_item`'s; with no labels there is one strip, of which the last thread has blank 0. Of each pair
and frame two numbers are kept, the junction's (of the blank) and the label's: *cells* [strip, row, 2, 32], where frame
t of a strip whose first pair is i0 has row t − i0: paths are in its pairs in frames i0 … T − L + i0 + 31 at most,
whatever repeats there are. Those in which they are follow from the repeats: `frames_of_strip`.

`table` has `gpu_item`'s rows, of which `bits` tells where an item's cells begin and `paths` what there is for each
frame, and behind them `OUT` and `OUT_PITCH`: index of what is returned for frame 0, and elements from a frame's row to
the next there.
"""

from typing import Final

import triton
import triton.language as tl

from alignd_kernels.ctc.gpu_item import (
    BITS,
    BLANK,
    BORDERS,
    COLUMNS,
    NO_LABEL,
    ROWS,
    STRIPS,
    TARGETS,
    frames_of_border,
    left_of_strip,
    strips_of,
)
from alignd_kernels.ctc.gpu_targets import check_targets, lengths_of, status_of_item
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import INTERNAL, OK, entry_of, room_of, uniform

CELLS = BITS
OUT, OUT_PITCH = tl.constexpr(len(ROWS)), tl.constexpr(len(ROWS) + 1)

STEP: Final = {DType.FLOAT16: 8, DType.BFLOAT16: 8, DType.FLOAT32: 8, DType.FLOAT64: 8}
"""Frames that are loaded ahead, and between two looks at the border. About as long as a trip to memory, and as many as
the registers hold."""

FINE = tl.constexpr(0)
LARGE = tl.constexpr(1)
NOT_FINITE_SEEN = tl.constexpr(2)
NOT_HANDED_OVER = tl.constexpr(3)
"""What went wrong in a strip, the worst last: a log-prob too far above 0 (`gpu_scaled`), NaN or +∞, a border that did
not come."""


@triton.jit
def rows_of_strip(T, L):
    return T - L + 32


@triton.jit
def cells_of(cells, T, L, strip):
    """The place of a strip's cells for frame 0, thread 0's: it may lie before them."""
    rows = rows_of_strip(T, L).to(tl.int64) * strip - left_of_strip(L, strip)
    return cells + rows * 64


@triton.jit
def check_sum_item(targets, target_words, target_lengths, frames, table, pitch_of_table, b, strip):
    """What one strip must know of item b before it can begin; all of an item find the same.

    Args:
        targets: int32, or int64 seen as `target_words` = 2 of int32.

    Returns:
        status of the lengths and targets; repeats before the strip's first label; frames to spare.
    """
    L, T, inside = lengths_of(target_lengths, frames, table, pitch_of_table, b)
    L64 = tl.load(target_lengths + b)
    T64 = tl.load(frames + b)
    V64 = entry_of(table, pitch_of_table, b, COLUMNS)
    blank = entry_of(table, pitch_of_table, b, BLANK)
    targets += entry_of(table, pitch_of_table, b, TARGETS)
    status, before, total = check_targets(targets, target_words, L, V64.to(tl.int32), blank, left_of_strip(L, strip))
    fits = strips_of(L64) * rows_of_strip(T64, L64) * 64 <= room_of(table, pitch_of_table, b, CELLS)
    fits &= strips_of(L64) <= room_of(table, pitch_of_table, b, STRIPS)
    fits &= (strips_of(L64) - 1) * frames_of_border(T64, L64) <= room_of(table, pitch_of_table, b, BORDERS)
    status = status_of_item(status, total, L64, T64, V64, blank, 0)
    status = tl.where(fits | (status != OK), status, INTERNAL)
    return uniform(tl.where(inside, status, INTERNAL)), before, T - L - total


@triton.jit
def labels_of_strip(targets, target_words, L, strip, R_before):
    """A strip's pairs i, their labels (`NO_LABEL` where there is none), 1 for those that repeat the one before, and the
    first frame of each label: of pair L, which has none, the frame after the last label's first, so that its blank's
    frames follow as the others' do."""
    i = left_of_strip(L, strip) + tl.arange(0, 32)
    place = targets + i.to(tl.int64) * target_words
    y = tl.load(place, mask=(i >= 0) & (i < L), other=NO_LABEL)
    again = (i > 0) & (i < L)
    repeat = tl.where(again & (y == tl.load(place - target_words, mask=again, other=NO_LABEL)), 1, 0)
    return i, y, repeat, tl.maximum(i, 0) + R_before + tl.cumsum(repeat, 0)


@triton.jit
def frames_of_strip(T, L, strip, R_before, R_after, spare):
    """First and last frame in which a path can be in a strip's pairs. R_after: repeats up to its last label."""
    i0 = left_of_strip(L, strip)
    return tl.maximum(i0, 0) + R_before, tl.minimum(i0 + 31 + R_after + spare, T - 1)


@triton.jit
def worst_of(trouble, strips):
    """What went wrong in any strip."""
    lane = tl.arange(0, 32)
    seen = tl.zeros([32], tl.int32)
    for start in range(0, strips, 32):
        seen = tl.maximum(seen, tl.load(trouble + start + lane, mask=lane < strips - start, other=FINE))
    return tl.max(seen, 0)
