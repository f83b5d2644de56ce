"""What waits for a device, and which of it goes next."""

import threading
import time
from collections import deque
from collections.abc import Hashable
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
    """

    cells: int
    nbytes: int
    scratch_bytes: int
    delay_s: float = 0.0

    def heavy(self, job: Job) -> bool:
        """Whether a single item fills a batch, so that small ones must not wait behind it."""
        return job.cost.largest_cells > self.cells


class JobQueue:
    """First in, first out, except that what may share a launch with the oldest goes along.

    There is one for each lane of the engine; all its workers take from it.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._waiting: dict[Hashable, deque[Job]] = {}
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        with self._changed:
            return sum(len(jobs) for jobs in self._waiting.values())

    def put(self, job: Job) -> None:
        """Raises `UnavailableError` once the queue is closed: no worker might come any more."""
        with self._changed:
            if self._closed:
                raise UnavailableError("the engine is shutting down")
            self._waiting.setdefault(job.key, deque()).append(job)
            self._changed.notify()

    def remove(self, job: Job) -> bool:
        """Take a job out again; False if it is not waiting any more."""
        with self._changed:
            jobs = self._waiting.get(job.key)
            if jobs is None or job not in jobs:
                return False
            jobs.remove(job)
            if not jobs:
                del self._waiting[job.key]
            return True

    def close(self) -> None:
        """Let the workers go once nothing waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def drain(self) -> list[Job]:
        """Take out all that waits."""
        with self._changed:
            jobs = [job for waiting in self._waiting.values() for job in waiting]
            self._waiting.clear()
            return jobs

    def take(self) -> list[Job]:
        """The next batch: blocks until there is one; empty once the queue is closed and nothing waits."""
        with self._changed:
            while True:
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

    def _missing_delay(self, jobs: deque[Job]) -> float:
        if not self._limits.delay_s or self._closed:
            return 0.0
        if sum(job.cost.cells for job in jobs) >= self._limits.cells:
            return 0.0
        return self._limits.delay_s - (time.monotonic_ns() - jobs[0].admitted_ns) * 1e-9

    def _pop(self, key: Hashable) -> list[Job]:
        jobs = self._waiting[key]
        batch = [jobs.popleft()]
        cost = batch[0].cost
        cells, nbytes, scratch = cost.cells, cost.nbytes, cost.scratch_bytes
        while jobs:
            cost = jobs[0].cost
            cells, nbytes, scratch = cells + cost.cells, nbytes + cost.nbytes, scratch + cost.scratch_bytes
            limits = self._limits
            if cells > limits.cells or nbytes > limits.nbytes or scratch > limits.scratch_bytes:
                break
            batch.append(jobs.popleft())
        if not jobs:
            del self._waiting[key]
        return batch
