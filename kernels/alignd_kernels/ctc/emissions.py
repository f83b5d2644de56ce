# mypy: allow-untyped-defs
"""What the CPU kernel reads of the log-probs: a block of frames made ready for its tiles, and a tile's emissions."""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from alignd_kernels.compile_cache import part
from alignd_kernels.ctc.emission_tile import collect, look_up, spread, take_rows, turn_columns
from alignd_kernels.ctc.tile import FRAMES
from alignd_kernels.numba_helpers import widen
from alignd_kernels.vectors import COLUMNS, PAIRS, looks_up, out_of_line

LOOK_UP: Final = 0
"""A row of a small vocabulary lies in two registers: one instruction finds 16 emissions."""

TURN: Final = 1
"""Each column of a block is transposed once, and a tile's emissions are collected from columns."""

GATHER: Final = 2
"""A vocabulary much larger than the labels: only what these need is read, one by one."""

MANY_COLUMNS: Final = 4
"""Columns for each label from which on most are not worth transposing."""


class Item(NamedTuple):
    """What the kernel needs to know of an item beside its values: rows of V of them, `pitch` apart."""

    T: int
    L: int
    V: int
    pitch: int
    blank: int
    star_score: float
    starred: bool
    how: int  # its emissions are found
    spare: int  # frames


class Room(NamedTuple):
    """A thread's scratch for one block of frames, of the accumulator's type."""

    x: npt.NDArray[np.floating]  # [FRAMES, PAIRS], a tile's emissions of labels
    x_blank: npt.NDArray[np.floating]  # the same of blanks, in all tiles of a block
    masked_blank: npt.NDArray[np.floating]  # in one tile
    edge: npt.NDArray[np.floating]  # [FRAMES, LANES], see `tile`
    table: npt.NDArray[np.floating]  # see `table_size`


@part
def room_of(floats):
    """`Room` within a thread's scratch of 4 · FRAMES · PAIRS and the table's elements."""
    size = FRAMES * PAIRS
    rest = floats[2 * size :]
    return Room(floats[:size], floats[size : 2 * size], rest[:size], rest[size : 2 * size], rest[2 * size :])


@part
def way(table, V, L, starred):
    """How emissions of an item are found: decided by nothing but the item and the processor."""
    if looks_up(table) and V + starred <= COLUMNS:
        return LOOK_UP
    return TURN if V <= MANY_COLUMNS * (L + PAIRS) else GATHER


@part
def table_size(V, L):
    """Elements that `Room.table` needs: FRAMES rows of `COLUMNS`, or that many of each column that is transposed, the
    wildcard's among them."""
    return FRAMES * max(COLUMNS, V + 1 if V <= MANY_COLUMNS * (L + PAIRS) else 1)


@part
def star_value(row, blank, star_score):
    """Log-prob of a wildcard's frame: `star_score`, or if that is NaN the largest non-blank one, NaN if any is."""
    out_of_line()
    if not np.isnan(star_score):
        return np.float64(star_score)
    best = -np.inf
    for v in range(len(row)):
        x = np.float64(widen(row[v]))
        if v != blank and not x <= best:
            best = x
            if np.isnan(x):
                break
    return best


@part
def read_block(values, item, t, frames, room):
    """Make frames t … t + frames − 1 ready for their tiles: the table, and the blanks' emissions."""
    out_of_line()
    V, table, first = item.V, room.table, t * item.pitch
    if item.how == LOOK_UP:
        take_rows(values, first, item.pitch, V, frames, table)
    elif item.how == TURN and V < FRAMES:
        for f in range(frames):
            for v in range(V):
                table[v * FRAMES + f] = widen(values[first + f * item.pitch + v])
    elif item.how == TURN:
        # Groups of columns begin where cache lines do, in all rows if these are whole lines apart: where they are 4 KB
        # apart, all lie in one set of the first-level cache, too small to hold lines until they are asked for again.
        skew = (values.ctypes.data // values.itemsize + first) % FRAMES
        for start in range(0, V + skew, FRAMES):
            column = min(max(start - skew, 0), V - FRAMES)
            turn_columns(values, first + column, item.pitch, frames, table, column * FRAMES)
    if item.how == LOOK_UP:
        spread(table, item.blank, COLUMNS, frames, room.x_blank)
    else:
        spread(values, first + item.blank, item.pitch, frames, room.x_blank)
    if item.starred:
        for f in range(frames):
            row = values[first + f * item.pitch : first + f * item.pitch + V]
            at = f * COLUMNS + V if item.how == LOOK_UP else V * FRAMES + f if item.how == TURN else f
            table[at] = star_value(row, item.blank, item.star_score)


@part(inline=True)
def read_tile(values, item, columns, pair, t, frames, room):
    """Fill `room.x` from what `read_block` has made ready."""
    if item.how == LOOK_UP:
        look_up(room.table, columns, pair, frames, room.x)
    elif item.how == TURN:
        collect(room.table, columns, pair, room.x)
    else:
        own = columns[pair + 1 : pair + 1 + PAIRS]
        for f in range(frames):
            row = values[(t + f) * item.pitch : (t + f) * item.pitch + item.V]
            for i in range(PAIRS):
                room.x[f * PAIRS + i] = widen(row[own[i]]) if own[i] < item.V else room.table[f]
