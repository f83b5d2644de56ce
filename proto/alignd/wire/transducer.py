"""TransducerAlign and TransducerPosteriors: transducer (RNN-T) lattices over a ragged batch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from alignd.v1 import alignment_pb2 as pb
from alignd.wire.arrays import MAX_ELEMENTS, Buffers, DataType, Int64Array, from_bytes, lengths, total, with_payload
from alignd.wire.posteriors import PosteriorsReply, posteriors
from alignd.wire.ragged import Column, Ragged
from alignd.wire.rpc import UNTIMED, ItemStatus, MalformedRequestError, Rpc, Timing, parse_request

TransducerMessage = pb.TransducerAlignRequest | pb.TransducerPosteriorsRequest


@dataclass(frozen=True, slots=True)
class TransducerRequest:
    """Joint log-probs of B items, reduced to blank and next label: item b is [frames[b], labels[b] + 1, 2], row-major.

    Attributes:
        arcs: 1-D, of `data_type.storage`, the items end to end; or a tuple of such, in order.
        frames: int64 [B].
        labels: int64 [B]; 0 is legal.
        modified: one symbol a frame.
    """

    arcs: Buffers
    data_type: DataType
    frames: Int64Array
    labels: Int64Array
    modified: bool = False

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(slots=True)
class TransducerReply:
    """Best paths of a `TransducerRequest`.

    Attributes:
        statuses: one per item; outputs of those that failed are zeros, their score NaN.
        emission_frames: int32, the items' [U] end to end.
        scores: float64 [B].
    """

    statuses: tuple[ItemStatus, ...]
    emission_frames: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float64]
    timing: Timing = UNTIMED


def _nodes(request: Any) -> Int64Array:
    nodes: Int64Array = request.frames * (request.labels + 1)
    return nodes


LENGTHS = ("frames", "labels")
ARCS = Column("arcs", lambda request: 2 * _nodes(request))

TRANSDUCER_PATHS: Ragged[TransducerRequest, TransducerReply] = Ragged(
    LENGTHS,
    (ARCS,),
    (Column("emission_frames", lambda request: request.labels, np.int32),),
    TransducerReply,
    pb.TransducerAlignResponse,
)
TRANSDUCER_NODES: Ragged[TransducerRequest, PosteriorsReply] = Ragged(
    LENGTHS,
    (ARCS,),
    posteriors(_nodes),
    PosteriorsReply,
    pb.TransducerPosteriorsResponse,
)


def _encode_request(message_type: Callable[..., TransducerMessage], request: TransducerRequest) -> bytes:
    message = message_type(
        frames=request.frames.tolist(),
        labels=request.labels.tolist(),
        data_type=request.data_type.wire,
        topology="TRANSDUCER_TOPOLOGY_MODIFIED" if request.modified else "TRANSDUCER_TOPOLOGY_STANDARD",
    )
    return with_payload(message, "arcs", request.arcs, request.data_type.storage)


def _decode_request(
    message_type: type[TransducerMessage], data: bytes, max_items: int | None = None
) -> TransducerRequest:
    message = parse_request(message_type, data)
    frames = lengths(message.frames, "frames", max_items=max_items)
    labels = lengths(message.labels, "labels", len(frames))
    data_type = DataType.from_wire(message.data_type)
    if message.topology not in pb.TransducerTopology.values():
        raise MalformedRequestError(("topology", f"{message.topology} names no topology"))
    if labels.max() >= MAX_ELEMENTS:  # there may be no next number
        raise MalformedRequestError(("labels", f"{labels.max()} labels are more than can be addressed"))
    count = total("frames", frames, labels + 1, 2)
    arcs = from_bytes(message.arcs, data_type.storage, count, "arcs")
    modified = message.topology == pb.TRANSDUCER_TOPOLOGY_MODIFIED
    request = TransducerRequest(arcs, data_type, frames, labels, modified)
    TRANSDUCER_PATHS.check_backed(request)
    return request


def _check_request(request: TransducerRequest) -> None:
    TRANSDUCER_PATHS.check_sizes(request)
    TRANSDUCER_PATHS.check_backed(request)


TRANSDUCER_ALIGN: Rpc[TransducerRequest, TransducerReply] = Rpc(
    "TransducerAlign",
    partial(_encode_request, pb.TransducerAlignRequest),
    partial(_decode_request, pb.TransducerAlignRequest),
    TRANSDUCER_PATHS.encode_reply,
    TRANSDUCER_PATHS.decode_reply,
    _check_request,
)
TRANSDUCER_POSTERIORS: Rpc[TransducerRequest, PosteriorsReply] = Rpc(
    "TransducerPosteriors",
    partial(_encode_request, pb.TransducerPosteriorsRequest),
    partial(_decode_request, pb.TransducerPosteriorsRequest),
    TRANSDUCER_NODES.encode_reply,
    TRANSDUCER_NODES.decode_reply,
    _check_request,
)
