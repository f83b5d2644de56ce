# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""What the kernels of attention maps know of an item, in Triton's language: where its maps and results lie.

Of the chosen head, dynamic time warping keeps *cells* [strip, row, 32]. Tokens are cut into strips of 32, laid from the
right: the last one ends with token S − 1, the first one may begin left of token 0. Thread l of a strip is at frame
n − l in step n, so that all that a cell needs is of the two steps before; its cell lies in row n.

`table` has a row of int64 [items + 1] for each of `ROWS`; where a row tells where an item's part of an array begins,
its next entry tells where that part ends.
"""

from typing import Final

import triton
import triton.language as tl

from alignd_kernels.gpu_language import EMPTY, INTERNAL, OK, TOO_FEW_FRAMES, entry_of, fill_zeros, room_of
from alignd_kernels.status import Status

MALFORMED = tl.constexpr(int(Status.MALFORMED))

ROWS: Final = (
    "values",
    "head_pitch",
    "row_pitch",
    "rates",
    "largest",
    "tokens",
    "frames",
    "blocks",
    "cells",
    "bits",
    "borders",
    "strips",
    "tiles",
)
"""Index of (0, 0, 0), elements from a head, and from a token's row, to the next; begin of the item's part of what there
is for each head; of the largest values [frame, head]; of what there is for each token; for each frame (both together:
of the scores on a warped path); its first program that looks for the largest values; begin of its part of cells, or of
logarithms; of back-pointers; of the borders' words; of what there is for each strip; its first tile, a program that
writes 32 rows of cells, or of tokens 32 frames of logarithms."""

VALUES, HEAD_PITCH, ROW_PITCH, RATES, LARGEST, TOKENS, FRAMES = (tl.constexpr(row) for row in range(7))
BLOCKS, CELLS, BITS, BORDERS, STRIPS, TILES = (tl.constexpr(row) for row in range(7, len(ROWS)))

MAX_STEPS = tl.constexpr(2**30 - 128)
"""Tokens and frames together: kernels count in int32."""

FRAMES_PER_BLOCK = tl.constexpr(128)
"""Of which a program finds the largest values."""

PADDING_ROWS: Final = 32
"""After the last cell: a strip's last steps, of which nothing is used, read beyond its rows."""


@triton.jit
def strips_of(S):
    return tl.cdiv(S, 32)


@triton.jit
def steps_of(T):
    """Until thread 31 is at frame T − 1; as many rows has a strip."""
    return T + 31


@triton.jit
def chunks_of(T):
    """Words of a thread's back-pointers, of 32 steps each."""
    return tl.cdiv(T + 31, 32)


@triton.jit
def status_of_lengths(table, pitch_of_table, b, tokens, frames, MONOTONIC: tl.constexpr):
    """OK, or why an item of such lengths is not aligned. All int64.

    Args:
        MONOTONIC: every token needs a frame of its own.
    """
    heads = room_of(table, pitch_of_table, b, RATES)
    status = tl.where(heads * frames <= room_of(table, pitch_of_table, b, LARGEST), OK, INTERNAL)
    if MONOTONIC:
        status = tl.where(tokens > frames, TOO_FEW_FRAMES, status)
    status = tl.where((heads < 1) | (tokens < 1) | (frames < 1), EMPTY, status)
    beyond = (tokens > room_of(table, pitch_of_table, b, TOKENS)) | (frames > room_of(table, pitch_of_table, b, FRAMES))
    return tl.where(beyond | (tokens + frames > MAX_STEPS), INTERNAL, status)


@triton.jit
def clear_rates(heads, rates, table, pitch_of_table, b):
    """What has been found of an item's heads, when it fails."""
    tl.store(heads + b, 0)
    begin = entry_of(table, pitch_of_table, b, RATES)
    fill_zeros(rates + begin, room_of(table, pitch_of_table, b, RATES).to(tl.int32))
