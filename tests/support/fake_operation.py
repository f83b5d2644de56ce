"""An engine's operation that misbehaves as kernels and devices can, and callers of it."""

import threading
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from alignd.wire import MAXIMUM_PATH, OK, DataType, ItemCode, ItemStatus, Timing
from alignd_server.device import Device
from alignd_server.engine import Engine
from alignd_server.operation import Cost, Launch

CPU = Device("fake:0", "fake", "fake", None, 1000, None)


@dataclass(frozen=True)
class Items:
    """A request: what each item is, as a number."""

    values: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.values)


@dataclass
class Answers:
    statuses: tuple[ItemStatus, ...]
    values: tuple[int, ...]
    timing: Timing = field(default_factory=Timing)


class FakeOperation:
    """Doubles numbers. 13 is poison, 99 needs more memory than there is, 66 kills the device, 1000 is heavy."""

    name = "fake"
    rpc = replace(MAXIMUM_PATH, name="Fake")

    def __init__(self) -> None:
        self.launches: list[list[tuple[int, ...]]] = []
        self.threads: list[str] = []
        self.alone: list[bool] = []
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Semaphore(0)
        self.largest_batch = 10**9
        self.meet(1)

    def meet(self, launches: int) -> None:
        """From now on no launch ends before so many are under way."""
        self.met = threading.Barrier(launches, timeout=10)

    def example(self, data_type: DataType) -> Items:
        return Items((1,))

    def key(self, request: Items) -> Hashable:
        return ("int", self.name)

    def payload_bytes(self, request: Items) -> int:
        return 8 * len(request)

    def cost(self, request: Items, device: Device) -> Cost:
        scratch = [2000 if value == 99 else 1 for value in request.values]
        cells, nbytes = request.values, 8 * len(request)
        return Cost(len(request), sum(cells), nbytes, sum(scratch), max(scratch))

    def run(self, requests: Sequence[Items], device: Device, *, alone: bool) -> Launch[Answers]:
        self.running.release()
        if not alone:
            assert self.gate.wait(30)
        self.met.wait()
        values = [request.values for request in requests]
        self.launches.append(values)
        self.alone.append(alone)
        self.threads.append(threading.current_thread().name)
        flat = [value for request in values for value in request]
        if 66 in flat:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if 13 in flat:
            raise ValueError("poison")
        if len(flat) > self.largest_batch:
            raise MemoryError("does not fit")
        return Launch([Answers((OK,) * len(request), tuple(2 * v for v in request)) for request in values], 5)

    def take(self, request: Items, start: int, stop: int) -> Items:
        return Items(request.values[start:stop])

    def join(self, replies: Sequence[Answers]) -> Answers:
        return Answers(
            tuple(status for reply in replies for status in reply.statuses),
            tuple(value for reply in replies for value in reply.values),
        )

    def fail(self, request: Items, status: ItemStatus) -> Answers:
        return Answers((status,) * len(request), (0,) * len(request))


def ask(engine: Engine, *values: int, timeout: float | None = None) -> "Future[Answers]":
    return engine.submit("Fake", Items(values), timeout)


def answer(engine: Engine, *values: int, timeout: float | None = None) -> Answers:
    """As a caller who has nothing else to do."""
    answers: Answers = engine.submit("Fake", Items(values), timeout, waits=True).result(10)
    return answers


def hold(engine: Engine, operation: FakeOperation) -> "Future[Answers]":
    """Keep the light lane busy until the gate opens."""
    operation.gate.clear()
    future = ask(engine, 1)
    assert operation.running.acquire(timeout=10)
    return future


def codes(reply: Answers) -> list[ItemCode]:
    return [status.code for status in reply.statuses]
