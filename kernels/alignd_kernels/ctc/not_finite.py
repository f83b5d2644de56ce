# mypy: allow-untyped-defs
"""Whether NaN or +inf stands in a cell that a legal path can visit: asked only where scores look like it."""

import numpy as np

from alignd_kernels.compile_cache import part
from alignd_kernels.ctc.emissions import star_value
from alignd_kernels.numba_helpers import widen
from alignd_kernels.vectors import out_of_line


@part
def _wanted_not_finite(row, counts):
    """Whether NaN or +inf stands in a column that is counted. Never left early, so that it is compiled to vectors."""
    found = 0
    for v in range(len(counts)):
        found |= (not widen(row[v]) < np.inf) & (counts[v] > 0)
    return found != 0


@part
def _any_not_finite(row, columns, V):
    """Whether NaN or +inf stands in any of these columns; wildcards (V) are not looked at. Never left early."""
    found = 0
    for i in range(len(columns)):
        y = columns[i]
        found |= (not widen(row[y if y < V else 0]) < np.inf) & (y < V)
    return found != 0


@part
def visited_not_finite(values, item, columns, reached, counts):
    """Whether NaN or +inf stands in a cell that a legal path can visit.

    A frame costs the fewer of its columns and the labels that it can visit, so that an item with a bad cell in its
    last frame costs no more than a good one.

    Args:
        columns, reached: as `place_targets` fills them.
        counts: scratch, integers [min(V, L) + 1].
    """
    out_of_line()
    T, L, V, spare = item.T, item.L, item.V, item.spare
    # How often a column stands among the labels low … high - 1. Only used where there are more of these than columns.
    counted = V < L
    if counted:
        counts[:V] = 0
    low_blank = low = high_blank = high = stars = 0
    for t in range(T):
        while high < L and reached[high + 1] <= t:
            y = columns[high + 1]
            if y == V:
                stars += 1
            elif counted:
                counts[y] += 1
            high += 1
        while reached[low + 1] + spare < t:
            y = columns[low + 1]
            if y == V:
                stars -= 1
            elif counted:
                counts[y] -= 1
            low += 1
        while high_blank <= L and reached[high_blank] < t:
            high_blank += 1
        while low_blank < L and reached[low_blank + 1] + spare <= t:
            low_blank += 1
        row = values[t * item.pitch : t * item.pitch + V]
        if low_blank < high_blank and not widen(row[item.blank]) < np.inf:
            return True
        if stars > 0 and not star_value(row, item.blank, item.star_score) < np.inf:
            return True
        if high - low > V:
            if _wanted_not_finite(row, counts[:V]):
                return True
        elif _any_not_finite(row, columns[low + 1 : high + 1], V):
            return True
    return False
