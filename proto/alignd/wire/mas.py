"""MaximumPath and MasPosteriors: monotonic alignment over a ragged batch, the best path and all paths."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alignd.v1 import alignment_pb2 as pb
from alignd.wire.arrays import (
    Buffers,
    DataType,
    Int64Array,
    from_bytes,
    lengths,
    total,
    with_payload,
)
from alignd.wire.posteriors import PosteriorsReply, posteriors
from alignd.wire.ragged import Column, Ragged
from alignd.wire.rpc import (
    UNTIMED,
    ItemStatus,
    Rpc,
    Timing,
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


MAS_PATHS: Ragged[MasRequest, MasReply] = Ragged(
    ("tokens", "frames"),
    (Column("values", lambda request: request.tokens * request.frames),),
    (
        Column("durations", lambda request: request.tokens, np.int32),
        Column("paths", lambda request: request.frames * request.return_paths, np.int32),
    ),
    MasReply,
    pb.MaximumPathResponse,
)


def _encode_request(request: MasRequest) -> bytes:
    message = pb.MaximumPathRequest(
        tokens=request.tokens.tolist(),
        frames=request.frames.tolist(),
        data_type=request.data_type.wire,
        return_paths=request.return_paths,
    )
    return with_payload(message, "values", request.values, request.data_type.storage)


def _decode_request(data: bytes, max_items: int | None = None) -> MasRequest:
    message = parse_request(pb.MaximumPathRequest, data)
    return _request_of(message, message.return_paths, max_items)


def _request_of(
    message: pb.MaximumPathRequest | pb.MasPosteriorsRequest, return_paths: bool, max_items: int | None
) -> MasRequest:
    tokens = lengths(message.tokens, "tokens", max_items=max_items)
    frames = lengths(message.frames, "frames", len(tokens))
    data_type = DataType.from_wire(message.data_type)
    count = total("tokens", tokens, frames)
    values = from_bytes(message.values, data_type.storage, count, "values")
    request = MasRequest(values, data_type, tokens, frames, return_paths)
    _check_request(request)
    return request


def _check_request(request: MasRequest) -> None:
    MAS_PATHS.check_sizes(request)
    MAS_PATHS.check_backed(request)


MAXIMUM_PATH: Rpc[MasRequest, MasReply] = Rpc(
    "MaximumPath", _encode_request, _decode_request, MAS_PATHS.encode_reply, MAS_PATHS.decode_reply, _check_request
)

MAS_NODES: Ragged[MasRequest, PosteriorsReply] = Ragged(
    MAS_PATHS.lengths,
    MAS_PATHS.inputs,
    posteriors(lambda request: request.tokens * request.frames),
    PosteriorsReply,
    pb.MasPosteriorsResponse,
)


def _encode_posteriors(request: MasRequest) -> bytes:
    message = pb.MasPosteriorsRequest(
        tokens=request.tokens.tolist(),
        frames=request.frames.tolist(),
        data_type=request.data_type.wire,
    )
    return with_payload(message, "values", request.values, request.data_type.storage)


def _decode_posteriors(data: bytes, max_items: int | None = None) -> MasRequest:
    return _request_of(parse_request(pb.MasPosteriorsRequest, data), False, max_items)


MAS_POSTERIORS: Rpc[MasRequest, PosteriorsReply] = Rpc(
    "MasPosteriors",
    _encode_posteriors,
    _decode_posteriors,
    MAS_NODES.encode_reply,
    MAS_NODES.decode_reply,
    _check_request,
)
