"""MaximumPath: monotonic alignment search."""

from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from alignd.wire import MAXIMUM_PATH, DataType, MasReply, MasRequest
from alignd.wire.mas import MAS_PATHS
from alignd_kernels import mas
from alignd_kernels.mas.batch import END_TO_END, MasBatch
from alignd_kernels.ragged import offsets_of
from alignd_kernels.status import Status
from alignd_server.device import Device
from alignd_server.operation import Cost, Launch
from alignd_server.operations import backends
from alignd_server.operations.family import FamilyOperation
from alignd_server.operations.ragged import DTYPES, concatenated, cost_of, item_statuses, located, shares

NO_PATHS: Final = np.zeros(0, np.int32)
NO_VALUES: Final = np.zeros(0, np.float32)


class MasOperation(FamilyOperation[MasRequest, MasReply]):
    """What differs from other families spares work for each request: at a millisecond a batch it counts."""

    name = "mas"
    rpc = MAXIMUM_PATH
    ragged = MAS_PATHS
    room = "mas"

    def example(self, data_type: DataType) -> MasRequest:
        one = np.ones(1, np.int64)
        return MasRequest(np.zeros(2, data_type.storage), data_type, one, 2 * one)

    def cells(self, request: MasRequest) -> int:
        return int(request.tokens @ request.frames)

    def cost(self, request: MasRequest, device: Device) -> Cost:
        tokens, frames, dtype = request.tokens, request.frames, DTYPES[request.data_type]
        nbytes = self.payload_bytes(request)
        kernels = backends.backend("mas", device)
        if device.torch_device is None:
            cells, scratch, largest = kernels.demand(tokens, frames, dtype)
            return Cost(len(tokens), cells, nbytes, scratch, largest)
        # Where the items lie is no matter of memory.
        each = kernels.scratch_bytes(MasBatch(NO_VALUES, dtype, frames, tokens, frames, frames))
        return cost_of(self.cells(request), each, nbytes)

    def batch(self, requests: Sequence[MasRequest]) -> MasBatch:
        tokens = concatenated([request.tokens for request in requests])
        frames = concatenated([request.frames for request in requests])
        values, sources, offsets = located([request.values for request in requests], tokens * frames)
        return MasBatch(values, DTYPES[requests[0].data_type], offsets, tokens, frames, frames, sources)

    def run(self, requests: Sequence[MasRequest], device: Device, *, alone: bool) -> Launch[MasReply]:
        first = requests[0]
        if len(requests) == 1 and isinstance(first.values, np.ndarray) and device.torch_device is None:
            dtype = DTYPES[first.data_type]
            batch = MasBatch(first.values, dtype, END_TO_END, first.tokens, first.frames, first.frames)
        else:
            batch = self.batch(requests)
        result = backends.run("mas", "", "align", batch, device, alone, [request.values for request in requests])
        if len(requests) == 1:
            return Launch([self._reply(first, result.statuses, result.durations, result.scores)], result.kernel_ns)
        items = shares(requests, len)
        tokens = shares(requests, lambda request: int(request.tokens.sum()))
        replies = [
            self._reply(request, result.statuses[own], result.durations[own_tokens], result.scores[own])
            for request, own, own_tokens in zip(requests, items, tokens)
        ]
        return Launch(replies, result.kernel_ns)

    def reason(self, request: MasRequest, item: int, status: Status) -> str:
        return mas.reason(status, int(request.tokens[item]), int(request.frames[item]))

    def _reply(
        self,
        request: MasRequest,
        statuses: npt.NDArray[np.int32],
        durations: npt.NDArray[np.int32],
        scores: npt.NDArray[np.float64],
    ) -> MasReply:
        paths = _paths(request, durations) if request.return_paths else NO_PATHS
        return MasReply(item_statuses(statuses, partial(self._status, request)), durations, paths, scores)


def _paths(request: MasRequest, durations: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The token of each frame, zeros where an item has failed."""
    starts = offsets_of(request.tokens)
    within = np.arange(len(durations)) - np.repeat(starts[:-1], request.tokens)
    item_of_token = np.repeat(np.arange(len(request)), request.tokens)
    aligned = np.bincount(item_of_token, durations, len(request)) == request.frames
    paths = np.zeros(int(request.frames.sum()), np.int32)
    paths[np.repeat(aligned, request.frames)] = np.repeat(within, durations)
    return paths
