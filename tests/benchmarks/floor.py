"""What this machine's processors can do at best: bytes read and written, dependent additions, and arithmetic.

All are measured, on the pool's threads, in the run that uses them. Each is a time that a kernel cannot beat as long as
it reads its input from memory, adds in frame order, and computes every cell that a path can visit.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from alignd_kernels.threads import WorkerPool, default_pool

PIECES_PER_THREAD = 2  # few, because each call into the kernel costs as much as reading 100 kB
ROW = 2048  # float32 scores that stay in the first-level cache
STEPS = 8
REPEATS = 8000  # several milliseconds, beside which waking a thread is nothing


def read_once(buffers: Sequence[npt.NDArray[Any]], pool: WorkerPool | None = None) -> float:
    """Seconds in which all threads together read every byte of the buffers once."""
    return _over_chunks(_sum_words, buffers, pool or default_pool())


def write_once(buffers: Sequence[npt.NDArray[Any]], pool: WorkerPool | None = None) -> float:
    """Seconds in which all threads together overwrite every byte of the buffers, which were touched before."""
    return _over_chunks(_fill_words, buffers, pool or default_pool())


@functools.cache
def chain_step() -> float:
    """Seconds of one addition that waits for a maximum that waits for the addition before it."""
    values = np.zeros(64, np.float32)
    return _median(lambda: _chain(values, 1_000_000)) / 1_000_000


@functools.cache
def cell_seconds() -> float:
    """Seconds for the arithmetic of one lattice cell, all threads working: a maximum and an addition in registers.

    MAS needs just these for a cell. So does CTC: max(blank, label before) serves the new blank and the new label.
    """
    pool = default_pool()
    scores = [np.zeros(ROW, np.float32) for _ in range(pool.threads)]
    terms = np.linspace(-1, 1, 2 * STEPS, dtype=np.float32)

    def work(start: int, stop: int) -> None:
        for thread in range(start, stop):
            _cells(scores[thread], terms, REPEATS)

    shares = np.full(pool.threads, 1 << 40, np.int64)
    return _median(lambda: pool.run(work, shares)) / (pool.threads * REPEATS * ROW * STEPS)


def _over_chunks(
    kernel: Callable[[npt.NDArray[np.int64]], object], buffers: Sequence[npt.NDArray[Any]], pool: WorkerPool
) -> float:
    chunks = [part for buffer in buffers for part in _pieces(buffer, pool.threads * PIECES_PER_THREAD)]
    kernel(chunks[0][:0])  # compiled outside the clock

    def work(start: int, stop: int) -> None:
        for chunk in chunks[start:stop]:
            kernel(chunk)

    sizes = np.full(len(chunks), 1 << 40, np.int64)  # large, so that the pool shares even small ones
    begun = time.perf_counter()
    pool.run(work, sizes)
    return time.perf_counter() - begun


def _pieces(buffer: npt.NDArray[Any], count: int) -> list[npt.NDArray[np.int64]]:
    flat = buffer.reshape(-1).view(np.uint8)
    words = flat[: flat.nbytes // 8 * 8].view(np.int64)
    return np.array_split(words, count)


def _median(call: Callable[[], object]) -> float:
    call()
    taken = []
    for _ in range(9):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


@numba.njit(nogil=True, cache=True)
def _sum_words(words: npt.NDArray[np.int64]) -> np.int64:
    first = second = third = fourth = np.int64(0)
    quarter = len(words) // 4
    for i in range(quarter):  # four streams, which the prefetchers follow better than one
        first += words[i]
        second += words[quarter + i]
        third += words[2 * quarter + i]
        fourth += words[3 * quarter + i]
    return first + second + third + fourth


@numba.njit(nogil=True, cache=True)
def _fill_words(words: npt.NDArray[np.int64]) -> None:
    words[:] = 0


@numba.njit(nogil=True, cache=True)
def _chain(values: npt.NDArray[np.float32], steps: int) -> Any:
    score = values[0]
    for step in range(steps):
        other = values[step & 63]
        score = (score if score > other else other) + values[(step + 7) & 63]
    return score


@numba.njit(nogil=True, cache=True)
def _cells(scores: npt.NDArray[np.float32], terms: npt.NDArray[np.float32], repeats: int) -> None:
    # Eight steps a load, so that loads and stores are not what is measured; the cells of a row are independent.
    others, added = terms[:STEPS], terms[STEPS:]
    other0, other1, other2, other3 = others[0], others[1], others[2], others[3]
    other4, other5, other6, other7 = others[4], others[5], others[6], others[7]
    added0, added1, added2, added3 = added[0], added[1], added[2], added[3]
    added4, added5, added6, added7 = added[4], added[5], added[6], added[7]
    for _ in range(repeats):
        for i in range(ROW):
            score = scores[i]
            score = (score if score > other0 else other0) + added0
            score = (score if score > other1 else other1) + added1
            score = (score if score > other2 else other2) + added2
            score = (score if score > other3 else other3) + added3
            score = (score if score > other4 else other4) + added4
            score = (score if score > other5 else other5) + added5
            score = (score if score > other6 else other6) + added6
            score = (score if score > other7 else other7) + added7
            scores[i] = score
