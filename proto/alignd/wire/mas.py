"""MaximumPath: monotonic alignment search over a ragged batch."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from alignd.v1 import alignment_pb2 as pb
from alignd.wire.arrays import (
    Buffers,
    DataType,
    Int64Array,
    as_int32,
    check_size,
    from_bytes,
    lengths,
    to_bytes,
    total,
)
from alignd.wire.rpc import (
    UNTIMED,
    ItemStatus,
    MalformedRequestError,
    Rpc,
    Timing,
    decode_statuses,
    decode_timing,
    encode_statuses,
    encode_timing,
    parse_reply,
    parse_request,
)


@dataclass(frozen=True, slots=True)
class MasRequest:
    """Scores of B items, item b a row-major matrix [tokens[b], frames[b]].

    Attributes:
        values: 1-D, of `data_type.storage`, the items end to end; or a tuple of such, in order.
        tokens: int64 [B].
        frames: int64 [B].
        return_paths: whether the reply holds the token of each frame too.
    """

    values: Buffers
    data_type: DataType
    tokens: Int64Array
    frames: Int64Array
    return_paths: bool = False

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(slots=True)
class MasReply:
    """Best paths of a `MasRequest`.

    Attributes:
        statuses: one per item; outputs of those that failed are zeros, their score NaN.
        durations: int32, the items' [S] end to end.
        paths: int32, the items' [T] end to end; empty unless asked for.
        scores: float64 [B].
    """

    statuses: tuple[ItemStatus, ...]
    durations: npt.NDArray[np.int32]
    paths: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float64]
    timing: Timing = UNTIMED


MAX_UNBACKED: Final = 1 << 20
"""Tokens, or frames, of all empty items of a request: no values back them, and the reply has room for them."""


def _encode_request(request: MasRequest) -> bytes:
    message = pb.MaximumPathRequest(
        tokens=request.tokens.tolist(),
        frames=request.frames.tolist(),
        data_type=request.data_type.wire,
        values=to_bytes(request.values, request.data_type.storage),
        return_paths=request.return_paths,
    )
    return message.SerializeToString()


def _decode_request(data: bytes, max_items: int | None = None) -> MasRequest:
    message = parse_request(pb.MaximumPathRequest, data)
    tokens = lengths(message.tokens, "tokens", max_items=max_items)
    frames = lengths(message.frames, "frames", len(tokens))
    data_type = DataType.from_wire(message.data_type)
    count = total("tokens", tokens, frames)
    values = from_bytes(message.values, data_type.storage, count, "values")
    request = MasRequest(values, data_type, tokens, frames, message.return_paths)
    _check_request(request)
    return request


def _check_request(request: MasRequest) -> None:
    """Raises `MalformedRequestError` for values that do not fit the lengths, and for lengths that would make a large
    reply out of a few bytes."""
    tokens, frames = request.tokens, request.frames
    check_size(request.values, int(tokens.dot(frames)), "values")
    if tokens.all() and frames.all():
        return
    empty = (tokens == 0) | (frames == 0)
    for field_name, values in (("tokens", tokens), ("frames", frames)):
        unbacked = values[empty].astype(np.float64).sum()  # exact where it matters, and does not overflow
        if unbacked > MAX_UNBACKED:
            item = int(np.argmax(np.where(empty, values, -1)))
            message = f"item {item} has {tokens[item]} tokens and {frames[item]} frames: lengths without values"
            raise MalformedRequestError((field_name, message))


def _encode_reply(reply: MasReply) -> bytes:
    message = pb.MaximumPathResponse(
        statuses=encode_statuses(reply.statuses),
        durations=to_bytes(reply.durations, np.int32),
        paths=to_bytes(reply.paths, np.int32),
        scores=reply.scores.tolist(),
        timing=encode_timing(reply.timing),
    )
    return message.SerializeToString()


def _decode_reply(data: bytes) -> MasReply:
    message = parse_reply(pb.MaximumPathResponse, data)
    return MasReply(
        decode_statuses(message.statuses),
        as_int32(message.durations),
        as_int32(message.paths),
        np.array(message.scores, np.float64),
        decode_timing(message.timing),
    )


MAXIMUM_PATH: Rpc[MasRequest, MasReply] = Rpc(
    "MaximumPath", _encode_request, _decode_request, _encode_reply, _decode_reply, _check_request
)
