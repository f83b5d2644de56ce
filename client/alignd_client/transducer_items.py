"""What a caller gives of a transducer's lattice, reduced to what travels: log-probs of blank and next label.

Of [frames, labels + 1, vocabulary] joint log-probs two columns count, so that 60 MB become 0.1 MB.
"""

import sys
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alignd.wire import DataType, ItemCode, ItemStatus
from alignd_client.arrays import Kind, Scores, flat, integers, is_tensor, require_dimensions, scores, to_int32

Int32Array = npt.NDArray[np.int32]


@dataclass(slots=True, eq=False)
class TransducerItem:
    """Arcs of `count` utterances of one shape in `data_type.storage`: 1-D, row-major and end to end; those of one also
    [frames, labels + 1, 2] with any strides. `fault` says what of the given targets no lattice has."""

    arcs: Scores
    data_type: DataType
    frames: int
    labels: int
    kind: Kind
    count: int = 1
    fault: ItemStatus | None = None

    @property
    def key(self) -> Hashable:
        return self.data_type, type(self.arcs)

    @property
    def nbytes(self) -> int:
        return self.arcs.nbytes

    @property
    def cells(self) -> int:
        return self.arcs.size // 2

    def part(self, start: int, stop: int) -> "TransducerItem":
        size = 2 * self.frames * (self.labels + 1)
        arcs = self.arcs[start * size : stop * size]
        return TransducerItem(arcs, self.data_type, self.frames, self.labels, self.kind, stop - start)


def from_arcs(arcs: Any, name: str, borrow: bool, device: str | None) -> TransducerItem:
    """An item that is reduced already, [frames, labels + 1, 2]. Raises `TypeError` or `ValueError`."""
    array, data_type = scores(arcs, name, "frames, labels + 1, 2", device)
    frames, nodes, columns = array.shape
    if columns != 2 or nodes < 1:
        raise ValueError(
            f"{name} without targets must be [frames, labels + 1, 2], blank and label, not {[*array.shape]}"
        )
    return TransducerItem(flat(array, borrow), data_type, frames, nodes - 1, Kind.of(arcs))


def from_log_probs(log_probs: Any, targets: Any, blank: int, name: str, device: str | None) -> TransducerItem:
    """An item of joint log-probs [frames, labels + 1, vocabulary] and targets [labels]. Raises `TypeError` or
    `ValueError`; targets that no vocabulary has are the item's `fault`."""
    require_dimensions(log_probs, name, "frames, labels + 1, vocabulary")
    labels = to_int32(integers(targets, "each item's targets", "labels"))
    nodes, vocabulary = log_probs.shape[1:]
    if nodes != len(labels) + 1:
        raise ValueError(
            f"{name} has {nodes} label positions, but {len(labels)} targets ask for {len(labels) + 1}: joint log-probs "
            "are [frames, targets + 1, vocabulary]"
        )
    fault = fault_of(labels, vocabulary, blank)
    if fault is not None:  # nothing of it travels
        log_probs = log_probs[:0]
    arcs, data_type = scores(reduced(log_probs, labels, blank), name, "frames, labels + 1, 2", device)
    frames = len(log_probs)
    return TransducerItem(flat(arcs, True), data_type, frames, len(labels), Kind.of(log_probs), fault=fault)


def fault_of(targets: Int32Array, vocabulary: int, blank: int) -> ItemStatus | None:
    """Why no lattice has these targets, as a server would say it of a whole vocabulary."""
    if blank >= vocabulary:
        reason = f"the blank, {blank}, is no column of a vocabulary of {vocabulary}"
        return ItemStatus(ItemCode.TARGET_OUT_OF_RANGE, "blank", reason)
    outside = targets[(targets < 0) | (targets >= vocabulary)]
    if len(outside):
        reason = f"target {outside[0]} is out of range: the vocabulary has columns 0 … {vocabulary - 1}"
        return ItemStatus(ItemCode.TARGET_OUT_OF_RANGE, "targets", reason)
    if (targets == blank).any():
        reason = f"a target is the blank ({blank}): give the labels alone, without padding"
        return ItemStatus(ItemCode.TARGET_IS_BLANK, "targets", reason)
    return None


def reduced(log_probs: Any, targets: Int32Array, blank: int) -> Any:
    """Joint log-probs reduced to blank and next label, of the caller's kind and on the caller's device.

    Args:
        log_probs: [..., T, U + 1, V].
        targets: [..., U]; where none is a column, any stands for it.
        blank: its column.

    Returns:
        [..., T, U + 1, 2]; 0 for a label after the last.
    """
    U, V = log_probs.shape[-2] - 1, log_probs.shape[-1]
    column = min(blank, max(V - 1, 0))
    index = np.clip(targets, 0, max(V - 1, 0)).astype(np.int64)[..., None, :, None]
    shape = (*log_probs.shape[:-1], 2)
    if is_tensor(log_probs):
        torch = sys.modules["torch"]
        given = log_probs.detach()
        arcs = given.new_zeros(shape)
        index = torch.from_numpy(index).to(given.device)
        taken = torch.take_along_dim
    else:
        given, taken = log_probs, np.take_along_axis
        arcs = np.zeros(shape, log_probs.dtype)
    if 0 not in given.shape:
        arcs[..., 0] = given[..., column]
        arcs[..., :U, 1] = taken(given[..., :U, :], index, -1)[..., 0] if U else 0
    return arcs
