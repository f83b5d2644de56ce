"""The one codec between ragged NumPy arrays and the messages of `alignd.v1`; both ends use it.

One module per RPC: a request and a reply as plain dataclasses of arrays, and the `Rpc` that turns them into messages
and back. Decoding a request validates everything that can be told without a kernel, and raises `MalformedRequestError`.
"""

from alignd.wire.arrays import DataType
from alignd.wire.audio import ALIGN_AUDIO, AlignedSymbol, AudioReply, AudioRequest
from alignd.wire.ctc import FORCED_ALIGN, STAR, CtcReply, CtcRequest
from alignd.wire.info import GET_SERVER_INFO, Device, Limits, Model, ServerInfo, ServerInfoRequest
from alignd.wire.mas import MAXIMUM_PATH, MasReply, MasRequest
from alignd.wire.rpc import BYTES_METADATA, OK, SERVICE, ItemCode, ItemStatus, MalformedRequestError, Rpc, Timing
from alignd.wire.transducer import (
    TRANSDUCER_ALIGN,
    TRANSDUCER_POSTERIORS,
    TransducerPosteriorsReply,
    TransducerReply,
    TransducerRequest,
)

__all__ = [
    "ALIGN_AUDIO",
    "BYTES_METADATA",
    "FORCED_ALIGN",
    "GET_SERVER_INFO",
    "MAXIMUM_PATH",
    "OK",
    "SERVICE",
    "STAR",
    "TRANSDUCER_ALIGN",
    "TRANSDUCER_POSTERIORS",
    "AlignedSymbol",
    "AudioReply",
    "AudioRequest",
    "CtcReply",
    "CtcRequest",
    "DataType",
    "Device",
    "ItemCode",
    "ItemStatus",
    "Limits",
    "MalformedRequestError",
    "MasReply",
    "MasRequest",
    "Model",
    "Rpc",
    "ServerInfo",
    "ServerInfoRequest",
    "Timing",
    "TransducerPosteriorsReply",
    "TransducerReply",
    "TransducerRequest",
]
