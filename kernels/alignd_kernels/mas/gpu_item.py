# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""What both kernels of monotonic alignment search know of an item, in Triton's language: where its strips lie.

`table` has a row of int64 [items + 1] for each of `ROWS`; where a row tells where an item's part of an array begins,
its next entry tells where that part ends.
"""

from typing import Final

import triton
import triton.language as tl

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import EMPTY, INTERNAL, MAX_FRAMES, OK, TOO_FEW_FRAMES, entry_of, room_of

ROWS: Final = ("values", "pitch", "durations", "bits", "borders", "strips", "paths")
"""Index of cell (0, 0), and elements from a token's row to the next; begin of the item's part of durations; of back-
pointers; of the borders' words; of what there is for each strip; of paths, and of the scores on them."""

VALUES, PITCH, DURATIONS, BITS, BORDERS, STRIPS, PATHS = (tl.constexpr(row) for row in range(len(ROWS)))

TOKENS_PER_THREAD: Final = {DType.FLOAT16: 2, DType.BFLOAT16: 2, DType.FLOAT32: 2, DType.FLOAT64: 1}
"""K: as many as the registers hold without spilling."""

MAX_PITCH = tl.constexpr(2**31 - 1)
"""The kernels multiply it by a row's number as two int32, which is one instruction."""

MAX_CHUNKS = tl.constexpr(2**26)
"""More than an item that is aligned has; so many frames can be counted in int32, a group's first one too."""


@triton.jit
def chunks_of_strip(S, T, W: tl.constexpr):
    """Chunks of 32 frames that a strip of W tokens can be in: its tokens are visited in T − S + W frames at most."""
    return (T - S + W + 30) // 32 + 1


@triton.jit
def status_of_lengths(table, pitch_of_table, b, tokens, frames, W: tl.constexpr):
    """OK, or why an item of such lengths is not aligned. All int64."""
    room = room_of(table, pitch_of_table, b, DURATIONS)
    words = tl.cdiv(tokens, W) * chunks_of_strip(tokens, frames, W) * W
    pitch = entry_of(table, pitch_of_table, b, PITCH)
    fits = (words <= room_of(table, pitch_of_table, b, BITS)) & (frames <= room_of(table, pitch_of_table, b, PATHS))
    fits &= tl.abs(pitch) <= MAX_PITCH
    status = tl.where(fits & (frames <= MAX_FRAMES), OK, INTERNAL)
    status = tl.where(tokens > frames, TOO_FEW_FRAMES, status)
    status = tl.where((tokens <= 0) | (frames <= 0), EMPTY, status)
    return tl.where(tokens > room, INTERNAL, status)


@triton.jit
def left_of_strip(S, strip, W: tl.constexpr):
    """Its first token: the last strip ends with token S − 1, so the first one may begin left of token 0."""
    return S - (tl.cdiv(S, W) - strip) * W


@triton.jit
def first_chunk(s0):
    """Of a strip whose first token is s0."""
    return tl.maximum(s0, 0) // 32


@triton.jit
def place_of(S, T, token, chunk, W: tl.constexpr):
    """Where in the item's part of the back-pointers the word of a token and a chunk is, and whether there is one."""
    chunks = chunks_of_strip(S, T, W)
    position = token - left_of_strip(S, 0, W)
    strip = position // W
    row = chunk - first_chunk(left_of_strip(S, strip, W))
    known = (token >= 0) & (row >= 0) & (row < chunks)
    return (strip.to(tl.int64) * chunks + row) * W + position % W, known
