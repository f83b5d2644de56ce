"""Memory between pages that cannot be touched, where a stray read or write ends the process; for tests' subprocesses.

POSIX only.
"""

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)


class Guarded:
    """Arrays with such a page right behind their last byte (`at_end`), or right before their first.

    They live as long as this object.
    """

    def __init__(self, at_end: bool) -> None:
        self._at_end = at_end
        self._kept: list[mmap.mmap] = []

    def raw(self, nbytes: int) -> npt.NDArray[np.uint8]:
        pages = -(-nbytes // PAGE)
        memory = mmap.mmap(-1, (pages + 2) * PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for page in (0, pages + 1):
            assert libc.mprotect(ctypes.c_void_p(base + page * PAGE), PAGE, 0) == 0
        self._kept.append(memory)
        return np.frombuffer(memory, np.uint8, nbytes, PAGE + (pages * PAGE - nbytes if self._at_end else 0))

    def empty(self, shape: Any, dtype: Any = float) -> npt.NDArray[Any]:
        """As `np.empty`, but NaN in every floating-point type, and far from any good number in the others."""
        array = self.zeros(shape, dtype)
        array.reshape(-1).view(np.uint8)[:] = 0xFF
        return array

    def zeros(self, shape: Any, dtype: Any = float) -> npt.NDArray[Any]:
        wanted = np.dtype(dtype)
        count = int(np.prod(shape))
        return self.raw(count * wanted.itemsize).view(wanted).reshape(shape) if count else np.ndarray(shape, wanted)

    def copy(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        found = self.zeros(array.shape, array.dtype)
        found[...] = array
        return found

    def full(self, shape: Any, value: Any, dtype: Any = None) -> npt.NDArray[Any]:
        return self.copy(np.broadcast_to(np.asarray(value, dtype), shape))

    @contextmanager
    def everywhere(self) -> Iterator[None]:
        """Whatever NumPy allocates by name meanwhile is guarded: what a kernel gets as scratch and for its results."""
        plain = np.empty, np.zeros, np.full
        np.empty, np.zeros, np.full = self.empty, self.zeros, self.full
        try:
            yield
        finally:
            np.empty, np.zeros, np.full = plain
