# mypy: allow-untyped-defs
"""The hard walk of stepwise monotonic attention through one map (Numba)."""

import numpy as np

from alignd_kernels.compile_cache import part
from alignd_kernels.numba_helpers import array_at, widen


@part
def walk(address, pitch, S, T, model, starts, ends):
    """From token 0 in frame 0, staying on a token in each later frame where its value is above one half.

    Args:
        address: of cell (0, 0).
        pitch: elements from a token's row to the next.
        model: empty array of the values' type.
        starts: int32 [S], filled unless the walk fails.
        ends: int32 [S], likewise.

    Returns:
        the sum in frame order of the logarithms of what was decided, in float64; NaN if a value that decides is no
        probability.
    """
    total = 0.0
    j, last = 0, S - 1
    start = 0
    for t in range(1, T):
        if j == last:
            break
        value = np.float64(widen(array_at(address + (j * pitch + t) * model.itemsize, 1, model)[0]))
        if not 0.0 <= value <= 1.0:
            starts[:j] = 0
            ends[:j] = 0
            return np.nan
        if value > 0.5:
            total += np.log(value)
        else:
            total += np.log(1.0 - value)
            starts[j], ends[j] = start, t
            start = t
            j += 1
    starts[j], ends[j] = start, T
    starts[j + 1 :] = T
    ends[j + 1 :] = T
    return total
