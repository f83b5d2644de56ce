"""gRPC's failures as this package's errors."""

import re
from typing import Any, Final

from google.protobuf.message import DecodeError

from alignd_client.errors import (
    AlignError,
    DeadlineExceededError,
    InvalidRequestError,
    MessageTooLargeError,
    OverloadedError,
    ServerError,
    ServerUnavailableError,
)

_DETAILS: Final = "grpc-status-details-bin"

# How gRPC itself words a connection that could not be made, as against a server that says it is unavailable.
_NOT_CONNECTED: Final = re.compile(
    r"failed to connect|connection refused|resolution|resolving|no address", re.IGNORECASE
)
_TOO_LARGE: Final = re.compile(r"larger than max|max.message.bytes", re.IGNORECASE)
_LIMIT: Final = re.compile(r"\d+ vs\. (\d+)|over the limit of (\d+)")

# This client sends and takes messages of any size: one that was "sent" is the server's reply.
_REPLY_TOO_LARGE: Final = re.compile(r"sent message larger than max(?: \((\d+) vs\. (\d+)\))?", re.IGNORECASE)


def error_of(failure: Any, target: str, size: int) -> AlignError:
    """What a failed call means.

    Args:
        failure: a `grpc.RpcError` or `grpc.aio.AioRpcError`, which share these methods.
        target: the server's address.
        size: bytes of the request's message.
    """
    code = failure.code().name
    details = (failure.details() or "").strip()
    if code == "UNAVAILABLE":
        if _NOT_CONNECTED.search(details):
            return ServerUnavailableError(target, _last_cause(details))
        return ServerUnavailableError(target, details, reached=True, retry_after=_retry_after(failure))
    if code == "CANCELLED":  # not by this client, which does not ask what became of calls that it cancels
        return ServerUnavailableError(target, "it ended the call", reached=True)
    if code == "DEADLINE_EXCEEDED":
        return DeadlineExceededError(None, "" if "Deadline Exceeded" in details else details)
    if code == "RESOURCE_EXHAUSTED":
        retry_after = _retry_after(failure)
        reply = _REPLY_TOO_LARGE.search(details)
        if reply:
            sent, most = (int(count) if count else None for count in reply.groups())
            return MessageTooLargeError(sent, most, reply=True)
        if retry_after is None and _TOO_LARGE.search(details):
            limit = _LIMIT.search(details)
            return MessageTooLargeError(size, int(limit[1] or limit[2]) if limit else None)
        return OverloadedError(details, retry_after)
    if code == "INVALID_ARGUMENT":
        violations = _violations(failure) or [("", details)]
        return InvalidRequestError(violations[0][0], violations[0][1], *violations[1:])
    if code == "UNIMPLEMENTED" and details in ("", "Method not found!"):  # gRPC's own words
        return ServerError(f"the server at {target} does not offer this operation; is it an older alignd?", code)
    return ServerError(details or f"the server at {target} failed", code)


def _last_cause(details: str) -> str:
    """gRPC names every address that it tried, in brackets; the last cause stands for all."""
    cause = details.rsplit(": ", 1)[-1].rstrip("]")
    return cause if len(cause) < 80 else ""


def _status_details(failure: Any) -> list[Any]:
    """The `google.protobuf.Any` messages that the server attached."""
    from google.rpc import status_pb2  # loaded for failures only

    for key, value in failure.trailing_metadata() or ():
        if key == _DETAILS:
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:  # a proxy's garbage is no reason to hide the failure itself
                return []
    return []


def _retry_after(failure: Any) -> float | None:
    from google.rpc import error_details_pb2

    for detail in _status_details(failure):
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return float(info.retry_delay.seconds + info.retry_delay.nanos * 1e-9)
    return None


def _violations(failure: Any) -> list[tuple[str, str]]:
    from google.rpc import error_details_pb2

    found: list[tuple[str, str]] = []
    for detail in _status_details(failure):
        request = error_details_pb2.BadRequest()
        if detail.Unpack(request):
            found.extend((violation.field, violation.description) for violation in request.field_violations)
    return found
