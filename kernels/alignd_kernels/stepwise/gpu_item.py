# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""What the kernels of stepwise monotonic attention know of an item, in Triton's language.

Energies and all that has their shape are [items, S, T], or [items, T, S], contiguous. An item is cut into strips of 32
tokens, from token 0 on, which go through its frames `STEP` at a time.

A *choice*, to stay or to move on, is made for a token in a frame from `first_choice` on, and for the last token only
if it leaks. What else there is of energies is not looked at.
"""

from typing import Final

import triton
import triton.language as tl

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import INTERNAL, OK

STEP: Final = {DType.FLOAT16: 16, DType.BFLOAT16: 16, DType.FLOAT32: 16, DType.FLOAT64: 8}
"""Frames that are loaded ahead, and between two looks at the border: 64 bytes of each token. As many as the registers
hold of the three arrays that the way back reads."""


MAX_PITCH: Final = 2**26 - 1
"""Most tokens, and most frames: within a tile elements are counted in int32, one instruction and one register each."""


@triton.jit
def lengths_of(tokens, frames, b, most_tokens, most_frames):
    """Tokens and frames of item b as int32, 0 each unless both are more, and whether they are possible: a status."""
    own_tokens = tl.load(tokens + b)
    own_frames = tl.load(frames + b)
    good = (own_tokens >= 0) & (own_tokens <= most_tokens) & (own_frames >= 0) & (own_frames <= most_frames)
    some = good & (own_tokens > 0) & (own_frames > 0)
    S = tl.where(some, own_tokens, 0).to(tl.int32)
    return S, tl.where(some, own_frames, 0).to(tl.int32), tl.where(good, OK, INTERNAL)


@triton.jit
def first_choice(s, before, given):
    """The frame from which on token s can have mass that stays or moves on.

    Args:
        before: 1 if the attention starts before frame 0, else 0: then none is made in frame 0.
        given: 1 if all tokens may have mass from the start, else 0: then only token 0 has.
    """
    return 1 - before + tl.where(given != 0, 0, s)


@triton.jit
def first_step(s0, before, given, end, STEP: tl.constexpr):
    """The step with which a strip begins: the first one in which mass can move on from the token before it."""
    return tl.minimum(tl.where(s0 == 0, 0, first_choice(s0 - 1, before, given) // STEP), end)


@triton.jit
def places(array, pitch, s0, t0, STEP: tl.constexpr, FRAMES_FIRST: tl.constexpr):
    """Where tokens s0 … s0 + 31 and frames t0 … t0 + STEP − 1 of an item are, [32, STEP]; `pitch`: elements from a
    token's row to the next one's, or from a frame's."""
    s = tl.arange(0, 32)[:, None]
    t = tl.arange(0, STEP)[None, :]
    wide = tl.full([], 0, tl.int64)
    if FRAMES_FIRST:
        found = array + ((wide + t0) * pitch + s0) + (t * pitch + s)
    else:
        found = array + ((wide + s0) * pitch + t0) + (s * pitch + t)
    return found


@triton.jit
def energies_of(energies, pitch, s0, t0, S, T, keep, before, given, STEP: tl.constexpr, FRAMES_FIRST: tl.constexpr):
    """The energies that choices are made by; +∞, a certain stay, where there is no choice."""
    s = s0 + tl.arange(0, 32)[:, None]
    t = t0 + tl.arange(0, STEP)[None, :]
    chosen = (s < S - keep) & (t >= first_choice(s, before, given)) & (t < T)
    place = places(energies, pitch, s0, t0, STEP, FRAMES_FIRST)
    return tl.load(place, mask=chosen, other=float("inf"))


@triton.jit
def store(tile, array, pitch, s0, t0, S, T, most_tokens, most_frames, STEP: tl.constexpr, FRAMES_FIRST: tl.constexpr):
    """A tile of results, 0 beyond lengths."""
    s = s0 + tl.arange(0, 32)[:, None]
    t = t0 + tl.arange(0, STEP)[None, :]
    place = places(array, pitch, s0, t0, STEP, FRAMES_FIRST)
    tl.store(place, tl.where((s < S) & (t < T), tile, 0.0), mask=(s < most_tokens) & (t < most_frames))


@triton.jit
def fill(value, array, pitch, s0, begin, end, most_tokens, STEP: tl.constexpr, FRAMES_FIRST: tl.constexpr):
    """Results of frames begin … end − 1 that are all alike."""
    s = s0 + tl.arange(0, 32)[:, None]
    tile = tl.zeros([32, STEP], array.dtype.element_ty) + value
    for t0 in range(begin, end, STEP):
        t = t0 + tl.arange(0, STEP)[None, :]
        place = places(array, pitch, s0, t0, STEP, FRAMES_FIRST)
        tl.store(place, tile, mask=(s < most_tokens) & (t < end))


@triton.jit
def start(initial, S, s0, given, ACC: tl.constexpr):
    """What the attention of a strip's tokens starts as; `initial`: of the item."""
    s = s0 + tl.arange(0, 32)
    one = tl.where(s == 0, 1.0, tl.zeros([32], ACC))
    return tl.where(given != 0, tl.load(initial + s, mask=(s < S) & (given != 0), other=0.0), one)
