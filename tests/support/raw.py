"""Calls with messages of one's own making: what no well-behaved client would send."""

from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from alignd.wire import BYTES_METADATA, DataType, Rpc


def call(
    target: str, rpc: Rpc[Any, Any], message: bytes, *, promise: str | None = None, timeout: float | None = 30.0
) -> bytes:
    """The reply's bytes. `promise` is what the metadata says of the size; nothing by default."""
    metadata = [] if promise is None else [(BYTES_METADATA, promise)]
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(target, options) as channel:
        method = channel.unary_unary(rpc.path)
        reply: bytes = method(message, timeout=timeout, metadata=metadata)
        return reply


def ask(target: str, rpc: Rpc[Any, Any], request: Any, timeout: float | None = 30.0) -> Any:
    """An honest request and its reply."""
    message = rpc.encode_request(request)
    return rpc.decode_reply(call(target, rpc, message, promise=str(len(message)), timeout=timeout))


def stored(values: npt.NDArray[np.floating], data_type: DataType) -> npt.NDArray[Any]:
    """Values as the wire holds them."""
    if data_type is DataType.BFLOAT16:
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(data_type.value).view(data_type.storage)
