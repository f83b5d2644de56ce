"""ForcedAlign and CtcPosteriors: CTC forced alignment, and sums over all paths."""

from collections.abc import Sequence
from typing import Final, TypeVar

import numpy as np

from alignd.wire import CTC_POSTERIORS, FORCED_ALIGN, CtcReply, CtcRequest, DataType, PosteriorsReply
from alignd.wire.ctc import CTC_PATHS, CTC_STATES
from alignd_kernels import ctc
from alignd_kernels.ctc.batch import STAR_MAX, CtcBatch
from alignd_kernels.ragged import offsets_of
from alignd_kernels.status import Status
from alignd_server.operations.family import FamilyOperation
from alignd_server.operations.ragged import DTYPES, concatenated, located

Reply = TypeVar("Reply", CtcReply, PosteriorsReply)

FIELDS: Final = {
    Status.EMPTY: "frames",
    Status.TOO_FEW_FRAMES: "frames",
    Status.TARGET_OUT_OF_RANGE: "targets",
    Status.TARGET_IS_BLANK: "targets",
    Status.ADJACENT_STARS: "targets",
}


class _CtcOperation(FamilyOperation[CtcRequest, Reply]):
    """What both do alike. Vocabulary, blank and star are per item: they may differ in a launch."""

    room = "ctc"
    fields = FIELDS

    def example(self, data_type: DataType) -> CtcRequest:
        one = np.ones(1, np.int64)
        return CtcRequest(np.zeros(4, data_type.storage), data_type, 2 * one, 2, np.ones(1, np.int32), one)

    def cells(self, request: CtcRequest) -> int:
        return 2 * int(request.frames @ request.target_lengths) + int(request.frames.sum())

    def batch(self, requests: Sequence[CtcRequest]) -> CtcBatch:
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

    def reason(self, request: CtcRequest, item: int, status: Status) -> str:
        end = int(request.target_lengths[: item + 1].sum())
        targets = request.targets[end - int(request.target_lengths[item]) : end]
        return ctc.reason(status, int(request.frames[item]), targets, request.vocabulary_size, request.blank)


class CtcOperation(_CtcOperation[CtcReply]):
    """Best paths."""

    name = "ctc"
    rpc = FORCED_ALIGN
    ragged = CTC_PATHS


class CtcPosteriorsOperation(_CtcOperation[PosteriorsReply]):
    """Probabilities of the states."""

    name = "ctc_posteriors"
    rpc = CTC_POSTERIORS
    ragged = CTC_STATES
    kernels = "_sum"
    function = "posteriors"
