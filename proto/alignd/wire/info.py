"""GetServerInfo: version, devices, operations, models and limits."""

from dataclasses import dataclass

from alignd.v1 import alignment_pb2 as pb
from alignd.wire.rpc import Rpc, parse_reply, parse_request


@dataclass(frozen=True, slots=True)
class ServerInfoRequest:
    """No fields."""


@dataclass(frozen=True, slots=True)
class Device:
    """`id` as --device names it (cpu, cuda:0), the product's `name`, and the `backend`: numba or triton."""

    id: str
    name: str
    backend: str


@dataclass(frozen=True, slots=True)
class Model:
    """An acoustic model that AlignAudio can use."""

    name: str
    language: str
    sample_rate: int
    frame_seconds: float
    license: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server takes: one message, its queue in items and bytes, and lattice cells of one launch."""

    max_message_bytes: int
    max_queue_items: int
    max_queue_bytes: int
    max_batch_cells: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    version: str
    devices: tuple[Device, ...]
    operations: tuple[str, ...]
    models: tuple[Model, ...]
    limits: Limits


def _encode_request(request: ServerInfoRequest) -> bytes:
    return pb.GetServerInfoRequest().SerializeToString()


def _decode_request(data: bytes, max_items: int | None = None) -> ServerInfoRequest:
    parse_request(pb.GetServerInfoRequest, data)
    return ServerInfoRequest()


def _encode_reply(info: ServerInfo) -> bytes:
    limits = info.limits
    message = pb.GetServerInfoResponse(
        version=info.version,
        devices=[pb.Device(id=d.id, name=d.name, backend=d.backend) for d in info.devices],
        operations=info.operations,
        models=[
            pb.Model(
                name=m.name,
                language=m.language,
                sample_rate=m.sample_rate,
                frame_seconds=m.frame_seconds,
                license=m.license,
            )
            for m in info.models
        ],
        limits=pb.Limits(
            max_message_bytes=limits.max_message_bytes,
            max_queue_items=limits.max_queue_items,
            max_queue_bytes=limits.max_queue_bytes,
            max_batch_cells=limits.max_batch_cells,
        ),
    )
    return message.SerializeToString()


def _decode_reply(data: bytes) -> ServerInfo:
    message = parse_reply(pb.GetServerInfoResponse, data)
    limits = message.limits
    return ServerInfo(
        message.version,
        tuple(Device(d.id, d.name, d.backend) for d in message.devices),
        tuple(message.operations),
        tuple(Model(m.name, m.language, m.sample_rate, m.frame_seconds, m.license) for m in message.models),
        Limits(limits.max_message_bytes, limits.max_queue_items, limits.max_queue_bytes, limits.max_batch_cells),
    )


GET_SERVER_INFO: Rpc[ServerInfoRequest, ServerInfo] = Rpc(
    "GetServerInfo", _encode_request, _decode_request, _encode_reply, _decode_reply
)
