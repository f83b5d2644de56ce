"""What all operations on ragged batches do alike: see `alignd_server.operation.Operation`."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any, Final, Generic, TypeVar

import numpy as np

from alignd.wire import DataType, ItemStatus, Rpc
from alignd.wire.arrays import on_device
from alignd.wire.ragged import Ragged
from alignd_kernels.status import Status
from alignd_server.device import Device
from alignd_server.operation import Cost, Launch
from alignd_server.operations import backends
from alignd_server.operations.ragged import cost_of, item_status, item_statuses, shares

FRAMES_AT_FAULT: Final = {Status.EMPTY: "frames", Status.TOO_FEW_FRAMES: "frames"}

Request = TypeVar("Request", bound=Any)
Reply = TypeVar("Reply", bound=Any)


class FamilyOperation(ABC, Generic[Request, Reply]):
    """One function of a family's room in `alignd_kernels`, over ragged batches. A family says what its requests mean.

    Attributes:
        name: short, the label `op` of metrics.
        rpc: the contract's.
        ragged: how its items lie.
        room: of `alignd_kernels`.
        kernels: what follows `cpu` or `gpu` in the name of the room's module; `_sum` for sums over all paths.
        function: of that module: takes a batch and gives `statuses`, `scores`, `kernel_ns` and, end to end, an array
            under the name of each of the reply's.
        fields: the request's field at fault for a status; the payload for what is not listed.
    """

    name: str
    rpc: Rpc[Request, Reply]
    ragged: Ragged[Request, Reply]
    room: str
    kernels: str = ""
    function: str = "align"
    fields: dict[Status, str] = FRAMES_AT_FAULT

    @abstractmethod
    def example(self, data_type: DataType) -> Request: ...

    @abstractmethod
    def cells(self, request: Request) -> int:
        """Of the lattices of all items."""

    @abstractmethod
    def batch(self, requests: Sequence[Request]) -> Any:
        """All items of the requests as the kernels take them, nothing copied."""

    @abstractmethod
    def reason(self, request: Request, item: int, status: Status) -> str:
        """One sentence on why an item failed."""

    def key(self, request: Request) -> Hashable:
        return (request.data_type.value, self.name, on_device(self.ragged.payload(request)), self.launch_key(request))

    def launch_key(self, request: Request) -> Hashable:
        """What else must be equal of requests that share a launch."""
        return None

    def payload_bytes(self, request: Request) -> int:
        return self.ragged.nbytes(request)

    def cost(self, request: Request, device: Device) -> Cost:
        kernels = backends.backend(self.room, device, self.kernels)
        need = kernels.scratch_bytes(self.batch([request]))
        for column in self.ragged.outputs:
            need = need + column.sizes(request) * np.dtype(column.dtype).itemsize
        return cost_of(self.cells(request), need, self.payload_bytes(request))

    def run(self, requests: Sequence[Request], device: Device, *, alone: bool) -> Launch[Reply]:
        payloads = [self.ragged.payload(request) for request in requests]
        batch = self.batch(requests)
        result = backends.run(self.room, self.kernels, self.function, batch, device, alone, payloads)
        items = shares(requests, len)
        columns = self.ragged.outputs
        parts = [shares(requests, column.total) for column in columns]

        def reply(index: int) -> Reply:
            request = requests[index]
            arrays = [
                getattr(result, column.name)[part[index]].astype(column.dtype, copy=False)
                for column, part in zip(columns, parts)
            ]
            statuses = item_statuses(result.statuses[items[index]], partial(self._status, request))
            made: Reply = self.ragged.reply(statuses, *arrays, result.scores[items[index]])
            return made

        return Launch([reply(index) for index in range(len(requests))], result.kernel_ns)

    def take(self, request: Request, start: int, stop: int) -> Request:
        return self.ragged.take(request, start, stop)

    def join(self, replies: Sequence[Reply]) -> Reply:
        return self.ragged.join(replies)

    def fail(self, request: Request, status: ItemStatus) -> Reply:
        return self.ragged.fail(request, status)

    def _status(self, request: Request, item: int, status: Status) -> ItemStatus:
        field = self.fields.get(status, self.ragged.inputs[0].name)
        return item_status(status, field, self.reason(request, item, status))
