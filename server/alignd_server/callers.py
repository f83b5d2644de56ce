"""Work that the threads of waiting callers do themselves: to wake a worker takes as long as to align a few utterances.

Each caller's launch is its own. As long as there are fewer callers than threads in the pool, those help; then every
processor has a caller, who keeps to its own thread, so that nothing is handed over.
"""

import contextlib
import itertools
import time
from collections.abc import Callable
from typing import Final

from alignd_server.device import Device
from alignd_server.jobs import Job
from alignd_server.queue import JobQueue

POLL_S: Final = 0.005

LIMIT_S: Final = 10.0
"""Longer than a caller's work takes: see `engine.ASSISTED_CELLS`."""

WorkOff = Callable[[list[Job]], object]


class _Place:
    """A caller at work, until `release`; or until nothing holds this any more, after an interrupt at any place."""

    __slots__ = ("_places",)

    def __init__(self, places: dict[int, int], need: int) -> None:
        self._places = places
        places[id(self)] = need

    def release(self) -> None:
        with contextlib.suppress(AttributeError):  # interrupted before it was taken
            self._places.pop(id(self), None)

    __del__ = release


class Callers:
    """Those who are at work.

    Args:
        queue: of the worker that does what no caller does.
        device: with a pool of threads.
        together: does jobs with the help of the pool.
        apart: does jobs on the calling thread.
    """

    def __init__(self, queue: JobQueue, device: Device, together: WorkOff, apart: WorkOff) -> None:
        assert device.pool is not None
        self._queue = queue
        self._device = device
        self._threads = device.pool.threads
        self._together = together
        self._apart = apart
        self._places: dict[int, int] = {}
        """Scratch of each who is at work, in bytes."""

    def work_off(self, job: Job) -> bool:
        """Do `job` on the calling thread. False if it has to wait: others wait already, the worker is busy, or the
        scratch of those at work leaves no room."""
        if not self._queue.idle():
            return False
        apart = len(self._places) + 1 >= self._threads > 1
        cost = job.cost
        place = _Place(self._places, self._device.scratch_bytes(cost.scratch_bytes, cost.largest_scratch_bytes, apart))
        try:
            if not self._has_room(place):
                return False
            (self._apart if apart else self._together)([job])
        finally:
            place.release()
        return True

    def _has_room(self, place: _Place) -> bool:
        """Beside those who came before; the first of all has."""
        places = self._places.copy()
        before = list(places).index(id(place))
        return before == 0 or sum(itertools.islice(places.values(), before + 1)) <= self._device.memory_bytes

    def finish(self, timeout: float | None) -> None:
        """Wait until nobody is at work, at most `timeout` seconds."""
        end = time.monotonic() + (LIMIT_S if timeout is None else min(timeout, LIMIT_S))
        while self._places and time.monotonic() < end:
            time.sleep(POLL_S)
