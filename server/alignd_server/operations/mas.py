"""MaximumPath: monotonic alignment search."""

from collections.abc import Hashable, Sequence
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from alignd.wire import MAXIMUM_PATH, DataType, ItemStatus, MasReply, MasRequest
from alignd.wire.arrays import cut, nbytes_of, on_device
from alignd_kernels import mas
from alignd_kernels.mas.batch import END_TO_END, MasBatch
from alignd_kernels.ragged import offsets_of
from alignd_kernels.status import Status
from alignd_server.device import Device
from alignd_server.operation import Cost, Launch
from alignd_server.operations import backends
from alignd_server.operations.ragged import (
    DTYPES,
    concatenated,
    cost_of,
    item_status,
    item_statuses,
    located,
    shares,
)

FIELDS: Final = {Status.EMPTY: "frames", Status.TOO_FEW_FRAMES: "frames"}
"""The request's field at fault; `values` for what is not listed."""

NO_PATHS: Final = np.zeros(0, np.int32)
NO_VALUES: Final = np.zeros(0, np.float32)


class MasOperation:
    """See `alignd_server.operation.Operation`."""

    name = "mas"
    room = "mas"
    kernels = ""
    rpc = MAXIMUM_PATH

    def example(self, data_type: DataType) -> MasRequest:
        one = np.ones(1, np.int64)
        return MasRequest(np.zeros(2, data_type.storage), data_type, one, 2 * one)

    def key(self, request: MasRequest) -> Hashable:
        return (request.data_type.value, self.name, on_device(request.values))

    def payload_bytes(self, request: MasRequest) -> int:
        return nbytes_of(request.values)

    def cost(self, request: MasRequest, device: Device) -> Cost:
        tokens, frames, dtype = request.tokens, request.frames, DTYPES[request.data_type]
        nbytes = nbytes_of(request.values)
        kernels = backends.backend("mas", device)
        if device.torch_device is None:
            cells, scratch, largest = kernels.demand(tokens, frames, dtype)
            return Cost(len(tokens), cells, nbytes, scratch, largest)
        # Where the items lie is no matter of memory.
        each = kernels.scratch_bytes(MasBatch(NO_VALUES, dtype, frames, tokens, frames, frames))
        return cost_of(int((tokens * frames).sum()), each, nbytes)

    def run(self, requests: Sequence[MasRequest], device: Device, *, alone: bool) -> Launch[MasReply]:
        batch = _batch(requests, device)
        result = backends.run("mas", "", "align", batch, device, alone, [request.values for request in requests])
        if len(requests) == 1:
            return Launch([_reply(requests[0], result.statuses, result.durations, result.scores)], result.kernel_ns)
        items = shares(requests, len)
        tokens = shares(requests, lambda request: int(request.tokens.sum()))
        replies = [
            _reply(request, result.statuses[own], result.durations[own_tokens], result.scores[own])
            for request, own, own_tokens in zip(requests, items, tokens)
        ]
        return Launch(replies, result.kernel_ns)

    def take(self, request: MasRequest, start: int, stop: int) -> MasRequest:
        cells = offsets_of(request.tokens * request.frames)
        return MasRequest(
            cut(request.values, int(cells[start]), int(cells[stop])),
            request.data_type,
            request.tokens[start:stop],
            request.frames[start:stop],
            request.return_paths,
        )

    def join(self, replies: Sequence[MasReply]) -> MasReply:
        return MasReply(
            tuple(status for reply in replies for status in reply.statuses),
            concatenated([reply.durations for reply in replies]),
            concatenated([reply.paths for reply in replies]),
            concatenated([reply.scores for reply in replies]),
        )

    def fail(self, request: MasRequest, status: ItemStatus) -> MasReply:
        return MasReply(
            (status,) * len(request),
            np.zeros(request.tokens.sum(), np.int32),
            np.zeros(request.frames.sum() if request.return_paths else 0, np.int32),
            np.full(len(request), np.nan),
        )


def _batch(requests: Sequence[MasRequest], device: Device) -> MasBatch:
    first = requests[0]
    dtype = DTYPES[first.data_type]
    if len(requests) == 1 and isinstance(first.values, np.ndarray) and device.torch_device is None:
        return MasBatch(first.values, dtype, END_TO_END, first.tokens, first.frames, first.frames)
    tokens = concatenated([request.tokens for request in requests])
    frames = concatenated([request.frames for request in requests])
    values, sources, offsets = located([request.values for request in requests], tokens * frames)
    return MasBatch(values, dtype, offsets, tokens, frames, frames, sources)


def _reply(
    request: MasRequest,
    statuses: npt.NDArray[np.int32],
    durations: npt.NDArray[np.int32],
    scores: npt.NDArray[np.float64],
) -> MasReply:
    paths = _paths(request, durations) if request.return_paths else NO_PATHS
    return MasReply(item_statuses(statuses, partial(_describe, request)), durations, paths, scores)


def _paths(request: MasRequest, durations: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The token of each frame, zeros where an item has failed."""
    starts = offsets_of(request.tokens)
    within = np.arange(len(durations)) - np.repeat(starts[:-1], request.tokens)
    item_of_token = np.repeat(np.arange(len(request)), request.tokens)
    aligned = np.bincount(item_of_token, durations, len(request)) == request.frames
    paths = np.zeros(int(request.frames.sum()), np.int32)
    paths[np.repeat(aligned, request.frames)] = np.repeat(within, durations)
    return paths


def _describe(request: MasRequest, item: int, status: Status) -> ItemStatus:
    message = mas.reason(status, int(request.tokens[item]), int(request.frames[item]))
    return item_status(status, FIELDS.get(status, "values"), message)
