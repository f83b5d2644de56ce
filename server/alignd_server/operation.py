"""What the engine knows of a family of alignments."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from alignd.wire import DataType, ItemStatus, Rpc
from alignd_server.device import Device

Request = TypeVar("Request")
Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request asks of a device.

    Attributes:
        items: how many.
        cells: lattice cells of all items.
        nbytes: payload.
        scratch_bytes: memory beside input and output, of all items.
        largest_scratch_bytes: of the largest item.
    """

    items: int
    cells: int
    nbytes: int
    scratch_bytes: int
    largest_scratch_bytes: int


def total(costs: Sequence[Cost]) -> Cost:
    """Of all requests of a launch."""
    if len(costs) == 1:
        return costs[0]
    return Cost(
        sum(cost.items for cost in costs),
        sum(cost.cells for cost in costs),
        sum(cost.nbytes for cost in costs),
        sum(cost.scratch_bytes for cost in costs),
        max(cost.largest_scratch_bytes for cost in costs),
    )


@dataclass(frozen=True, slots=True)
class Launch(Generic[Reply]):
    """Outcome of one launch: a reply per request, in order, and the time in the kernels."""

    replies: list[Reply]
    kernel_ns: int


class Operation(Protocol[Request, Reply]):
    """One family behind one RPC. Requests are ragged batches, cut and joined along their items."""

    name: str
    """Short name, the label `op` of metrics."""
    rpc: Rpc[Request, Reply]

    def key(self, request: Request) -> Hashable:
        """Requests with equal keys may share a launch. The first entry is the dtype's name."""

    def example(self, data_type: DataType) -> Request:
        """The smallest request that has an answer: what kernels are warmed with."""

    def payload_bytes(self, request: Request) -> int: ...

    def cost(self, request: Request, device: Device) -> Cost: ...

    def run(self, requests: Sequence[Request], device: Device, *, alone: bool) -> Launch[Reply]:
        """Align all items in one launch.

        Args:
            requests: of equal keys.
            device: where to.
            alone: keep to the calling thread, and leave the device's pool to others.

        Raises:
            MemoryError: the batch did not fit.
            DeviceLostError: the device is gone.
        """

    def take(self, request: Request, start: int, stop: int) -> Request:
        """The items from `start` to `stop` as a request of their own."""

    def join(self, replies: Sequence[Reply]) -> Reply:
        """The inverse of `take`: one reply from those of consecutive parts."""

    def fail(self, request: Request, status: ItemStatus) -> Reply:
        """A reply in which every item has failed."""


AnyOperation = Operation[Any, Any]
