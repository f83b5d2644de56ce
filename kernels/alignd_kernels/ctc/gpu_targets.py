# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""What a strip of CTC finds out about its item by itself, in Triton's language: every one goes through all targets.

That is a microsecond for each 512 targets, beside the strip's frames next to nothing, and saves a launch before the
strips'. All strips of an item find the same, as neighbours must to agree on what they hand over.
"""

import triton
import triton.language as tl

from alignd_kernels.ctc.gpu_item import (
    BITS,
    BLANK,
    BORDERS,
    COLUMNS,
    LABELS,
    MAX_PITCH,
    NO_LABEL,
    PATHS,
    PITCH,
    STAR,
    STRIPS,
    TARGETS,
    chunks_of_strip,
    frames_of_border,
    left_of_strip,
    strips_of,
)
from alignd_kernels.gpu_language import (
    ADJACENT_STARS,
    EMPTY,
    INTERNAL,
    MAX_FRAMES,
    OK,
    TARGET_IS_BLANK,
    TARGET_OUT_OF_RANGE,
    TOO_FEW_FRAMES,
    entry_of,
    room_of,
    uniform,
)

BLOCK = tl.constexpr(512)
"""Targets looked at a time."""


@triton.jit
def lengths_of(target_lengths, frames, table, pitch_of_table, b):
    """L and T of item b in int32, 0 if negative or beyond what there is room for; and whether they are not beyond."""
    L64 = tl.load(target_lengths + b)
    T64 = tl.load(frames + b)
    inside = (room_of(table, pitch_of_table, b, LABELS) >= L64) & (room_of(table, pitch_of_table, b, PATHS) >= T64)
    inside &= (MAX_FRAMES >= L64) & (MAX_FRAMES >= T64)
    L = tl.where(inside, tl.maximum(L64, 0), 0).to(tl.int32)
    T = tl.where(inside, tl.maximum(T64, 0), 0).to(tl.int32)
    return L, T, inside


@triton.jit
def target_of(targets, words, i, here):
    """Targets i, where `here`; those of int64 (two words, the low one first) that are none of int32 are no label."""
    place = targets + i.to(tl.int64) * words
    low = tl.load(place, mask=here, other=NO_LABEL)
    high = tl.load(place + words - 1, mask=here, other=NO_LABEL)
    return tl.where((words == 1) | (high == (low >> 31)), low, NO_LABEL)


@triton.jit
def check_targets(targets, words, L, V, blank, first_pair):
    """Status of the first bad target, repeats before label `first_pair`, and R[L − 1]."""
    lane = tl.arange(0, BLOCK)
    status = tl.full([], OK, tl.int32)
    before = tl.full([], 0, tl.int32)
    total = tl.full([], 0, tl.int32)
    for start in range(0, L, BLOCK):
        i = start + lane
        here = i < L
        y = target_of(targets, words, i, here)
        again = here & (i > 0) & (y == target_of(targets, words, i - 1, here & (i > 0)))
        code = tl.where(again & (y == STAR), ADJACENT_STARS, 0)
        code = tl.where(y == blank, TARGET_IS_BLANK, code)
        code = tl.where((y != STAR) & ((y < 0) | (y >= V)), TARGET_OUT_OF_RANGE, code)
        first = tl.min(tl.where(here & (code != 0), lane * 16 + code, BLOCK * 16), 0)
        status = tl.where((status == OK) & (first < BLOCK * 16), first % 16, status)
        before += tl.sum(tl.where(again & (i < first_pair), 1, 0), 0)
        total += tl.sum(tl.where(again, 1, 0), 0)
    return status, before, total


@triton.jit
def status_of_item(of_targets, repeats, L64, T64, V64, blank, LEAST: tl.constexpr):
    """OK, or the first thing that is wrong with an item. All int64 but the first two and `LEAST`, the fewest targets
    that a good item has."""
    status = tl.where((of_targets == OK) & (L64 + repeats > T64), TOO_FEW_FRAMES, of_targets)
    status = tl.where((blank < 0) | (blank >= V64), TARGET_OUT_OF_RANGE, status)
    return tl.where((L64 < LEAST) | (T64 <= 0) | (V64 <= 0), EMPTY, status)


@triton.jit
def check_item(targets, target_words, target_lengths, frames, table, pitch_of_table, b, strip):
    """What one strip must know of item b before it can begin. See `gpu_item` for `table`.

    Args:
        targets: int32, or int64 seen as `target_words` = 2 of int32.

    Returns:
        status of the lengths and targets; repeats before the strip's first label; slack.
    """
    L, T, inside = lengths_of(target_lengths, frames, table, pitch_of_table, b)
    L64 = tl.load(target_lengths + b)
    T64 = tl.load(frames + b)
    V64 = entry_of(table, pitch_of_table, b, COLUMNS)
    blank = entry_of(table, pitch_of_table, b, BLANK)
    targets += entry_of(table, pitch_of_table, b, TARGETS)
    status, before, total = check_targets(targets, target_words, L, V64.to(tl.int32), blank, left_of_strip(L, strip))
    words = strips_of(L64) * chunks_of_strip(T64, L64) * 32
    border_words = (strips_of(L64) - 1) * frames_of_border(T64, L64)
    fits = words <= room_of(table, pitch_of_table, b, BITS)
    fits &= strips_of(L64) <= room_of(table, pitch_of_table, b, STRIPS)
    fits &= border_words <= room_of(table, pitch_of_table, b, BORDERS)
    fits &= tl.abs(entry_of(table, pitch_of_table, b, PITCH)) <= MAX_PITCH
    status = status_of_item(status, total, L64, T64, V64, blank, 1)
    status = tl.where(fits | (status != OK), status, INTERNAL)
    status = tl.where(inside, status, INTERNAL)
    return uniform(status), before, T - L - total
