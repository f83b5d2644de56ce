# mypy: allow-untyped-defs
"""What the CPU kernel knows of an item from its targets alone: whether they are good, and when each can be visited."""

from typing import Final

import numpy as np

from alignd_kernels.compile_cache import part
from alignd_kernels.ctc.batch import STAR
from alignd_kernels.status import Status
from alignd_kernels.vectors import out_of_line

OK: Final = int(Status.OK)
EMPTY: Final = int(Status.EMPTY)
TOO_FEW_FRAMES: Final = int(Status.TOO_FEW_FRAMES)
TARGET_OUT_OF_RANGE: Final = int(Status.TARGET_OUT_OF_RANGE)
TARGET_IS_BLANK: Final = int(Status.TARGET_IS_BLANK)
ADJACENT_STARS: Final = int(Status.ADJACENT_STARS)

NEVER: Final = 2**31 - 1


@part
def check_item(targets, T, V, blank):
    """As `reference.check_targets`, and the number of frames to spare."""
    out_of_line()
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


@part
def place_targets(targets, V, columns, reached):
    """Fill in, for label i at i + 1, its column (V for a wildcard) and the first frame at which it can be visited; it
    can be until as many frames later as the item has to spare, and blanks lie between. Both arrays are padded.

    Returns whether there are wildcards.
    """
    out_of_line()
    columns[:] = 0
    reached[:] = NEVER
    columns[0] = -1
    reached[0] = -1
    starred = False
    for i in range(len(targets)):
        columns[i + 1] = V if targets[i] == STAR else targets[i]
        starred |= targets[i] == STAR
        reached[i + 1] = reached[i] + (2 if columns[i + 1] == columns[i] else 1)
    return starred
