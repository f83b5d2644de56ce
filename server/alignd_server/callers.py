"""Work that the threads of waiting callers do themselves: to wake a worker takes as long as to align a few utterances.

Each caller's launch is its own. As long as there are fewer callers than threads in the pool, those help; then every
processor has a caller, who keeps to its own thread, so that nothing is handed over.
"""

import sys
import time
from collections.abc import Callable
from typing import Final

from alignd_server.admission import Admission
from alignd_server.device import Device
from alignd_server.errors import OverloadedError
from alignd_server.jobs import Job
from alignd_server.queue import JobQueue

POLL_S: Final = 0.005

LIMIT_S: Final = 10.0
"""Longer than a caller's work takes: see `engine.ASSISTED_CELLS`."""

WorkOff = Callable[[list[Job]], object]


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
        self._at_work = Admission(sys.maxsize, device.memory_bytes)

    def work_off(self, job: Job) -> bool:
        """Do `job` on the calling thread. False if it has to wait: others wait already, the worker is busy, or the
        scratch of those at work leaves no room."""
        if not self._queue.idle():
            return False
        apart = self._at_work.items + 1 >= self._threads > 1
        cost = job.cost
        need = self._device.scratch_bytes(cost.scratch_bytes, cost.largest_scratch_bytes, apart)
        try:
            place = self._at_work.reserve(need, 1)
        except OverloadedError:
            return False
        try:
            (self._apart if apart else self._together)([job])
        finally:
            place.release()
        return True

    def finish(self, timeout: float | None) -> None:
        """Wait until nobody is at work, at most `timeout` seconds."""
        end = time.monotonic() + (LIMIT_S if timeout is None else min(timeout, LIMIT_S))
        while self._at_work.items and time.monotonic() < end:
            time.sleep(POLL_S)
