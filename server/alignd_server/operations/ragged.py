"""What operations on ragged batches share."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from alignd.wire import OK, ItemCode, ItemStatus
from alignd_kernels.ragged import Int64Array
from alignd_kernels.status import Status
from alignd_server.operation import Cost

ALL_OK = int(Status.OK)


def concatenated(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """End to end; a single array as it is, without a copy."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def split_points(lengths: Sequence[int]) -> list[slice]:
    """Slices of arrays that lie end to end."""
    ends = np.cumsum(lengths)
    return [slice(int(end) - int(length), int(end)) for length, end in zip(lengths, ends)]


def cost_of(cells: Int64Array, scratch_bytes: Int64Array, nbytes: int) -> Cost:
    """From the lattice cells and the scratch of each item."""
    return Cost(len(cells), int(cells.sum()), nbytes, int(scratch_bytes.sum()), int(scratch_bytes.max()))


def item_statuses(
    statuses: npt.NDArray[np.int32], describe: Callable[[int, Status], ItemStatus]
) -> tuple[ItemStatus, ...]:
    """Kernels' statuses as the contract's; `describe(item, status)` is asked about the failed ones alone."""
    if (statuses == ALL_OK).all():
        return (OK,) * len(statuses)
    return tuple(OK if code == ALL_OK else describe(item, _known(code)) for item, code in enumerate(statuses.tolist()))


def _known(code: int) -> Status:
    # Zero is what no kernel has written: a defect, never an answer.
    return Status(code) if code in Status._value2member_map_ else Status.INTERNAL


def item_status(status: Status, field: str, message: str) -> ItemStatus:
    return ItemStatus(ItemCode(int(status)), field, message)
