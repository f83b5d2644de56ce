"""What only the in-process door has: the engine's life, its errors, and the extra that it needs."""

import pickle
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from alignd.wire import MalformedRequestError
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
from support import fake_engine
from support.blocking import Blocking
from support.fake_engine import FakeEngine

VALUE = np.zeros((2, 6), np.float32)


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
