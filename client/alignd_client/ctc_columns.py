"""The columns of CTC emissions that an item's paths can visit: of a large vocabulary these travel, and no others.

The request numbers them anew, blank 0 and then each distinct label of the item's. Everything stays what it was:

- Replies speak of states, not of columns: results are made with the labels that were given.
- Equal labels name one column, so that a path still passes a blank between them; a wildcard stays one, with its score.
  Where that is "max", the largest log-prob is the whole frame's: an item with wildcards then travels whole.
- A server judges NaN and +inf in those cells alone that paths visit, and what it says of them, of too few frames, of
  neighbouring wildcards and of no finite path names numbers of frames and labels. What it says of no labels, of one
  out of range and of one that is the blank names the vocabulary or the label: such items travel whole.
- Items of a request have equally many columns, and only neighbours share one. So an item has as many as the one before,
  or travels whole as that did, until this has cost more than a request since one needed so many; else its own, rounded
  up to 64, a power of two or half of the vocabulary. What is beyond its own is the blank's column again, which no
  target names; one that is large enough to travel alone has none such. A server's batches mix any numbers.
- Columns are taken where the caller's array lies, and before anything is converted. Items that are small, unless the
  one before was reduced, arrays of a small vocabulary, and all of them in process, where nothing travels, are neither
  looked at nor copied.
"""

import sys
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from alignd.wire import STAR, DataType
from alignd_client.arrays import Kind, is_tensor, to_numpy
from alignd_client.ctc_items import CtcItem

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

LEAST_VOCABULARY: Final = 128
"""Columns of emissions that are worth looking at."""

LEAST_COLUMNS: Final = 64
"""What is rounded up to: the labels of nearly all short utterances, so that these share requests."""

LEAST_BYTES: Final = 1 << 16
"""Emissions of an item from which on they are worth looking at: to send smaller ones takes no longer."""

ALONE_BYTES: Final = 1 << 20
"""What an item holds that gains nothing from sharing a request."""

REQUEST_BYTES: Final = 1 << 19
"""What takes as long to send as a request more."""


def large(log_probs: Any, dimensions: int) -> bool:
    """Whether this is an array, or a plain tensor, of that many dimensions with a large vocabulary."""
    if not isinstance(log_probs, np.ndarray) and not (
        is_tensor(log_probs) and log_probs.layout is sys.modules["torch"].strided
    ):
        return False
    return bool(log_probs.ndim == dimensions and log_probs.shape[-1] >= LEAST_VOCABULARY)


class Columns:
    """Which columns the items of one call have, one after the other.

    Args:
        blank: its column.
        star_score: None for the frame's largest non-blank log-prob.
    """

    def __init__(self, blank: int, star_score: float | None) -> None:
        self._blank, self._star_score = blank, star_score
        # Columns of the item before, whether these are its vocabulary, and the bytes beyond their own that items have
        # had since one needed so many. In one piece, so that threads find it whole.
        self._before = (0, True, 0)

    def reduced(self, log_probs: Any, data_type: DataType, targets: Int32Array, kind: Kind) -> CtcItem | None:
        """An item of its own columns; None where it travels whole: most columns are its own, or they would not say all,
        or there is little to spare.

        Args:
            log_probs: [T, V], NumPy or torch, on any device.
            data_type: its name.
            targets: [L].
            kind: the caller's.
        """
        frames, vocabulary = log_probs.shape
        nbytes = frames * data_type.storage.itemsize  # of a column
        _, whole, _ = self._before
        if not frames or (whole and nbytes * vocabulary < LEAST_BYTES):
            return None
        found = renumbered(targets, vocabulary, self._blank, self._star_score)
        if found is None:
            self._before = (vocabulary, True, 0)
            return None
        own, numbered = found
        count = self._count(len(own), nbytes, vocabulary)
        if count is None:
            return None
        columns = np.full(count, self._blank, np.int64)
        columns[: len(own)] = own
        values = taken(log_probs, columns, data_type)
        return CtcItem(values.reshape(-1), data_type, frames, count, targets, kind, numbered=numbered)

    def _count(self, needed: int, nbytes: int, vocabulary: int) -> int | None:
        """How many columns an item has that needs so many, of `nbytes` each; None for all."""
        own = columns_of(needed, nbytes, vocabulary)
        before, whole, spent = self._before
        spent = 0 if own == before else spent + nbytes * max(0, before - own)
        holds = before == vocabulary if whole else needed <= before <= vocabulary
        if not holds or nbytes * before >= ALONE_BYTES or spent >= REQUEST_BYTES:
            before, whole, spent = own, own == vocabulary, 0
        self._before = (before, whole, spent)
        return None if whole else before


def columns_of(needed: int, nbytes: int, vocabulary: int) -> int:
    """How many columns, of `nbytes` each, an item that needs so many has if it is the first: all, if it needs most."""
    if 2 * needed > vocabulary:
        return vocabulary
    rounded = min(max(LEAST_COLUMNS, 1 << (needed - 1).bit_length()), vocabulary // 2)
    return rounded if nbytes * rounded < ALONE_BYTES else needed


def renumbered(
    targets: Int32Array, vocabulary: int, blank: int, star_score: float | None
) -> tuple[Int64Array, Int32Array] | None:
    """The columns that paths can visit, int64 [D + 1] with blank first, and targets that name them, int32 [L]; None of
    an item whose failure would be told in other words, or whose wildcards look at all columns."""
    if not len(targets) or blank >= vocabulary:
        return None
    distinct, which = np.unique(targets, return_inverse=True)
    starred = bool(distinct[0] == STAR)
    if distinct[0] < STAR or distinct[-1] >= vocabulary or (starred and star_score is None):
        return None
    labels = distinct[starred:]
    if (labels == blank).any():
        return None
    columns = np.empty(len(labels) + 1, np.int64)
    columns[0], columns[1:] = blank, labels
    numbered = which.astype(np.int32)
    if starred:
        numbered[numbered == 0] = STAR
    else:
        numbered += 1
    return columns, numbered


def taken(log_probs: Any, columns: Int64Array, data_type: DataType) -> npt.NDArray[Any]:
    """Some columns of log-probs [T, V], in the type that stores them.

    Tensors on the CPU are read as arrays: torch's threads, once it has any, are missing after a fork."""
    if is_tensor(log_probs) and log_probs.device.type != "cpu":
        given = log_probs.detach()
        array = to_numpy(given.index_select(1, sys.modules["torch"].from_numpy(columns).to(given.device)))
    else:
        array = to_numpy(log_probs)
        # All are within. Of what is strided or not aligned, `take` makes a copy first, whole.
        plain = array.flags.c_contiguous and array.flags.aligned
        array = np.take(array, columns, 1, mode="clip") if plain else array[:, columns]
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array.view(data_type.storage.newbyteorder("="))
