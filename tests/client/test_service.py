"""What the client does when the server is slow, full, away or of another opinion; for threads and asyncio."""

import asyncio
import logging
import socket
import threading
import time
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2

from alignd.wire import MAXIMUM_PATH, OK, DataType, MasReply, MasRequest
from alignd_client import (
    AlignClient,
    AlignError,
    DeadlineExceededError,
    InvalidRequestError,
    ItemCode,
    MessageTooLargeError,
    OverloadedError,
    ServerError,
    ServerUnavailableError,
)
from alignd_client.aio_transport import AsyncGrpcTransport
from alignd_client.transport import GrpcTransport
from support import reference_answers
from support.fake_server import FakeServer, overloaded, refuse, sleep, starting, unavailable
from support.reference_answers import server_info

VALUE = np.zeros((2, 6), np.float32)
RPC = "MaximumPath"


def closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


def test_info_and_health(connect: Any, server: FakeServer) -> None:
    client = connect()
    assert client.server_info() == server.info
    assert client.health() is True
    server.health = 2
    assert client.health_status() == "NOT_SERVING"
    assert client.health() is False


def test_messages_name_their_size(connect: Any, server: FakeServer) -> None:
    list(connect().align_mas([VALUE]))  # the server refuses one that does not
    assert server.seen[RPC][0].nbytes > VALUE.nbytes


def test_small_items_travel_together(connect: Any, server: FakeServer) -> None:
    results = list(connect().align_mas([VALUE] * 100))
    assert len(results) == 100
    assert [len(seen.request) for seen in server.seen[RPC]] == [100]


def test_the_limits_are_asked_for_once(connect: Any, server: FakeServer) -> None:
    client = connect()
    for _ in range(3):
        list(client.align_mas([VALUE]))
    assert len(server.seen["GetServerInfo"]) == 1
    list(connect(max_message_bytes=1 << 20).align_mas([VALUE]))
    assert len(server.seen["GetServerInfo"]) == 1


def test_unavailable_is_tried_again(connect: Any, server: FakeServer) -> None:
    server.faults[RPC].extend([unavailable()] * 2)
    (result,) = connect().align_mas([VALUE])
    assert result.status.ok
    assert len(server.seen[RPC]) == 3


def test_a_server_that_starts_is_waited_for(connect: Any, server: FakeServer) -> None:
    """However often it says so, unlike one that has never answered."""
    server.faults["GetServerInfo"].extend([starting(0.01)] * 6)
    server.faults[RPC].extend([starting(0.01)] * 2)
    (result,) = connect(timeout=60).align_mas([VALUE])
    assert result.status.ok
    assert (len(server.seen["GetServerInfo"]), len(server.seen[RPC])) == (7, 3)
    server.faults[RPC].extend([starting(5)])
    with pytest.raises(ServerUnavailableError, match=r"cannot work now \(the server is starting\)") as raised:
        list(connect(timeout=1).align_mas([VALUE]))
    assert raised.value.retry_after == 5


def test_a_server_that_was_there_is_waited_for(connect: Any, server: FakeServer) -> None:
    client = connect(timeout=20)
    list(client.align_mas([VALUE]))
    port = int(server.target.rpartition(":")[2])
    server.stop()
    back: list[FakeServer] = []
    timer = threading.Timer(1.0, lambda: back.append(FakeServer(port)))
    timer.start()
    (result,) = client.align_mas([VALUE])
    assert result.status.ok
    back[0].stop()


def test_a_server_that_goes_away_is_told_once_and_at_once(
    connect: Any, server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "alignd_client")
    server.info = server_info(max_queue_items=1)  # every item is a request of its own
    client = connect(timeout=1.5)
    results = client.align_mas(VALUE for _ in range(3000))
    for _ in range(5):
        next(results)
    assert caplog.records == []
    port = int(server.target.rpartition(":")[2])
    server.stop()
    with pytest.raises(ServerUnavailableError, match=rf"at {server.target} went away .*; tried again for [01]\.\d s:"):
        list(results)
    (lost,) = caplog.records
    assert lost.levelno == logging.WARNING
    assert lost.getMessage().startswith(f"lost the alignd server at {server.target} (")
    with FakeServer(port):
        list(client.align_mas([VALUE]))
    assert caplog.records[-1].getMessage().startswith(f"the alignd server at {server.target} answers again, after ")
    assert len(caplog.records) == 2


def test_unavailable_to_the_end_of_the_time(connect: Any, server: FakeServer) -> None:
    client = connect(timeout=0.5, max_message_bytes=1 << 20)
    client.server_info()
    server.faults[RPC].extend([unavailable()] * 100)
    start = time.monotonic()
    with pytest.raises(ServerUnavailableError, match=r"cannot work now.*the device is lost"):
        list(client.align_mas([VALUE]))
    assert time.monotonic() - start < 1.5
    assert len(server.seen[RPC]) >= 2


def test_no_server_there(connect: Any) -> None:
    target = f"localhost:{closed_port()}"
    client = connect(target)
    start = time.monotonic()
    with pytest.raises(ServerUnavailableError) as caught:
        list(client.align_mas([VALUE]))
    assert time.monotonic() - start < 10  # though the timeout is a minute
    message = str(caught.value)
    assert target in message
    assert "alignd-server" in message
    assert "ALIGND_TARGET" in message
    assert "\n" not in message
    assert isinstance(caught.value, ConnectionError)
    assert client.health() is False
    with pytest.raises(ServerUnavailableError, match="alignd-server"):
        client.health_status()


@pytest.mark.parametrize("target", ["no-such-host.invalid:50051", "[::bad]:1"])
def test_a_name_that_leads_nowhere(connect: Any, target: str) -> None:
    with pytest.raises(ServerUnavailableError, match="alignd-server") as caught:
        connect(target, timeout=3).server_info()
    assert not set("[]") & set(caught.value.details)


def test_to_align_nothing_no_server_is_needed(connect: Any) -> None:
    assert list(connect(f"localhost:{closed_port()}").align_mas([])) == []


def test_overload_is_tried_again_when_the_server_says(connect: Any, server: FakeServer) -> None:
    server.faults[RPC].append(overloaded(0.4))
    (result,) = connect().align_mas([VALUE])
    assert result.status.ok
    first, second = server.seen[RPC]
    assert second.at - first.at >= 0.4


def test_overload_to_the_end_of_the_time(connect: Any, server: FakeServer) -> None:
    server.faults[RPC].extend([overloaded(0.05)] * 100)
    with pytest.raises(OverloadedError, match="the queue is full") as caught:
        list(connect(timeout=0.6).align_mas([VALUE]))
    assert caught.value.retry_after == pytest.approx(0.05)
    assert 2 <= len(server.seen[RPC]) < 10  # it backs off further than it was told to


def test_exhaustion_without_retry_info_is_final(connect: Any, server: FakeServer) -> None:
    server.faults[RPC].append(overloaded(None))
    with pytest.raises(OverloadedError, match="quota") as caught:
        list(connect().align_mas([VALUE]))
    assert caught.value.retry_after is None
    assert len(server.seen[RPC]) == 1


def test_a_delay_past_the_deadline(connect: Any, server: FakeServer) -> None:
    server.faults[RPC].append(sleep(1.0))
    start = time.monotonic()
    with pytest.raises(DeadlineExceededError, match=r"0\.3 s") as caught:
        list(connect(timeout=0.3).align_mas([VALUE]))
    assert time.monotonic() - start < 0.9
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.timeout == 0.3
    assert len(server.seen[RPC]) == 1


def test_a_deadline_already_past(connect: Any, server: FakeServer) -> None:
    with pytest.raises(DeadlineExceededError):
        list(connect(timeout=0).align_mas([VALUE]))
    assert not server.seen[RPC]


def test_a_deadline_that_passed_in_the_queue_is_not_tried_again(connect: Any, server: FakeServer) -> None:
    server.faults[RPC].append(refuse(grpc.StatusCode.DEADLINE_EXCEEDED, "waited too long in the queue"))
    with pytest.raises(DeadlineExceededError, match="in the queue"):
        list(connect().align_mas([VALUE]))
    assert len(server.seen[RPC]) == 1


def test_a_refused_request_names_field_and_reason(connect: Any, server: FakeServer) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="tokens", description="7 is odd")
    detail = error_details_pb2.BadRequest(field_violations=[violation])
    server.faults[RPC].append(refuse(grpc.StatusCode.INVALID_ARGUMENT, "bad", detail))
    with pytest.raises(InvalidRequestError, match="tokens") as caught:
        list(connect().align_mas([VALUE]))
    assert caught.value.field == "tokens"
    assert "7" in caught.value.reason
    assert len(server.seen[RPC]) == 1


def test_a_call_that_the_server_ended_is_tried_again(connect: Any, server: FakeServer) -> None:
    server.faults[RPC].append(refuse(grpc.StatusCode.CANCELLED, "going away"))
    assert next(connect().align_mas([VALUE])).status.ok
    assert len(server.seen[RPC]) == 2


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (grpc.StatusCode.INTERNAL, "a defect.*INTERNAL"),
        (grpc.StatusCode.UNIMPLEMENTED, "a defect.*UNIMPLEMENTED"),
        (grpc.StatusCode.UNKNOWN, "a defect.*UNKNOWN"),
        (grpc.StatusCode.PERMISSION_DENIED, "a defect.*PERMISSION_DENIED"),
    ],
)
def test_other_failures_are_final(connect: Any, server: FakeServer, code: grpc.StatusCode, words: str) -> None:
    server.faults[RPC].append(refuse(code, "a defect"))
    with pytest.raises(ServerError, match=words) as caught:
        list(connect().align_mas([VALUE]))
    assert caught.value.code == code.name
    assert len(server.seen[RPC]) == 1


def test_a_server_that_does_not_know_the_operation(connect: Any, server: FakeServer) -> None:
    server.unknown = "AlignAudio"
    with pytest.raises(ServerError, match="older alignd") as caught:
        connect().align_audio(bytes(10), "a")
    assert caught.value.code == "UNIMPLEMENTED"


def test_an_answer_that_does_not_fit(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = MasReply((OK,), np.zeros(3, np.int32), np.zeros(0, np.int32), np.zeros(1))
    monkeypatch.setitem(reference_answers.ANSWERS, RPC, lambda request: reply)
    with pytest.raises(ServerError, match="does not fit"):
        list(connect().align_mas([VALUE]))


@pytest.mark.parametrize("on_error", ["raise", "return"])
def test_an_item_larger_than_a_message(connect: Any, server: FakeServer, on_error: str) -> None:
    server.info = server_info(max_message_bytes=10_000)
    large = np.zeros((2, 2000), np.float32)
    results = connect().align_mas([VALUE, large, VALUE], on_error=on_error)
    assert next(results).status.ok
    if on_error == "return":
        assert next(results).status.code is ItemCode.TOO_LARGE
        assert next(results).status.ok
        return
    with pytest.raises(MessageTooLargeError, match=r"item 1 .*16\d{3} bytes.*10000.*--max-message-bytes") as caught:
        next(results)
    assert caught.value.limit == 10_000
    assert caught.value.size is not None
    assert caught.value.size > 16_000
    assert all(seen.nbytes < 10_000 for seen in server.seen[RPC])


def test_a_drop_in_larger_than_a_message_travels_in_parts(connect: Any, server: FakeServer) -> None:
    server.info = server_info(max_message_bytes=1_000)
    path = connect().maximum_path(np.zeros((9, 4, 12), np.float32), np.ones((9, 4, 12)))
    assert path.sum() == 9 * 12
    assert len(server.seen[RPC]) > 2
    assert all(seen.nbytes <= 1_000 for seen in server.seen[RPC])
    with pytest.raises(MessageTooLargeError, match="item 0"):
        connect().maximum_path(np.zeros((1, 4, 120), np.float32), np.ones((1, 4, 120)))


@pytest.mark.parametrize(
    "words",
    [
        "Received message larger than max (70 vs. 50)",
        "a message of 70 bytes is over the limit of 50; alignd-server --max-message-bytes raises it",
    ],
)
def test_a_message_that_the_server_finds_too_large(connect: Any, server: FakeServer, words: str) -> None:
    server.faults[RPC].append(refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, words))
    with pytest.raises(MessageTooLargeError, match=r"at most 50.*--max-message-bytes"):
        list(connect().align_mas([VALUE]))
    assert len(server.seen[RPC]) == 1


@pytest.mark.parametrize(
    ("words", "size", "limit"),
    [
        ("SERVER: Sent message larger than max (70 vs. 50)", 70, 50),
        ("Sent message larger than max", None, None),
    ],
)
def test_a_reply_that_the_server_finds_too_large(
    connect: Any, server: FakeServer, words: str, size: int | None, limit: int | None
) -> None:
    server.faults[RPC].append(refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, words))
    with pytest.raises(
        MessageTooLargeError, match=r"the reply .*over the server's limit.*--max-message-bytes"
    ) as caught:
        list(connect().align_mas([VALUE]))
    assert (caught.value.size, caught.value.limit, caught.value.reply) == (size, limit, True)
    assert len(server.seen[RPC]) == 1


def test_encoding_takes_from_the_time(server: FakeServer) -> None:
    steps: list[str] = []

    def encode(request: MasRequest) -> bytes:
        steps.append("encode")
        return MAXIMUM_PATH.encode_request(request)

    def remaining() -> float:
        steps.append("look at the clock")
        return 20.0

    rpc = replace(MAXIMUM_PATH, encode_request=encode)
    request = MasRequest(np.zeros(2, "<f4"), DataType.FLOAT32, np.array([1]), np.array([2]))
    threads = GrpcTransport(server.target)
    assert threads.open(rpc, request).attempt(remaining).statuses == (OK,)
    threads.close()

    async def ask() -> MasReply:
        transport = AsyncGrpcTransport(server.target)
        try:
            return await transport.open(rpc, request).attempt(remaining)
        finally:
            await transport.close()

    assert asyncio.run(ask()).statuses == (OK,)
    assert steps == ["encode", "look at the clock"] * 2


def test_many_threads_share_a_client(server: FakeServer) -> None:
    client = AlignClient(server.target)
    failures: list[BaseException] = []

    def work(frames: int) -> None:
        try:
            for _ in range(10):
                (result,) = client.align_mas([np.zeros((1, frames), np.float32)])
                assert len(result.path) == frames
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(frames,)) for frames in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.close()
    assert failures == []
    assert server.most_at_once <= 8


WRONG = [
    "http://localhost:50051",
    "localhost",
    "10.0.0.1",
    "localhost:",
    "localhost:x",
    ":50051",
    "a:0",
    "a:65536",
    "a:1:2",
    "[:::bad",
]


@pytest.mark.parametrize("target", WRONG)
def test_a_target_is_a_host_and_a_port(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="target must be host:port like 'localhost:50051', not"):
        AlignClient(target)
    monkeypatch.setenv("ALIGND_TARGET", target)
    with pytest.raises(ValueError, match="target must be host:port"):
        AlignClient()


@pytest.mark.parametrize(
    "target", ["a.b:1", "[::1]:65535", "unix:/run/alignd", "dns:///alignd.svc:50051", "ipv4:10.0.0.1:1"]
)
def test_targets_as_grpc_names_them(target: str) -> None:
    AlignClient(target).close()


@pytest.mark.parametrize(("name", "value"), [("timeout", "x"), ("max_in_flight", 2.5), ("max_message_bytes", "x")])
def test_an_option_that_is_no_number_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .* not {value!r}"):
        AlignClient("localhost:1", **{name: value})


def test_numbers_of_numpy_are_numbers() -> None:
    AlignClient("localhost:1", timeout=np.float32(2), max_in_flight=np.int64(3), max_message_bytes=np.int32(9)).close()  # type: ignore[arg-type]


def test_the_target_comes_from_the_environment(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGND_TARGET", server.target)
    with AlignClient() as client:
        assert client.health()
    monkeypatch.setenv("ALIGND_TARGET", "localhost:1")
    with AlignClient(server.target) as client:
        assert client.health()


def test_a_proxy_in_the_environment_is_not_asked_for_this_machine(
    connect: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert connect().health()


@pytest.mark.parametrize(
    "options", [{"timeout": -1}, {"timeout": float("nan")}, {"max_in_flight": 0}, {"max_message_bytes": 0}]
)
def test_options_that_make_no_client(connect: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        connect(**options)


def test_every_error_is_an_align_error(connect: Any, server: FakeServer) -> None:
    server.faults[RPC].append(unavailable())
    with pytest.raises(AlignError):
        list(connect(timeout=0.01).align_mas([VALUE]))
