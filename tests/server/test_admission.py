"""Bounds on what the server holds: refused before the payload is read, given back whatever becomes of the caller."""

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from alignd import wire
from support import reference_answers, workloads
from support.http2 import RawCall
from support.raw import ask
from support.server_process import GatedServer, ServerProcess
from support.waiting import busy, eventually, holds_nothing

MESSAGE_LIMIT = 4_000_000  # of narrow_server
SMALL = workloads.small_mas(np.random.default_rng(0))
SMALL_MESSAGE = wire.MAXIMUM_PATH.encode_request(SMALL)

pytestmark = pytest.mark.xdist_group("narrow_server")


class Announced:
    """A call of MaximumPath whose headers are sent, and its message not before `send`."""

    def __init__(self, channel: grpc.Channel, promise: int | None) -> None:
        self._messages: queue.Queue[bytes | None] = queue.Queue()
        metadata = [] if promise is None else [(wire.BYTES_METADATA, str(promise))]
        call = channel.stream_unary(wire.MAXIMUM_PATH.path)
        self.future = call.future(iter(self._messages.get, None), metadata=metadata, timeout=60.0)

    def send(self, message: bytes) -> None:
        self._messages.put(message)
        self.end()

    def end(self) -> None:
        """Let go of gRPC's thread that waits for messages."""
        self._messages.put(None)


@contextmanager
def announced(server: ServerProcess, promise: int | None) -> Iterator[Announced]:
    with grpc.insecure_channel(server.target) as channel:
        call = Announced(channel, promise)
        try:
            yield call
        finally:
            call.end()


def assert_overloaded(error: grpc.RpcError) -> None:
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    (detail,) = rpc_status.from_call(error).details
    retry = error_details_pb2.RetryInfo()
    assert detail.Unpack(retry)
    assert 0 < retry.retry_delay.ToTimedelta().total_seconds() < 10


def assert_answers(server: ServerProcess) -> None:
    reply = ask(server.target, wire.MAXIMUM_PATH, SMALL)
    assert reply.durations.tolist() == reference_answers.maximum_path(SMALL).durations.tolist()


def test_what_does_not_fit_is_refused_before_its_message_is_sent(narrow_server: GatedServer) -> None:
    server = narrow_server
    refused = server.metric("alignd_rejected_total", op="mas", reason="bytes")
    with announced(server, MESSAGE_LIMIT) as holder:
        eventually(lambda: server.metric("alignd_queue_bytes") == MESSAGE_LIMIT, "the announced bytes to be held")
        with announced(server, 3_000_000) as second:
            error = second.future.exception(timeout=30)  # its message was never sent
        assert_overloaded(error)
        assert f"{MESSAGE_LIMIT} of 6000000 bytes; 3000000 more" in error.details()
        assert server.metric("alignd_rejected_total", op="mas", reason="bytes") == refused + 1
        assert_answers(server)  # a small one still fits
        holder.send(SMALL_MESSAGE)
        reply = wire.MAXIMUM_PATH.decode_reply(holder.future.result())
    assert reply.statuses[0].ok
    eventually(lambda: holds_nothing(server), "the room to be given back")
    assert_answers(server)


def test_without_a_promise_the_message_limit_is_held(narrow_server: GatedServer) -> None:
    with announced(narrow_server, None) as call:
        eventually(lambda: narrow_server.metric("alignd_queue_bytes") == MESSAGE_LIMIT, "the limit to be held")
        call.send(SMALL_MESSAGE)
        call.future.result()
    eventually(lambda: holds_nothing(narrow_server), "the room to be given back")


def test_once_the_message_is_there_its_size_is_held(narrow_server: GatedServer) -> None:
    server = narrow_server
    with busy(server):
        held = server.metric("alignd_queue_bytes")
        with announced(server, 2_000_000) as call:
            eventually(lambda: server.metric("alignd_queue_bytes") == held + 2_000_000, "the promise to be held")
            call.send(SMALL_MESSAGE)
            eventually(lambda: server.metric("alignd_queue_depth") == 1, "the request to wait")
            assert server.metric("alignd_queue_bytes") == held + len(SMALL_MESSAGE)
            server.open_gate()
            call.future.result()


def test_too_many_items_are_refused_for_now(narrow_server: GatedServer) -> None:
    server = narrow_server
    refused = server.metric("alignd_rejected_total", op="mas", reason="items")
    ten = wire.MasRequest(np.zeros(10, "f4"), wire.DataType.FLOAT32, np.ones(10, int), np.ones(10, int))
    with busy(server, small_items=94):  # 95 of 100 items
        with pytest.raises(grpc.RpcError) as caught:
            ask(server.target, wire.MAXIMUM_PATH, ten)
        assert_overloaded(caught.value)
        assert "95 of 100 items; 10 more" in caught.value.details()
        assert server.metric("alignd_rejected_total", op="mas", reason="items") == refused + 1
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(assert_answers, server)  # one more fits, and waits its turn
            eventually(lambda: server.metric("alignd_queue_depth", op="mas") == 1, "the request to wait")
            server.open_gate()
            answer.result()
    assert ask(server.target, wire.MAXIMUM_PATH, ten).durations.tolist() == [1] * 10


def test_a_message_that_never_comes_loses_its_room() -> None:
    with ServerProcess("--audio", "off", "--payload-timeout-s", "0.5") as server, announced(server, 1_000_000) as call:
        eventually(lambda: server.metric("alignd_queue_bytes") == 1_000_000, "the announced bytes to be held")
        assert_answers(server)
        error = call.future.exception(timeout=30)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "did not arrive within 0.5 s" in error.details()
        eventually(lambda: holds_nothing(server), "the room to be given back")
        assert_answers(server)


def cancelled_calls(server: ServerProcess) -> float:
    return server.metric("grpc_server_handled_total", grpc_method="MaximumPath", grpc_code="CANCELLED")


def test_a_client_that_dies_within_its_message_leaves_nothing(narrow_server: GatedServer) -> None:
    server, before = narrow_server, cancelled_calls(narrow_server)
    malformed = server.metric("alignd_rejected_total", op="mas", reason="malformed")
    call = RawCall(server.target, wire.MAXIMUM_PATH.path, metadata={wire.BYTES_METADATA: "1000000"})
    call.send(b"\0" * 10_000, announced=1_000_000)
    eventually(lambda: server.metric("alignd_queue_bytes") == 1_000_000, "the announced bytes to be held")
    assert_answers(server)
    call.vanish()
    eventually(lambda: holds_nothing(server), "the room to be given back")
    eventually(lambda: cancelled_calls(server) == before + 1, "the call to be counted as cancelled")
    assert server.metric("alignd_rejected_total", op="mas", reason="malformed") == malformed
    assert_answers(server)


def test_a_client_that_cancels_before_its_message_leaves_nothing(narrow_server: GatedServer) -> None:
    server, before = narrow_server, cancelled_calls(narrow_server)
    with announced(server, 1_000_000) as call:
        eventually(lambda: server.metric("alignd_queue_bytes") == 1_000_000, "the announced bytes to be held")
        call.future.cancel()
        eventually(lambda: holds_nothing(server), "the room to be given back")
    eventually(lambda: cancelled_calls(server) == before + 1, "the call to be counted as cancelled")


def test_a_client_that_dies_while_its_work_waits_leaves_the_queue(narrow_server: GatedServer) -> None:
    server = narrow_server
    aligned = server.metric("alignd_items_total", op="mas")
    dropped = server.metric("alignd_rejected_total", op="mas", reason="cancelled")
    metadata = {wire.BYTES_METADATA: str(len(SMALL_MESSAGE))}
    with busy(server):
        held = server.metric("alignd_queue_bytes")
        call = RawCall(server.target, wire.MAXIMUM_PATH.path, metadata=metadata)
        call.send(SMALL_MESSAGE, end=True)
        eventually(lambda: server.metric("alignd_queue_depth", op="mas") == 1, "the request to wait")
        call.vanish()
        eventually(lambda: server.metric("alignd_queue_depth", op="mas") == 0, "the request to leave")
        assert server.metric("alignd_queue_bytes") == held
    assert server.metric("alignd_items_total", op="mas") == aligned
    assert server.metric("alignd_rejected_total", op="mas", reason="cancelled") == dropped + 1
