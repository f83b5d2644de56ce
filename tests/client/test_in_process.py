"""What only the in-process door has: the engine's life, its errors, and the extra that it needs."""

import pickle
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from alignd.wire import MAXIMUM_PATH, DataType, MalformedRequestError, MasRequest
from alignd_client import (
    AlignClient,
    ClientClosedError,
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    ServerError,
    ServerUnavailableError,
)
from alignd_client.aio import AsyncAlignClient
from alignd_client.local import LocalCall, slots
from alignd_client.packing import LOCAL_BYTES, LOCAL_ITEMS
from support import fake_engine
from support.blocking import Blocking
from support.fake_engine import FakeEngine
from support.waiting import eventually

VALUE = np.zeros((2, 6), np.float32)
REQUEST = MasRequest(VALUE.reshape(-1), DataType.FLOAT32, np.array([2]), np.array([6]))


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    return fake_engine.install(monkeypatch)


@pytest.fixture(params=["threads", "asyncio"])
def local(request: pytest.FixtureRequest, engines: list[FakeEngine]) -> Iterator[Any]:
    if request.param == "threads":
        with AlignClient.in_process("cpu", threads=3, timeout=2.0) as client:
            yield client
    else:
        with Blocking(AsyncAlignClient.in_process("cpu", threads=3, timeout=2.0)) as blocking:
            yield blocking


def test_the_engine_is_made_once_and_closed(engines: list[FakeEngine]) -> None:
    with AlignClient.in_process("cuda:1", threads=3) as client:
        assert client.health() is True
        assert client.server_info().version == "0.0.0"
        assert len(list(client.align_mas([VALUE] * 3))) == 3
    (engine,) = engines
    assert (engine.device, engine.threads) == ("cuda:1", 3)
    assert engine.submitted == ["MaximumPath"]  # no limits to ask for, no message to fit in
    assert engine.closed.is_set()
    with pytest.raises(ClientClosedError):
        list(client.align_mas([VALUE]))
    assert len(engines) == 1


def test_a_pickled_client_makes_an_engine_of_its_own(engines: list[FakeEngine]) -> None:
    with AlignClient.in_process("cpu", threads=1) as client, pickle.loads(pickle.dumps(client)) as copy:
        assert len(list(copy.align_mas([VALUE]))) == 1
        assert engines[0].submitted == []
        assert engines[1].submitted == ["MaximumPath"]
        assert engines[1].threads == 1


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (MalformedRequestError(("tokens", "are odd")), InvalidRequestError, "tokens: are odd"),
        (fake_engine.DeadlineExceededError("late"), DeadlineExceededError, "2 s.*late"),
        (fake_engine.EngineError("a defect"), ServerError, "a defect"),
        (fake_engine.NotServedError("it is off"), ServerError, r"it is off.*UNIMPLEMENTED"),
        (ZeroDivisionError("a bug"), ZeroDivisionError, "a bug"),
    ],
)
def test_errors_of_the_engine(
    local: Any, engines: list[FakeEngine], fault: Exception, error: type[Exception], words: str
) -> None:
    engines[0].faults.append(fault)
    with pytest.raises(error, match=words):
        list(local.align_mas([VALUE]))
    assert len(engines[0].submitted) == 1


def test_overload_is_tried_again(local: Any, engines: list[FakeEngine]) -> None:
    engines[0].faults.extend([fake_engine.OverloadedError("full", 0.01)] * 2)
    assert len(list(local.align_mas([VALUE]))) == 1
    assert len(engines[0].submitted) == 3
    engines[0].faults.append(fake_engine.OverloadedError("full", 10.0))
    with pytest.raises(OverloadedError, match="full") as caught:
        list(local.align_mas([VALUE]))
    assert caught.value.retry_after == 10.0


@pytest.mark.parametrize("make", [AlignClient.in_process, AsyncAlignClient.in_process])
def test_a_lost_device_is_final(make: Any, engines: list[FakeEngine]) -> None:
    made = make("cpu", threads=1)  # without a timeout: another attempt would follow for ever
    with made if isinstance(made, AlignClient) else Blocking(made) as client:
        engines[0].faults.extend([fake_engine.DeviceLostError("cuda:0 is lost")] * 3)
        with pytest.raises(ServerError, match="cuda:0 is lost") as caught:
            list(client.align_mas([VALUE]))
        assert not caught.value.retryable
        assert len(engines[0].submitted) == 1
        engines[0].healthy = False
        assert client.health_status() == "NOT_SERVING"
        assert client.health() is False


def test_an_engine_without_work_is_not_blamed_on_an_address(local: Any, engines: list[FakeEngine]) -> None:
    engines[0].faults.extend([fake_engine.UnavailableError("shutting down")] * 100)
    with pytest.raises(ServerUnavailableError, match="shutting down") as caught:
        list(local.align_mas([VALUE]))
    assert "alignd-server" not in str(caught.value)


@pytest.mark.parametrize("make", [AlignClient.in_process, AsyncAlignClient.in_process])
def test_without_the_servers_package(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "alignd_server", None)
    monkeypatch.setitem(sys.modules, "alignd_server.engine", None)
    with pytest.raises(ImportError, match=r"alignd-client\[local\]"):
        make("cpu")


def test_a_deadline_that_passes_while_the_engine_works(local: Any, engines: list[FakeEngine]) -> None:
    engines[0].gate.clear()
    try:
        with pytest.raises(DeadlineExceededError, match="within the timeout of 2 s"):
            list(local.align_mas([VALUE]))
    finally:
        engines[0].gate.set()
    assert len(list(local.align_mas([VALUE]))) == 1


def test_an_answer_that_came_in_time_is_not_late_when_it_is_fetched_late(engines: list[FakeEngine]) -> None:
    with AlignClient.in_process("cpu", timeout=1.0) as client:
        results = client.align_mas([VALUE, VALUE.astype(np.float64)])  # two requests
        assert next(results).status.ok
        time.sleep(1.2)
        assert next(results).status.ok
    assert len(engines[0].submitted) == 2


def test_closed_while_the_engine_works(engines: list[FakeEngine]) -> None:
    """What the engine has taken it answers; nothing more is sent."""
    client = AlignClient.in_process("cpu", max_in_flight=2)
    results = client.align_mas([VALUE, VALUE.astype(np.float64)] * 5)  # ten requests
    assert next(results).status.ok
    engines[0].gate.clear()
    closing = threading.Thread(target=client.close)
    closing.start()
    assert engines[0].closed.wait(10)
    engines[0].gate.set()
    with pytest.raises(ClientClosedError):
        list(results)
    closing.join(10)
    assert len(engines[0].submitted) <= 3
    assert len(engines) == 1


def test_an_iterator_that_is_left_cancels_what_waits(engines: list[FakeEngine]) -> None:
    with AlignClient.in_process("cpu", max_in_flight=4) as client:
        engines[0].delay_s = 0.05
        results = client.align_mas([VALUE, VALUE.astype(np.float64)] * 5)
        assert next(results).status.ok
        results.close()
        assert len(list(client.align_mas([VALUE]))) == 1
    assert len(engines[0].submitted) == 5
    assert engines[0].answered <= 3  # the first, the one in work, the one after


def test_in_process_nothing_waits_in_a_thread_of_the_clients(engines: list[FakeEngine]) -> None:
    with AlignClient.in_process("cpu") as client:
        assert len(list(client.align_mas([VALUE, VALUE.astype(np.float64)]))) == 2
        assert client._pipeline._threads.peek() is None


def test_who_waits_for_one_request_offers_to_do_it(engines: list[FakeEngine]) -> None:
    with AlignClient.in_process("cpu") as client:
        assert len(list(client.align_mas([VALUE]))) == 1
        assert len(list(client.align_mas([VALUE, VALUE.astype(np.float64)]))) == 2
        assert len(list(client.align_mas(np.stack([VALUE] * 3)))) == 3
        assert len(list(client.align_mas(np.stack([VALUE] * LOCAL_ITEMS)))) == LOCAL_ITEMS
    assert engines[0].waited == [True, False, False, True, True]


def test_a_call_that_was_cancelled_while_it_waited_for_a_slot_is_not_run(engines: list[FakeEngine]) -> None:
    with AlignClient.in_process("cpu", max_in_flight=1) as client, ThreadPoolExecutor(1) as pool:
        transport: Any = client._pipeline._transport
        engines[0].gate.clear()
        first = transport.open(MAXIMUM_PATH, REQUEST)
        assert first.begin(lambda: None, waits=False)
        second = transport.open(MAXIMUM_PATH, REQUEST)
        assert not second.begin(lambda: None, waits=False)
        waiting = pool.submit(second.attempt, lambda: None)
        second.cancel()
        engines[0].gate.set()
        with pytest.raises(CancelledError):
            waiting.result(10)
        assert first.attempt(lambda: None).statuses
        assert len(list(client.align_mas([VALUE]))) == 1  # the slot has come back
    assert len(engines[0].submitted) == 2


def test_a_slot_comes_back_once_and_always() -> None:
    home = slots(2)
    one, two = home.get_nowait(), home.get_nowait()
    one.release()
    one.release()
    del one
    assert home.qsize() == 1
    del two  # as an interrupt leaves it
    assert home.qsize() == 2
    last = home.get_nowait()
    del home
    last.release()


def test_large_requests_are_not_refused_for_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine behind a server bounds what waits; in process that is the caller's own memory."""
    monkeypatch.setattr(LocalCall, "pause", lambda *_: pytest.fail("a request was refused"))
    with AlignClient.in_process("cpu") as client:
        values = np.zeros((5 * (LOCAL_BYTES >> 20), 1, 1 << 18), np.float32)
        assert all(result.status.ok for result in client.align_mas(values))


def test_no_more_in_flight_than_allowed_over_all_threads(engines: list[FakeEngine]) -> None:
    items = [VALUE, VALUE.astype(np.float64)] * 5  # ten requests
    with AlignClient.in_process("cpu", max_in_flight=3) as client, ThreadPoolExecutor(4) as pool:
        engines[0].gate.clear()
        answers = [pool.submit(lambda: len(list(client.align_mas(items)))) for _ in range(4)]
        eventually(lambda: len(engines[0].submitted) == 3, "three requests are in flight")
        time.sleep(0.2)
        assert len(engines[0].submitted) == 3
        engines[0].gate.set()
        assert [answer.result(30) for answer in answers] == [10] * 4
    assert len(engines[0].submitted) == 40
