"""What ragged batches of all families share: flat arrays of items end to end, described by lengths."""

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]


def offsets_of(lengths: Int64Array) -> Int64Array:
    """Start of each item in a flat array of items of the given lengths, end to end; one more entry for the end.

    Args:
        lengths: int64 [B]; negative ones count as 0.

    Returns:
        int64 [B + 1].
    """
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.maximum(lengths, 0), out=offsets[1:])
    return offsets
