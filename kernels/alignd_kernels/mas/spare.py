"""Memory of a padded path that its caller has let go, kept for the next one.

Fresh memory costs more than any other part of a dense path: the system hands it over page by page, each zeroed in a
fault, at a quarter of the speed at which memory that is there is overwritten. Training asks for a path of about the
same size at every step.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

LEAST_BYTES: Final = 1 << 21
"""Smaller arrays come from the C library's heap, which keeps what is freed by itself."""

MOST_BYTES: Final = 1 << 28
"""Of memory kept. One piece of it is, of the array that was let go last."""

ALIGNMENT: Final = 64

_Bytes = npt.NDArray[np.uint8]


_kept: list[_Bytes] = []
"""At most one; a list because changing it is atomic: `__del__` runs at any time, on any thread."""


class _Lent:
    """Owns the memory of an array; NumPy and torch keep this object for as long as anything looks into the memory."""

    def __init__(self, memory: _Bytes) -> None:
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__

    def __del__(self, kept: list[_Bytes] = _kept) -> None:  # the name is gone when the interpreter ends
        kept[:] = [self._memory]


def borrow(nbytes: int) -> tuple[_Bytes, bool]:
    """An array that goes back to this module when nothing refers to it any more.

    Args:
        nbytes: its size. What is kept is used if it is at most twice as large, else freed.

    Returns:
        uint8 [nbytes], which begins at a cache line, and whether it may hold what was there before; else it is zero.
    """
    if not LEAST_BYTES <= nbytes <= MOST_BYTES:
        return np.zeros(nbytes, np.uint8), False
    try:
        memory = _kept.pop()
    except IndexError:
        memory = None
    stale = memory is not None and nbytes <= len(memory) <= 2 * nbytes
    if memory is None or not stale:
        raw = np.zeros(nbytes + ALIGNMENT, np.uint8)
        memory = raw[-raw.ctypes.data % ALIGNMENT :][:nbytes]
    return np.asarray(_Lent(memory))[:nbytes], stale
