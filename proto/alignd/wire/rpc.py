"""What all RPCs share: item statuses, timing, the malformed request, and an RPC as a value."""

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from alignd.v1 import alignment_pb2 as pb

SERVICE: Final = "alignd.v1.AlignmentService"

BYTES_METADATA: Final = "alignd-bytes"
"""Request metadata: the serialised size of the message, so that the server can reserve room, or refuse, unread."""

Request = TypeVar("Request")
Request_co = TypeVar("Request_co", covariant=True)
Reply = TypeVar("Reply")
PbMessage = TypeVar("PbMessage", bound=Message)


class ItemCode(enum.IntEnum):
    """Outcome of one item, as `alignd.v1.ItemCode` documents it."""

    OK = 1
    EMPTY = 2
    TOO_FEW_FRAMES = 3
    NOT_FINITE = 4
    NO_FINITE_PATH = 5
    TARGET_OUT_OF_RANGE = 6
    TARGET_IS_BLANK = 7
    ADJACENT_STARS = 8
    OUT_OF_MEMORY = 9
    INTERNAL = 10
    AUDIO_UNREADABLE = 11
    AUDIO_SILENT = 12
    TEXT_UNSUPPORTED = 13
    AUDIO_TOO_LONG = 14
    MALFORMED = 15
    TOO_LARGE = 16


class ItemStatus(NamedTuple):
    """Outcome of one item: its code, the request's field at fault ("" if none) and one sentence for people."""

    code: ItemCode
    field: str = ""
    message: str = ""

    @property
    def ok(self) -> bool:
        return self.code is ItemCode.OK


OK: Final = ItemStatus(ItemCode.OK)
_PB_OK: Final = pb.ItemStatus(code=pb.ITEM_CODE_OK)


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a request's time went, in nanoseconds: waiting, in its batch's kernels, from admission to reply."""

    queue_ns: int = 0
    kernel_ns: int = 0
    total_ns: int = 0


UNTIMED: Final = Timing()


class MalformedRequestError(ValueError):
    """A request that contradicts itself or the contract.

    Attributes:
        violations: pairs of the field at fault and what is wrong with it.
    """

    def __init__(self, *violations: tuple[str, str]) -> None:
        self.violations = violations
        super().__init__("; ".join(f"{field}: {what}" if field else what for field, what in violations))


def _nothing_to_check(request: object) -> None: ...


class DecodeRequest(Protocol[Request_co]):
    """A request out of a message."""

    def __call__(self, data: bytes, max_items: int | None = None) -> Request_co:
        """Raises `MalformedRequestError`, for more items than `max_items` before it makes anything of them."""
        ...


@dataclass(frozen=True)
class Rpc(Generic[Request, Reply]):
    """One unary RPC: its name, and its codec for either end.

    `decode_request` and `check_request` raise `MalformedRequestError`; `decode_reply` raises `ValueError` for a reply
    that is no message. `check_request` is what decoding refuses in a request that is consistent with itself: whoever
    hands one on without encoding it asks there, so that every door refuses the same, or makes none that it refuses.
    """

    name: str
    encode_request: Callable[[Request], bytes]
    decode_request: DecodeRequest[Request]
    encode_reply: Callable[[Reply], bytes]
    decode_reply: Callable[[bytes], Reply]
    check_request: Callable[[Request], None] = _nothing_to_check

    @property
    def path(self) -> str:
        """The method's path on the wire."""
        return f"/{SERVICE}/{self.name}"


def parse_request(message_type: type[PbMessage], data: bytes) -> PbMessage:
    try:
        return message_type.FromString(data)
    except DecodeError:
        raise MalformedRequestError(("", f"not a {message_type.DESCRIPTOR.name} message")) from None


def parse_reply(message_type: type[PbMessage], data: bytes) -> PbMessage:
    try:
        return message_type.FromString(data)
    except DecodeError:
        raise ValueError(f"the server's reply is not a {message_type.DESCRIPTOR.name} message") from None


def encode_status(status: ItemStatus) -> pb.ItemStatus:
    if status is OK:
        return _PB_OK
    return pb.ItemStatus(code=f"ITEM_CODE_{status.code.name}", field=status.field, message=status.message)


def encode_statuses(statuses: Sequence[ItemStatus]) -> list[pb.ItemStatus]:
    return [encode_status(status) for status in statuses]


def decode_status(message: pb.ItemStatus) -> ItemStatus:
    if message.code == pb.ITEM_CODE_OK:
        return OK
    try:
        code = ItemCode(message.code)
    except ValueError:  # a newer server's code
        code = ItemCode.INTERNAL
    return ItemStatus(code, message.field, message.message)


def decode_statuses(messages: Iterable[pb.ItemStatus]) -> tuple[ItemStatus, ...]:
    return tuple(decode_status(message) for message in messages)


def encode_timing(timing: Timing) -> pb.Timing:
    return pb.Timing(queue_ns=timing.queue_ns, kernel_ns=timing.kernel_ns, total_ns=timing.total_ns)


def decode_timing(message: Any) -> Timing:
    return Timing(message.queue_ns, message.kernel_ns, message.total_ns)
