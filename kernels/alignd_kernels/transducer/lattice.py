# mypy: allow-untyped-defs
"""The best path through one item's lattice: forward strip by strip, and back (Numba).

A strip of `LANES` label positions is walked over all rows (see `skew`) in which paths can be in it before the next
strip is; that one needs of it what leaves its last lane by a label in each row, which is left in `edges`. One bit a
node says whether its best path comes by a label. Arcs are gathered `ROWS` rows at a time, so that they are still in the
nearest cache when they are used.
"""

from typing import Final

import numpy as np

from alignd_kernels.compile_cache import part
from alignd_kernels.transducer.pairs import gather_pairs
from alignd_kernels.transducer.skew import arc_at, gather
from alignd_kernels.transducer.strip import LANES, advance

ROWS: Final = 64
"""Rows that are gathered at a time: 16 KiB of blanks and labels."""

LANES_BITS: Final = LANES.bit_length() - 1


@part(inline=True)
def last_row(T, U, slant):
    """The row of the end, (T, U); the first one is 0."""
    return T + slant * U


@part(inline=True)
def strip_rows(T, U, slant):
    """Rows of a strip, at most: paths can be in a label position in T of them, in the modified topology in T − U + 1,
    and what leaves the last lane comes into one row more."""
    return (T if slant != 0 else T - U + 1) + LANES


@part(inline=True)
def item_words(T, U, slant):
    """Words of an item's back-pointers."""
    return (U // LANES + 1) * strip_rows(T, U, slant)


@part
def _gather(item, columns, paired, model, row, label, rows, blanks, labels):
    """The arcs of `rows` rows of a strip."""
    if paired:
        gather_pairs(item, model, row, label, rows, blanks, labels)
    else:
        gather(item, columns, model, row, label, blanks[:rows], labels[:rows])


@part
def forward(item, columns, paired, model, blanks, labels, V, edges, steps):
    """Scores of the best paths, row by row.

    Args:
        columns: int32 [U], the labels.
        paired: whether each node is blank and label, in that order, and the next one's follow.
        blanks, labels: scratch of the accumulator's type, [ROWS, LANES].
        V: [LANES], scratch; then the scores of the last strip's nodes in the last row.
        edges: [last_row + 1], scratch.
        steps: uint32, [strips, strip_rows], filled where paths can be.

    Returns:
        whether NaN has been met: in an arc that a path can take, or where sums have overflowed.
    """
    end = last_row(item.T, item.U, item.slant) + 1
    stride = strip_rows(item.T, item.U, item.slant)
    edges[:end] = -np.inf
    edges[0] = 0.0  # a path begins as if it came by a label into (0, 0)
    found = np.uint32(0)
    for strip in range(item.U // LANES + 1):
        first = strip * LANES
        stop = min(end, first + stride)
        V[:] = -np.inf
        for row in range(first, stop, ROWS):
            rows = min(ROWS, stop - row)
            _gather(item, columns, paired, model, row - 1, first, rows, blanks, labels)
            found |= advance(blanks, labels, rows, V, edges, row, steps, strip * stride + row - first)
    return found != 0


@part
def backward(item, columns, model, steps, emission_frames, path_scores):
    """Follow the back-pointers from the end.

    Args:
        emission_frames: int32 [U], filled.
        path_scores: of the accumulator's type, [last_row], filled with the arcs' log-probs in path order.
    """
    stride = strip_rows(item.T, item.U, item.slant)
    t, u = item.T, item.U
    for row in range(last_row(item.T, item.U, item.slant), 0, -1):
        strip, lane = u >> LANES_BITS, u & (LANES - 1)
        word = np.uint64(strip * (stride - LANES) + row)
        by_label = np.int64((steps[word] >> np.uint32(lane)) & np.uint32(1))
        u -= by_label
        t -= 1 - (by_label & item.slant)
        if by_label != 0:
            emission_frames[u] = t
            path_scores[row - 1] = arc_at(item, model, t, u, columns[u])
        else:
            path_scores[row - 1] = arc_at(item, model, t, u, item.blank)


@part
def any_not_finite(item, columns, paired, model, blanks, labels):
    """Whether NaN or +inf stands in an arc that a path can take. Arguments as of `forward`."""
    end = last_row(item.T, item.U, item.slant) + 1
    stride = strip_rows(item.T, item.U, item.slant)
    for first in range(0, item.U + 1, LANES):
        stop = min(end, first + stride)
        for row in range(first, stop, ROWS):
            rows = min(ROWS, stop - row)
            _gather(item, columns, paired, model, row - 1, first, rows, blanks, labels)
            found = 0
            for r in range(rows):  # never left early, so that it is compiled to vectors
                for j in range(LANES):
                    found |= (not blanks[r, j] < np.inf) | (not labels[r, j] < np.inf)
            if found:
                return True
    return False
