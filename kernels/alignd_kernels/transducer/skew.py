# mypy: allow-untyped-defs
"""Blank and label of a transducer lattice, gathered so that what can be computed together lies together (Numba).

In the standard topology a node's score needs that of its left neighbour in the same frame. What is independent are
diagonals: nodes (t, u) of equal n = t + u, each of which needs diagonal n − 1 only. In the modified topology both of a
node's predecessors are in the frame before, and what is independent are frames, n = t. Here either is called a row. In
rows, both topologies have one recurrence: node u of row n comes by blank from node u, or by a label from node u − 1, of
row n − 1.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from alignd_kernels.compile_cache import part
from alignd_kernels.numba_helpers import array_at, widen
from alignd_kernels.prefetch import prefetch

FETCH_FRAMES: Final = 4
"""How far ahead a node's log-probs in later frames are fetched: every node of a large vocabulary has cache lines of its
own. Measured: a third of the time with V = 500, half with 28; 2 and 6 are as good."""


class Item(NamedTuple):
    """One item's log-probs: the element of node (t, u)'s column v is `address` plus t · frame_pitch + u · node_pitch +
    v elements. `slant` is 1 in the standard topology, 0 in the modified one: node (t, u) is in row t + slant · u."""

    address: Any
    T: Any
    U: Any
    frame_pitch: Any
    node_pitch: Any
    blank: Any
    slant: Any


@part(inline=True)
def legal_blanks(item, t):
    """From which u to which (exclusive) a path can take the blank arcs of frame t."""
    if item.slant == 0:
        return max(0, item.U - item.T + t + 1), min(t, item.U) + 1
    return (item.U if t == item.T - 1 else 0), item.U + 1


@part(inline=True)
def legal_labels(item, t):
    """From which u to which (exclusive) a path can take the label arcs of frame t."""
    if item.slant == 0:
        return max(0, item.U - item.T + t), min(t + 1, item.U)
    return 0, item.U


@part(inline=True)
def address_of(item, model, t, u, column):
    """Where one log-prob lies."""
    return item.address + (t * item.frame_pitch + u * item.node_pitch + np.int64(column)) * model.itemsize


@part(inline=True)
def arc_at(item, model, t, u, column):
    """One log-prob, in the accumulator's type."""
    return widen(array_at(address_of(item, model, t, u, column), 1, model)[0])


@part
def gather(item, columns, model, row, label, blanks, labels):
    """Arcs of the nodes `label`, `label` + 1 … of rows `row`, `row` + 1 …; −inf where no path can take one.

    Args:
        columns: int32 [U], the labels.
        model: empty array of the log-probs' type.
        row: any integer.
        label: any position u, 0 or above.
        blanks: of the accumulator's type, [rows, positions], filled: node (t, u) in [t + slant · u − row, u − label].
        labels: likewise.
    """
    rows, width = blanks.shape
    slant = item.slant
    for r in range(rows):
        for j in range(width):
            blanks[r, j] = -np.inf
            labels[r, j] = -np.inf
    for t in range(max(row - slant * (label + width - 1), 0), min(row + rows - slant * label, item.T)):
        low, high = label, label + width
        if slant != 0:
            low, high = max(low, row - t), min(high, row + rows - t)
        # Unsigned indices in these loops, which Numba need not test for being negative.
        first, stop = legal_blanks(item, t)
        for u in range(max(low, first), min(high, stop)):
            prefetch(address_of(item, model, t + FETCH_FRAMES, u, item.blank))
            blanks[np.uint64(t + slant * u - row), np.uint64(u - label)] = arc_at(item, model, t, u, item.blank)
        first, stop = legal_labels(item, t)
        for u in range(max(low, first), min(high, stop)):
            column = columns[np.uint64(u)]
            prefetch(address_of(item, model, t + FETCH_FRAMES, u, column))
            labels[np.uint64(t + slant * u - row), np.uint64(u - label)] = arc_at(item, model, t, u, column)
