"""How an item of CTC is done, and what memory that takes: decided by its size alone, before it is looked at.

The back-pointers of an item are kept for all of the lattice that paths can visit, as long as that is little. Those of a
long item are not: its scores are kept at the start of each segment of frames, and going back from the last segment to
the first, each one's are computed once more, now with back-pointers and only where the path can have come from.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.ctc.batch import CtcBatch
from alignd_kernels.ctc.emissions import table_size
from alignd_kernels.ctc.lattice import TILE_WORDS
from alignd_kernels.ctc.tile import FRAMES
from alignd_kernels.ctc.vectors import PAIRS
from alignd_kernels.ragged import Int64Array

KEPT_BYTES: Final = 8 << 20
"""Back-pointers up to which all are kept."""

SHARED_TILES: Final = 20_000
"""Tiles from which on one item's lattice is shared among threads: 10^7 pairs of states, about 2 ms."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes for each item, int64 [B] each: upper bounds that hold for any targets. 0 for items that no path fits.

    Attributes:
        tiles: of the lattice.
        segments: blocks of a segment; 0 where all back-pointers are kept.
        numbers: int32 for the places of states, blocks and segments.
        scores: accumulators for one frame's scores.
        steps: uint32 of back-pointers.
        saved: accumulators for the scores at the starts of segments.
        table: accumulators for a block's emissions.
    """

    tiles: Int64Array
    segments: Int64Array
    numbers: Int64Array
    scores: Int64Array
    steps: Int64Array
    saved: Int64Array
    table: Int64Array


def plan(batch: CtcBatch, possible: npt.NDArray[np.bool_], kept_bytes: int = KEPT_BYTES) -> Plan:
    """
    Args:
        batch: the items.
        possible: bool [B], which of them to plan for.
        kept_bytes: see `KEPT_BYTES`.
    """
    T, L = np.maximum(batch.frames, 1), np.clip(batch.target_lengths, 1, np.maximum(batch.frames, 1))
    blocks, columns = -(-T // FRAMES), L // PAIRS + 1
    tiles = lattice_tiles(T, L)
    segments = np.where(4 * TILE_WORDS * tiles > kept_bytes, segment_blocks(T, L), 0)
    whole = segments == 0
    count = -(-blocks // np.maximum(segments, 1))
    states = columns * PAIRS
    # A path takes one pair a frame at most, so that a segment's part of the lattice is a triangle.
    cone = segments * (segments * FRAMES // (2 * PAIRS) + 4)
    saved = columns * ((T - L + PAIRS + 2 * FRAMES) // np.maximum(segments * FRAMES, 1) + 1)
    sizes = (
        tiles,
        segments,
        2 * (states + 1) + 3 * blocks + np.where(whole, 0, count + 3 * segments) + np.minimum(batch.vocabulary, L),
        2 * states,
        TILE_WORDS * np.where(whole, tiles, np.minimum(cone, tiles)),
        np.where(whole, 0, 2 * PAIRS * saved),
        table_size(np.maximum(batch.vocabulary, 1), L),
    )
    return Plan(*(np.where(possible, size, 0) for size in sizes))


def lattice_tiles(T: Int64Array, L: Int64Array) -> Int64Array:
    """Tiles that legal paths can visit, at most.

    The first label of a column of tiles is reached P = `PAIRS` frames before the last, and this can be visited until
    T − L frames later; repeats only make that less. Where that falls among the blocks is not known. The last column is
    visited to the end.
    """
    columns = L // PAIRS + 1
    each = (T - L + PAIRS + FRAMES - 2) // FRAMES + 1
    last = (T - 1) // FRAMES - (columns - 1) * PAIRS // FRAMES + 1
    return (columns - 1) * np.minimum(each, -(-T // FRAMES)) + last


def segment_blocks(T: Int64Array, L: Int64Array) -> Int64Array:
    """Blocks of a segment: frames about the cube root of twice the lattice's pairs. More would do more work again, of
    which half a segment's length is done for each frame; fewer would keep more scores."""
    frames = np.cbrt(2.0 * L * (T - L + PAIRS))
    rows: Int64Array = np.maximum(np.ceil(frames / (ROWS * FRAMES)), 1).astype(np.int64)
    return rows * ROWS


ROWS: Final = 16
"""Blocks that a thread does at a time of a lattice that is shared."""


def scratch_bytes(batch: CtcBatch) -> Int64Array:
    """Memory that an item in progress needs beside its input and output, int64 [B]; an upper bound.

    With tiles of P = 32 pairs and F = 16 frames, C = ⌊L/P⌋ + 1 columns of them, and A bytes of an accumulator:
    8 (CP + 1) + 12 ⌈T/F⌉ + 4 min(V, L) + 2ACP for the lattice's places and scores; 4APF + AF max(32, V + 1) for a block
    of emissions (V counts up to 4 (L + P) columns); 192 a tile for the back-pointers, with at most
    C (⌊(T − L + P + F − 2)/F⌋ + 1) tiles. Where these would take more than `KEPT_BYTES`, instead of them, with segments
    of G = `segment_blocks`: 192 G (⌊GF/2P⌋ + 4) + 2APC (⌊(T − L + P + 2F)/GF⌋ + 1) + 4 ⌈T/GF⌉ + 12 G. Items of
    `SHARED_TILES` or more take AT besides.
    """
    accumulator = np.dtype(batch.dtype.accumulator).itemsize
    sizes = plan(batch, (batch.target_lengths > 0) & (batch.frames >= batch.target_lengths))
    carry = np.where(sizes.tiles >= SHARED_TILES, batch.frames, 0)
    room = np.where(sizes.tiles > 0, 4 * PAIRS * FRAMES, 0)
    floats = sizes.scores + sizes.saved + sizes.table + carry + room
    return 4 * (sizes.numbers + sizes.steps) + accumulator * floats
