"""Run a batch; when it fails, find the items that made it fail and answer the others."""

from collections.abc import Callable, Sequence
from typing import Any

import structlog

from alignd.wire import ItemCode, ItemStatus
from alignd_server.device import Device
from alignd_server.errors import DeviceLostError
from alignd_server.operation import AnyOperation, Launch

log = structlog.get_logger("alignd.execution")

Observe = Callable[[Sequence[Any], Launch[Any]], None]
"""Told of every launch that succeeded: its requests and its outcome."""


def execute(
    operation: AnyOperation, requests: Sequence[Any], device: Device, observe: Observe, *, alone: bool
) -> Launch[Any]:
    """Replies to all requests, whatever happens to one of their items.

    A batch that does not fit into the device's memory, or raises, is cut in halves which run again, down to the
    item; that one fails alone. kernel_ns is the sum over the parts.

    Raises:
        DeviceLostError: nothing can run on this device any more.
    """
    try:
        need = sum(sum(operation.scratch_bytes(request, device)) for request in requests)
        if need > device.memory_bytes:
            raise MemoryError(f"needs {need} bytes of memory; {device.id} has a budget of {device.memory_bytes}")
        launch = operation.run(requests, device, alone=alone)
    except Exception as error:
        if _lost(error):
            raise DeviceLostError(f"{device.id} is lost: {error}") from error
        failure = error
    else:
        observe(requests, launch)
        return launch
    return _halves(operation, requests, device, observe, alone, failure)


def _halves(
    operation: AnyOperation,
    requests: Sequence[Any],
    device: Device,
    observe: Observe,
    alone: bool,
    error: Exception,
) -> Launch[Any]:
    def run(part: Sequence[Any]) -> Launch[Any]:
        return execute(operation, part, device, observe, alone=alone)

    if len(requests) > 1:
        middle = len(requests) // 2
        first, second = run(requests[:middle]), run(requests[middle:])
        return Launch([*first.replies, *second.replies], first.kernel_ns + second.kernel_ns)
    request = requests[0]
    if len(request) > 1:
        middle = len(request) // 2
        first = run([operation.take(request, 0, middle)])
        second = run([operation.take(request, middle, len(request))])
        joined = operation.join([*first.replies, *second.replies])
        return Launch([joined], first.kernel_ns + second.kernel_ns)
    return Launch([operation.fail(request, _status(operation, error))], 0)


def _status(operation: AnyOperation, error: Exception) -> ItemStatus:
    if _out_of_memory(error):
        return ItemStatus(ItemCode.OUT_OF_MEMORY, "", f"the item alone {str(error) or 'does not fit into memory'}")
    log.error("an item failed", op=operation.name, exc_info=error)
    return ItemStatus(ItemCode.INTERNAL, "", f"{type(error).__name__}: {error}")


def _out_of_memory(error: Exception) -> bool:
    # torch.OutOfMemoryError, known by name: torch is not imported for the CPU.
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _lost(error: Exception) -> bool:
    """CUDA's errors other than memory are sticky: every later call in the process fails too."""
    if isinstance(error, DeviceLostError):
        return True
    return not _out_of_memory(error) and (type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error))
