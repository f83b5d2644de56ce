"""The engine on its own, with operations that misbehave as kernels and devices can."""

import threading
import time
from concurrent.futures import CancelledError, wait
from dataclasses import replace
from typing import Any

import pytest

from alignd.wire import (
    ItemCode,
)
from alignd_kernels.threads import WorkerPool
from alignd_server import execution
from alignd_server.engine import Engine, EngineLimits
from alignd_server.errors import (
    DeadlineExceededError,
    DeviceLostError,
    NotServedError,
    OverloadedError,
    UnavailableError,
)
from support.fake_operation import CPU, FakeOperation, Items, ask, codes, hold


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
