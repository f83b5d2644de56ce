"""MaximumPathFromLatents: monotonic alignment search over Gaussian log-likelihoods, a ragged batch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alignd.v1 import alignment_pb2 as pb
from alignd.wire.arrays import Buffers, DataType, Int64Array, from_bytes, lengths, to_bytes, total, with_payload
from alignd.wire.ragged import MAX_UNBACKED, Column, Ragged
from alignd.wire.rpc import UNTIMED, ItemStatus, MalformedRequestError, Rpc, Timing, parse_request


@dataclass(frozen=True, slots=True)
class LatentsRequest:
    """Latents and Gaussians of B items of one number of channels.

    Attributes:
        latents: 1-D, of `data_type.storage`, the items' [frames[b], channels] end to end; or a tuple of such, in order.
        means: as `latents`, the items' [tokens[b], channels].
        log_sigmas: as `means`; empty for standard deviations of 1.
        tokens: int64 [B].
        frames: int64 [B].
        channels: C, of every item.
        unit: whether `log_sigmas` is empty and the standard deviations are 1.
    """

    latents: Buffers
    means: Buffers
    log_sigmas: Buffers
    data_type: DataType
    tokens: Int64Array
    frames: Int64Array
    channels: int
    unit: bool = False

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(slots=True)
class LatentsReply:
    """Best paths of a `LatentsRequest`.

    Attributes:
        statuses: one per item; outputs of those that failed are zeros, their score NaN.
        durations: int32, the items' [S] end to end.
        scores: float64 [B].
    """

    statuses: tuple[ItemStatus, ...]
    durations: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float64]
    timing: Timing = UNTIMED


def _means(request: Any) -> Int64Array:
    sizes: Int64Array = request.tokens * request.channels
    return sizes


LATENT_PATHS: Ragged[LatentsRequest, LatentsReply] = Ragged(
    ("tokens", "frames"),
    (
        Column("latents", lambda request: request.frames * request.channels),
        Column("means", _means),
        Column("log_sigmas", lambda request: _means(request) * (not request.unit)),
    ),
    (Column("durations", lambda request: request.tokens, np.int32),),
    LatentsReply,
    pb.MaximumPathFromLatentsResponse,
)


def _encode_request(request: LatentsRequest) -> bytes:
    storage = request.data_type.storage
    message = pb.MaximumPathFromLatentsRequest(
        tokens=request.tokens.tolist(),
        frames=request.frames.tolist(),
        channels=request.channels,
        data_type=request.data_type.wire,
        means=to_bytes(request.means, storage),
        log_sigmas=to_bytes(request.log_sigmas, storage),
    )
    return with_payload(message, "latents", request.latents, storage)


def _check_request(request: LatentsRequest) -> None:
    if request.channels < 1:
        raise MalformedRequestError(("channels", f"{request.channels}; there must be at least one"))
    for name in ("frames", "tokens"):  # whose products may overflow
        total(name, getattr(request, name), request.channels)
    LATENT_PATHS.check_sizes(request)
    if request.channels > MAX_UNBACKED and not request.tokens.any() and not request.frames.any():
        reason = f"{request.channels}, but no item has frames or tokens: a length without values"
        raise MalformedRequestError(("channels", reason))


def _decode_request(data: bytes, max_items: int | None = None) -> LatentsRequest:
    message = parse_request(pb.MaximumPathFromLatentsRequest, data)
    tokens = lengths(message.tokens, "tokens", max_items=max_items)
    frames = lengths(message.frames, "frames", len(tokens))
    data_type, channels = DataType.from_wire(message.data_type), message.channels
    if channels < 1:  # before the payloads, whose sizes follow from it
        raise MalformedRequestError(("channels", f"{channels}; there must be at least one"))
    sizes = {"latents": total("frames", frames, channels), "means": total("tokens", tokens, channels)}
    log_sigmas = message.log_sigmas
    unit = not log_sigmas
    sizes["log_sigmas"] = 0 if unit else sizes["means"]
    arrays = {
        name: from_bytes(log_sigmas if name == "log_sigmas" else getattr(message, name), data_type.storage, count, name)
        for name, count in sizes.items()
    }
    request = LatentsRequest(**arrays, data_type=data_type, tokens=tokens, frames=frames, channels=channels, unit=unit)
    _check_request(request)
    return request


MAXIMUM_PATH_FROM_LATENTS: Rpc[LatentsRequest, LatentsReply] = Rpc(
    "MaximumPathFromLatents",
    _encode_request,
    _decode_request,
    LATENT_PATHS.encode_reply,
    LATENT_PATHS.decode_reply,
    _check_request,
)
