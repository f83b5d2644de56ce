# mypy: allow-untyped-defs
"""What the CPU kernel reads of a frame's log-probs: labels, wildcards, and whether any that matters is not finite."""

import numpy as np
from numba import njit

from alignd_kernels.ctc.batch import STAR
from alignd_kernels.numba_helpers import widen


@njit(nogil=True)
def star_value(row, blank, star_score):
    """Log-prob of a wildcard's frame: `star_score`, or if that is NaN the largest non-blank one, NaN if any is."""
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


@njit(nogil=True)
def gather(row, labels, out):
    """The log-prob of each label; where it is a wildcard, that of column 0."""
    for i in range(len(out)):
        out[i] = widen(row[max(labels[i], 0)])


@njit(nogil=True)
def _wanted_not_finite(row, counts):
    """Whether NaN or +inf stands in a column that is counted. Never left early, so that it is compiled to vectors."""
    found = 0
    for v in range(len(counts)):
        found |= (not widen(row[v]) < np.inf) & (counts[v] > 0)
    return found != 0


@njit(nogil=True)
def _any_not_finite(x):
    """Whether NaN or +inf is among the accumulators x. Never left early, as above."""
    found = 0
    for i in range(len(x)):
        found |= not x[i] < np.inf
    return found != 0


@njit(nogil=True)
def visited_not_finite(log_probs, offset, pitch, V, targets, T, blank, star_score, times, x, counts):
    """Whether NaN or +inf stands in a cell that a legal path can visit.

    A frame costs the fewer of its columns and the labels that it can visit, so that an item with a bad cell in its
    last frame costs no more than a good one.

    Args:
        times: first and last frame of each label, as `visiting_times` has them.
        x: scratch, [L] or more accumulators.
        counts: scratch, [L] or more integers.
    """
    L = len(targets)
    first, last = times[0], times[1]
    # How often a column stands among the labels low … high - 1. Only used where there are more of these than columns.
    counted = V < L
    if counted:
        counts[:V] = 0
    low_blank = low = high_blank = high = stars = 0
    for t in range(T):
        while high < L and first[high] <= t:
            if targets[high] == STAR:
                stars += 1
            elif counted:
                counts[targets[high]] += 1
            high += 1
        while last[low] < t:
            if targets[low] == STAR:
                stars -= 1
            elif counted:
                counts[targets[low]] -= 1
            low += 1
        while high_blank <= L and (high_blank == 0 or first[high_blank - 1] < t):
            high_blank += 1
        while low_blank < L and last[low_blank] <= t:
            low_blank += 1
        row = log_probs[offset + t * pitch : offset + t * pitch + V]
        if low_blank < high_blank and not widen(row[blank]) < np.inf:
            return True
        if stars > 0 and not star_value(row, blank, star_score) < np.inf:
            return True
        if high - low > V:
            if _wanted_not_finite(row, counts[:V]):
                return True
        else:
            gather(row, targets[low:high], x[: high - low])
            if stars > 0:
                for i in range(low, high):
                    if targets[i] == STAR:
                        x[i - low] = -np.inf  # looked at above
            if _any_not_finite(x[: high - low]):
                return True
    return False
