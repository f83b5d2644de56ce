"""A request on its way through the engine."""

import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import structlog

from alignd.wire import Timing
from alignd_server.admission import Reservation
from alignd_server.operation import AnyOperation, Cost

log = structlog.get_logger("alignd.jobs")

Sink = Callable[[Sequence["Job"]], None]
"""Takes finished jobs, all of a batch at once, in the worker's thread: it must be quick and must not raise."""


@dataclass(slots=True, eq=False)
class Job:
    """A request, what it holds, and in the end its outcome: `reply` or `error`.

    Attributes:
        operation: what to do.
        request: with what.
        key: jobs with equal keys may share a launch.
        cost: what it asks of the device.
        reservation: its room, released when it is finished.
        sink: who is told.
        deadline: `time.monotonic()` after which it need not be run.
        taken: a worker has it.
        cancelled: nobody waits for it any more.
        finished: its sink has been told.
    """

    operation: AnyOperation
    request: Any
    key: Hashable
    cost: Cost
    reservation: Reservation
    sink: Sink
    deadline: float | None = None
    admitted_ns: int = field(default_factory=time.monotonic_ns)
    started_ns: int = 0
    taken: bool = False
    cancelled: bool = False
    finished: bool = False
    reply: Any = None
    error: BaseException | None = None

    def expired(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline

    def answer(self, reply: Any, kernel_ns: int) -> None:
        """Take `reply` for the outcome, and note in it where the time went."""
        now = time.monotonic_ns()
        reply.timing = Timing(self.started_ns - self.admitted_ns, kernel_ns, now - self.admitted_ns)
        self.reply = reply


def finish(jobs: Sequence[Job]) -> None:
    """Let go of what finished jobs hold, and tell their sinks, each once."""
    by_sink: dict[int, list[Job]] = {}
    for job in jobs:
        job.finished = True
        job.request = None
        job.reservation.release()
        by_sink.setdefault(id(job.sink), []).append(job)
    for group in by_sink.values():
        try:
            group[0].sink(group)
        except Exception:  # one caller's defect must not leave the others waiting
            log.exception("a caller could not be told")


def nobody(jobs: Sequence[Job]) -> None:
    """The sink of a job that its caller's own thread works off: there is nobody to be told."""


class Settled:
    """The outcome of a job that was worked off on the spot, as a future that is done: a real one, with its lock and its
    notices to threads that might wait, takes a good part of the time of a small request."""

    __slots__ = ("_job",)

    def __init__(self, job: Job) -> None:
        self._job = job

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> Any:
        if self._job.error is not None:
            raise self._job.error
        return self._job.reply

    def cancel(self) -> bool:
        return False

    def add_done_callback(self, call: Callable[[Any], object]) -> None:
        call(self)


class JobFuture(Future[Any]):
    """Completed with its job's outcome: a sink for one."""

    def __call__(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if not self.set_running_or_notify_cancel():
                continue
            if job.error is not None:
                self.set_exception(job.error)
            else:
                self.set_result(job.reply)


Outcome: TypeAlias = JobFuture | Settled
"""What has become of a job, or will."""
