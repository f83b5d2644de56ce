# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""CTC forced alignment on a GPU, before: targets are checked and counted, and the star's log-probs found."""

from typing import Final

import triton
import triton.language as tl

from alignd_kernels.ctc.gpu_item import (
    BITS,
    BLANK,
    BORDERS,
    COLUMNS,
    LABELS,
    LOG_PROBS,
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
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import (
    ADJACENT_STARS,
    EMPTY,
    INTERNAL,
    MAX_FRAMES,
    OK,
    TARGET_IS_BLANK,
    TARGET_OUT_OF_RANGE,
    TOO_FEW_FRAMES,
    accumulator_in_kernel,
    entry_of,
    fill_zeros,
    kernel,
    room_of,
    uniform,
    widen,
)
from alignd_kernels.gpu_strips import NOT_HANDED_OVER

FRAMES_PER_PROGRAM: Final = 128
"""Of the star's log-probs, a multiple of 32."""

CLEAN = tl.constexpr(1024 * 16)


def constants(dtype: DType) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype), "FRAMES_PER_PROGRAM": FRAMES_PER_PROGRAM}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for scores of this type."""
    return [constants(dtype)]


@triton.jit
def _narrow(x, dtype: tl.constexpr):
    """Accumulators as stored scores that they equal. See `widen`."""
    if dtype == tl.bfloat16:
        y = (x.to(tl.int32, bitcast=True) >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        y = x.to(dtype)
    return y


@triton.jit
def _target(targets, words, i, here):
    """Targets i, where `here`; those of int64 (two words, the low one first) that are none of int32 are no label."""
    place = targets + i.to(tl.int64) * words
    low = tl.load(place, mask=here, other=NO_LABEL)
    high = tl.load(place + words - 1, mask=here, other=NO_LABEL)
    return tl.where((words == 1) | (high == (low >> 31)), low, NO_LABEL)


@triton.jit
def _check(targets, words, L, V, blank, labels, repeats, trouble, room):
    """Go through the targets once, 32 strips at a time.

    Args:
        labels: [L], the targets as int32, written.
        repeats, trouble: [room], for each strip R before its first label, and that it is still to be computed; written.

    Returns:
        status of the first bad target, and R[L − 1].
    """
    row = tl.arange(0, 32)[:, None]
    column = tl.arange(0, 32)[None, :]
    lane = tl.arange(0, 32)
    status = tl.full([], OK, tl.int32)
    total = tl.full([], 0, tl.int32)
    for strip in range(0, strips_of(L), 32):
        i = left_of_strip(L, strip) + row * 32 + column
        here = (i >= 0) & (i < L)
        y = _target(targets, words, i, here)
        before = _target(targets, words, i - 1, here & (i > 0))
        again = here & (i > 0) & (y == before)
        code = tl.where(again & (y == STAR), ADJACENT_STARS, 0)
        code = tl.where(y == blank, TARGET_IS_BLANK, code)
        code = tl.where((y != STAR) & ((y < 0) | (y >= V)), TARGET_OUT_OF_RANGE, code)
        first = tl.min(tl.min(tl.where(here & (code != 0), (row * 32 + column) * 16 + code, CLEAN), 1), 0)
        status = tl.where((status == OK) & (first < CLEAN), first % 16, status)
        tl.store(labels + i, y, mask=here)
        count = tl.sum(tl.where(again, 1, 0), 1)
        own = lane < tl.minimum(strips_of(L), room) - strip
        tl.store(repeats + strip + lane, total + tl.cumsum(count, 0) - count, mask=own)
        tl.store(trouble + strip + lane, tl.zeros([32], tl.int32) + NOT_HANDED_OVER, mask=own)
        total += tl.sum(count, 0)
    return status, total


@triton.jit
def _has_star(targets, words, L):
    i = tl.arange(0, 1024)
    stars = tl.zeros([1024], tl.int32)
    for start in range(0, L, 1024):
        stars |= tl.where(_target(targets, words, start + i, i < L - start) == STAR, 1, 0)
    return tl.max(stars, 0)


@triton.jit
def _fill_wild(log_probs, pitch, begin, T, V, blank, wild, ACC: tl.constexpr):
    """The largest non-blank log-prob of frames begin … begin + 31 before T, −∞ where there is none. NaN in a frame
    becomes +∞: a path may visit neither."""
    row = tl.arange(0, 32)[:, None]
    column = tl.arange(0, 32)[None, :]
    t = begin + row
    best = tl.full([32, 32], float("-inf"), ACC)
    for v0 in range(0, V, 32):
        v = v0 + column
        place = log_probs + t.to(tl.int64) * pitch + v
        x = widen(tl.load(place, mask=(t < T) & (v < V) & (v != blank), other=float("-inf")), ACC)
        best = tl.maximum(best, tl.where(x == x, x, float("inf")))
    lane = tl.arange(0, 32)
    tl.store(wild + begin + lane, _narrow(tl.max(best, 1), wild.dtype.element_ty), mask=begin + lane < T)


@kernel
def ctc_prepare_kernel(
    log_probs,
    targets,
    target_lengths,
    frames,
    table,
    star_scores,
    labels,
    wild,
    repeats,
    trouble,
    checked,
    durations,
    pitch_of_table,
    items,
    target_words,
    ACC: tl.constexpr,
    FRAMES_PER_PROGRAM: tl.constexpr,
):
    """What the strips must know of each item: `items` × (1 + blocks of frames of the longest item) programs. See
    `gpu_item` for `table`.

    Args:
        targets: int32, or int64 seen as `target_words` = 2 of int32.
        labels: int32, the targets.
        wild: as log-probs, of each frame the star's log-prob; if that is the same in all frames, in the first entry
            alone, for float16 and bfloat16 zero.
        repeats, trouble: int32, of each strip; see `_check`.
        checked: int32 [2, items], status of the lengths and targets, and slack.
        durations: zero.
    """
    b = tl.program_id(0) % items
    block = tl.program_id(0) // items
    L64 = tl.load(target_lengths + b)
    T64 = tl.load(frames + b)
    V64 = entry_of(table, pitch_of_table, b, COLUMNS)
    blank = entry_of(table, pitch_of_table, b, BLANK)
    star = tl.load(star_scores + b)
    label_room = room_of(table, pitch_of_table, b, LABELS)
    path_room = room_of(table, pitch_of_table, b, PATHS)
    strip_room = room_of(table, pitch_of_table, b, STRIPS)
    targets += entry_of(table, pitch_of_table, b, TARGETS)
    wild += entry_of(table, pitch_of_table, b, PATHS)
    inside = (label_room >= L64) & (path_room >= T64) & (MAX_FRAMES >= L64) & (MAX_FRAMES >= T64)
    L = tl.where(inside, tl.maximum(L64, 0), 0).to(tl.int32)
    T = tl.where(inside, tl.maximum(T64, 0), 0).to(tl.int32)
    V = V64.to(tl.int32)
    if block == 0:
        begin = entry_of(table, pitch_of_table, b, STRIPS)
        label_begin = entry_of(table, pitch_of_table, b, LABELS)
        labels += label_begin
        fill_zeros(durations + label_begin, label_room)
        status, total = _check(
            targets, target_words, L, V, blank, labels, repeats + begin, trouble + begin, strip_room.to(tl.int32)
        )
        words = strips_of(L64) * chunks_of_strip(T64, L64) * 32
        border_words = (strips_of(L64) - 1) * frames_of_border(T64, L64)
        fits = (words <= room_of(table, pitch_of_table, b, BITS)) & (strips_of(L64) <= strip_room)
        fits = fits & (border_words <= room_of(table, pitch_of_table, b, BORDERS))
        fits = fits & (tl.abs(entry_of(table, pitch_of_table, b, PITCH)) <= MAX_PITCH)
        status = tl.where((status == OK) & (L64 + total > T64), TOO_FEW_FRAMES, status)
        status = tl.where((blank < 0) | (blank >= V64), TARGET_OUT_OF_RANGE, status)
        status = tl.where((L64 <= 0) | (T64 <= 0) | (V64 <= 0), EMPTY, status)
        status = tl.where(fits | (status != OK), status, INTERNAL)
        status = tl.where(inside, status, INTERNAL)
        tl.store(checked + b, status)
        tl.store(checked + items + b, T - L - total)
        if (T > 0) & (star == star):
            # Halves would round it: strips add it themselves.
            fixed = star.to(ACC) if wild.dtype.element_ty.primitive_bitwidth > 16 else 0.0
            tl.store(wild, fixed)
    elif star != star:  # noqa: SIM102  (Triton would compute both conditions)
        if uniform(_has_star(targets, target_words, L)) != 0:
            log_probs += entry_of(table, pitch_of_table, b, LOG_PROBS)
            pitch = entry_of(table, pitch_of_table, b, PITCH)
            first = (block - 1) * FRAMES_PER_PROGRAM
            for begin in range(first, tl.minimum(first + FRAMES_PER_PROGRAM, T), 32):
                _fill_wild(log_probs, pitch, begin, T, V, blank, wild, ACC)
