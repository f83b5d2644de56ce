"""What ragged batches of all families share: flat arrays of items end to end, described by lengths."""

from typing import Any

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

Buffers = npt.NDArray[Any] | tuple[npt.NDArray[Any], ...]
"""The flat array that a batch's items lie in, or several of one dtype: what comes from many callers is not copied."""


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


def as_one(buffers: Buffers, sources: Int64Array | None, offsets: Int64Array) -> tuple[npt.NDArray[Any], Int64Array]:
    """One flat array of everything, and the items' offsets in it; a copy only if there are several buffers.

    Args:
        buffers: 1-D, of one dtype.
        sources: int64 [B], the buffer of each item; None if there is one for all.
        offsets: int64 [B], of each item in its buffer.
    """
    if not isinstance(buffers, tuple):
        return buffers, offsets
    if sources is None:
        raise ValueError("a batch of several buffers needs `sources`, the buffer of each item")
    starts = offsets_of(np.array([len(buffer) for buffer in buffers], np.int64))
    return np.concatenate(buffers), offsets + starts[sources]
