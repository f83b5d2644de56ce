"""Monotonic alignment search (`MaximumPath`): the ragged family, and the padded drop-in on top of it."""

import sys
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alignd.wire import MAXIMUM_PATH, DataType, ItemCode, ItemStatus, MasReply, MasRequest, Rpc
from alignd_client.arrays import (
    NUMPY,
    Kind,
    Scores,
    dtype_name,
    end_to_end,
    exists_whole,
    flat,
    is_tensor,
    kind_at,
    lengths,
    owned_parts,
    require_dimensions,
    scores,
    shared_kind,
    stacked,
    to_numpy,
    wrapped,
)
from alignd_client.device_tensors import staying
from alignd_client.errors import InvalidRequestError
from alignd_client.family import Answers, collect, failed_places
from alignd_client.results import Alignment

Int64Array = npt.NDArray[np.int64]


@dataclass(slots=True, eq=False)
class MasItem:
    """Scores of `count` utterances of one shape in `data_type.storage`: 1-D, row-major and end to end; those of one
    also [tokens, frames] with any strides."""

    values: Scores
    data_type: DataType
    tokens: int
    frames: int
    kind: Kind
    count: int = 1

    @property
    def key(self) -> Hashable:
        return self.data_type, type(self.values)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    @property
    def cells(self) -> int:
        return self.values.size

    def part(self, start: int, stop: int) -> "MasItem":
        size = self.tokens * self.frames
        values = self.values[start * size : stop * size]
        return MasItem(values, self.data_type, self.tokens, self.frames, self.kind, stop - start)


@dataclass(frozen=True, slots=True)
class MasContents:
    """Lengths of B utterances, int64 [B], and the kind of all or of each."""

    tokens: Int64Array
    frames: Int64Array
    kinds: Kind | list[Kind]


class MasFamily:
    """Takes [S, T] arrays, or items that are prepared already. Tensors on `device`, as torch calls it, stay there."""

    rpc: Rpc[MasRequest, MasReply] = MAXIMUM_PATH
    items_per_request = 1 << 30
    blocks = False

    def __init__(self, device: str | None = None) -> None:
        self.device = device

    def borrows(self, raws: Any) -> bool:
        return exists_whole(raws)

    def stack(self, raws: Any) -> MasItem | None:
        found = stacked(raws, self.device)
        if found is None:
            return None
        array, data_type = found
        B, S, T = array.shape
        return MasItem(array.reshape(-1), data_type, S, T, Kind.of(raws), B)

    def prepare(self, raw: Any, borrow: bool) -> MasItem:
        if isinstance(raw, MasItem):
            return raw
        array, data_type = scores(raw, "each item", "tokens, frames", self.device)
        tokens, frames = array.shape
        return MasItem(flat(array, borrow), data_type, tokens, frames, Kind.of(raw))

    def refuse(self, item: MasItem) -> ItemStatus | None:
        # Without values there is no bound on what its lengths would make of a reply.
        if item.tokens and item.frames:
            return None
        size = f"{item.tokens} tokens, {item.frames} frames"
        reason = f"empty item ({size}): it needs at least one token and one frame"
        return ItemStatus(ItemCode.EMPTY, "frames", reason)

    def pack(self, items: Sequence[MasItem]) -> tuple[MasRequest, MasContents]:
        counts = [item.count for item in items]
        tokens = lengths([item.tokens for item in items], counts)
        frames = lengths([item.frames for item in items], counts)
        values = end_to_end([item.values for item in items])
        # It is not checked: what `check_request` looks for, `prepare` and `refuse` leave no room for.
        # Paths follow from durations and would only make the reply longer.
        request = MasRequest(values, items[0].data_type, tokens, frames, return_paths=False)
        return request, MasContents(tokens, frames, shared_kind([item.kind for item in items], counts))

    def check(self, contents: MasContents, reply: MasReply) -> None:
        tokens, durations, statuses = contents.tokens, reply.durations, reply.statuses
        if not len(statuses) == len(reply.scores) == len(tokens) or len(durations) != tokens.sum():
            raise ValueError("its counts are other ones")
        fits = np.add.reduceat(durations, np.cumsum(tokens) - tokens) == contents.frames
        fits[failed_places(statuses)] = True
        if durations.min() < 0 or not fits.all():
            raise ValueError("durations do not sum to the frames")

    def unpack(self, contents: MasContents, reply: MasReply) -> list[Alignment]:
        statuses = reply.statuses
        durations = reply.durations.astype(np.int32, copy=False)  # of the machine's byte order
        parts = wrapped(owned_parts(durations, contents.tokens), contents.kinds)
        results = list(map(Alignment, parts, reply.scores.tolist(), statuses))
        for place in failed_places(statuses):
            results[place] = _failed(kind_at(contents.kinds, place), statuses[place])
        return results

    def failed(self, item: MasItem | None, status: ItemStatus) -> Alignment:
        return _failed(item.kind if item else NUMPY, status)


def _failed(kind: Kind, status: ItemStatus) -> Alignment:
    return Alignment(kind.wrap(np.zeros(0, np.int32)), np.nan, status)


class MaximumPathJob:
    """super_monotonic_align's `maximum_path` in terms of ragged items: `items` go in, `assemble` makes the batch."""

    def __init__(self, value: Any, mask: Any, dtype: Any = None, device: str | None = None) -> None:
        self.family = MasFamily(device)
        self._array, self._data_type = scores(value, "value", "B, tokens, frames", device)
        self._kind = Kind.of(value)
        self._dtype = _output_dtype(self._kind, dtype)
        self._tokens, self._frames = rectangles(mask, self._array.shape, device)

    @property
    def items(self) -> Iterator[MasItem]:
        for matrix, tokens, frames in zip(self._array, self._tokens.tolist(), self._frames.tolist()):
            yield MasItem(matrix[:tokens, :frames], self._data_type, tokens, frames, NUMPY)

    def assemble(self, stream: Iterable[Answers[Alignment]]) -> Any:
        """The paths as 0 and 1, [B, tokens, frames]. Raises `InvalidItemsError`."""
        alignments = collect(stream)
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


def rectangles(mask: Any, shape: tuple[int, ...], device: str | None = None) -> tuple[Int64Array, Int64Array]:
    """Tokens and frames of each item, int64 [B], from a mask whose true cells are a rectangle at the origin.

    Args:
        mask: of the caller's; one on `device` is looked at there.
        shape: what it must have.
        device: as torch calls it.

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
    if 0 in mask.shape:
        lengths = np.zeros(len(mask), np.int64)
        return lengths, lengths
    if is_tensor(mask) and staying(mask, device):
        return _rectangles_there(mask)
    inside = to_numpy(mask != 0 if is_tensor(mask) and dtype_name(mask) == "bfloat16" else mask).astype(bool)
    tokens = inside[:, :, 0].sum(1, dtype=np.int64)
    frames = inside[:, 0, :].sum(1, dtype=np.int64)
    for b, (item, S, T) in enumerate(zip(inside, tokens.tolist(), frames.tolist())):
        if np.count_nonzero(item) != S * T or not item[:S, :T].all():
            raise _no_rectangle(b)
    return tokens, frames


def _rectangles_there(mask: Any) -> tuple[Int64Array, Int64Array]:
    """`rectangles` of a tensor on a device: a few numbers an item are waited for, not the mask."""
    torch = sys.modules["torch"]
    inside = mask != 0
    tokens, frames = inside[:, :, 0].sum(1), inside[:, 0, :].sum(1)
    row, column = (torch.arange(size, device=mask.device) for size in mask.shape[1:])
    rectangle = (row < tokens[:, None])[:, :, None] & (column < frames[:, None])[:, None, :]
    wrong = (inside != rectangle).flatten(1).any(1)
    table = to_numpy(torch.stack([tokens, frames, wrong.to(tokens.dtype)]))
    if table[2].any():
        raise _no_rectangle(int(np.argmax(table[2])))
    return table[0], table[1]


def _no_rectangle(item: int) -> InvalidRequestError:
    reason = f"item {item}: the true cells must be a rectangle [:tokens, :frames] that starts at cell (0, 0)"
    return InvalidRequestError("mask", reason)
