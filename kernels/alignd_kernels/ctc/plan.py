"""How an item of CTC is done, and what memory that takes: decided by its size alone, before it is looked at.

The back-pointers of an item are kept for all of the lattice that paths can visit, as long as that is little. Those of a
long item are not: its scores are kept at the start of each segment of frames, and going back from the last segment to
the first, each one's are computed once more, now with back-pointers and only where the path can have come from.
"""

from typing import Final

import numpy as np

from alignd_kernels.compile_cache import kernel, part
from alignd_kernels.ctc.batch import CtcBatch
from alignd_kernels.ctc.emissions import table_size
from alignd_kernels.ctc.lattice import TILE_WORDS
from alignd_kernels.ctc.tile import FRAMES
from alignd_kernels.ragged import Int64Array
from alignd_kernels.vectors import PAIRS

KEPT_BYTES: Final = 8 << 20
"""Back-pointers up to which all are kept."""

SHARED_TILES: Final = 20_000
"""Tiles from which on one item's lattice is shared among threads: 10^7 pairs of states, about 2 ms."""

ROWS: Final = 16
"""Blocks that a thread does at a time of a lattice that is shared, and that a segment is a multiple of."""

ALIGNMENT_BYTES: Final = 256
"""Four arrays of accumulators begin at a cache line each."""

# What `sizes` are there, for each item: int32 for the places of states, blocks and segments; accumulators for one
# frame's scores; uint32 of back-pointers; accumulators for the scores at the starts of segments, and for a block's
# emissions; tiles of the lattice; blocks of a segment, 0 where all back-pointers are kept.
NUMBERS: Final = 0
SCORES: Final = 1
STEPS: Final = 2
SAVED: Final = 3
TABLE: Final = 4
TILES: Final = 5
SEGMENT: Final = 6
SIZES: Final = 7


@part
def item_sizes(T, L, V, kept_bytes, sizes):  # type: ignore[no-untyped-def]
    """Fill `sizes`, int64 [SIZES]: upper bounds that hold for any L targets, T ≥ L > 0."""
    blocks, columns = (T + FRAMES - 1) // FRAMES, L // PAIRS + 1
    tiles = _lattice_tiles(T, L, blocks, columns)
    states = columns * PAIRS
    sizes[NUMBERS] = 2 * (states + 1) + 3 * blocks + min(V, L)
    sizes[SCORES] = 2 * states
    sizes[TABLE] = table_size(V, L)
    sizes[TILES] = tiles
    sizes[STEPS], sizes[SAVED], sizes[SEGMENT] = TILE_WORDS * tiles, 0, 0
    if 4 * TILE_WORDS * tiles > kept_bytes:
        segment = _segment_blocks(T, L)
        count = (blocks + segment - 1) // segment
        sizes[SEGMENT] = segment
        sizes[NUMBERS] += count + 3 * segment
        sizes[SAVED] = 2 * PAIRS * columns * ((T - L + PAIRS + 2 * FRAMES) // (segment * FRAMES) + 1)
        # A path takes one pair a frame at most, so that a segment's part of the lattice is a triangle.
        sizes[STEPS] = TILE_WORDS * min(tiles, segment * (segment * FRAMES // (2 * PAIRS) + 4))


@part
def _lattice_tiles(T, L, blocks, columns):  # type: ignore[no-untyped-def]
    """Tiles that legal paths can visit, at most.

    The first label of a column of tiles is reached P = `PAIRS` frames before the last, and this can be visited until
    T − L frames later; repeats only make that less. Where that falls among the blocks is not known. The last column is
    visited to the end.
    """
    each = (T - L + PAIRS + FRAMES - 2) // FRAMES + 1
    last = (T - 1) // FRAMES - (columns - 1) * PAIRS // FRAMES + 1
    return (columns - 1) * min(each, blocks) + last


@part
def _segment_blocks(T, L):  # type: ignore[no-untyped-def]
    """Frames about the cube root of twice the lattice's pairs: more would do more work again, of which half a segment's
    length is done for each frame; fewer would keep more scores."""
    frames = (2.0 * L * (T - L + PAIRS)) ** (1 / 3)
    return (np.int64(frames / (ROWS * FRAMES)) + 1) * ROWS


@kernel
def _batch_sizes(frames, labels, vocabulary, kept_bytes, sizes):  # type: ignore[no-untyped-def]
    for b in range(len(frames)):
        if 0 < labels[b] <= frames[b]:
            item_sizes(frames[b], labels[b], max(vocabulary[b], 1), kept_bytes, sizes[b])


def scratch_bytes(batch: CtcBatch) -> Int64Array:
    """Memory that an item in progress needs beside its input and output, int64 [B]; on one thread an upper bound.

    With tiles of P = 32 pairs and F = 16 frames, C = ⌊L/P⌋ + 1 columns of them, and A bytes of an accumulator:
    8 (CP + 1) + 12 ⌈T/F⌉ + 4 min(V, L) + 2ACP for the lattice's places and scores; 4APF + AF max(32, V + 1) for a block
    of emissions (V counts up to 4 (L + P) columns); 256 to begin at cache lines; 192 a tile for the back-pointers, with
    at most C (⌊(T − L + P + F − 2)/F⌋ + 1) tiles. Where these would take more than `KEPT_BYTES`, instead of them, with
    segments of G = 16 ⌊(2L (T − L + P))^⅓ / 16F⌋ + 16 blocks:
    192 G (⌊GF/2P⌋ + 4) + 2APC (⌊(T − L + P + 2F)/GF⌋ + 1) + 4 ⌈T/GF⌉ + 12 G.
    Items of `SHARED_TILES` or more take AT besides, and a block of emissions for each further thread, which is not
    counted. A thread takes, of each part, as much as the item of its batch that needs most of it.
    """
    found = np.zeros((len(batch), SIZES), np.int64)
    T, L, V = (np.array(given, np.int64) for given in (batch.frames, batch.target_lengths, batch.vocabulary))
    _batch_sizes(T, L, V, KEPT_BYTES, found)
    sizes = found.T
    room = np.where(sizes[TILES] > 0, 4 * PAIRS * FRAMES, 0)
    carry = np.where(sizes[TILES] >= SHARED_TILES, T, 0)
    floats = sizes[SCORES] + sizes[SAVED] + sizes[TABLE] + carry + room
    whole = 4 * (sizes[NUMBERS] + sizes[STEPS]) + np.dtype(batch.dtype.accumulator).itemsize * floats
    return np.asarray(whole + np.where(sizes[TILES] > 0, ALIGNMENT_BYTES, 0), np.int64)
