"""AlignAttention: attention maps over a ragged batch."""

import enum
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alignd.v1 import alignment_pb2 as pb
from alignd.wire.arrays import Buffers, DataType, Int64Array, from_bytes, lengths, total, with_payload
from alignd.wire.ragged import Column, Ragged
from alignd.wire.rpc import UNTIMED, ItemStatus, MalformedRequestError, Rpc, Timing, parse_request


class AttentionMode(enum.Enum):
    """How a head's map becomes an alignment, as `alignd.v1.AttentionMode` documents it."""

    MAS = "mas"
    DTW = "dtw"
    STEPWISE = "stepwise"

    @property
    def wire(self) -> str:
        """Name of the message's enum value."""
        return f"ATTENTION_MODE_{self.name}"


_FROM_WIRE = {pb.AttentionMode.Value(mode.wire): mode for mode in AttentionMode}
_FROM_WIRE[pb.ATTENTION_MODE_UNSPECIFIED] = AttentionMode.MAS


@dataclass(frozen=True, slots=True)
class AttentionRequest:
    """Attention maps of B items, item b [heads[b], tokens[b], frames[b]], row-major.

    Attributes:
        attention: 1-D, of `data_type.storage`, the items end to end; or a tuple of such, in order.
        heads: int64 [B].
        tokens: int64 [B].
        frames: int64 [B].
        mode: of all.
        log: whether the logarithms of the values are aligned.
    """

    attention: Buffers
    data_type: DataType
    heads: Int64Array
    tokens: Int64Array
    frames: Int64Array
    mode: AttentionMode = AttentionMode.MAS
    log: bool = False

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(slots=True)
class AttentionReply:
    """Alignments of an `AttentionRequest`.

    Attributes:
        statuses: one per item; outputs of those that failed are zeros, their score NaN.
        heads: int32 [B], the head that is aligned.
        focus_rates: float32, the items' [H] end to end.
        starts: int32, the items' [S] end to end, first frame of each token.
        ends: int32, the items' [S] end to end, the frame after its last.
        scores: float64 [B].
    """

    statuses: tuple[ItemStatus, ...]
    heads: npt.NDArray[np.int32]
    focus_rates: npt.NDArray[np.float32]
    starts: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float64]
    timing: Timing = UNTIMED


def _tokens(request: Any) -> Int64Array:
    tokens: Int64Array = request.tokens
    return tokens


ATTENTION_SPANS: Ragged[AttentionRequest, AttentionReply] = Ragged(
    ("heads", "tokens", "frames"),
    (Column("attention", lambda request: request.heads * request.tokens * request.frames),),
    (
        Column("heads", lambda request: np.ones(len(request.heads), np.int64), np.int32),
        Column("focus_rates", lambda request: request.heads, np.float32),
        Column("starts", _tokens, np.int32),
        Column("ends", _tokens, np.int32),
    ),
    AttentionReply,
    pb.AlignAttentionResponse,
)


def _encode_request(request: AttentionRequest) -> bytes:
    message = pb.AlignAttentionRequest(
        heads=request.heads.tolist(),
        tokens=request.tokens.tolist(),
        frames=request.frames.tolist(),
        data_type=request.data_type.wire,
        mode=request.mode.wire,
        log=request.log,
    )
    return with_payload(message, "attention", request.attention, request.data_type.storage)


def _decode_request(data: bytes, max_items: int | None = None) -> AttentionRequest:
    message = parse_request(pb.AlignAttentionRequest, data)
    heads = lengths(message.heads, "heads", max_items=max_items)
    tokens = lengths(message.tokens, "tokens", len(heads))
    frames = lengths(message.frames, "frames", len(heads))
    data_type = DataType.from_wire(message.data_type)
    if message.mode not in _FROM_WIRE:
        raise MalformedRequestError(("mode", f"{message.mode} names no mode"))
    count = total("heads", heads, tokens, frames)
    attention = from_bytes(message.attention, data_type.storage, count, "attention")
    mode = _FROM_WIRE[message.mode]
    request = AttentionRequest(attention, data_type, heads, tokens, frames, mode, message.log)
    _check_request(request)
    return request


def _check_request(request: AttentionRequest) -> None:
    if request.log and request.mode is AttentionMode.STEPWISE:
        raise MalformedRequestError(("log", "a stepwise walk goes by probabilities, not by their logarithms"))
    ATTENTION_SPANS.check_sizes(request)
    ATTENTION_SPANS.check_backed(request)


ALIGN_ATTENTION: Rpc[AttentionRequest, AttentionReply] = Rpc(
    "AlignAttention",
    _encode_request,
    _decode_request,
    ATTENTION_SPANS.encode_reply,
    ATTENTION_SPANS.decode_reply,
    _check_request,
)
