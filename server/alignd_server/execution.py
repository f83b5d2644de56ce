"""Run a batch; when it fails, find the items that made it fail and answer the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from alignd.wire import ItemCode, ItemStatus
from alignd_server.device import Device
from alignd_server.errors import DeviceLostError
from alignd_server.operation import AnyOperation, Cost, Launch, total

log = structlog.get_logger("alignd.execution")

Observe = Callable[[Cost, Launch[Any]], None]
"""Told of every launch that succeeded: what all its requests cost and its outcome."""


@dataclass(frozen=True, slots=True)
class Execution:
    """How batches of one operation are run on one device.

    Args:
        operation: of all requests.
        device: where to.
        alone: keep to the calling thread, see `Operation.run`.
        observe: told of every launch that succeeded.
    """

    operation: AnyOperation
    device: Device
    alone: bool
    observe: Observe

    def run(self, requests: Sequence[Any], costs: Sequence[Cost]) -> Launch[Any]:
        """Replies to all requests, whatever happens to one of their items.

        A batch that does not fit into the device's memory, or raises, is cut in halves which run again, down to the
        item; that one fails alone. kernel_ns is the sum over the parts.

        Raises:
            DeviceLostError: nothing can run on this device any more.
        """
        cost = total(costs)
        try:
            self._check_memory(cost)
            launch = self.operation.run(requests, self.device, alone=self.alone)
        except Exception as error:
            if _lost(error):
                raise DeviceLostError(f"{self.device.id} is lost: {error}") from error
            failure = error
        else:
            self.observe(cost, launch)
            return launch
        return self._halves(requests, costs, failure)

    def _check_memory(self, cost: Cost) -> None:
        need = self.device.scratch_bytes(cost.scratch_bytes, cost.largest_scratch_bytes, self.alone)
        if need > self.device.memory_bytes:
            raise MemoryError(
                f"needs {need} bytes of memory; {self.device.id} has a budget of {self.device.memory_bytes}"
            )

    def _halves(self, requests: Sequence[Any], costs: Sequence[Cost], failure: Exception) -> Launch[Any]:
        if len(requests) > 1:
            middle = len(requests) // 2
            first = self.run(requests[:middle], costs[:middle])
            second = self.run(requests[middle:], costs[middle:])
            return Launch([*first.replies, *second.replies], first.kernel_ns + second.kernel_ns)
        request = requests[0]
        if len(request) > 1:
            middle = len(request) // 2
            parts = [self._part(request, 0, middle), self._part(request, middle, len(request))]
            joined = self.operation.join([part.replies[0] for part in parts])
            return Launch([joined], sum(part.kernel_ns for part in parts))
        return Launch([self.operation.fail(request, self._status(failure))], 0)

    def _part(self, request: Any, start: int, stop: int) -> Launch[Any]:
        part = self.operation.take(request, start, stop)
        return self.run([part], [self.operation.cost(part, self.device)])

    def _status(self, failure: Exception) -> ItemStatus:
        if _out_of_memory(failure):
            return ItemStatus(
                ItemCode.OUT_OF_MEMORY, "", f"the item alone {str(failure) or 'does not fit into memory'}"
            )
        log.error("an item failed", op=self.operation.name, exc_info=failure)
        return ItemStatus(ItemCode.INTERNAL, "", f"{type(failure).__name__}: {failure}")


def _out_of_memory(error: Exception) -> bool:
    # torch's errors, known by name and text: torch is not imported for the CPU.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or ("CUDA error" in str(error) and "out of memory" in str(error))
    )


def _lost(error: Exception) -> bool:
    """CUDA's errors other than memory are sticky: every later call in the process fails too."""
    if isinstance(error, DeviceLostError):
        return True
    return not _out_of_memory(error) and (type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error))
