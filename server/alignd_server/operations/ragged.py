"""What operations on ragged batches share."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from alignd.wire import OK, DataType, ItemCode, ItemStatus
from alignd.wire.arrays import Buffers, DeviceArray, Piece, pieces
from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import Int64Array, offsets_of
from alignd_kernels.status import Status
from alignd_server.operation import Cost

Request = TypeVar("Request")

ALL_OK: Final = int(Status.OK)

DTYPES: Final = {data_type: DType(data_type.value) for data_type in DataType}
"""The kernels' name of each type."""


def concatenated(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """End to end; a single array as it is, without a copy."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def located(payloads: Sequence[Buffers], sizes: Int64Array) -> tuple[Any, Int64Array | None, Int64Array]:
    """Where the items of several requests lie, as kernels take it: nothing is copied.

    Args:
        payloads: of the requests, each of whole items end to end; all on a device or none.
        sizes: int64 [B], elements of each item of all requests.

    Returns:
        the buffer, or all of them, as arrays or tensors; the buffer of each item, int64 [B], or None if there is one;
        and the index of each item's first element in its buffer, int64 [B].
    """
    starts = sizes.cumsum() - sizes
    if len(payloads) == 1 and not isinstance(payloads[0], tuple):
        return _bare(payloads[0]), None, starts
    buffers = tuple(_bare(piece) for payload in payloads for piece in pieces(payload))
    begins = offsets_of(np.array([len(buffer) for buffer in buffers], np.int64))[:-1]
    sources = np.searchsorted(begins, starts, "right") - 1
    return buffers, sources, starts - begins[sources]


def _bare(piece: Piece) -> Any:
    return piece.tensor if isinstance(piece, DeviceArray) else piece


def shares(requests: Sequence[Request], size: Callable[[Request], int]) -> list[slice]:
    """Each request's slice of an array in which their results lie end to end. A single one, whose size is not asked,
    has all."""
    if len(requests) == 1:
        return [slice(None)]
    ends = list(itertools.accumulate(size(request) for request in requests))
    return [slice(start, end) for start, end in itertools.pairwise([0, *ends])]


def cost_of(cells: int, scratch_bytes: Int64Array, nbytes: int) -> Cost:
    """From the lattice cells of all items and the scratch of each."""
    scratch = scratch_bytes.tolist()
    return Cost(len(scratch), cells, nbytes, sum(scratch), max(scratch))


def item_statuses(
    statuses: npt.NDArray[np.int32], describe: Callable[[int, Status], ItemStatus]
) -> tuple[ItemStatus, ...]:
    """Kernels' statuses as the contract's; `describe(item, status)` is asked about the failed ones alone."""
    codes: list[int] = statuses.tolist()
    if codes.count(ALL_OK) == len(codes):
        return (OK,) * len(codes)
    return tuple(OK if code == ALL_OK else describe(item, _known(code)) for item, code in enumerate(codes))


def _known(code: int) -> Status:
    # Zero is what no kernel has written: a defect, never an answer.
    return Status(code) if code in Status._value2member_map_ else Status.INTERNAL


def item_status(status: Status, field: str, message: str) -> ItemStatus:
    return ItemStatus(ItemCode(int(status)), field, message)
