# mypy: allow-untyped-defs
"""Paths as padded arrays of zeros and ones (Numba)."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.compile_cache import kernel
from alignd_kernels.mas.batch import MasBatch, MasResult
from alignd_kernels.numba_helpers import take_next
from alignd_kernels.threads import WorkerPool

WORDS: Final = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
"""What a value of any dtype is written as: its bits."""


def dense_paths(batch: MasBatch, result: MasResult, one: npt.NDArray[Any], pool: WorkerPool) -> npt.NDArray[Any]:
    """Zeros, and `one` where a path is, at the same indices as the batch's values.

    Args:
        batch: items in one buffer.
        result: of that batch. A failed item has no durations, and so gets zeros.
        one: [1], of the dtype wanted.

    Returns:
        1-D, of the dtype of `one`, as long as `batch.values`.
    """
    assert not isinstance(batch.values, tuple)
    word = WORDS[one.dtype.itemsize]
    # Zeroed by the system page by page, by the threads that write there; what no path visits is never touched.
    paths = np.zeros(len(batch.values), word)
    table = np.stack([batch.offsets, batch.tokens, batch.pitches]).astype(np.int64, copy=False)
    cursor = np.zeros(1, np.int64)

    def work() -> None:
        _paint(paths, one.view(word)[0], table, batch.frames_first, cursor, result.durations)

    pool.run_everywhere(work, batch.frames * 16)  # a frame costs as much as 16 cells of the lattice
    return paths.view(one.dtype)


def warm_up() -> None:
    """Compile the kernel for all sizes of words, or load it from the cache."""
    for word in WORDS.values():
        _paint(
            np.zeros(1, word), word(1), np.ones((3, 1), np.int64), False, np.ones(1, np.int64), np.zeros(1, np.int32)
        )


@kernel
def _paint(paths, one, table, frames_first, cursor, durations):
    items = table.shape[1]
    while True:
        b = take_next(cursor)
        if b >= items:
            break
        begin = 0
        for before in range(b):
            begin += max(table[1, before], 0)
        along = table[2, b] if frames_first else 1
        across = 1 if frames_first else table[2, b]
        t = 0
        for s in range(table[1, b]):
            cell = table[0, b] + s * across
            for at in range(t, t + durations[begin + s]):
                paths[cell + at * along] = one
            t += durations[begin + s]
