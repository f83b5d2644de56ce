"""Errors of the engine as gRPC statuses with details that programs can read (google.rpc)."""

from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from alignd.wire import MalformedRequestError
from alignd_server.errors import DeadlineExceededError, NotServedError, OverloadedError, UnavailableError

DETAILS = "grpc-status-details-bin"

STARTING_S = 1.0
"""When to ask again; a first start takes minutes, later ones a second or two."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A status code, a sentence, and the trailing metadata that carries the details."""

    code: grpc.StatusCode
    message: str
    trailers: tuple[tuple[str, bytes], ...] = ()


def malformed(error: MalformedRequestError) -> Rejection:
    violations = [
        error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
        for field, description in error.violations
    ]
    detail = error_details_pb2.BadRequest(field_violations=violations)
    return _with_detail(grpc.StatusCode.INVALID_ARGUMENT, code_pb2.INVALID_ARGUMENT, str(error), detail)


def overloaded(error: OverloadedError) -> Rejection:
    detail = _retry_after(error.retry_after_s)
    return _with_detail(grpc.StatusCode.RESOURCE_EXHAUSTED, code_pb2.RESOURCE_EXHAUSTED, str(error), detail)


def starting() -> Rejection:
    """Of a server that has yet to compile or load its kernels: that it is there tells RetryInfo."""
    why = "the server is starting: its kernels are being compiled or loaded"
    return _with_detail(grpc.StatusCode.UNAVAILABLE, code_pb2.UNAVAILABLE, why, _retry_after(STARTING_S))


def _retry_after(seconds: float) -> error_details_pb2.RetryInfo:
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(int(seconds * 1e9))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def too_large(nbytes: int, limit: int) -> Rejection:
    """Without RetryInfo: the same message will never pass."""
    message = f"a message of {nbytes} bytes is over the limit of {limit}; alignd-server --max-message-bytes raises it"
    return Rejection(grpc.StatusCode.RESOURCE_EXHAUSTED, message)


def rejection(error: BaseException) -> Rejection:
    """How an exception of the engine is said to a client."""
    if isinstance(error, MalformedRequestError):
        return malformed(error)
    if isinstance(error, OverloadedError):
        return overloaded(error)
    if isinstance(error, DeadlineExceededError):
        return Rejection(grpc.StatusCode.DEADLINE_EXCEEDED, str(error))
    if isinstance(error, NotServedError):
        return Rejection(grpc.StatusCode.UNIMPLEMENTED, str(error))
    if isinstance(error, UnavailableError):
        return Rejection(grpc.StatusCode.UNAVAILABLE, str(error))
    return Rejection(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")


def _with_detail(
    code: grpc.StatusCode,
    number: int,
    message: str,
    detail: "error_details_pb2.BadRequest | error_details_pb2.RetryInfo",
) -> Rejection:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status = status_pb2.Status(code=number, message=message, details=[packed])
    return Rejection(code, message, ((DETAILS, status.SerializeToString()),))
