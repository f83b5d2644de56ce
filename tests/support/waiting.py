"""Waiting for what a server says of itself, with a bound."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc

from alignd import wire
from support import workloads
from support.server_process import GatedServer, ServerProcess

WAIT_S = 30.0


def eventually(holds: Callable[[], bool], what: str, timeout: float = WAIT_S) -> None:
    """Ask until it holds."""
    end = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < end, f"waited {timeout} s for {what}"
        time.sleep(0.005)


def holds_nothing(server: ServerProcess) -> bool:
    """Whether nothing waits, is in work or is announced."""
    return server.metric("alignd_queue_bytes") == 0 and server.metric("alignd_queue_depth") == 0


def started(server: ServerProcess, op: str) -> float:
    """Requests whose work has begun."""
    return server.metric("alignd_queue_duration_seconds_count", op=op)


@contextmanager
def busy(server: GatedServer, small_items: int = 0) -> Iterator[None]:
    """A lane of the server is at work on a request until its gate is opened, at the latest by the end of the context,
    which waits for the answer."""
    message = wire.FORCED_ALIGN.encode_request(workloads.held(small_items))
    before = started(server, "ctc")
    server.close_gate()
    try:
        with grpc.insecure_channel(server.target) as channel:
            metadata = [(wire.BYTES_METADATA, str(len(message)))]
            future = channel.unary_unary(wire.FORCED_ALIGN.path).future(message, timeout=120.0, metadata=metadata)
            eventually(lambda: started(server, "ctc") > before, "the work to begin")
            yield
            server.open_gate()
            reply = wire.FORCED_ALIGN.decode_reply(future.result())
            assert all(status.ok for status in reply.statuses)
    finally:
        server.open_gate()
    eventually(lambda: holds_nothing(server), "the work's room to be given back")
