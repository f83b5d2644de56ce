"""The columns of CTC emissions that an item's paths can visit: of a large vocabulary these travel, and no others.

The request numbers them anew, blank 0 and then each distinct label of the item's. Everything stays what it was:

- Replies speak of states, not of columns: results are made with the labels that were given.
- Equal labels name one column, so that a path still passes a blank between them; a wildcard stays one, with its score.
  Where that is "max", the largest log-prob is the whole frame's: an item with wildcards then travels whole.
- A server judges NaN and +inf in those cells alone that paths visit, and what it says of them, of too few frames, of
  neighbouring wildcards and of no finite path names numbers of frames and labels. What it says of no labels, of one
  out of range and of one that is the blank names the vocabulary or the label: such items travel whole.
- Items of a request have equally many columns, and only neighbours share one. So their number is rounded up to one of
  a few, with the blank's once more, which no target names; not for an item that is large enough to travel alone. A
  server's batches mix any numbers.
- Columns are taken where the caller's array lies, and before anything is converted. Arrays of a small vocabulary, and
  all of them in process, where nothing travels, are neither looked at nor copied.
"""

import sys
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from alignd.wire import STAR, DataType
from alignd_client.arrays import Kind, is_tensor, scores
from alignd_client.ctc_items import CtcItem

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

LEAST_VOCABULARY: Final = 128
"""Columns of emissions that are worth looking at."""

LEAST_COLUMNS: Final = 64
"""What is rounded up to: the labels of nearly all short utterances, so that these share requests."""

ALONE_BYTES: Final = 1 << 20
"""What an item holds that gains nothing from sharing a request: it travels without columns beyond its own."""

LEAST_STACKED_BYTES: Final = 1 << 16
"""Emissions of each item of one array from which on items are worth taking one by one."""


def large(log_probs: Any, dimensions: int) -> bool:
    """Whether this is an array of that many dimensions with a large vocabulary."""
    return getattr(log_probs, "ndim", 0) == dimensions and log_probs.shape[-1] >= LEAST_VOCABULARY


def reduced(
    log_probs: Any, data_type: DataType, targets: Int32Array, blank: int, star_score: float | None, kind: Kind
) -> CtcItem | None:
    """An item of its own columns; None where at least half of them are, or where they would not say all.

    Args:
        log_probs: [T, V], NumPy or torch, on any device.
        data_type: its name.
        targets: [L].
        blank: its column.
        star_score: None for the frame's largest non-blank log-prob.
        kind: the caller's.
    """
    frames, vocabulary = log_probs.shape
    found = renumbered(targets, vocabulary, blank, star_score)
    if found is None or not frames:
        return None
    columns, numbered = found
    if 2 * len(columns) > vocabulary:
        return None
    if frames * len(columns) * data_type.storage.itemsize < ALONE_BYTES:
        padded = np.full(padded_count(len(columns), vocabulary), blank, np.int64)
        padded[: len(columns)] = columns
        columns = padded
    own, _ = scores(taken(log_probs, columns), "log_probs", "frames, vocabulary")
    return CtcItem(own.reshape(-1), data_type, frames, len(columns), targets, kind, numbered=numbered)


def padded_count(columns: int, vocabulary: int) -> int:
    """One of a few numbers of columns, at most half of the vocabulary, that is not less."""
    return min(max(LEAST_COLUMNS, 1 << (columns - 1).bit_length()), vocabulary // 2)


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


def taken(log_probs: Any, columns: Int64Array) -> Any:
    """Some columns of log-probs [T, V], of the caller's kind and on the caller's device."""
    if is_tensor(log_probs):
        given = log_probs.detach()
        return given.index_select(1, sys.modules["torch"].from_numpy(columns).to(given.device))
    if log_probs.flags.c_contiguous:
        return np.take(log_probs, columns, 1, mode="clip")  # all are within; `take` copies what is strided, whole
    return log_probs[:, columns]
