"""A grid of blocks, each of which waits for its left and its upper neighbour, shared among threads."""

import contextlib
import itertools
from collections.abc import Callable
from queue import Empty, SimpleQueue


class Grid:
    """Blocks that wait or are ready; `drain` is what each thread does.

    No lock is held by Python's own code, since an interrupt may come at any place of it, on the calling thread: queues
    and counters are atomic each for itself. Whatever ends the caller's `drain` ends the others'.
    """

    def __init__(self, work: Callable[[int, int], None], rows: int, columns: int, threads: int) -> None:
        self._work = work
        self._last = (rows - 1, columns - 1)
        # Each neighbour that is done draws a number; whose is the last one makes the block ready.
        self._done = {(r, c): itertools.count(1) for r in range(rows) for c in range(columns)}
        self._threads = threads
        self._ended = False
        self._ready: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
        self._ready.put((0, 0) if self._done else None)

    def drain(self) -> None:
        """Do blocks until the last one is done or a thread has failed."""
        try:
            while (block := self._take()) is not None:
                self._work(*block)
                self._finish(*block)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Let go whoever waits for a block."""
        self._ended = True
        for _ in range(self._threads):
            self._ready.put(None)

    def _take(self) -> tuple[int, int] | None:
        while not self._ended:
            # `end` may have been interrupted before it had told everybody.
            with contextlib.suppress(Empty):
                return self._ready.get(timeout=1.0)
        return None

    def _finish(self, row: int, column: int) -> None:
        if (row, column) == self._last:  # which waits for all others
            self.end()
        for after in ((row, column + 1), (row + 1, column)):
            if after in self._done and next(self._done[after]) == (after[0] > 0) + (after[1] > 0):
                self._ready.put(after)
