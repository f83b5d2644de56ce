"""AlignAttention: attention maps, the best head and its alignment."""

from collections.abc import Hashable, Sequence

import numpy as np

from alignd.wire import ALIGN_ATTENTION, AttentionReply, AttentionRequest, DataType
from alignd.wire.attention import ATTENTION_SPANS
from alignd_kernels import attention
from alignd_kernels.attention.batch import AttentionBatch
from alignd_kernels.status import Status
from alignd_server.operations.family import FamilyOperation
from alignd_server.operations.ragged import DTYPES, concatenated, located


class AttentionOperation(FamilyOperation[AttentionRequest, AttentionReply]):
    """The mode, and whether logarithms are aligned, are the launch's."""

    name = "attention"
    rpc = ALIGN_ATTENTION
    ragged = ATTENTION_SPANS
    room = "attention"

    def example(self, data_type: DataType) -> AttentionRequest:
        one = np.ones(1, np.int64)
        return AttentionRequest(np.zeros(2, data_type.storage), data_type, one, one, 2 * one)

    def launch_key(self, request: AttentionRequest) -> Hashable:
        return request.mode, request.log

    def cells(self, request: AttentionRequest) -> int:
        return int((request.heads * request.tokens * request.frames).sum())

    def batch(self, requests: Sequence[AttentionRequest]) -> AttentionBatch:
        heads, tokens, frames = (
            concatenated([getattr(request, name) for request in requests]) for name in ("heads", "tokens", "frames")
        )
        values, sources, offsets = located([request.attention for request in requests], heads * tokens * frames)
        first = requests[0]
        dtype = DTYPES[first.data_type]
        return AttentionBatch(values, dtype, offsets, heads, tokens, frames, first.mode.value, first.log, sources)

    def reason(self, request: AttentionRequest, item: int, status: Status) -> str:
        heads, tokens, frames = (int(lengths[item]) for lengths in (request.heads, request.tokens, request.frames))
        return attention.reason(status, heads, tokens, frames, request.mode.value)
