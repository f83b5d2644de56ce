"""MaximumPathFromLatents: monotonic alignment search over Gaussian log-likelihoods that the device computes."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from alignd.wire import MAXIMUM_PATH_FROM_LATENTS, DataType, LatentsReply, LatentsRequest
from alignd.wire.latents import LATENT_PATHS
from alignd_kernels.mas import latents
from alignd_kernels.mas.latents import LatentBatch, Rows
from alignd_kernels.ragged import Int64Array
from alignd_kernels.status import Status
from alignd_server.operations.family import FamilyOperation
from alignd_server.operations.ragged import DTYPES, concatenated, located


class LatentsOperation(FamilyOperation[LatentsRequest, LatentsReply]):
    """Channels are per item: they may differ in a launch."""

    name = "mas_latents"
    rpc = MAXIMUM_PATH_FROM_LATENTS
    ragged = LATENT_PATHS
    room = "mas"
    kernels = "_latents"

    def example(self, data_type: DataType) -> LatentsRequest:
        one, two = np.zeros(1, data_type.storage), np.zeros(2, data_type.storage)
        return LatentsRequest(two, one, one, data_type, np.ones(1, np.int64), np.full(1, 2), 1)

    def launch_key(self, request: LatentsRequest) -> Hashable:
        return request.unit

    def cells(self, request: LatentsRequest) -> int:
        return int(request.tokens @ request.frames)

    def batch(self, requests: Sequence[LatentsRequest]) -> LatentBatch:
        tokens = concatenated([request.tokens for request in requests])
        frames = concatenated([request.frames for request in requests])
        channels = np.repeat([request.channels for request in requests], [len(request) for request in requests])

        def rows(name: str, sizes: Int64Array) -> Rows:
            buffers, sources, offsets = located([getattr(request, name) for request in requests], sizes)
            return Rows(buffers, offsets, sources)

        means: Any = tokens * channels
        log_sigmas = None if requests[0].unit else rows("log_sigmas", means)
        dtype = DTYPES[requests[0].data_type]
        z = rows("latents", frames * channels)
        return LatentBatch(z, rows("means", means), log_sigmas, dtype, tokens, frames, channels)

    def reason(self, request: LatentsRequest, item: int, status: Status) -> str:
        return latents.reason(status, int(request.tokens[item]), int(request.frames[item]), request.channels)
