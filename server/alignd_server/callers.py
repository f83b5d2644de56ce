"""Work that the threads of waiting callers do themselves: to wake a worker takes as long as to align a few utterances.

Each caller's launch is its own. As long as there are fewer callers than threads in the pool, those help; then every
processor has a caller, who keeps to its own thread, so that nothing is handed over.
"""

import time
import weakref
from collections.abc import Callable
from typing import Final

from alignd_server.device import Device
from alignd_server.jobs import Job
from alignd_server.queue import JobQueue

POLL_S: Final = 0.005

LIMIT_S: Final = 10.0
"""For callers at work when the engine closes; what takes longer is let go on, without the pool."""

WorkOff = Callable[[list[Job]], object]


class _Place:
    """A caller at work, until it has `left`, or nothing holds this any more. It takes no call to leave: with any an
    interrupt may come, and be lost within `__del__`."""

    __slots__ = ("__weakref__", "left", "need")

    def __init__(self, need: int) -> None:
        self.need = need
        self.left = False


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
        self._entered: dict[weakref.ref[_Place], None] = {}

    def work_off(self, job: Job) -> bool:
        """Do `job` on the calling thread. False if it has to wait: others wait already, or the scratch of those at work
        leaves no room."""
        if not self._queue.free():
            return False
        apart = len(self._at_work()) + 1 >= self._threads > 1
        cost = job.cost
        place = _Place(self._device.scratch_bytes(cost.scratch_bytes, cost.largest_scratch_bytes, apart))
        try:
            self._entered[weakref.ref(place)] = None
            if not self._has_room(place):
                return False
            (self._apart if apart else self._together)([job])
        finally:
            place.left = True
        return True

    def _at_work(self) -> list[_Place]:
        """In the order in which they came."""
        found = []
        for entered in self._entered.copy():
            place = entered()
            if place is None or place.left:
                self._entered.pop(entered, None)
            else:
                found.append(place)
        return found

    def _has_room(self, place: _Place) -> bool:
        """Beside those who came before; the first of all has."""
        there = self._at_work()
        needs = [one.need for one in there[: there.index(place) + 1]]
        return len(needs) == 1 or sum(needs) <= self._device.memory_bytes

    def finish(self, timeout: float | None) -> None:
        """Wait until nobody is at work, at most `timeout` seconds."""
        end = time.monotonic() + (LIMIT_S if timeout is None else min(timeout, LIMIT_S))
        while self._at_work() and time.monotonic() < end:
            time.sleep(POLL_S)
