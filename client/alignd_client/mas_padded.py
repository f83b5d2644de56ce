"""super_monotonic_align's `maximum_path`: a padded batch in terms of ragged items."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from alignd_client.arrays import (
    NUMPY,
    WORDS,
    Kind,
    dtype_name,
    is_tensor,
    require_dimensions,
    scores,
    to_numpy,
    words_of,
)
from alignd_client.device_tensors import staying
from alignd_client.errors import InvalidRequestError
from alignd_client.family import Answers, collect
from alignd_client.mas_items import MasItem
from alignd_client.results import Alignment

Int64Array = npt.NDArray[np.int64]


class MaximumPathJob:
    """`items` go in, `assemble` makes the batch."""

    def __init__(self, value: Any, mask: Any, dtype: Any, device: str | None) -> None:
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
        if is_tensor(out) and out.device.type == "cpu" and out.dtype.itemsize in WORDS:
            words, one = words_of(out), words_of(self._kind.cast(np.ones(1, np.uint8), self._dtype))
            words[batch, token, frame] = one[0]
        else:  # the indices cross to the device, not the B × S × T zeros
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
    inside = to_numpy(mask)
    if is_tensor(mask) and dtype_name(mask) == "bfloat16":  # as integers: all but the sign of a zero
        inside = inside & 0x7FFF
    inside = inside.astype(bool)
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
