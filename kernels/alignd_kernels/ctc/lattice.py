# mypy: allow-untyped-defs
"""The lattice of one item in blocks of frames: which tiles a block visits, forward through them, and back.

Pairs (blank i, label i), i = 0 … L, the last one without its label, are cut into columns of tiles. A block of `FRAMES`
frames visits those columns that hold a state which a legal path can be in.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from alignd_kernels.compile_cache import part
from alignd_kernels.ctc.emission_tile import mask_unreached
from alignd_kernels.ctc.emissions import LOOK_UP, read_block, read_tile
from alignd_kernels.ctc.tile import FRAMES, WORDS, advance, advance_kept, advance_kept_looked_up, advance_looked_up
from alignd_kernels.vectors import LANES, PAIRS, out_of_line

TILE_WORDS: Final = FRAMES * WORDS
PAIRS_BITS: Final = PAIRS.bit_length() - 1


class States(NamedTuple):
    """Padded to whole tiles: columns and first frames of the labels, from 1 on, and the scores of all states."""

    columns: npt.NDArray[np.int32]
    reached: npt.NDArray[np.int32]
    blanks: npt.NDArray[np.floating]
    labels: npt.NDArray[np.floating]


class Blocks(NamedTuple):
    """From block `first` on: the columns of tiles low … high − 1 that it visits, and how many tiles those before do."""

    first: int
    low: npt.NDArray[np.int32]
    high: npt.NDArray[np.int32]
    tiles: npt.NDArray[np.int32]


@part
def place_blocks(T, L, spare, reached, blocks):
    """Fill `blocks`. A column is left when its last label is; the one that holds the last blank is not."""
    out_of_line()
    low = high = tiles = 0
    for b in range((T + FRAMES - 1) // FRAMES):
        t = b * FRAMES
        while (low + 1) * PAIRS <= L and reached[(low + 1) * PAIRS] + spare < t:
            low += 1
        while high <= L // PAIRS and reached[high * PAIRS] < min(t + FRAMES, T) - 1:
            high += 1
        blocks.low[b], blocks.high[b], blocks.tiles[b] = low, high, tiles
        tiles += high - low


@part(inline=True)
def begin(states):
    """Scores of the virtual frame before the first: paths start in blank 0 or, one step on, in label 0."""
    states.blanks[:] = -np.inf
    states.labels[:] = -np.inf
    states.blanks[0] = 0.0


@part(inline=True)
def _column(values, item, states, k, t, frames, room, steps, word):
    """One tile. Returns whether a state of the lattice ended it as NaN or +inf."""
    pair = k * PAIRS
    x_blank, x = room.x_blank, room.x
    masked = states.reached[min(pair + PAIRS, item.L)] >= t
    looked_up = item.how == LOOK_UP and not masked
    if looked_up:
        x = room.table
    else:
        read_tile(values, item, states.columns, pair, t, frames, room)
        if masked:
            mask_unreached(x, x_blank, states.reached, pair, np.int32(t), frames, room.masked_blank)
            x_blank = room.masked_blank
    columns, blanks, labels, edge = states.columns, states.blanks, states.labels, room.edge
    keep = len(steps) > 0
    if keep and looked_up:
        bad = advance_kept_looked_up(x, x_blank, columns, blanks, labels, pair, edge, frames, steps, word)
    elif keep:
        bad = advance_kept(x, x_blank, columns, blanks, labels, pair, edge, frames, steps, word)
    elif looked_up:
        bad = advance_looked_up(x, x_blank, columns, blanks, labels, pair, edge, frames, steps, word)
    else:
        bad = advance(x, x_blank, columns, blanks, labels, pair, edge, frames, steps, word)
    if bad != 0 and pair + PAIRS > item.L:  # behind the last blank is nothing
        ends = np.int64(1) << np.int64(item.L - pair)
        bad &= (ends - 1) | ((2 * ends - 1) << np.int64(PAIRS))
    return bad != 0


@part
def forward(values, item, states, blocks, start, stop, column_from, column_to, room, steps, carry):
    """Blocks start … stop − 1 of the columns of tiles `column_from` … `column_to` − 1.

    Args:
        states: scores of the frame before; then of the last one.
        steps: uint32, back-pointers, `TILE_WORDS` a tile; empty where none are kept.
        carry: [T] of the accumulator's type, the last label's scores of the columns to the left, at the frame before
            each; then the same of these. Empty where there are none to either side.

    Returns:
        whether V of a state was NaN or +inf at the end of a tile. Both stay once they are there, until the state is
        left for good.
    """
    out_of_line()
    bad = False
    first = blocks.first
    for b in range(start, stop):
        t = b * FRAMES
        frames = min(FRAMES, item.T - t)
        low, high = max(blocks.low[b - first], column_from), min(blocks.high[b - first], column_to)
        if low < high:
            read_block(values, item, t, frames, room)
            _edge_in(states, low, column_from, t, frames, room.edge, carry)
        for k in range(low, high):
            word = (blocks.tiles[b - first] + k - blocks.low[b - first]) * TILE_WORDS
            bad |= _column(values, item, states, k, t, frames, room, steps, word)
        if len(carry) > 0:
            _edge_out(states, low < high == column_to, column_to, t, frames, room.edge, carry)
    return bad


@part(inline=True)
def _edge_in(states, low, column_from, t, frames, edge, carry):
    """The scores to the left of a block's first tile. A column that was left for good hands over its last one."""
    for f in range(frames):
        edge[f * LANES + LANES - 1] = -np.inf
    if low == column_from and len(carry) > 0 and low > 0:
        for f in range(frames):
            edge[f * LANES + LANES - 1] = carry[t + f]
    elif low > 0:
        edge[LANES - 1] = states.labels[low * PAIRS - 1]


@part(inline=True)
def _edge_out(states, visited, column_to, t, frames, edge, carry):
    """What the next column to the right needs; of a column that was left for good, or is not yet reached, its score."""
    for f in range(frames):
        carry[t + f] = edge[f * LANES + LANES - 1] if visited else -np.inf
    if not visited:
        carry[t] = states.labels[column_to * PAIRS - 1]


@part
def backward(blocks, columns, stop, i, on_label, steps, path, durations):
    """Follow the back-pointers from frame stop − 1, in the state (i, on_label), through `blocks`.

    Returns:
        the state in the frame before the first block; of no meaning where there is none.
    """
    out_of_line()
    last_label = len(durations) - 1
    # Unsigned indices, which Numba need not test for being negative: what a frame costs is a chain of look-ups.
    for b in range((stop - 1) // FRAMES, blocks.first - 1, -1):
        first_tile = blocks.tiles[b - blocks.first] - np.int64(blocks.low[b - blocks.first])
        for f in range(min(stop - b * FRAMES, FRAMES) - 1, -1, -1):
            path[np.uint64(b * FRAMES + f)] = 2 * i + on_label
            durations[np.uint64(min(i, last_label))] += on_label
            word = np.uint64((first_tile + (i >> PAIRS_BITS)) * TILE_WORDS + f * WORDS)
            bit = np.uint32(i & (PAIRS - 1))
            from_label = np.int64((steps[word] >> bit) & np.uint32(1))
            by_one = np.int64((steps[word + np.uint64(1)] >> bit) & np.uint32(1))
            by_two = np.int64((steps[word + np.uint64(2)] >> bit) & np.uint32(1))
            by_two &= columns[np.uint64(i + 1)] != columns[np.uint64(i)]
            # Without branches: whether a path moves cannot be foreseen.
            stays = (1 ^ by_one) | by_two
            i -= (on_label & by_two) | ((1 ^ on_label) & from_label)
            on_label = (on_label & stays) | ((1 ^ on_label) & from_label)
    return i, on_label
