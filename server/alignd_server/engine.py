"""The engine: admission, lanes and workers behind every door. It knows no gRPC, settings or audio package."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Protocol, overload

import structlog

from alignd import wire
from alignd.wire import MalformedRequestError
from alignd_server import __version__
from alignd_server.admission import Admission, Reservation
from alignd_server.callers import Callers
from alignd_server.device import Device, find_devices
from alignd_server.errors import DeadlineExceededError, DeviceLostError, NotServedError, UnavailableError
from alignd_server.jobs import Job, JobFuture, Outcome, Settled, Sink, finish, nobody
from alignd_server.metrics import Metrics
from alignd_server.operation import AnyOperation, Cost
from alignd_server.queue import BatchLimits, JobQueue
from alignd_server.worker import Worker

log = structlog.get_logger("alignd.engine")

ASSISTED_CELLS: Final = 1 << 27
"""Some tens of milliseconds of work for best paths, a second or two for sums: what a caller's thread does itself cannot
be interrupted."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Bounds of the engine; `alignd-server --help` describes them."""

    max_queue_items: int = 65_536
    max_queue_bytes: int = 512 << 20
    max_batch_cells: int = 1 << 27
    max_batch_bytes: int = 64 << 20
    batch_delay_s: float = 0.0
    max_message_bytes: int = 64 << 20


class Pipeline(Protocol):
    """An RPC that works in stages of its own before it enters an operation's queue."""

    name: str
    rpc: wire.Rpc[Any, Any]

    def payload_bytes(self, request: Any) -> int: ...
    def start(self, job: Job) -> None: ...

    def discard(self, job: Job) -> bool:
        """As `JobQueue.discard`."""

    def models(self) -> Sequence[wire.Model]: ...
    def close(self, timeout: float | None) -> None: ...


class Engine:
    """Answers requests on one or more devices.

    Each device has two lanes, so that a huge item does not hold small ones up: requests that alone more than fill a
    batch go through the heavy lane, one at a time, on one thread (or stream) beside the others. The light lane runs as
    many batches at a time as the device has use for (`Device.light_batches`).
    """

    def __init__(
        self,
        devices: Sequence[Device],
        operations: Sequence[AnyOperation],
        limits: EngineLimits | None = None,
        metrics: Metrics | None = None,
        on_lost: Callable[[DeviceLostError], None] = lambda error: None,
    ) -> None:
        self.limits = limits or EngineLimits()
        self.metrics = metrics or Metrics()
        self.devices = tuple(devices)
        self.admission = Admission(self.limits.max_queue_items, self.limits.max_queue_bytes)
        self._operations: dict[str, AnyOperation] = {op.rpc.name: op for op in operations}
        self._pipelines: dict[str, Pipeline] = {}
        self._on_lost = on_lost
        self._lost: DeviceLostError | None = None
        self._closing = False
        self._batch_limits = BatchLimits(
            self.limits.max_batch_cells,
            self.limits.max_batch_bytes,
            min(device.memory_bytes for device in devices),
            self.limits.batch_delay_s,
            partial(devices[0].scratch_bytes, alone=False),
        )
        self._light, self._heavy = JobQueue(self._batch_limits), JobQueue(self._batch_limits)
        self._workers = [
            Worker(queue, device, self.metrics, self._lose, alone=queue is self._heavy)
            for device in devices
            for queue in (*[self._light] * device.light_batches, self._heavy)
        ]
        self._callers = self._callers_of(devices[0])
        self._assisted_cells = min(ASSISTED_CELLS, self.limits.max_batch_cells)  # more would be heavy
        for op in operations:
            self.metrics.of(op.name).queue_depth.set(0)
        for worker in self._workers:
            worker.start()

    def add_pipeline(self, pipeline: Pipeline) -> None:
        self._pipelines[pipeline.rpc.name] = pipeline

    def short_name(self, rpc_name: str) -> str:
        """The label `op` of an RPC's metrics."""
        target: Any = self._pipelines.get(rpc_name) or self._operations.get(rpc_name)
        return target.name if target else "unknown"

    def info(self) -> wire.ServerInfo:
        """Version, devices, operations, models and limits."""
        limits = self.limits
        return wire.ServerInfo(
            __version__,
            tuple(wire.Device(device.id, device.name, device.backend) for device in self.devices),
            (*self._operations, *self._pipelines),
            tuple(model for pipeline in self._pipelines.values() for model in pipeline.models()),
            wire.Limits(
                limits.max_message_bytes, limits.max_queue_items, limits.max_queue_bytes, limits.max_batch_cells
            ),
        )

    @overload
    def submit(self, name: str, request: Any, timeout: float | None = None) -> JobFuture: ...

    @overload
    def submit(self, name: str, request: Any, timeout: float | None = None, *, waits: Literal[False]) -> JobFuture: ...

    @overload
    def submit(self, name: str, request: Any, timeout: float | None = None, *, waits: bool) -> Outcome: ...

    def submit(self, name: str, request: Any, timeout: float | None = None, *, waits: bool = False) -> Outcome:
        """The in-process door: the reply to `request`, as the RPC called `name` would give it.

        Args:
            timeout: seconds after which the work need not begin any more.
            waits: the caller has nothing else to do until the reply is there. Short work is then done by its own thread
                before this returns, unless others wait: to wake a worker takes about as long. With a timeout it is
                not, as what a thread does itself cannot be given up.

        Raises (or puts into the outcome):
            NotServedError: no such operation here.
            MalformedRequestError: the request contradicts itself.
            OverloadedError, DeadlineExceededError, UnavailableError: as the names say.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        job = self.admit(name, request, deadline=deadline, waits=waits and timeout is None)
        future = job.sink
        if not isinstance(future, JobFuture):
            return Settled(job)
        if not future.done():
            future.add_done_callback(lambda future: self.cancel(job) if future.cancelled() else None)
        return future

    def admit(
        self,
        name: str,
        request: Any,
        *,
        sink: Sink | None = None,
        deadline: float | None = None,
        reservation: Reservation | None = None,
        waits: bool = False,
    ) -> Job:
        """Queue a request. Its outcome goes to `sink`, unless this raises.

        Args:
            sink: None for a `JobFuture`, which is made if the job has to be waited for.
            reservation: room that its message holds already; it is the engine's from here on, also if this raises.
            waits: as in `submit`; what is done at once has an outcome when this returns, and nobody else is told.
        """
        pipeline = self._pipelines.get(name)
        target: Any = pipeline or self._operations.get(name)
        try:
            if target is None:
                raise NotServedError(f"{name} is not answered here; {_remedy(name)}")
            items, limit = len(request), self.limits.max_queue_items
            if items > limit:
                raise MalformedRequestError(("", f"{items} items in a request, over the limit of {limit}"))
            self._check(target.name, deadline)
            if reservation:
                reservation.add_items(items)
            else:
                reservation = self.admission.reserve(target.payload_bytes(request), items)
            job = self._job(target, request, reservation, sink or nobody, deadline)
            if waits and not pipeline and self._assisted(job):
                return job
            job.sink = sink or JobFuture()
            if pipeline:
                pipeline.start(job)
                self.metrics.of(pipeline.name).queue_depth.inc()
            else:
                self._enqueue(job)
        except BaseException:
            if reservation:
                reservation.release()
            raise
        return job

    def go_on(self, job: Job, name: str, request: Any, sink: Sink) -> None:
        """Queue a pipeline's next stage, under the deadline and the room of `job`; also while the engine is closing."""
        operation = self._operations[name]
        stage = self._job(operation, request, Reservation(None, 0), sink, job.deadline)
        self._enqueue(stage)

    def _job(self, operation: Any, request: Any, reservation: Reservation, sink: Sink, deadline: float | None) -> Job:
        if operation.rpc.name in self._pipelines:
            cost = Cost(len(request), 0, operation.payload_bytes(request), 0, 0)
            return Job(operation, request, operation.name, cost, reservation, sink, deadline)
        cost = operation.cost(request, self.devices[0])
        return Job(operation, request, operation.key(request), cost, reservation, sink, deadline)

    def _callers_of(self, device: Device) -> Callers | None:
        """None where a device of its own does the work."""
        if device.pool is None:
            return None
        light, heavy = self._workers[:2]
        return Callers(self._light, device, light.work_off, heavy.work_off)

    def _assisted(self, job: Job) -> bool:
        """Whether the calling thread has done it."""
        return self._callers is not None and job.cost.cells <= self._assisted_cells and self._callers.work_off(job)

    def _enqueue(self, job: Job) -> None:
        (self._heavy if self._batch_limits.heavy(job) else self._light).put(job)
        self.metrics.of(job.operation.name).queue_depth.inc()

    def _check(self, op: str, deadline: float | None) -> None:
        if self._lost:
            raise self._lost
        if self._closing:
            raise UnavailableError("the engine is shutting down")
        if deadline is not None and time.monotonic() >= deadline:
            self.metrics.rejected.labels(op, "deadline").inc()
            raise DeadlineExceededError("the deadline had passed when the request arrived; it was not run")

    def cancel(self, job: Job) -> None:
        """Nobody waits for `job` any more: it leaves the queue, or its outcome is dropped."""
        pipeline = self._pipelines.get(job.operation.rpc.name)
        lane = pipeline or (self._heavy if self._batch_limits.heavy(job) else self._light)
        if lane.discard(job):
            self.metrics.of(job.operation.name).queue_depth.dec()
            self.metrics.rejected.labels(job.operation.name, "cancelled").inc()
            job.error = CancelledError()
            finish([job])

    @property
    def healthy(self) -> bool:
        """Whether its devices are there."""
        return self._lost is None

    def _lose(self, error: DeviceLostError) -> None:
        log.critical("device lost", error=str(error))
        self._lost = error
        for queue in (self._light, self._heavy):
            jobs = queue.drain()
            for job in jobs:
                self.metrics.of(job.operation.name).queue_depth.dec()
                job.error = error
            finish(jobs)
            queue.close()
        self._on_lost(error)

    def close(self, timeout: float | None = None) -> None:
        """Answer what has been admitted, then stop. New requests get `UnavailableError` at once.

        Args:
            timeout: seconds after which work that is still running is left to end with the process.
        """
        self._closing = True
        deadline = None if timeout is None else time.monotonic() + timeout
        for pipeline in self._pipelines.values():
            pipeline.close(timeout)
        for queue in (self._light, self._heavy):
            queue.close()

        def rest() -> float | None:
            return None if deadline is None else max(0.0, deadline - time.monotonic())

        for worker in self._workers:
            worker.join(rest())
        if self._callers:
            self._callers.finish(rest())
        for device in self.devices:
            if device.pool:
                device.pool.shutdown(wait=not any(worker.is_alive() for worker in self._workers))


def _remedy(name: str) -> str:
    if name == wire.ALIGN_AUDIO.name:
        return "for audio, install 'alignd-server[audio]' and start the server without --audio off"
    return "GetServerInfo (`alignd info`) lists what is"


def create_engine(
    device: str = "auto",
    *,
    threads: int | None = None,
    memory_bytes: int | None = None,
    limits: EngineLimits | None = None,
    metrics: Metrics | None = None,
    audio: bool | None = None,
    on_lost: Callable[[DeviceLostError], None] = lambda error: None,
) -> Engine:
    """An engine with all operations, its kernels compiled or loaded.

    Args:
        device: auto (CUDA where there is one, else the CPU), cpu, cuda (all), cuda:N.
        threads: of the CPU's kernels; as many as there are processors by default.
        memory_bytes: what a launch may use beside input and output; half of what is free by default.
        limits: bounds of the queue and of batches.
        metrics: where to count; a registry of its own by default.
        audio: whether to answer AlignAudio; by default if the packages of `alignd-server[audio]` are there.
        on_lost: told when a device is lost.

    Raises:
        ValueError: the device is not there.
        ImportError: `audio` is True and its packages are missing.
    """
    # Here and not above: operations know the engine's types.
    from alignd_kernels import compile_seconds
    from alignd_server.audio import HamaModel, MissingExtraError, missing_packages
    from alignd_server.operations import alignments
    from alignd_server.operations.audio import AudioPipeline
    from alignd_server.warm_up import warm_up

    devices = find_devices(device, threads, memory_bytes)
    operations = alignments()
    warm_up(operations, devices)
    engine = Engine(devices, operations, limits, metrics, on_lost)
    engine.metrics.sample(lambda: engine.admission.nbytes, compile_seconds)
    missing = missing_packages()
    if audio and missing:
        raise MissingExtraError(missing[0])
    if audio or (audio is None and not missing):
        engine.add_pipeline(AudioPipeline(engine, [HamaModel()], threads))
    return engine
