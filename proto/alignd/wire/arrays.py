"""Arrays as bytes fields: little-endian, row-major, items end to end."""

import enum
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from alignd.v1 import alignment_pb2 as pb
from alignd.wire.rpc import MalformedRequestError

Array = npt.NDArray[Any]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class DeviceArray:
    """Values on the device of an engine in the same process, which are used where they lie. No message takes them.

    Attributes:
        tensor: a 1-D torch tensor.
        ready: CUDA events; the values are there once all have passed.
    """

    tensor: Any
    ready: tuple[Any, ...] = ()

    @property
    def nbytes(self) -> int:
        return int(self.tensor.nbytes)

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, part: slice) -> "DeviceArray":
        return DeviceArray(self.tensor[part], self.ready)


Piece = Array | DeviceArray
Buffers = Piece | tuple[Piece, ...]
"""A payload, 1-D: the items end to end, or several such arrays of whole items, in order, all of them on a device or
none. What comes in pieces is not copied together before a message is made of it, and never where none is."""

LENGTH_DELIMITED: Final = 2
"""Protobuf's wire type of bytes."""

MAX_ELEMENTS: Final = 1 << 62
"""More elements than any int64 offset should have to address."""


class DataType(enum.Enum):
    """Type of scores; the value is the name that NumPy, torch and ml_dtypes share.

    Both halves are held as uint16, since NumPy has no bfloat16.
    """

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"

    @property
    def storage(self) -> np.dtype[Any]:
        """dtype of the arrays that hold such values, little-endian."""
        half = self in (DataType.FLOAT16, DataType.BFLOAT16)
        return np.dtype("uint16" if half else self.value).newbyteorder("<")

    @property
    def wire(self) -> str:
        """Name of the message's enum value."""
        return f"DATA_TYPE_{self.name}"

    @classmethod
    def from_wire(cls, number: int) -> "DataType":
        """Raises `MalformedRequestError` for a number that names no type."""
        try:
            return _FROM_WIRE[number]
        except KeyError:
            known = ", ".join(f"{number} ({kind.name})" for number, kind in _FROM_WIRE.items())
            raise MalformedRequestError(("data_type", f"{number} names no type; there are {known}")) from None


_FROM_WIRE: Final[dict[int, DataType]] = {pb.DataType.Value(kind.wire): kind for kind in DataType}


def pieces(payload: Buffers) -> tuple[Piece, ...]:
    return payload if isinstance(payload, tuple) else (payload,)


def on_device(payload: Buffers) -> bool:
    return isinstance(payload[0] if isinstance(payload, tuple) else payload, DeviceArray)


def nbytes_of(payload: Buffers) -> int:
    return sum(piece.nbytes for piece in payload) if isinstance(payload, tuple) else payload.nbytes


def cut(payload: Buffers, start: int, stop: int) -> Buffers:
    """The elements from `start` to `stop`, as if all lay end to end; without a copy."""
    parts: list[Piece] = []
    for piece in pieces(payload):
        part = piece[max(start, 0) : max(stop, 0)]
        start, stop = start - len(piece), stop - len(piece)
        if len(part):
            parts.append(part)
    if not parts:
        return pieces(payload)[0][:0]
    return parts[0] if len(parts) == 1 else tuple(parts)


def to_bytes(payload: Buffers, dtype: npt.DTypeLike) -> bytes:
    """The values as little-endian bytes, row-major. A payload in pieces is joined here and nowhere else."""
    little = np.dtype(dtype).newbyteorder("<")
    if isinstance(payload, tuple):
        return b"".join(_in_order(piece, little).data for piece in payload)
    return _in_order(payload, little).tobytes()


def with_payload(message: Any, field: str, payload: Buffers, dtype: npt.DTypeLike) -> bytes:
    """The message with these values in a bytes field that it has not set, encoded.

    Protobuf would copy them into the message and from there into its bytes, which for what most of a request is takes
    as long as to send it; here they are copied once. Fields may come in any order, and this one comes last.
    """
    little = np.dtype(dtype).newbyteorder("<")
    parts = [_in_order(piece, little).view(np.uint8).data for piece in pieces(payload) if len(piece)]
    head = message.SerializeToString()
    if not parts:
        return bytes(head)
    key = message.DESCRIPTOR.fields_by_name[field].number << 3 | LENGTH_DELIMITED
    return b"".join((head, _varint(key), _varint(sum(part.nbytes for part in parts)), *parts))


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have the eighth."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*found, number))


def _in_order(piece: Piece, little: np.dtype[Any]) -> Array:
    if isinstance(piece, DeviceArray):
        raise TypeError("values on a device do not travel in messages")
    return np.ascontiguousarray(piece, little)


def check_size(payload: Buffers, count: int, field: str) -> None:
    """Raises `MalformedRequestError` unless there are `count` elements: kernels trust the lengths."""
    held = sum(len(piece) for piece in payload) if isinstance(payload, tuple) else len(payload)
    if held != count:
        raise MalformedRequestError((field, f"{held} elements, but the lengths ask for {count}"))


def from_bytes(data: bytes, dtype: npt.DTypeLike, count: int, field: str) -> Array:
    """A read-only view of a bytes field.

    Raises:
        MalformedRequestError: if it does not hold exactly `count` elements.
    """
    little = np.dtype(dtype).newbyteorder("<")
    if len(data) != count * little.itemsize:
        raise MalformedRequestError(
            (
                field,
                f"{len(data)} bytes, but the lengths ask for {count} × {little.itemsize} = {count * little.itemsize}",
            )
        )
    return np.frombuffer(data, little)


def lengths(values: Collection[int], field: str, items: int | None = None, max_items: int | None = None) -> Int64Array:
    """A repeated field of lengths as int64 [B].

    Raises:
        MalformedRequestError: if it is empty, has another count than `items` or more than `max_items`, or holds a
            negative number.
    """
    # The counts first, as a length is a byte of a message and far more here.
    count = len(values)
    if items is not None and count != items:
        raise MalformedRequestError((field, f"{count} lengths for {items} items"))
    if count == 0:
        raise MalformedRequestError((field, "the request has no items"))
    if max_items is not None and count > max_items:
        raise MalformedRequestError(("", f"{count} items in a request, over the limit of {max_items}"))
    array = np.fromiter(values, np.int64, count)  # not np.array, which makes a list of the field first
    if array.min() < 0:
        index = int(np.argmax(array < 0))
        raise MalformedRequestError((field, f"item {index} has the negative length {array[index]}"))
    return array


def total(field: str, *factors: Int64Array | int) -> int:
    """Sum over the items of the product of their lengths.

    Raises:
        MalformedRequestError: if it is past what 64 bits can address.
    """
    approximate = np.ones(1, np.float64)
    for factor in factors:
        approximate = approximate * np.asarray(factor, np.float64)
    if approximate.sum() > MAX_ELEMENTS:
        raise MalformedRequestError((field, "the lengths' product overflows"))
    product = np.ones(1, np.int64)
    for factor in factors:
        product = product * factor
    return int(product.sum())
