"""A lane of a device: one thread that takes what waits, runs it, and answers."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import structlog

from alignd.wire import OK
from alignd_server.device import Device
from alignd_server.errors import DeadlineExceededError, DeviceLostError
from alignd_server.execution import Execution
from alignd_server.jobs import Job, finish
from alignd_server.metrics import Metrics, OpMetrics
from alignd_server.operation import Cost, Launch
from alignd_server.queue import JobQueue

log = structlog.get_logger("alignd.worker")


class Worker(threading.Thread):
    """Takes batches from `queue` and runs them on `device` until the queue is closed and empty."""

    def __init__(
        self,
        queue: JobQueue,
        device: Device,
        metrics: Metrics,
        on_lost: Callable[[DeviceLostError], None],
        *,
        alone: bool,
    ) -> None:
        super().__init__(name=f"alignd-{device.id}-{'heavy' if alone else 'light'}", daemon=True)
        self._queue = queue
        self._device = device
        self._metrics = metrics
        self._on_lost = on_lost
        self._alone = alone
        self._executions: dict[tuple[str, Hashable], Execution] = {}

    def run(self) -> None:
        while jobs := self._queue.take():
            self._metrics.of(jobs[0].operation.name).queue_depth.dec(len(jobs))
            if not self.work_off(jobs):
                return

    def work_off(self, jobs: list[Job]) -> bool:
        """Run them as one batch, on the calling thread. Whether the device is still there."""
        try:
            self._process(jobs)
        except DeviceLostError as error:
            self._fail(jobs, error)
            self._on_lost(error)
            return False
        except Exception as error:  # a defect here must not leave callers waiting for ever
            log.exception("a batch failed")
            self._fail(jobs, error)
        return True

    def _process(self, jobs: list[Job]) -> None:
        now, now_ns = time.monotonic(), time.monotonic_ns()
        op = jobs[0].operation.name
        metrics = self._metrics.of(op)
        late = [job for job in jobs if job.expired(now)]
        if late:
            for job in late:
                job.error = DeadlineExceededError("the deadline passed while the request waited; it was not run")
                self._metrics.rejected.labels(op, "deadline").inc()
            finish(late)
            jobs = [job for job in jobs if not job.finished]
        if not jobs:
            return
        for job in jobs:
            job.started_ns = now_ns
            metrics.queue_duration.observe((now_ns - job.admitted_ns) * 1e-9)
        launch = self._execution(jobs[0]).run([job.request for job in jobs], [job.cost for job in jobs])
        for job, reply in zip(jobs, launch.replies, strict=True):
            job.answer(reply, launch.kernel_ns)
        self._count(metrics, op, launch.replies)
        finish(jobs)

    def _execution(self, job: Job) -> Execution:
        """Of all jobs with this one's operation and key."""
        found = self._executions.get((job.operation.name, job.key))
        if found is None:
            found = Execution(job.operation, self._device, self._alone, self._observer(job))
            self._executions[job.operation.name, job.key] = found
        return found

    def _observer(self, job: Job) -> Callable[[Cost, Launch[Any]], None]:
        device, metrics = self._device, self._metrics.of(job.operation.name)
        dtype = job.key[0] if isinstance(job.key, tuple) else str(job.key)

        def observe(cost: Cost, launch: Launch[Any]) -> None:
            metrics.kernel_duration(device.backend, device.id, dtype).observe(launch.kernel_ns * 1e-9)
            metrics.batch_items.observe(cost.items)
            metrics.batch_cells.observe(cost.cells)

        return observe

    def _count(self, metrics: OpMetrics, op: str, replies: Sequence[Any]) -> None:
        for reply in replies:
            statuses = reply.statuses
            good = statuses.count(OK)
            if good:
                metrics.items_ok.inc(good)
            if good < len(statuses):
                for code, count in Counter(status.code for status in statuses if not status.ok).items():
                    self._metrics.items.labels(op, code.name.lower()).inc(count)

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        unanswered = [job for job in jobs if not job.finished]
        for job in unanswered:
            job.error = error
        finish(unanswered)
