"""A small real gRPC server that answers through the reference and fails as it is told to, for tests of the client."""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from alignd import wire
from support import reference_answers

Fault = Callable[[grpc.ServicerContext], None]


def details(message: Any) -> tuple[tuple[str, bytes]]:
    packed = any_pb2.Any()
    packed.Pack(message)
    return (("grpc-status-details-bin", status_pb2.Status(details=[packed]).SerializeToString()),)


def refuse(code: grpc.StatusCode, message: str, detail: Any = None) -> Fault:
    def fault(context: grpc.ServicerContext) -> None:
        if detail is not None:
            context.set_trailing_metadata(details(detail))
        context.abort(code, message)

    return fault


def come_again(code: grpc.StatusCode, message: str, retry_after: float) -> Fault:
    """With the time to do so."""
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(int(retry_after * 1e9))
    return refuse(code, message, error_details_pb2.RetryInfo(retry_delay=delay))


def starting(retry_after: float) -> Fault:
    return come_again(grpc.StatusCode.UNAVAILABLE, "the server is starting", retry_after)


def unavailable(message: str = "the device is lost") -> Fault:
    return refuse(grpc.StatusCode.UNAVAILABLE, message)


def overloaded(retry_after: float | None) -> Fault:
    if retry_after is None:
        return refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "quota")
    return come_again(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", retry_after)


def sleep(seconds: float) -> Fault:
    return lambda context: time.sleep(seconds)


@dataclass(frozen=True)
class Seen:
    """A call that arrived."""

    request: Any
    nbytes: int
    at: float


class FakeServer:
    """Listens on a free port of this machine.

    Attributes:
        faults: by RPC, what to do to its next calls before they are answered, one each.
        rule: what to do to a call by its request; requests sent at once arrive in any order.
        seen: by RPC, the calls that arrived, in order.
        gate: calls of alignment wait until it is set; it is, at first.
        unknown: an RPC that it does not have.
        info: what GetServerInfo answers.
        health: the byte that Health/Check answers.
        most_at_once: alignment calls that were inside at the same time.
        cancelled: calls under the fault `hold` whose client took them back.
    """

    def __init__(self, port: int = 0) -> None:
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.rule: Callable[[Any], Fault | None] = lambda request: None
        self.seen: dict[str, list[Seen]] = defaultdict(list)
        self.gate = threading.Event()
        self.gate.set()
        self.info = reference_answers.server_info()
        self.health = 1
        self.unknown = ""
        self.most_at_once = 0
        self.cancelled = 0
        self._inside = 0
        self._lock = threading.Lock()
        options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(ThreadPoolExecutor(64), options=options)
        self._server.add_generic_rpc_handlers((_Handler(self),))
        self.target = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{port}')}"
        self._server.start()

    def __enter__(self) -> "FakeServer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.gate.set()
        self._server.stop(0).wait()

    def answer(self, name: str, data: bytes, context: grpc.ServicerContext) -> bytes:
        rpc = reference_answers.RPCS[name]
        promised = dict(context.invocation_metadata()).get(wire.BYTES_METADATA)
        if promised != str(len(data)):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{promised} bytes promised, {len(data)} sent")
        try:
            request = rpc.decode_request(data)
        except wire.MalformedRequestError as error:
            field, description = error.violations[0]
            violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
            detail = error_details_pb2.BadRequest(field_violations=[violation])
            refuse(grpc.StatusCode.INVALID_ARGUMENT, str(error), detail)(context)
        with self._lock:
            self.seen[name].append(Seen(request, len(data), time.monotonic()))
            fault = self.faults[name].popleft() if self.faults[name] else self.rule(request)
        if fault is not None:
            fault(context)
        if name == "GetServerInfo":
            return rpc.encode_reply(self.info)
        with self._being_inside():
            self.gate.wait(20)
            return rpc.encode_reply(reference_answers.ANSWERS[name](request))

    def hold(self, context: grpc.ServicerContext) -> None:
        """A fault: no answer until the client takes the call back, or long after."""
        gone = threading.Event()
        if not context.add_callback(gone.set) or gone.wait(10):
            with self._lock:
                self.cancelled += 1

    def _being_inside(self) -> "_Inside":
        return _Inside(self)


class _Inside:
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def __enter__(self) -> None:
        with self._server._lock:
            self._server._inside += 1
            self._server.most_at_once = max(self._server.most_at_once, self._server._inside)

    def __exit__(self, *exception: object) -> None:
        with self._server._lock:
            self._server._inside -= 1


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        service, name = details.method.lstrip("/").split("/")
        if service == "grpc.health.v1.Health":
            return grpc.unary_unary_rpc_method_handler(lambda data, context: bytes([8, self._server.health]))
        if service == wire.SERVICE and name in reference_answers.RPCS and name != self._server.unknown:
            return grpc.unary_unary_rpc_method_handler(lambda data, context: self._server.answer(name, data, context))
        return None
