"""Requests that a server refuses as a whole, and what it says of them."""

from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from alignd.wire import Rpc
from support.raw import call


def refusal(target: str, rpc: Rpc[Any, Any], message: bytes, promise: str | None = None) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call(target, rpc, message, promise=promise)
    return caught.value


def assert_malformed(error: grpc.RpcError, field: str, words: Sequence[str]) -> None:
    """INVALID_ARGUMENT, with one violation of this field whose description holds all the words."""
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    (detail,) = rpc_status.from_call(error).details
    bad = error_details_pb2.BadRequest()
    assert detail.Unpack(bad)
    (violation,) = bad.field_violations
    assert violation.field == field
    assert all(word in violation.description for word in words), violation.description
    assert violation.description in error.details()
