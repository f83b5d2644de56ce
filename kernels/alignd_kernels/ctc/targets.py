# mypy: allow-untyped-defs
"""What the CPU kernel knows of an item from its targets alone: whether they are good, and when each can be visited."""

from typing import Final

import numpy as np
from numba import njit

from alignd_kernels.compile_cache import kernel
from alignd_kernels.ctc.batch import STAR
from alignd_kernels.status import Status

OK: Final = int(Status.OK)
EMPTY: Final = int(Status.EMPTY)
TOO_FEW_FRAMES: Final = int(Status.TOO_FEW_FRAMES)
TARGET_OUT_OF_RANGE: Final = int(Status.TARGET_OUT_OF_RANGE)
TARGET_IS_BLANK: Final = int(Status.TARGET_IS_BLANK)
ADJACENT_STARS: Final = int(Status.ADJACENT_STARS)


@njit(nogil=True)
def _check_item(targets, T, V, blank):
    """As `reference.check_targets`, and the number of frames to spare."""
    L = len(targets)
    if L == 0 or T <= 0 or V <= 0:
        return EMPTY, 0
    if not 0 <= blank < V:
        return TARGET_OUT_OF_RANGE, 0
    repeats = 0
    before = blank
    for i in range(L):
        y = np.int64(targets[i])
        if y != STAR and not 0 <= y < V:
            return TARGET_OUT_OF_RANGE, 0
        if y == blank:
            return TARGET_IS_BLANK, 0
        if y == before:
            if y == STAR:
                return ADJACENT_STARS, 0
            repeats += 1
        before = y
    spare = T - L - repeats
    return (OK if spare >= 0 else TOO_FEW_FRAMES), max(spare, 0)


@kernel
def check_targets(targets, items, statuses, slack):
    for b in range(len(statuses)):
        T, V, first, L, blank = items[1, b], items[2, b], items[4, b], max(items[5, b], 0), items[6, b]
        statuses[b], slack[b] = _check_item(targets[first : first + L], T, V, blank)


@njit(nogil=True)
def visiting_times(targets, T, first, last, penalties, stars):
    """First and last frame at which each label can be visited (blanks lie between); whether it may be reached from the
    label before, as 0 or -inf to add; where the wildcards are. Returns their number."""
    L = len(targets)
    t = -1
    count = 0
    for i in range(L):
        repeated = i > 0 and targets[i] == targets[i - 1]
        penalties[i] = -np.inf if repeated or i == 0 else 0.0
        t += 2 if repeated else 1
        first[i] = t
        if targets[i] == STAR:
            stars[count] = i
            count += 1
    spare = T - 1 - t
    for i in range(L):
        last[i] = first[i] + spare
    return count
