"""The reply of a sum over all paths: the same for every family."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alignd.wire.arrays import Int64Array
from alignd.wire.ragged import Column
from alignd.wire.rpc import UNTIMED, ItemStatus, Timing


@dataclass(slots=True)
class PosteriorsReply:
    """Probabilities of the nodes of B lattices.

    Attributes:
        statuses: one per item; outputs of those that failed are zeros, their score NaN.
        posteriors: float32, the items' nodes end to end.
        scores: float64 [B], log-likelihoods.
    """

    statuses: tuple[ItemStatus, ...]
    posteriors: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float64]
    timing: Timing = UNTIMED


def posteriors(nodes: Callable[[Any], Int64Array]) -> tuple[Column]:
    """The outputs, for lattices of so many nodes."""
    return (Column("posteriors", nodes, np.float32),)
