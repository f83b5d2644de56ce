"""ForcedAlign and CtcPosteriors: CTC over a ragged batch, the best path and all paths."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from alignd.v1 import alignment_pb2 as pb
from alignd.wire.arrays import (
    Buffers,
    DataType,
    Int64Array,
    from_bytes,
    lengths,
    to_bytes,
    total,
    with_payload,
)
from alignd.wire.posteriors import PosteriorsReply, posteriors
from alignd.wire.ragged import Column, Ragged
from alignd.wire.rpc import (
    UNTIMED,
    ItemStatus,
    MalformedRequestError,
    Rpc,
    Timing,
    parse_request,
)

CtcMessage = pb.ForcedAlignRequest | pb.CtcPosteriorsRequest

STAR: Final = -1
"""The wildcard target: an ordinary label of at least one frame that matches anything."""

FLOAT32_MAX: Final = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class CtcRequest:
    """Emissions and targets of B items, item b's emissions a row-major matrix [frames[b], vocabulary_size].

    Attributes:
        log_probs: 1-D, of `data_type.storage`, the items end to end; or a tuple of such, in order.
        frames: int64 [B].
        vocabulary_size: V, of every item.
        targets: int32, the items' labels end to end; `STAR` is the wildcard.
        target_lengths: int64 [B].
        blank: its column.
        star_score: log-prob of a wildcard's frame; None for the frame's largest non-blank one.
    """

    log_probs: Buffers
    data_type: DataType
    frames: Int64Array
    vocabulary_size: int
    targets: npt.NDArray[np.int32]
    target_lengths: Int64Array
    blank: int = 0
    star_score: float | None = 0.0

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(slots=True)
class CtcReply:
    """Best paths of a `CtcRequest`.

    Attributes:
        statuses: one per item; outputs of those that failed are zeros, their score NaN.
        durations: int32, the items' [L] end to end: non-blank frames of each label.
        paths: int32, the items' [T] end to end: states 0 … 2L, even ones blank.
        frame_scores: float32, the items' [T] end to end.
        scores: float64 [B].
    """

    statuses: tuple[ItemStatus, ...]
    durations: npt.NDArray[np.int32]
    paths: npt.NDArray[np.int32]
    frame_scores: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float64]
    timing: Timing = UNTIMED


def _encode_request(message_type: Callable[..., CtcMessage], request: CtcRequest) -> bytes:
    message = message_type(
        frames=request.frames.tolist(),
        target_lengths=request.target_lengths.tolist(),
        vocabulary_size=request.vocabulary_size,
        data_type=request.data_type.wire,
        targets=to_bytes(request.targets, np.int32),
        blank=request.blank,
    )
    if request.star_score is None:
        message.star_max = True
    else:
        message.star_score = request.star_score
    return with_payload(message, "log_probs", request.log_probs, request.data_type.storage)


def _star_score(message: CtcMessage) -> float | None:
    if message.WhichOneof("star") == "star_max":
        return None if message.star_max else 0.0
    return message.star_score


def _check_columns(vocabulary_size: int, blank: int) -> None:
    if vocabulary_size < 1:
        raise MalformedRequestError(
            ("vocabulary_size", f"{vocabulary_size}; there must be at least one column, the blank")
        )
    if not 0 <= blank < vocabulary_size:
        raise MalformedRequestError(("blank", f"{blank} is no column of a vocabulary of {vocabulary_size}"))


def _check_request(request: CtcRequest) -> None:
    _check_columns(request.vocabulary_size, request.blank)
    CTC_PATHS.check_sizes(request)
    # NaN is the kernels' word for the largest non-blank log-prob, and a score travels in float32.
    if request.star_score is not None and not request.star_score <= FLOAT32_MAX:
        raise MalformedRequestError(("star_score", f"{request.star_score} is no log-prob in float32"))


def _decode_request(message_type: type[CtcMessage], data: bytes, max_items: int | None = None) -> CtcRequest:
    message = parse_request(message_type, data)
    frames = lengths(message.frames, "frames", max_items=max_items)
    target_lengths = lengths(message.target_lengths, "target_lengths", len(frames))
    data_type = DataType.from_wire(message.data_type)
    V = message.vocabulary_size
    _check_columns(V, message.blank)  # before the payload, whose size follows from it
    count = total("frames", frames, V)
    log_probs = from_bytes(message.log_probs, data_type.storage, count, "log_probs")
    targets = from_bytes(message.targets, np.int32, total("target_lengths", target_lengths), "targets")
    request = CtcRequest(log_probs, data_type, frames, V, targets, target_lengths, message.blank, _star_score(message))
    _check_request(request)
    return request


CTC_PATHS: Ragged[CtcRequest, CtcReply] = Ragged(
    ("frames", "target_lengths"),
    (
        Column("log_probs", lambda request: request.frames * request.vocabulary_size),
        Column("targets", lambda request: request.target_lengths, np.int32),
    ),
    (
        Column("durations", lambda request: request.target_lengths, np.int32),
        Column("paths", lambda request: request.frames, np.int32),
        Column("frame_scores", lambda request: request.frames, np.float32),
    ),
    CtcReply,
    pb.ForcedAlignResponse,
)

CTC_STATES: Ragged[CtcRequest, PosteriorsReply] = Ragged(
    CTC_PATHS.lengths,
    CTC_PATHS.inputs,
    posteriors(lambda request: request.frames * (2 * request.target_lengths + 1)),
    PosteriorsReply,
    pb.CtcPosteriorsResponse,
)


def _decode_posteriors(data: bytes, max_items: int | None = None) -> CtcRequest:
    request = _decode_request(pb.CtcPosteriorsRequest, data, max_items)
    CTC_STATES.check_reply_bytes(request)
    return request


def _check_posteriors(request: CtcRequest) -> None:
    _check_request(request)
    CTC_STATES.check_reply_bytes(request)  # T × (2L + 1) values of T × V and L


FORCED_ALIGN: Rpc[CtcRequest, CtcReply] = Rpc(
    "ForcedAlign",
    partial(_encode_request, pb.ForcedAlignRequest),
    partial(_decode_request, pb.ForcedAlignRequest),
    CTC_PATHS.encode_reply,
    CTC_PATHS.decode_reply,
    _check_request,
)
CTC_POSTERIORS: Rpc[CtcRequest, PosteriorsReply] = Rpc(
    "CtcPosteriors",
    partial(_encode_request, pb.CtcPosteriorsRequest),
    _decode_posteriors,
    CTC_STATES.encode_reply,
    CTC_STATES.decode_reply,
    _check_posteriors,
)
