"""What this machine can do at best: bytes read and written, dependent additions, and the bare recurrences in cache.

All are measured, on the pool's threads, in the run that uses them. Each is a time that a kernel cannot beat as long as
it reads its input from memory, adds in frame order, and computes every cell that a path can visit.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from alignd_kernels.threads import WorkerPool, default_pool
from benchmarks.case import Work

PIECES_PER_THREAD = 2  # few, because each call into the kernel costs as much as reading 100 kB
ROW = 2048  # cells of a row in the bare recurrences: all rows together stay in the first-level cache
REPEATS = 400


@dataclass(frozen=True, slots=True)
class Floor:
    """Least seconds of one call, and what binds it: "memory", "chain" or "arithmetic"."""

    seconds: float
    bound_by: str


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured: bytes a second of all threads, and seconds of one dependent step."""

    read: float
    write: float
    chain_step: float
    cell: dict[str, float]

    def floor(self, work: Work) -> Floor:
        parts = {
            "memory": work.read_bytes / self.read + work.write_bytes / self.write,
            "chain": work.chain_steps * self.chain_step,
            "arithmetic": work.cells * self.cell[work.recurrence],
        }
        bound_by = max(parts, key=lambda name: parts[name])
        return Floor(parts[bound_by], bound_by)


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
def cell_seconds(recurrence: str) -> float:
    """Seconds for one lattice cell of the bare recurrence in cache, all threads working: no back-pointers, no loads
    from memory, vectors as wide as the compiler chooses."""
    pool = default_pool()
    kernel = {"mas": _mas_rows, "ctc": _ctc_rows}[recurrence]
    rows = [np.zeros((6, ROW + 2), np.float32) for _ in range(pool.threads)]

    def work(start: int, stop: int) -> None:
        for thread in range(start, stop):
            kernel(rows[thread], REPEATS)

    shares = np.full(pool.threads, 1 << 40, np.int64)
    # A pair of a blank and a label is two cells of CTC's lattice.
    cells = pool.threads * REPEATS * ROW * (2 if recurrence == "ctc" else 1)
    return _median(lambda: pool.run(work, shares)) / cells


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
        score = (score if score >= other else other) + values[(step + 7) & 63]
    return score


@numba.njit(nogil=True, cache=True)
def _mas_rows(rows: npt.NDArray[np.float32], repeats: int) -> None:
    scores = rows[2]
    for repeat in range(repeats):
        before, after = rows[repeat & 1], rows[1 - (repeat & 1)]
        for i in range(1, ROW + 1):
            stay, move = before[i], before[i - 1]
            after[i] = (stay if stay >= move else move) + scores[i]


@numba.njit(nogil=True, cache=True)
def _ctc_rows(rows: npt.NDArray[np.float32], repeats: int) -> None:
    scores = rows[4]
    for repeat in range(repeats):
        side = repeat & 1
        blanks, labels = rows[2 * side], rows[2 * side + 1]
        new_blanks, new_labels = rows[2 - 2 * side], rows[3 - 2 * side]
        blank_score = scores[0]
        for i in range(1, ROW + 1):
            blank, label, skip = blanks[i], labels[i], labels[i - 1]
            new_blanks[i] = (blank if blank >= skip else skip) + blank_score
            best = label if label >= blank else blank
            new_labels[i] = (best if best >= skip else skip) + scores[i]
