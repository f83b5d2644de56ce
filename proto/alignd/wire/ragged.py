"""Ragged batches as a thing of its own: from where the items of a request and of its reply lie follows how both are
cut, joined, checked and encoded. Each RPC over ragged arrays says that once, as a `Ragged`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar

import numpy as np
from google.protobuf.message import Message

from alignd.wire.arrays import Buffers, Int64Array, check_size, cut, nbytes_of, to_bytes
from alignd.wire.rpc import (
    ItemStatus,
    MalformedRequestError,
    decode_statuses,
    decode_timing,
    encode_statuses,
    encode_timing,
    parse_reply,
)

Request = TypeVar("Request", bound=Any)
Reply = TypeVar("Reply", bound=Any)

MAX_UNBACKED: Final = 1 << 20
"""Of each length, over all items of a request that have no values: nothing backs it, and a reply has room for it."""


MAX_REPLY_BYTES: Final = 1 << 30
"""Of one array of a reply: protobuf holds no more than 2 GiB in a message."""


@dataclass(frozen=True, slots=True)
class Column:
    """One array of a request or reply, with the items' parts end to end.

    Attributes:
        name: of the dataclass's field, and of the message's.
        sizes: elements of each item, int64 [B], from whatever has the request's lengths under their names.
        dtype: of the elements; None for the payload, whose type the request names.
    """

    name: str
    sizes: Callable[[Any], Int64Array]
    dtype: Any = None

    def total(self, lengths: Any) -> int:
        return int(self.sizes(lengths).sum())


@dataclass(frozen=True)
class Ragged(Generic[Request, Reply]):
    """How the items of an RPC lie.

    A reply is made as `reply(statuses, *arrays, scores, timing)`, its arrays in the order of `outputs`; its message has
    a field for each. What a failed item has in them is zero, its score NaN.

    Attributes:
        lengths: names of the request's fields that are int64 [B].
        inputs: arrays of the request; the first is the payload.
        outputs: arrays of the reply.
        reply: its dataclass.
        message: of the reply.
    """

    lengths: tuple[str, ...]
    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...]
    reply: type[Reply]
    message: type[Message]

    def payload(self, request: Request) -> Buffers:
        values: Buffers = getattr(request, self.inputs[0].name)
        return values

    def nbytes(self, request: Request) -> int:
        """Of all inputs."""
        return sum(nbytes_of(getattr(request, column.name)) for column in self.inputs)

    def check_sizes(self, request: Request) -> None:
        """Raises `MalformedRequestError` for arrays that do not fit the lengths."""
        for column in self.inputs:
            check_size(getattr(request, column.name), column.total(request), column.name)

    def check_backed(self, request: Request) -> None:
        """Raises `MalformedRequestError` for lengths without values: a few bytes would make a large reply."""
        sizes = self.inputs[0].sizes(request)
        if sizes.all():
            return
        empty = sizes == 0
        for name in self.lengths:
            values = getattr(request, name)
            # In floating point, as the sum may be past 64 bits; exact where it matters.
            if values[empty].astype(np.float64).sum() > MAX_UNBACKED:
                item = int(np.argmax(np.where(empty, values, -1)))
                said = " and ".join(f"{getattr(request, other)[item]} {other}" for other in self.lengths)
                raise MalformedRequestError((name, f"item {item} has {said}: lengths without values"))

    def check_reply_bytes(self, request: Request) -> None:
        """Raises `MalformedRequestError` for a request whose reply would be far larger than it is."""
        # In floating point, as the sum may be past 64 bits.
        for column in self.outputs:
            each = column.sizes(request).astype(np.float64) * np.dtype(column.dtype).itemsize
            if each.sum() > MAX_REPLY_BYTES:
                item, nbytes = int(each.argmax()), int(each.sum())
                reason = f"the reply's {column.name} would take {nbytes} bytes, over the limit of {MAX_REPLY_BYTES}"
                raise MalformedRequestError((self.lengths[-1], f"{reason}; most of them item {item}'s"))

    def take(self, request: Request, start: int, stop: int) -> Request:
        """The items from `start` to `stop` as a request of their own; without a copy."""
        parts: dict[str, Any] = {name: getattr(request, name)[start:stop] for name in self.lengths}
        for column in self.inputs:
            ends = np.cumsum(column.sizes(request))
            begin = int(ends[start - 1]) if start else 0
            parts[column.name] = cut(getattr(request, column.name), begin, int(ends[stop - 1]) if stop else 0)
        taken: Request = replace(request, **parts)
        return taken

    def join(self, replies: Sequence[Reply]) -> Reply:
        """The reply to a request from those to its consecutive parts."""
        statuses = tuple(status for reply in replies for status in reply.statuses)
        arrays = [np.concatenate([getattr(reply, column.name) for reply in replies]) for column in self.outputs]
        joined: Reply = self.reply(statuses, *arrays, np.concatenate([reply.scores for reply in replies]))
        return joined

    def fail(self, request: Request, status: ItemStatus) -> Reply:
        """A reply in which every item has failed."""
        arrays = [np.zeros(column.total(request), column.dtype) for column in self.outputs]
        failed: Reply = self.reply((status,) * len(request), *arrays, np.full(len(request), np.nan))
        return failed

    def check_reply(self, lengths: Any, reply: Reply) -> None:
        """Raises `ValueError` for arrays that do not fit the lengths."""
        items = len(getattr(lengths, self.lengths[0]))
        fits = len(reply.statuses) == len(reply.scores) == items
        if not fits or any(len(getattr(reply, column.name)) != column.total(lengths) for column in self.outputs):
            raise ValueError("its counts are other ones")

    def encode_reply(self, reply: Reply) -> bytes:
        fields = {column.name: to_bytes(getattr(reply, column.name), column.dtype) for column in self.outputs}
        message = self.message(
            statuses=encode_statuses(reply.statuses),
            scores=reply.scores.tolist(),
            timing=encode_timing(reply.timing),
            **fields,
        )
        return message.SerializeToString()

    def decode_reply(self, data: bytes) -> Reply:
        message: Any = parse_reply(self.message, data)
        arrays = [
            np.frombuffer(getattr(message, column.name), np.dtype(column.dtype).newbyteorder("<"))
            for column in self.outputs
        ]
        scores = np.array(message.scores, np.float64)
        decoded: Reply = self.reply(decode_statuses(message.statuses), *arrays, scores, decode_timing(message.timing))
        return decoded
