"""What sums over all paths of a `CtcBatch` find. Items without targets are good ones here."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class CtcPosteriors:
    """Posteriors of a `CtcBatch`. What belongs to a failed item is zero, its score NaN.

    Attributes:
        posteriors: of the accumulator's type, the items' [T, 2L + 1] end to end: the probability that a path is in the
            state in the frame; even states are blanks, state 2i + 1 is label i.
        scores: float64 [B], log-likelihood: the log of the sum over all paths.
        statuses: int32 [B], `Status` of each item.
        kernel_ns: time in the kernels, copies excluded.
    """

    posteriors: npt.NDArray[np.floating]
    scores: npt.NDArray[np.float64]
    statuses: npt.NDArray[np.int32]
    kernel_ns: int


@dataclass(frozen=True, slots=True)
class CtcCosts:
    """Negative log-likelihoods of a `CtcBatch` and their gradients.

    Attributes:
        costs: of the accumulator's type [B]: +inf where no path has a finite score, too few frames included; NaN where
            a log-prob that a path can visit is NaN or +inf, for bad targets, and for items without frames or columns.
        gradients: of the accumulator's type, the items' [T, V] end to end: derivative of the cost by each log-prob,
            minus the probability that a path emits the column in the frame. All 0 where the cost is +inf, all NaN where
            it is NaN. None where they were not asked for. That of a wildcard is the derivative by the first largest
            non-blank log-prob where its score is `STAR_MAX`, else by none.
        statuses: int32 [B], `Status` of each item.
        kernel_ns: time in the kernels, copies excluded.
    """

    costs: npt.NDArray[np.floating]
    gradients: npt.NDArray[np.floating] | None
    statuses: npt.NDArray[np.int32]
    kernel_ns: int
