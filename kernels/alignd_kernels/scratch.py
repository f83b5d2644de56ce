"""Memory that kernels work in."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

CACHE_LINE: Final = 64


def from_cache_line(size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """As `np.empty`, from the start of a cache line on: vectors that lie in two of them would be twice the work.

    Args:
        size: elements.
        dtype: of at most 64 bytes, a power of two.
    """
    itemsize = np.dtype(dtype).itemsize
    room = np.empty(size + CACHE_LINE // itemsize, dtype)
    start = -room.ctypes.data % CACHE_LINE // itemsize
    return room[start : start + size]
