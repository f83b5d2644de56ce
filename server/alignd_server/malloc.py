"""glibc's allocator, told to keep message-sized buffers.

By default every buffer above 128 KB to 32 MB is mapped, faulted in page by page, and unmapped again: a factor of 2 to 8
on messages above 1 MB. Must run before threads start.
"""

import ctypes
import sys
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_TOP_PAD: Final = -2
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8


def set_thresholds() -> bool:
    """Returns whether the allocator took them (it is not glibc's everywhere)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    wanted = {M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 << 20, M_ARENA_MAX: 2}
    taken = [mallopt(parameter, value) == 1 for parameter, value in wanted.items()]
    return all(taken)
