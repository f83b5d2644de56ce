"""What the functions on padded batches share: callers' arrays where they lie, results of callers' kind, bad items."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.arrays import integers, is_torch
from alignd_kernels.status import InvalidItemsError, Status

LARGEST: Final = 2**31 - 1  # stands for every label beyond int32: out of range in any vocabulary


def check_blank(blank: Any) -> None:
    """Raises:
    TypeError: it is no integer: half a column, or True, would be taken for one.
    """
    if isinstance(blank, bool) or not isinstance(blank, int | np.integer):
        raise TypeError(f"blank must be an integer, a column of log_probs, not {blank!r}")


def where_it_lies(storage: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], tuple[int, ...]]:
    """An array as a flat buffer, and the elements from one index to the next on each axis: read where it lies if the
    last axis is contiguous, as in a transposed view or a slice; else from a copy."""
    size = storage.itemsize
    *others, last = storage.strides
    if storage.size == 0 or last != size or any(stride < 0 or stride % size for stride in others):
        storage = np.ascontiguousarray(storage)
    pitches = tuple(stride // size for stride in storage.strides)
    reach = 1 + sum((length - 1) * pitch for length, pitch in zip(storage.shape, pitches)) if storage.size else 0
    return np.lib.stride_tricks.as_strided(storage, (reach,), (size,), writeable=False), pitches


def int32_labels(labels: Any, name: str) -> npt.NDArray[np.int32]:
    """The caller's labels; what int32 cannot hold stays out of range.

    Raises:
        TypeError: they are not integers.
        ValueError: lists of different lengths.
    """
    found = integers(labels, name)
    limits = np.iinfo(found.dtype)
    clipped: npt.NDArray[np.int32] = np.clip(found, max(-2, limits.min), min(LARGEST, limits.max)).astype(np.int32)
    return clipped


def like(model: Any, array: npt.NDArray[Any]) -> Any:
    """The array, as a torch tensor where the caller's `model` is one."""
    if not is_torch(model):
        return array
    import torch

    return torch.from_numpy(array)


def raise_if_failed(statuses: Sequence[int], reason_of: Callable[[int, Status], str]) -> None:
    """Raises:
    InvalidItemsError: for the items that are not OK, if there are any.
    """
    bad = {index: Status(status) for index, status in enumerate(statuses) if status != Status.OK}
    if bad:
        raise InvalidItemsError(bad, {index: reason_of(index, status) for index, status in bad.items()})
