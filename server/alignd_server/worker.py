"""A lane of a device: one thread that takes what waits, runs it, and answers."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from alignd_server.device import Device
from alignd_server.errors import DeadlineExceededError, DeviceLostError
from alignd_server.execution import execute
from alignd_server.jobs import Job, finish
from alignd_server.metrics import Metrics
from alignd_server.operation import AnyOperation, Launch
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

    def run(self) -> None:
        while jobs := self._queue.take():
            try:
                self._process(jobs)
            except DeviceLostError as error:
                self._fail(jobs, error)
                self._on_lost(error)
                return
            except Exception as error:  # a defect here must not leave callers waiting for ever
                log.exception("a batch failed")
                self._fail(jobs, error)

    def _process(self, jobs: list[Job]) -> None:
        now, now_ns = time.monotonic(), time.monotonic_ns()
        op = jobs[0].operation.name
        self._metrics.queue_depth.labels(op).dec(len(jobs))
        dropped = [job for job in jobs if job.cancelled or job.expired(now)]
        for job in dropped:
            job.error = DeadlineExceededError("the deadline passed while the request waited; it was not run")
            reason = "cancelled" if job.cancelled else "deadline"
            self._metrics.rejected.labels(op, reason).inc()
        if dropped:
            finish(dropped)
            jobs = [job for job in jobs if job not in dropped]
        if not jobs:
            return
        for job in jobs:
            job.started_ns = now_ns
            self._metrics.queue_duration.labels(op).observe((now_ns - job.admitted_ns) * 1e-9)
        operation = jobs[0].operation
        requests = [job.request for job in jobs]
        launch = execute(operation, requests, self._device, self._observer(operation, jobs), alone=self._alone)
        for job, reply in zip(jobs, launch.replies):
            job.reply = job.timed(reply, launch.kernel_ns)
        self._count(op, launch.replies)
        finish(jobs)

    def _observer(self, operation: AnyOperation, jobs: list[Job]) -> Callable[[Sequence[Any], Launch[Any]], None]:
        device, metrics = self._device, self._metrics
        key = jobs[0].key
        dtype = key[0] if isinstance(key, tuple) else str(key)

        def observe(requests: Sequence[Any], launch: Launch[Any]) -> None:
            costs = [operation.cost(request, device) for request in requests]
            metrics.kernel_duration.labels(operation.name, device.backend, device.id, dtype).observe(
                launch.kernel_ns * 1e-9
            )
            metrics.batch_items.labels(operation.name).observe(sum(cost.items for cost in costs))
            metrics.batch_cells.labels(operation.name).observe(sum(cost.cells for cost in costs))

        return observe

    def _count(self, op: str, replies: Sequence[Any]) -> None:
        counts = Counter(status.code for reply in replies for status in reply.statuses)
        for code, count in counts.items():
            self._metrics.items.labels(op, code.name.lower()).inc(count)

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        unanswered = [job for job in jobs if job.reply is None and job.error is None]
        for job in unanswered:
            job.error = error
        finish(unanswered)
