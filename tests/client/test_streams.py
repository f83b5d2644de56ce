"""Long work: order, reading ahead, leaving early, closing; for threads and asyncio."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from alignd.wire import MasRequest
from alignd_client import (
    AlignClient,
    ClientClosedError,
)
from alignd_client.aio_pipeline import as_async
from support.fake_server import FakeServer, sleep, unavailable
from support.reference_answers import server_info

VALUE = np.zeros((2, 6), np.float32)
RPC = "MaximumPath"


def until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def one_by_one(server: FakeServer) -> None:
    """Makes every item a request of its own."""
    server.info = server_info(max_queue_items=1)


def numbered(count: int, read: list[int] | None = None) -> Iterator[npt.NDArray[np.float32]]:
    """Items whose results tell them apart: item i has i + 1 frames."""
    for i in range(count):
        if read is not None:
            read.append(i)
        yield np.zeros((1, i + 1), np.float32)


def test_results_come_in_order(connect: Any, server: FakeServer) -> None:
    one_by_one(server)
    server.faults[RPC].extend([sleep(0.2), sleep(0.0), unavailable(), sleep(0.1)])
    results = connect().align_mas(numbered(20))
    assert [len(result.path) for result in results] == list(range(1, 21))


def test_no_more_in_flight_than_allowed(connect: Any, server: FakeServer) -> None:
    one_by_one(server)
    server.faults[RPC].extend([sleep(0.05)] * 30)
    server.gate.clear()
    threading.Timer(0.5, server.gate.set).start()
    assert len(list(connect(max_in_flight=3).align_mas(numbered(30)))) == 30
    assert server.most_at_once == 3


def test_items_are_read_when_they_are_needed(connect: Any, server: FakeServer) -> None:
    one_by_one(server)
    read: list[int] = []
    results = connect(max_in_flight=3).align_mas(numbered(1000, read))
    assert read == []
    next(results)
    assert 1 <= len(read) <= 3
    next(results)
    assert len(read) <= 4


def test_an_answer_goes_out_before_a_slow_iterable_is_read_on(connect: Any, server: FakeServer) -> None:
    one_by_one(server)
    client = connect(max_in_flight=8)
    list(client.align_mas([VALUE]))  # is connected
    read: list[int] = []

    def slow() -> Iterator[npt.NDArray[np.float32]]:
        for value in numbered(8, read):
            time.sleep(0.1)
            yield value

    async def slow_async() -> AsyncIterator[npt.NDArray[np.float32]]:
        for value in numbered(8, read):
            await asyncio.sleep(0.1)
            yield value

    blocking = isinstance(client, AlignClient)
    assert next(client.align_mas(slow() if blocking else slow_async())).status.ok
    assert len(read) < 8


def test_asynchronous_iterables(connect: Any) -> None:
    client = connect()
    if isinstance(client, AlignClient):
        with pytest.raises(TypeError):
            next(client.align_mas(as_async([VALUE])))
        return
    assert [len(result.path) for result in client.align_mas(as_async(numbered(5)))] == [1, 2, 3, 4, 5]
    log_probs = [np.zeros((6, 3), np.float32)] * 2
    assert len(list(client.align_ctc(as_async(log_probs), [[1], [2]]))) == 2
    assert len(list(client.align_ctc(log_probs, as_async([[1], [2]])))) == 2
    assert len(list(client.align_audios(as_async([(bytes(10), "a")])))) == 1


def test_an_iterables_own_error_comes_after_what_it_gave(connect: Any) -> None:
    def broken() -> Iterator[npt.NDArray[np.float32]]:
        yield VALUE
        raise KeyError("lost")

    results = connect().align_mas(broken())
    assert next(results).status.ok
    with pytest.raises(KeyError, match="lost"):
        next(results)


def test_an_iterator_that_is_left_cancels_its_calls(connect: Any, server: FakeServer) -> None:
    one_by_one(server)
    server.rule = lambda request: sleep(0.2) if getattr(request, "frames", [1])[0] == 1 else server.hold
    client = connect(max_in_flight=3)
    results = client.align_mas(numbered(100))
    next(results)
    results.close()
    assert until(lambda: server.cancelled == 2)
    assert len(server.seen[RPC]) == 3
    (result,) = client.align_mas(numbered(1))  # the client goes on
    assert result.status.ok


def test_a_failed_item_cancels_the_rest(connect: Any, server: FakeServer) -> None:
    one_by_one(server)
    server.rule = lambda request: sleep(0.2) if getattr(request, "tokens", [5])[0] == 5 else server.hold
    results = connect(max_in_flight=4).align_mas([np.zeros((5, 2), np.float32), *numbered(100)])
    with pytest.raises(ValueError, match="item 0"):
        next(results)
    assert next(results, None) is None
    assert until(lambda: server.cancelled == 3)
    assert len(server.seen[RPC]) == 4


def test_a_closed_client_says_so(connect: Any) -> None:
    client = connect()
    list(client.align_mas([VALUE]))
    end = client.close if isinstance(client, AlignClient) else lambda: client.run(client.client.close())
    end()
    for use in (client.health, client.server_info, lambda: list(client.align_mas([VALUE]))):
        with pytest.raises(ClientClosedError, match="closed"):
            use()
    end()


def test_closing_ends_what_is_in_flight(server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    server.rule = lambda request: server.hold if isinstance(request, MasRequest) else None
    client = AlignClient(server.target)
    threading.Timer(0.3, client.close).start()
    with pytest.raises(ClientClosedError):
        list(client.align_mas([VALUE]))
    assert until(lambda: server.cancelled == 1)
    assert caplog.records == []  # the server is not lost


def test_closing_ends_a_question(server: FakeServer) -> None:
    server.faults["GetServerInfo"].append(server.hold)
    client = AlignClient(server.target)
    threading.Timer(0.3, client.close).start()
    with pytest.raises(ClientClosedError):
        client.server_info()


def closing_first(client: AlignClient, method: Callable[..., Any]) -> Callable[..., Any]:
    """What another thread's `close` does just before, or just after, the method is called."""

    def closing(*arguments: Any) -> Any:
        result = method(*arguments)
        client.close()
        return result

    return closing


@pytest.mark.parametrize("place", ["_transport.open", "_pipeline._threads.get", "_transport._channel.get"])
def test_closed_by_another_thread_meanwhile(server: FakeServer, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    client = AlignClient(server.target)
    client._pipeline.limits()
    *path, name = place.split(".")
    owner: Any = client
    for part in path:
        owner = getattr(owner, part)
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, closing_first(client, getattr(owner, name)))
        with pytest.raises(ClientClosedError):
            list(client.align_mas([VALUE]))
    assert client._pipeline._threads.peek() is None
    assert not server.seen[RPC]


def test_health_of_a_client_closed_meanwhile(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    client = AlignClient(server.target)
    channel: Any = client._transport._channel  # type: ignore[attr-defined]
    monkeypatch.setattr(channel, "get", closing_first(client, channel.get))
    with pytest.raises(ClientClosedError):
        client.health_status()
