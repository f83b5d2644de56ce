"""ForcedAlign: CTC forced alignment."""

from collections.abc import Hashable, Sequence
from typing import Final

import numpy as np

from alignd.wire import FORCED_ALIGN, CtcReply, CtcRequest, DataType, ItemStatus
from alignd.wire.arrays import cut, nbytes_of, on_device
from alignd_kernels import ctc
from alignd_kernels.ctc.batch import STAR_MAX, CtcBatch
from alignd_kernels.ragged import Int64Array, offsets_of
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

FIELDS: Final = {
    Status.EMPTY: "frames",
    Status.TOO_FEW_FRAMES: "frames",
    Status.TARGET_OUT_OF_RANGE: "targets",
    Status.TARGET_IS_BLANK: "targets",
    Status.ADJACENT_STARS: "targets",
}
"""The request's field at fault; `log_probs` for what is not listed."""


class CtcOperation:
    """See `alignd_server.operation.Operation`. Vocabulary, blank and star are per item: they may differ in a launch."""

    name = "ctc"
    rpc = FORCED_ALIGN

    def example(self, data_type: DataType) -> CtcRequest:
        one = np.ones(1, np.int64)
        return CtcRequest(np.zeros(4, data_type.storage), data_type, 2 * one, 2, np.ones(1, np.int32), one)

    def key(self, request: CtcRequest) -> Hashable:
        return (request.data_type.value, self.name, on_device(request.log_probs))

    def payload_bytes(self, request: CtcRequest) -> int:
        return nbytes_of(request.log_probs) + request.targets.nbytes

    def cost(self, request: CtcRequest, device: Device) -> Cost:
        frames, labels = request.frames, request.target_lengths
        cells = 2 * int(frames @ labels) + int(frames.sum())
        scratch = backends.backend("ctc", device).scratch_bytes(_batch([request]))
        return cost_of(cells, scratch, self.payload_bytes(request))

    def run(self, requests: Sequence[CtcRequest], device: Device, *, alone: bool) -> Launch[CtcReply]:
        payloads = [request.log_probs for request in requests]
        result = backends.align("ctc", _batch(requests), device, alone, payloads)
        items = shares(requests, len)
        frames = shares(requests, lambda request: int(request.frames.sum()))
        labels = shares(requests, lambda request: int(request.target_lengths.sum()))

        def reply(index: int) -> CtcReply:
            request, statuses = requests[index], result.statuses[items[index]]
            starts = offsets_of(request.target_lengths)
            return CtcReply(
                item_statuses(statuses, lambda item, status: _describe(request, starts, item, status)),
                result.durations[labels[index]],
                result.paths[frames[index]],
                result.frame_scores[frames[index]],
                result.scores[items[index]],
            )

        return Launch([reply(index) for index in range(len(requests))], result.kernel_ns)

    def take(self, request: CtcRequest, start: int, stop: int) -> CtcRequest:
        cells = offsets_of(request.frames * request.vocabulary_size)
        labels = offsets_of(request.target_lengths)
        return CtcRequest(
            cut(request.log_probs, int(cells[start]), int(cells[stop])),
            request.data_type,
            request.frames[start:stop],
            request.vocabulary_size,
            request.targets[labels[start] : labels[stop]],
            request.target_lengths[start:stop],
            request.blank,
            request.star_score,
        )

    def join(self, replies: Sequence[CtcReply]) -> CtcReply:
        return CtcReply(
            tuple(status for reply in replies for status in reply.statuses),
            concatenated([reply.durations for reply in replies]),
            concatenated([reply.paths for reply in replies]),
            concatenated([reply.frame_scores for reply in replies]),
            concatenated([reply.scores for reply in replies]),
        )

    def fail(self, request: CtcRequest, status: ItemStatus) -> CtcReply:
        frames = int(request.frames.sum())
        return CtcReply(
            (status,) * len(request),
            np.zeros(request.target_lengths.sum(), np.int32),
            np.zeros(frames, np.int32),
            np.zeros(frames, np.float32),
            np.full(len(request), np.nan),
        )


def _batch(requests: Sequence[CtcRequest]) -> CtcBatch:
    sizes = [len(request) for request in requests]
    frames = concatenated([request.frames for request in requests])
    target_lengths = concatenated([request.target_lengths for request in requests])
    vocabulary = np.repeat(np.array([request.vocabulary_size for request in requests], np.int64), sizes)
    stars = [STAR_MAX if request.star_score is None else request.star_score for request in requests]
    log_probs, sources, offsets = located([request.log_probs for request in requests], frames * vocabulary)
    return CtcBatch(
        log_probs,
        DTYPES[requests[0].data_type],
        offsets,
        frames,
        vocabulary,
        vocabulary,
        concatenated([request.targets for request in requests]),
        offsets_of(target_lengths)[:-1],
        target_lengths,
        np.repeat(np.array([request.blank for request in requests], np.int32), sizes),
        np.repeat(np.array(stars, np.float32), sizes),
        sources,
    )


def _describe(request: CtcRequest, labels: Int64Array, item: int, status: Status) -> ItemStatus:
    """`labels` are the offsets of the items' targets."""
    targets = request.targets[labels[item] : labels[item + 1]]
    message = ctc.reason(status, int(request.frames[item]), targets, request.vocabulary_size, request.blank)
    return item_status(status, FIELDS.get(status, "log_probs"), message)
