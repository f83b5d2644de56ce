"""The one codec between ragged NumPy arrays and the messages of `alignd.v1`; both ends use it.

One module per RPC: a request and a reply as plain dataclasses of arrays, and the `Rpc` that turns them into messages
and back. Decoding a request validates everything that can be told without a kernel, and raises `MalformedRequestError`.
"""

from alignd.wire.arrays import DataType
from alignd.wire.attention import ALIGN_ATTENTION, AttentionMode, AttentionReply, AttentionRequest
from alignd.wire.audio import ALIGN_AUDIO, AlignedSymbol, AudioReply, AudioRequest
from alignd.wire.ctc import CTC_POSTERIORS, FORCED_ALIGN, STAR, CtcReply, CtcRequest
from alignd.wire.info import GET_SERVER_INFO, Device, Limits, Model, ServerInfo, ServerInfoRequest
from alignd.wire.latents import MAXIMUM_PATH_FROM_LATENTS, LatentsReply, LatentsRequest
from alignd.wire.mas import MAS_POSTERIORS, MAXIMUM_PATH, MasReply, MasRequest
from alignd.wire.posteriors import PosteriorsReply
from alignd.wire.rpc import BYTES_METADATA, OK, SERVICE, ItemCode, ItemStatus, MalformedRequestError, Rpc, Timing
from alignd.wire.transducer import (
    TRANSDUCER_ALIGN,
    TRANSDUCER_POSTERIORS,
    TransducerReply,
    TransducerRequest,
)

__all__ = [
    "ALIGN_ATTENTION",
    "ALIGN_AUDIO",
    "BYTES_METADATA",
    "CTC_POSTERIORS",
    "FORCED_ALIGN",
    "GET_SERVER_INFO",
    "MAS_POSTERIORS",
    "MAXIMUM_PATH",
    "MAXIMUM_PATH_FROM_LATENTS",
    "OK",
    "SERVICE",
    "STAR",
    "TRANSDUCER_ALIGN",
    "TRANSDUCER_POSTERIORS",
    "AlignedSymbol",
    "AttentionMode",
    "AttentionReply",
    "AttentionRequest",
    "AudioReply",
    "AudioRequest",
    "CtcReply",
    "CtcRequest",
    "DataType",
    "Device",
    "ItemCode",
    "ItemStatus",
    "LatentsReply",
    "LatentsRequest",
    "Limits",
    "MalformedRequestError",
    "MasReply",
    "MasRequest",
    "Model",
    "PosteriorsReply",
    "Rpc",
    "ServerInfo",
    "ServerInfoRequest",
    "Timing",
    "TransducerReply",
    "TransducerRequest",
]
