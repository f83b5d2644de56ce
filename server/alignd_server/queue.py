"""What waits for a device, and which of it goes next."""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from alignd_server.errors import UnavailableError
from alignd_server.jobs import Job


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much shares a launch. One request goes however large it is.

    Attributes:
        cells: lattice cells.
        nbytes: payload.
        scratch_bytes: memory beside input and output.
        delay_s: how long an incomplete batch waits for company, in seconds.
        scratch_need: what a launch needs, given the sum over its items and the largest of them.
    """

    cells: int
    nbytes: int
    scratch_bytes: int
    delay_s: float = 0.0
    scratch_need: Callable[[int, int], int] = max

    def heavy(self, job: Job) -> bool:
        """Whether a request more than fills a batch, so that small ones must not wait behind it."""
        return job.cost.cells > self.cells


class JobQueue:
    """First in, first out, except that what may share a launch with the oldest goes along.

    There is one for each lane of the engine; all its workers take from it.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._waiting: dict[Hashable, deque[Job]] = {}
        self._changed = threading.Condition()
        self._closed = False

    def put(self, job: Job) -> None:
        """Raises `UnavailableError` once the queue is closed: no worker might come any more."""
        with self._changed:
            if self._closed:
                raise UnavailableError("the engine is shutting down")
            self._waiting.setdefault(job.key, deque()).append(job)
            self._changed.notify()

    def discard(self, job: Job) -> bool:
        """Mark a job as cancelled: it will be passed over. False if a worker has it, or it was cancelled before."""
        with self._changed:
            waiting, job.cancelled = not (job.taken or job.cancelled), True
            return waiting

    def free(self) -> bool:
        """Whether it is open and nothing waits. A guess: it may be otherwise once this has returned."""
        return not (self._waiting or self._closed)

    def close(self) -> None:
        """Let the workers go once nothing waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def drain(self) -> list[Job]:
        """Take out all that waits."""
        with self._changed:
            jobs = [job for waiting in self._waiting.values() for job in waiting if not job.cancelled]
            self._waiting.clear()
            return jobs

    def take(self) -> list[Job]:
        """The next batch: blocks until there is one; empty once the queue is closed and nothing waits."""
        with self._changed:
            while True:
                self._drop_cancelled()
                if self._waiting:
                    key = min(self._waiting, key=lambda key: self._waiting[key][0].admitted_ns)
                    delay = self._missing_delay(self._waiting[key])
                    if delay <= 0:
                        return self._pop(key)
                    self._changed.wait(delay)
                elif self._closed:
                    return []
                else:
                    self._changed.wait()

    def _drop_cancelled(self) -> None:
        """From the front: what is left has an oldest job that is wanted."""
        for key in list(self._waiting):
            jobs = self._waiting[key]
            while jobs and jobs[0].cancelled:
                jobs.popleft()
            if not jobs:
                del self._waiting[key]

    def _missing_delay(self, jobs: deque[Job]) -> float:
        if not self._limits.delay_s or self._closed:
            return 0.0
        if sum(job.cost.cells for job in jobs) >= self._limits.cells:
            return 0.0
        return self._limits.delay_s - (time.monotonic_ns() - jobs[0].admitted_ns) * 1e-9

    def _pop(self, key: Hashable) -> list[Job]:
        jobs, limits = self._waiting[key], self._limits
        batch: list[Job] = []
        cells = nbytes = scratch = largest = 0
        while jobs:
            cost = jobs[0].cost
            cells, nbytes, scratch = cells + cost.cells, nbytes + cost.nbytes, scratch + cost.scratch_bytes
            largest = max(largest, cost.largest_scratch_bytes)
            need = limits.scratch_need(scratch, largest)
            if batch and (cells > limits.cells or nbytes > limits.nbytes or need > limits.scratch_bytes):
                break
            job = jobs.popleft()
            if not job.cancelled:
                job.taken = True
                batch.append(job)
        if not jobs:
            del self._waiting[key]
        if self._waiting:
            self._changed.notify()  # another worker may be idle
        return batch
