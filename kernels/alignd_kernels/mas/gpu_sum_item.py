# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""What the kernels that sum over all monotonic paths know of an item, in Triton's language.

Strips are those of `gpu_item`, of W = 32 tokens, one a thread. A strip goes through its frames in chunks of N; what is
kept of each cell lies in [strip, chunk from the strip's first on, frame, token].

`table` has a row of int64 [items + 1] for each of `ROWS`; where a row tells where an item's part of an array begins,
its next entry tells where that part ends.
"""

from typing import Final

import triton
import triton.language as tl

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import EMPTY, INTERNAL, MAX_FRAMES, OK, TOO_FEW_FRAMES, entry_of, room_of, within
from alignd_kernels.mas.gpu_item import MAX_PITCH

ROWS: Final = ("values", "pitch", "tokens", "frames", "shares", "borders", "strips", "found", "found_pitch")
"""Index of cell (0, 0), and elements from a token's row to the next (frame's, with FRAMES_FIRST); begin of what there
would be for each token, and for each frame: no more are the item's; of shares; of the borders' words; of what there is
for each strip; index of cell (0, 0) in what is found, and elements from row to row there."""

VALUES, PITCH, TOKENS, FRAMES, SHARES = (tl.constexpr(row) for row in range(5))
BORDERS, STRIPS, FOUND, FOUND_PITCH = (tl.constexpr(row) for row in range(5, len(ROWS)))

W = tl.constexpr(32)

FRAMES_PER_CHUNK: Final = {DType.FLOAT16: 16, DType.BFLOAT16: 16, DType.FLOAT32: 16, DType.FLOAT64: 8}
"""N: frames whose cells are loaded ahead, and between two looks at the border. About as long as a trip to memory, and
as many as the registers hold."""


@triton.jit
def cells_of_strip(S, T, N: tl.constexpr):
    """Cells of the chunks that a strip can be in: its tokens are visited in T − S + W frames at most."""
    return ((T - S + W + N - 2) // N + 1) * N * W


@triton.jit
def status_of_lengths(table, pitch_of_table, b, tokens, frames, N: tl.constexpr):
    """OK, or why nothing is summed of an item of such lengths. All int64."""
    shares = tl.cdiv(tokens, W) * cells_of_strip(tokens, frames, N)
    pitch = tl.abs(entry_of(table, pitch_of_table, b, PITCH))
    pitch = tl.maximum(pitch, tl.abs(entry_of(table, pitch_of_table, b, FOUND_PITCH)))
    fits = (shares <= room_of(table, pitch_of_table, b, SHARES)) & (pitch <= MAX_PITCH)
    status = tl.where(fits & (frames <= MAX_FRAMES), OK, INTERNAL)
    status = tl.where(tokens > frames, TOO_FEW_FRAMES, status)
    status = tl.where((tokens <= 0) | (frames <= 0), EMPTY, status)
    beyond = (tokens > room_of(table, pitch_of_table, b, TOKENS)) | (frames > room_of(table, pitch_of_table, b, FRAMES))
    return tl.where(beyond, INTERNAL, status)


@triton.jit
def first_chunk(s0, N: tl.constexpr):
    """Of a strip whose first token is s0."""
    return tl.maximum(s0, 0) // N


@triton.jit
def end_chunk(S, T, s0, N: tl.constexpr):
    """One past its last chunk."""
    return tl.cdiv(tl.minimum(T, T - S + s0 + W), N)


@triton.jit
def places_of(pitch, s0, t0, N: tl.constexpr, FRAMES_FIRST: tl.constexpr):
    """Where cells [32, N] of tokens s0 … in frames t0 … lie. The first place is a sum of its own, of scalars."""
    row = tl.arange(0, 32)[:, None]
    column = tl.arange(0, N)[None, :]
    if FRAMES_FIRST:
        places = (t0.to(tl.int64) * pitch + s0) + (column.to(tl.int64) * pitch + row)
    else:
        places = (s0.to(tl.int64) * pitch + t0) + (row.to(tl.int64) * pitch + column)
    return places


@triton.jit
def all_inside(s0, slack, t0, N: tl.constexpr):
    """Whether all these cells are in the band: those that a path can visit."""
    return (s0 >= 0) & (t0 >= s0 + W - 1) & (t0 + N - 1 <= s0 + slack)


@triton.jit
def inside(s0, slack, t0, N: tl.constexpr):
    """Which of them are, [32, N]."""
    token = s0 + tl.arange(0, 32)[:, None]
    return (token >= 0) & within(t0 + tl.arange(0, N)[None, :], token, slack)
