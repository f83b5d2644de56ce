"""Memory of large results that their caller has let go, kept for the next ones.

Fresh memory costs more than any other part of a dense path: the system hands it over page by page, each zeroed in a
fault, at a quarter of the speed at which memory that is there is overwritten. Training asks for results of about the
same size at every step.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
import numpy.typing as npt

LEAST_BYTES: Final = 1 << 21
"""Smaller arrays come from the C library's heap, which keeps what is freed by itself."""

MOST_BYTES: Final = 1 << 28
"""Of memory kept."""

MOST_PIECES: Final = 4
"""What a step of training lets go at a time: attention and its gradient, of two layers. The oldest ones are freed."""

ALIGNMENT: Final = 64

_Bytes = npt.NDArray[np.uint8]


class _Piece:
    """Memory that is kept; equal to itself alone."""

    __slots__ = ("memory",)

    def __init__(self, memory: _Bytes) -> None:
        self.memory = memory


_kept: list[_Piece] = []
"""From the oldest on. Only changed by single calls of a list's, which are atomic: `__del__` runs at any time, on any
thread."""


class _Lent:
    """Owns the memory of an array; NumPy and torch keep this object for as long as anything looks into the memory."""

    def __init__(self, memory: _Bytes) -> None:
        self._piece = _Piece(memory)
        self.__array_interface__ = memory.__array_interface__

    # The names are gone when the interpreter ends.
    def __del__(self, kept: list[_Piece] = _kept, most: int = MOST_BYTES, pieces: int = MOST_PIECES) -> None:
        kept.append(self._piece)
        try:
            while len(kept) > pieces or sum([len(piece.memory) for piece in kept.copy()]) > most:
                kept.pop(0)
        except IndexError:  # another thread was faster
            pass


def _taken(nbytes: int) -> _Bytes | None:
    """Of what is kept, what was let go last of those that are at most twice as large; if there is none, the oldest is
    freed."""
    for piece in reversed(_kept.copy()):
        if nbytes <= len(piece.memory) <= 2 * nbytes:
            with suppress(ValueError):  # another thread was faster
                _kept.remove(piece)
                return piece.memory
    with suppress(IndexError):
        _kept.pop(0)
    return None


def borrow(nbytes: int) -> tuple[_Bytes, bool]:
    """An array that goes back to this module when nothing refers to it any more.

    Args:
        nbytes: its size.

    Returns:
        uint8 [nbytes], which begins at a cache line, and whether it may hold what was there before; else it is zero.
    """
    if not LEAST_BYTES <= nbytes <= MOST_BYTES:
        return np.zeros(nbytes, np.uint8), False
    memory = _taken(nbytes)
    stale = memory is not None
    if memory is None:
        raw = np.zeros(nbytes + ALIGNMENT, np.uint8)
        memory = raw[-raw.ctypes.data % ALIGNMENT :][:nbytes]
    return np.asarray(_Lent(memory))[:nbytes], stale


def empty(shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """As `np.empty`, of borrowed memory."""
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not LEAST_BYTES <= nbytes <= MOST_BYTES:
        return np.empty(shape, dtype)
    return borrow(nbytes)[0].view(dtype).reshape(shape)
