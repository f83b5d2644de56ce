"""Monotonic alignment search (`MaximumPath`): the ragged family, and the padded drop-in on top of it."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from alignd.wire import MAXIMUM_PATH, DataType, ItemCode, ItemStatus, MasReply, MasRequest, Rpc
from alignd_client.arrays import (
    NUMPY,
    Kind,
    dtype_name,
    end_to_end,
    is_tensor,
    own_flat,
    require_dimensions,
    scores,
    to_numpy,
)
from alignd_client.errors import InvalidRequestError
from alignd_client.family import Outcome, collect
from alignd_client.results import Alignment

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class MasItem:
    """Scores of one utterance in `data_type.storage`: [tokens, frames] with any strides, or 1-D and row-major."""

    values: npt.NDArray[Any]
    data_type: DataType
    tokens: int
    frames: int
    kind: Kind

    @property
    def key(self) -> Hashable:
        return self.data_type

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    @property
    def cells(self) -> int:
        return self.values.size

    def unloaded(self) -> "MasItem":
        return replace(self, values=self.values[:0].copy())


class MasFamily:
    """Takes [S, T] arrays, or items that are prepared already."""

    rpc: Rpc[MasRequest, MasReply] = MAXIMUM_PATH
    items_per_request = 1 << 30
    blocks = False

    def prepare(self, raw: Any) -> MasItem:
        if isinstance(raw, MasItem):
            return raw
        array, data_type = scores(raw, "each item", "tokens, frames")
        tokens, frames = array.shape
        return MasItem(own_flat(array), data_type, tokens, frames, Kind.of(raw))

    def refuse(self, item: MasItem) -> ItemStatus | None:
        # Without values there is no bound on what its lengths would make of a reply.
        if item.tokens and item.frames:
            return None
        size = f"{item.tokens} tokens, {item.frames} frames"
        reason = f"empty item ({size}): it needs at least one token and one frame"
        return ItemStatus(ItemCode.EMPTY, "frames", reason)

    def pack(self, items: Sequence[MasItem]) -> MasRequest:
        values = end_to_end([item.values for item in items])
        tokens = np.array([item.tokens for item in items], np.int64)
        frames = np.array([item.frames for item in items], np.int64)
        # Paths follow from durations and would only make the reply longer.
        return MasRequest(values, items[0].data_type, tokens, frames, return_paths=False)

    def unpack(self, items: Sequence[MasItem], reply: MasReply) -> list[Alignment]:
        ends = np.cumsum([item.tokens for item in items])
        if not (len(reply.statuses) == len(reply.scores) == len(items) and len(reply.durations) == ends[-1]):
            raise ValueError("its counts are other ones")
        return [
            self._result(item, reply.durations[end - item.tokens : end], float(score), status)
            for item, end, score, status in zip(items, ends, reply.scores, reply.statuses)
        ]

    def failed(self, item: MasItem | None, status: ItemStatus) -> Alignment:
        kind = item.kind if item else NUMPY
        return Alignment(kind.wrap(np.zeros(0, np.int32)), kind.wrap(np.zeros(0, np.int32)), np.nan, status)

    def _result(self, item: MasItem, durations: npt.NDArray[np.int32], score: float, status: ItemStatus) -> Alignment:
        if not status.ok:
            return self.failed(item, status)
        # Of the machine's byte order, and writable: the reply's array is a view of the message.
        durations = durations.astype(np.int32)
        if durations.min() < 0 or durations.sum() != item.frames:
            raise ValueError("durations do not sum to the frames")
        path = np.repeat(np.arange(item.tokens, dtype=np.int32), durations)
        return Alignment(item.kind.wrap(durations), item.kind.wrap(path), score, status)


MAS: Final = MasFamily()


class MaximumPathJob:
    """super_monotonic_align's `maximum_path` in terms of ragged items: `items` go in, `assemble` makes the batch."""

    def __init__(self, value: Any, mask: Any, dtype: Any = None) -> None:
        self._array, self._data_type = scores(value, "value", "B, tokens, frames")
        self._kind = Kind.of(value)
        self._dtype = _output_dtype(self._kind, dtype)
        self._tokens, self._frames = rectangles(mask, self._array.shape)

    @property
    def items(self) -> Iterator[MasItem]:
        for matrix, tokens, frames in zip(self._array, self._tokens.tolist(), self._frames.tolist()):
            yield MasItem(matrix[:tokens, :frames], self._data_type, tokens, frames, NUMPY)

    def assemble(self, outcomes: Iterable[Outcome[Alignment]]) -> Any:
        """The paths as 0 and 1, [B, tokens, frames]. Raises `InvalidItemsError`."""
        alignments = collect(outcomes)
        out = self._kind.zeros(self._array.shape, self._dtype)
        if not alignments:
            return out
        batch = np.repeat(np.arange(len(alignments)), self._frames)
        token = np.concatenate([alignment.path for alignment in alignments]).astype(np.int64)
        frame = np.concatenate([np.arange(frames) for frames in self._frames])
        # The indices cross to the device, not the B × S × T zeros.
        out[self._kind.wrap(batch), self._kind.wrap(token), self._kind.wrap(frame)] = 1
        return out


def _output_dtype(kind: Kind, dtype: Any) -> Any:
    if dtype is None:
        return kind.dtype("float32")
    if kind.device is None:
        try:
            return np.dtype(dtype)
        except TypeError:
            raise TypeError(f"dtype of a NumPy value's path must be NumPy's, not {dtype!r}") from None
    if type(dtype).__module__ != "torch":
        raise TypeError(f"dtype of a tensor's path must be torch's, not {dtype!r}")
    return dtype


def rectangles(mask: Any, shape: tuple[int, ...]) -> tuple[Int64Array, Int64Array]:
    """Tokens and frames of each item, int64 [B], from a mask whose true cells are a rectangle at the origin.

    Raises:
        TypeError: unless the mask is an array.
        InvalidRequestError: for a mask of another shape, or one that is no such rectangle.
    """
    try:
        require_dimensions(mask, "mask", "B, tokens, frames")
    except ValueError as error:
        raise InvalidRequestError("mask", str(error).removeprefix("mask ")) from None
    if tuple(mask.shape) != tuple(shape):
        raise InvalidRequestError("mask", f"its shape {list(mask.shape)} is not that of value, {list(shape)}")
    inside = to_numpy(mask != 0 if is_tensor(mask) and dtype_name(mask) == "bfloat16" else mask).astype(bool)
    if inside.size == 0:
        lengths = np.zeros(len(inside), np.int64)
        return lengths, lengths
    tokens = inside[:, :, 0].sum(1, dtype=np.int64)
    frames = inside[:, 0, :].sum(1, dtype=np.int64)
    for b, (item, S, T) in enumerate(zip(inside, tokens.tolist(), frames.tolist())):
        if np.count_nonzero(item) != S * T or not item[:S, :T].all():
            raise InvalidRequestError(
                "mask", f"item {b}: the true cells must be a rectangle [:tokens, :frames] that starts at cell (0, 0)"
            )
    return tokens, frames
