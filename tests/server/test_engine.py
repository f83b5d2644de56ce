"""The engine on its own, with operations that misbehave as kernels and devices can."""

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from alignd.wire import (
    MAXIMUM_PATH,
    OK,
    DataType,
    ItemCode,
    ItemStatus,
    Timing,
)
from alignd_kernels.threads import WorkerPool
from alignd_server import execution
from alignd_server.device import Device
from alignd_server.engine import ASSISTED_CELLS, Engine, EngineLimits
from alignd_server.errors import (
    DeadlineExceededError,
    DeviceLostError,
    NotServedError,
    OverloadedError,
    UnavailableError,
)
from alignd_server.jobs import Settled
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
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Semaphore(0)
        self.largest_batch = 10**9

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
        values = [request.values for request in requests]
        self.launches.append(values)
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


@pytest.fixture
def operation() -> FakeOperation:
    return FakeOperation()


@pytest.fixture
def make(operation: FakeOperation) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def build(devices: Sequence[Device] = (CPU,), **limits: Any) -> Engine:
        engine = Engine(devices, [operation], EngineLimits(**{"max_batch_cells": 999, **limits}))
        engines.append(engine)
        return engine

    yield build
    operation.gate.set()
    for engine in engines:
        engine.close(10)


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


def test_what_waits_behind_a_busy_worker_goes_in_one_launch(make: Any, operation: FakeOperation) -> None:
    engine = make()
    first = hold(engine, operation)
    futures = [ask(engine, value, value) for value in range(14, 34)]
    operation.gate.set()
    assert [future.result(10).values for future in futures] == [(2 * v, 2 * v) for v in range(14, 34)]
    assert first.result(10).values == (2,)
    assert [len(launch) for launch in operation.launches] == [1, 20]


def test_a_lone_request_does_not_wait_for_company(make: Any) -> None:
    begin = time.perf_counter()
    assert ask(make(), 4).result(10).values == (8,)
    assert time.perf_counter() - begin < 0.5


def test_the_optional_delay_gathers_company(make: Any, operation: FakeOperation) -> None:
    engine = make(batch_delay_s=0.5)
    futures = [ask(engine, 1) for _ in range(5)]
    for future in futures:
        future.result(10)
    assert [len(launch) for launch in operation.launches] == [5]


def test_a_full_batch_does_not_wait_out_the_delay(make: Any) -> None:
    engine = make(batch_delay_s=30.0)
    assert ask(engine, 500, 500).result(10).values == (1000, 1000)


def test_batches_keep_to_the_budget_of_cells(make: Any, operation: FakeOperation) -> None:
    engine = make()
    hold(engine, operation)
    futures = [ask(engine, 400) for _ in range(5)]
    operation.gate.set()
    for future in futures:
        future.result(10)
    assert [len(launch) for launch in operation.launches] == [1, 2, 2, 1]


def test_a_poisoned_item_fails_alone(make: Any, operation: FakeOperation) -> None:
    engine = make()
    hold(engine, operation)
    good, bad = ask(engine, 1, 2), ask(engine, 3, 13, 4)
    operation.gate.set()
    assert good.result(10).values == (2, 4)
    reply = bad.result(10)
    assert reply.values == (6, 0, 8)
    assert codes(reply) == [ItemCode.OK, ItemCode.INTERNAL, ItemCode.OK]
    assert reply.statuses[1].message == "ValueError: poison"


def test_a_batch_that_does_not_fit_is_split_and_run_again(make: Any, operation: FakeOperation) -> None:
    operation.largest_batch = 3
    reply = ask(make(), *range(1, 9)).result(10)
    assert reply.values == tuple(2 * v for v in range(1, 9))
    assert codes(reply) == [ItemCode.OK] * 8
    assert [sum(map(len, launch)) for launch in operation.launches] == [8, 4, 2, 2, 4, 2, 2]


def test_an_item_over_the_memory_budget_is_refused_with_the_figure(make: Any, operation: FakeOperation) -> None:
    reply = ask(make(), 1, 99, 2).result(10)
    assert reply.values == (2, 0, 4)
    assert codes(reply) == [ItemCode.OK, ItemCode.OUT_OF_MEMORY, ItemCode.OK]
    assert "2000 bytes" in reply.statuses[1].message
    assert "1000" in reply.statuses[1].message
    assert all(99 not in values for launch in operation.launches for values in launch)


def test_a_huge_item_does_not_hold_small_ones_up(make: Any, operation: FakeOperation) -> None:
    engine = make()
    hold(engine, operation)
    # The light lane is blocked, the heavy one is not.
    assert ask(engine, 1000).result(10).values == (2000,)
    assert operation.threads[-1].endswith("heavy")


def test_many_items_that_are_huge_together_do_not_either(make: Any, operation: FakeOperation) -> None:
    engine = make()
    hold(engine, operation)
    assert ask(engine, *[500] * 20).result(10).values == (1000,) * 20
    assert operation.threads[-1].endswith("heavy")


def test_a_callers_defect_does_not_keep_the_others_waiting(make: Any, operation: FakeOperation) -> None:
    engine = make()
    hold(engine, operation)

    def broken(jobs: object) -> None:
        raise RuntimeError("a caller's defect")

    engine.admit("Fake", Items((5,)), sink=broken)
    after = ask(engine, 6)
    operation.gate.set()
    assert after.result(10).values == (12,)
    assert (engine.admission.items, engine.admission.nbytes) == (0, 0)


def test_memory_that_cuda_reports_as_an_error_is_memory() -> None:
    for text in ("CUDA error: out of memory", "CUDA out of memory. Tried to allocate 2 GiB"):
        error = type("AcceleratorError", (RuntimeError,), {})(text)
        assert execution._out_of_memory(error) == ("CUDA error" in text)
        assert execution._lost(error) == ("CUDA error" not in text)
    assert execution._lost(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_a_lost_device_fails_what_waits_and_what_comes(operation: FakeOperation) -> None:
    lost: list[DeviceLostError] = []
    engine = Engine([CPU], [operation], EngineLimits(max_batch_cells=999), on_lost=lost.append)
    operation.gate.clear()
    first = ask(engine, 66)
    assert operation.running.acquire(timeout=10)
    second = ask(engine, 1)
    operation.gate.set()
    for future in (first, second):
        with pytest.raises(DeviceLostError, match="fake:0 is lost: CUDA error"):
            future.result(10)
    with pytest.raises(DeviceLostError):
        ask(engine, 1)
    assert len(lost) == 1
    assert not engine.healthy
    assert (engine.admission.items, engine.admission.nbytes) == (0, 0)
    engine.close(10)


def test_every_device_has_its_worker(make: Any, operation: FakeOperation) -> None:
    engine = make(devices=(CPU, replace(CPU, id="fake:1")))
    first = hold(engine, operation)
    second = ask(engine, 2)
    assert operation.running.acquire(timeout=10)  # both devices are at work
    operation.gate.set()
    assert (first.result(10).values, second.result(10).values) == ((2,), (4,))
    assert {name.split("-")[1] for name in operation.threads} == {"fake:0", "fake:1"}


def test_a_gpu_takes_a_batch_while_another_is_on_its_way() -> None:
    """Copies of one go on beside the kernels of the other."""
    operation = FakeOperation()
    operation.gate.clear()
    engine = Engine([replace(CPU, torch_device="cuda:0")], [operation])
    try:
        first = engine.submit("Fake", Items((1,)))
        assert operation.running.acquire(timeout=10)
        second = engine.submit("Fake", Items((2,)))
        assert operation.running.acquire(timeout=10)
        third = engine.submit("Fake", Items((3,)))
        assert not operation.running.acquire(timeout=0.2)
        operation.gate.set()
        assert [future.result(10).values for future in (first, second, third)] == [(2,), (4,), (6,)]
    finally:
        operation.gate.set()
        engine.close()


def test_work_past_its_deadline_is_never_run(make: Any, operation: FakeOperation) -> None:
    engine = make()
    hold(engine, operation)
    late = ask(engine, 7, timeout=0.01)
    time.sleep(0.02)
    operation.gate.set()
    with pytest.raises(DeadlineExceededError, match="not run"):
        late.result(10)
    with pytest.raises(DeadlineExceededError, match="had passed"):
        ask(engine, 8, timeout=0.0)
    assert all((7,) not in launch and (8,) not in launch for launch in operation.launches)


def test_a_cancelled_request_leaves_the_queue(make: Any, operation: FakeOperation) -> None:
    engine = make()
    hold(engine, operation)
    future = ask(engine, 7)
    assert engine.admission.items == 2
    assert future.cancel()
    assert wait([future], timeout=10).done == {future}
    assert engine.admission.items == 1
    operation.gate.set()
    with pytest.raises(CancelledError):
        future.result(10)
    assert ask(engine, 1).result(10).values == (2,)
    assert all((7,) not in launch for launch in operation.launches)


def test_bounds_of_items_and_bytes(make: Any, operation: FakeOperation) -> None:
    engine = make(max_queue_items=4, max_queue_bytes=1 << 20)
    hold(engine, operation)
    waiting = ask(engine, 1, 2, 3)
    with pytest.raises(OverloadedError, match="holds 4 of 4 items") as items:
        ask(engine, 4)
    assert items.value.reason == "items"
    assert items.value.retry_after_s > 0
    operation.gate.set()
    assert waiting.result(10).values == (2, 4, 6)
    engine.close(10)
    small = make(max_queue_bytes=20)
    hold(small, operation)
    with pytest.raises(OverloadedError, match="holds 8 of 20 bytes; 16 more"):
        ask(small, 1, 2)
    assert small.admission.nbytes == 8


def test_closing_answers_what_waits_and_refuses_what_comes(make: Any, operation: FakeOperation) -> None:
    engine = make()
    first = hold(engine, operation)
    waiting = [ask(engine, value) for value in range(1, 6)]
    closing = threading.Thread(target=engine.close)
    closing.start()
    refused = None
    while refused is None:
        try:
            waiting.append(ask(engine, 1))
        except UnavailableError as error:
            refused = error
    operation.gate.set()
    closing.join(10)
    assert not closing.is_alive()
    assert first.result(0).values == (2,)
    assert all(future.result(0).values for future in waiting)
    assert (engine.admission.items, engine.admission.nbytes) == (0, 0)


def test_an_operation_that_is_not_there(make: Any) -> None:
    engine = make()
    with pytest.raises(NotServedError, match="Nothing is not answered here"):
        engine.submit("Nothing", Items((1,)))
    assert engine.admission.nbytes == 0


def test_timing_covers_queue_and_kernel(make: Any, operation: FakeOperation) -> None:
    engine = make()
    hold(engine, operation)
    waiting = ask(engine, 1)
    time.sleep(0.05)
    operation.gate.set()
    timing = waiting.result(10).timing
    assert 50e6 <= timing.queue_ns <= timing.total_ns
    assert timing.kernel_ns == 5


POOLED = replace(CPU, pool=WorkerPool(1))


def by_caller(operation: FakeOperation) -> list[bool]:
    return [not name.startswith("alignd-") for name in operation.threads]


def test_whoever_waits_does_short_work_itself(make: Any, operation: FakeOperation) -> None:
    engine = make(devices=(POOLED,))
    answers = [answer(engine, value).values for value in range(1, 10) for _ in range(20)]
    assert answers == [(2 * value,) for value in range(1, 10) for _ in range(20)]
    assert any(by_caller(operation))  # unless the worker was faster, each time
    assert engine.admission.items == engine.admission.nbytes == 0
    assert engine.metrics.registry.get_sample_value("alignd_queue_depth", {"op": "fake"}) == 0


def test_what_was_done_on_the_spot_is_a_future_that_is_done(make: Any, operation: FakeOperation) -> None:
    engine = make(devices=(POOLED,))
    told: list[Any] = []

    def assisted() -> Any:
        outcome = engine.submit("Fake", Items((4,)), waits=True)
        return outcome if isinstance(outcome, Settled) else None

    found = [outcome for outcome in (assisted() for _ in range(100)) if outcome]
    assert found  # unless the worker was not idle yet, each time
    assert found[0].done()
    assert not found[0].cancel()
    found[0].add_done_callback(told.append)
    assert told == found[:1]
    assert found[0].result(0).values == (8,)


def test_what_could_not_be_interrupted_is_left_to_the_worker(make: Any, operation: FakeOperation) -> None:
    engine = make(devices=(POOLED,), max_batch_cells=1 << 40)
    for _ in range(20):
        assert answer(engine, 3, timeout=10).values == (6,)
        long = ASSISTED_CELLS + 1
        assert answer(engine, long).values == (2 * long,)
    assert not any(by_caller(operation))
    gpu = make(devices=(CPU,))
    assert [answer(gpu, 3).values for _ in range(20)] == [(6,)] * 20
    assert not any(by_caller(operation))


def test_behind_a_busy_worker_the_caller_waits(make: Any, operation: FakeOperation) -> None:
    engine = make(devices=(POOLED,))
    first = hold(engine, operation)
    threading.Timer(0.2, operation.gate.set).start()
    assert answer(engine, 4).values == (8,)
    assert first.result(10).values == (2,)
    assert not any(by_caller(operation))


def test_errors_of_work_that_the_caller_does(make: Any, operation: FakeOperation) -> None:
    engine = make(devices=(POOLED,))
    for _ in range(20):
        assert codes(answer(engine, 13)) == [ItemCode.INTERNAL]
    with pytest.raises(DeviceLostError):
        answer(engine, 66)
    assert not engine.healthy


def test_many_callers_that_do_their_work_themselves(make: Any, operation: FakeOperation) -> None:
    engine = make(devices=(POOLED,))

    def caller(number: int) -> bool:
        return all(answer(engine, number + i).values == (2 * (number + i),) for i in range(200))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(caller, range(100, 900, 100)))
    assert engine.admission.items == engine.admission.nbytes == 0


def test_scratch_that_threads_use_again_does_not_cut_batches(operation: FakeOperation) -> None:
    """On the CPU a hundred items of 9 bytes each need what two threads hold at a time."""
    device = replace(CPU, pool=WorkerPool(2), memory_bytes=50)
    engine = Engine([device], [operation], EngineLimits(max_batch_cells=10**6))
    try:
        hold(engine, operation)
        futures = [ask(engine, 5) for _ in range(100)]
        operation.gate.set()
        for future in futures:
            future.result(10)
        assert [len(launch) for launch in operation.launches] == [1, 100]
    finally:
        operation.gate.set()
        engine.close(10)
