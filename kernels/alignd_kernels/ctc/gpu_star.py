# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""CTC forced alignment on a GPU, before the strips, but only for a star that takes each frame's largest label.

Every strip with such a star needs these log-probs, and alone each would read all columns of its frames for them: they
are found once, by as many programs as there are blocks of frames, in a launch of their own.
"""

from typing import Final

import triton
import triton.language as tl

from alignd_kernels.ctc.gpu_item import BLANK, COLUMNS, LOG_PROBS, PATHS, PITCH, STAR, TARGETS
from alignd_kernels.ctc.gpu_targets import lengths_of, target_of
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import accumulator_in_kernel, entry_of, kernel, uniform, widen

FRAMES_PER_PROGRAM: Final = 128
"""A multiple of 32."""


def constants(dtype: DType) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype), "FRAMES_PER_PROGRAM": FRAMES_PER_PROGRAM}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for scores of this type."""
    return [constants(dtype)]


def programs(frames: int) -> int:
    """Of an item of so many frames; also of none."""
    return max(1, -(-frames // FRAMES_PER_PROGRAM))


@triton.jit
def _narrow(x, dtype: tl.constexpr):
    """Accumulators as stored scores that they equal. See `widen`."""
    if dtype == tl.bfloat16:
        y = (x.to(tl.int32, bitcast=True) >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        y = x.to(dtype)
    return y


@triton.jit
def has_star(targets, words, L):
    i = tl.arange(0, 1024)
    stars = tl.zeros([1024], tl.int32)
    for start in range(0, L, 1024):
        stars |= tl.where(target_of(targets, words, start + i, i < L - start) == STAR, 1, 0)
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
def ctc_star_kernel(
    log_probs,
    targets,
    target_lengths,
    frames,
    table,
    star_scores,
    wild,
    pitch_of_table,
    items,
    target_words,
    ACC: tl.constexpr,
    FRAMES_PER_PROGRAM: tl.constexpr,
):
    """`wild`, as log-probs, the largest non-blank one of each frame, for items that hold a star and whose star score is
    NaN: `items` × (blocks of frames of the longest item) programs. See `gpu_item` for `table`."""
    b = tl.program_id(0) % items
    first = tl.program_id(0) // items * FRAMES_PER_PROGRAM
    L, T, _ = lengths_of(target_lengths, frames, table, pitch_of_table, b)
    star = tl.load(star_scores + b)
    if (first < T) & (star != star):
        targets += entry_of(table, pitch_of_table, b, TARGETS)
        if uniform(has_star(targets, target_words, L)) != 0:
            log_probs += entry_of(table, pitch_of_table, b, LOG_PROBS)
            pitch = entry_of(table, pitch_of_table, b, PITCH)
            blank = entry_of(table, pitch_of_table, b, BLANK)
            V = entry_of(table, pitch_of_table, b, COLUMNS).to(tl.int32)
            wild += entry_of(table, pitch_of_table, b, PATHS)
            for begin in range(first, tl.minimum(first + FRAMES_PER_PROGRAM, T), 32):
                _fill_wild(log_probs, pitch, begin, T, V, blank, wild, ACC)
