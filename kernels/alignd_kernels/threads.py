"""A thread pool that shares one batch among cores and is safe for any number of concurrent callers.

Kernels release the GIL, so plain threads do. The caller works too: a batch never waits for a free worker, and a pool
whose threads did not survive a fork costs only speed until its next use replaces them.
"""

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final

import numpy as np

from alignd_kernels.grid import Grid
from alignd_kernels.ragged import Int64Array
from alignd_kernels.team import Task, Team

INLINE_CELLS: Final = 150_000
"""Lattice cells up to which handing work over costs more than it saves (about 0.1 ms of work)."""

CHUNKS_PER_THREAD: Final = 4
"""Enough for threads to finish together although items differ in length."""


def available_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class WorkerPool:
    """Threads for `run`; the calling thread counts as one of them.

    Args:
        threads: at least 1; default `available_cpus()`.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = available_cpus() if threads is None else threads
        if self.threads < 1:
            raise ValueError(f"a pool needs at least 1 thread, not {self.threads}")
        self._team: Team | None = None
        self._process = 0
        self._closed = False

    def run(self, work: Callable[[int, int], None], cells: Int64Array) -> None:
        """Call `work(start, stop)` on ranges that cover all items, and return when all are done.

        Args:
            work: does items start … stop − 1; must be safe to call from several threads.
            cells: int64 [B], cost of each item.

        Raises:
            what `work` raises first; ranges that have not begun by then are dropped.
        """
        total = int(cells.sum())
        if self.threads == 1 or self._closed or len(cells) < 2 or total <= INLINE_CELLS:
            work(0, len(cells))
            return
        bounds = _chunk_bounds(cells, total, self.threads * CHUNKS_PER_THREAD)
        chunks = deque(itertools.pairwise(bounds))

        def drain() -> None:
            while True:
                try:
                    start, stop = chunks.popleft()
                except IndexError:  # another thread took the last one
                    return
                try:
                    work(start, stop)
                except BaseException:
                    chunks.clear()
                    raise

        helpers = self._submit(drain, min(self.threads, len(chunks)) - 1)
        try:
            drain()
        finally:
            running = [helper for helper in helpers if not helper.cancel()]
            errors = [helper.exception() for helper in running]
        for error in errors:
            if error is not None:
                raise error

    def run_everywhere(self, task: Callable[[], None], cells: Int64Array) -> None:
        """Call `task()` on as many threads at once as the work is worth, and return when all are done. Each call takes
        items off a counter that they share until none is left: less is handed over than by `run`, and the threads
        finish together whatever the items' sizes.

        Args:
            task: may find nothing left to do; must be safe to call from several threads.
            cells: int64 [B], cost of each item.

        Raises:
            what `task` raises first.
        """
        worthwhile = min(self.threads, len(cells)) if int(cells.sum()) > INLINE_CELLS else 1
        helpers = self._submit(task, worthwhile - 1)
        try:
            task()
        finally:
            errors = [helper.exception() for helper in helpers if not helper.cancel()]
        for error in errors:
            if error is not None:
                raise error

    def run_grid(self, work: Callable[[int, int], None], rows: int, columns: int) -> None:
        """Call `work(row, column)` once for every block of a grid, and return when all are done. A block waits for its
        left and its upper neighbour, as in the blocks of one long item's lattice; what is ready is shared among
        threads.

        Args:
            work: does one block; should take 0.1 ms or more, and must be safe to call from several threads.
            rows: of blocks.
            columns: of blocks.

        Raises:
            what `work` raises first; blocks that have not begun by then are dropped.
        """
        grid = Grid(work, rows, columns, self.threads)
        helpers: list[Task] = []
        try:
            helpers = self._submit(grid.drain, min(self.threads, rows, columns) - 1)
            grid.drain()
        finally:
            grid.end()
            errors = [helper.exception() for helper in helpers if not helper.cancel()]
        for error in errors:
            if error is not None:
                raise error

    def shutdown(self, *, wait: bool = True) -> None:
        """End the threads; later calls of `run` work on the calling thread alone.

        Args:
            wait: until they have ended.
        """
        self._closed = True
        if self._team is not None and self._process == os.getpid():
            self._team.shutdown(wait=wait)

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def _submit(self, function: Callable[[], None], times: int) -> list[Task]:
        if times < 1 or self._closed:
            return []
        if self._team is None or self._process != os.getpid():  # threads do not survive a fork
            self._team = Team(self.threads - 1, "alignd-kernel")
            self._process = os.getpid()
        team = self._team  # shut down meanwhile, it does nothing more: the caller does the work alone
        return [team.submit(function) for _ in range(times)]


def _chunk_bounds(cells: Int64Array, total: int, chunks: int) -> list[int]:
    """Item ranges of about `total / chunks` cells each, as their bounds."""
    quota = max(total // chunks, 1)
    last = np.cumsum(cells) // quota
    starts = np.flatnonzero(np.diff(last)) + 1
    return [0, *starts.tolist(), len(cells)]


_default: WorkerPool | None = None
_default_lock = threading.Lock()


def default_pool() -> WorkerPool:
    """The pool of callers that bring none: one thread per available CPU, made when first asked for."""
    global _default
    if _default is None:
        with _default_lock:
            if _default is None:
                _default = WorkerPool()
    return _default
