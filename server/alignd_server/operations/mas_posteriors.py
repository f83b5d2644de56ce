"""MasPosteriors: sums over all monotonic paths."""

from collections.abc import Sequence

import numpy as np

from alignd.wire import MAS_POSTERIORS, DataType, MasRequest, PosteriorsReply
from alignd.wire.mas import MAS_NODES
from alignd_kernels import mas
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.status import Status
from alignd_server.operations.family import FamilyOperation
from alignd_server.operations.ragged import DTYPES, concatenated, located


class MasPosteriorsOperation(FamilyOperation[MasRequest, PosteriorsReply]):
    """Probabilities of the cells. (Beside `mas`, whose operation has ways of its own.)"""

    name = "mas_posteriors"
    rpc = MAS_POSTERIORS
    ragged = MAS_NODES
    room = "mas"
    kernels = "_sum"
    function = "posteriors"

    def example(self, data_type: DataType) -> MasRequest:
        one = np.ones(1, np.int64)
        return MasRequest(np.zeros(2, data_type.storage), data_type, one, 2 * one)

    def cells(self, request: MasRequest) -> int:
        return int(request.tokens @ request.frames)

    def batch(self, requests: Sequence[MasRequest]) -> MasBatch:
        tokens = concatenated([request.tokens for request in requests])
        frames = concatenated([request.frames for request in requests])
        values, sources, offsets = located([request.values for request in requests], tokens * frames)
        return MasBatch(values, DTYPES[requests[0].data_type], offsets, tokens, frames, frames, sources)

    def reason(self, request: MasRequest, item: int, status: Status) -> str:
        return mas.reason(status, int(request.tokens[item]), int(request.frames[item]))
