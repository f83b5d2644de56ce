"""Work that callers' own threads do, in an engine with operations that misbehave."""

import itertools
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from alignd.wire import ItemCode
from alignd_kernels.threads import WorkerPool
from alignd_server import callers
from alignd_server.engine import ASSISTED_CELLS, Engine
from alignd_server.errors import DeviceLostError
from alignd_server.jobs import Settled
from support.fake_operation import CPU, Answers, FakeOperation, Items, answer, ask, codes, hold

POOLED = replace(CPU, pool=WorkerPool(1))


def by_caller(operation: FakeOperation) -> list[bool]:
    return [not name.startswith("alignd-") for name in operation.threads]


def test_whoever_waits_does_short_work_itself(make: Any, operation: FakeOperation) -> None:
    engine = make(devices=(POOLED,))
    answers = [answer(engine, value).values for value in range(1, 10) for _ in range(20)]
    assert answers == [(2 * value,) for value in range(1, 10) for _ in range(20)]
    assert any(by_caller(operation))
    assert engine.admission.items == engine.admission.nbytes == 0
    assert engine.metrics.registry.get_sample_value("alignd_queue_depth", {"op": "fake"}) == 0


def test_what_was_done_on_the_spot_is_a_future_that_is_done(make: Any, operation: FakeOperation) -> None:
    engine = make(devices=(POOLED,))
    told: list[Any] = []

    def assisted() -> Any:
        outcome = engine.submit("Fake", Items((4,)), waits=True)
        return outcome if isinstance(outcome, Settled) else None

    found = [outcome for outcome in (assisted() for _ in range(100)) if outcome]
    assert found
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


def test_a_caller_works_beside_a_busy_worker(make: Any, operation: FakeOperation) -> None:
    engine = make(devices=(POOLED,))
    first = hold(engine, operation)
    threading.Timer(0.2, operation.gate.set).start()
    assert answer(engine, 4).values == (8,)
    assert first.result(10).values == (2,)
    assert sorted(by_caller(operation)) == [False, True]


def test_behind_what_waits_a_caller_waits(make: Any, operation: FakeOperation) -> None:
    engine = make(devices=(POOLED,))
    asked = [hold(engine, operation), ask(engine, 5)]
    threading.Timer(0.2, operation.gate.set).start()
    assert answer(engine, 4).values == (8,)
    assert [future.result(10).values for future in asked] == [(2,), (10,)]
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


TWO = replace(CPU, pool=WorkerPool(2))


def begun(callers: ThreadPoolExecutor, engine: Engine, operation: FakeOperation) -> "Future[Answers]":
    """A caller who is at work."""
    while operation.running.acquire(blocking=False):
        pass
    first = callers.submit(answer, engine, 3)
    assert operation.running.acquire(timeout=10)
    return first


@pytest.mark.parametrize(
    ("device", "expected"), [(TWO, [False, True]), (replace(CPU, pool=WorkerPool(4)), [False] * 2)]
)
def test_callers_at_once_share_the_pool_until_there_is_one_for_each_thread(
    make: Any, operation: FakeOperation, device: Any, expected: list[bool]
) -> None:
    engine = make(devices=(device,))
    operation.meet(2)  # neither comes back unless the other is there
    operation.alone.clear()
    with ThreadPoolExecutor(2) as callers:
        first = begun(callers, engine, operation)
        second = callers.submit(answer, engine, 4)
        assert (first.result(10).values, second.result(10).values) == ((6,), (8,))
    assert sorted(operation.alone) == expected
    assert by_caller(operation)[-2:] == [True, True]


def test_a_caller_whose_scratch_finds_no_room_waits_for_the_worker(make: Any, operation: FakeOperation) -> None:
    engine = make(devices=(replace(TWO, memory_bytes=1),))  # what one item needs
    operation.threads.clear()
    operation.meet(2)
    with ThreadPoolExecutor(2) as callers:
        answers = [callers.submit(answer, engine, value) for value in (3, 4)]
        assert [future.result(10).values for future in answers] == [(6,), (8,)]
    assert sorted(by_caller(operation)) == [False, True]
    operation.threads.clear()
    operation.meet(1)
    assert answer(engine, 5).values == (10,)  # with its room given back
    assert by_caller(operation) == [True]


def test_an_engine_that_closes_waits_for_callers_at_work(make: Any, operation: FakeOperation) -> None:
    engine = make(devices=(POOLED,))
    operation.gate.clear()
    with ThreadPoolExecutor(2) as threads:
        first = begun(threads, engine, operation)
        closing = threads.submit(engine.close)
        with pytest.raises(TimeoutError):
            closing.result(0.2)
        operation.gate.set()
        assert first.result(10).values == (6,)
        closing.result(10)


def test_an_engine_does_not_wait_longer_than_it_should(make: Any, operation: FakeOperation) -> None:
    engine = make(devices=(POOLED,))
    operation.gate.clear()
    with ThreadPoolExecutor(1) as threads:
        first = begun(threads, engine, operation)
        engine.close(0.1)
        assert not first.done()
        operation.gate.set()
        assert first.result(10).values == (6,)


def test_an_interrupt_at_any_line_leaves_no_place_taken(make: Any, operation: FakeOperation) -> None:
    engine = make(devices=(replace(TWO, memory_bytes=1),))  # room for one caller

    def interrupted(at: int) -> bool:
        lines = itertools.count(1)

        def trace(frame: Any, event: str, argument: object) -> Any:
            # What is raised within `__del__` is not passed on.
            if frame.f_code.co_filename != callers.__file__ or frame.f_code.co_name == "release":
                return trace
            if event == "line" and next(lines) == at:
                raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            answer(engine, 3)
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False

    for at in itertools.count(1):
        if not interrupted(at):
            break
        operation.threads.clear()
        assert answer(engine, 5).values == (10,)
        assert by_caller(operation) == [True]
    assert at > 10
