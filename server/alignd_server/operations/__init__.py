"""One file per family: what the engine needs to know of it. What stands in `alignments` is served and warmed."""

from typing import Any

from alignd_server.operations.attention import AttentionOperation
from alignd_server.operations.ctc import CtcOperation, CtcPosteriorsOperation
from alignd_server.operations.family import FamilyOperation
from alignd_server.operations.latents import LatentsOperation
from alignd_server.operations.mas import MasOperation
from alignd_server.operations.mas_posteriors import MasPosteriorsOperation
from alignd_server.operations.transducer import TransducerOperation, TransducerPosteriorsOperation

__all__ = ["alignments"]


def alignments() -> list[FamilyOperation[Any, Any]]:
    """All operations on ragged batches."""
    return [
        MasOperation(),
        LatentsOperation(),
        MasPosteriorsOperation(),
        CtcOperation(),
        CtcPosteriorsOperation(),
        TransducerOperation(),
        TransducerPosteriorsOperation(),
        AttentionOperation(),
    ]
