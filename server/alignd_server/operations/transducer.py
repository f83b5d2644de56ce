"""TransducerAlign and TransducerPosteriors: best paths through transducer lattices, and sums over all paths."""

from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np

from alignd.wire import (
    TRANSDUCER_ALIGN,
    TRANSDUCER_POSTERIORS,
    DataType,
    PosteriorsReply,
    TransducerReply,
    TransducerRequest,
)
from alignd.wire.transducer import TRANSDUCER_NODES, TRANSDUCER_PATHS
from alignd_kernels import transducer
from alignd_kernels.status import Status
from alignd_kernels.transducer.batch import TransducerBatch, reduced
from alignd_server.operations.family import FamilyOperation
from alignd_server.operations.ragged import DTYPES, concatenated, located

Reply = TypeVar("Reply", TransducerReply, PosteriorsReply)


class _TransducerOperation(FamilyOperation[TransducerRequest, Reply]):
    """What both do alike: the topology is the launch's."""

    room = "transducer"

    def example(self, data_type: DataType) -> TransducerRequest:
        one = np.ones(1, np.int64)
        return TransducerRequest(np.zeros(8, data_type.storage), data_type, 2 * one, one)

    def launch_key(self, request: TransducerRequest) -> Hashable:
        return request.modified

    def cells(self, request: TransducerRequest) -> int:
        return int(request.frames @ (request.labels + 1))

    def batch(self, requests: Sequence[TransducerRequest]) -> TransducerBatch:
        frames = concatenated([request.frames for request in requests])
        labels = concatenated([request.labels for request in requests])
        arcs, sources, offsets = located([request.arcs for request in requests], 2 * frames * (labels + 1))
        dtype, modified = DTYPES[requests[0].data_type], requests[0].modified
        return reduced(arcs, dtype, offsets, frames, labels, modified=modified, sources=sources)

    def reason(self, request: TransducerRequest, item: int, status: Status) -> str:
        targets = np.ones(int(request.labels[item]), np.int32)
        return transducer.reason(status, int(request.frames[item]), targets, 2, 0, request.modified)


class TransducerOperation(_TransducerOperation[TransducerReply]):
    """Best paths."""

    name = "transducer"
    rpc = TRANSDUCER_ALIGN
    ragged = TRANSDUCER_PATHS


class TransducerPosteriorsOperation(_TransducerOperation[PosteriorsReply]):
    """Probabilities of the nodes."""

    name = "transducer_posteriors"
    rpc = TRANSDUCER_POSTERIORS
    ragged = TRANSDUCER_NODES
    kernels = "_sum"
    function = "posteriors"
