"""What sums over all paths of a `MasBatch` find."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class MasPosteriors:
    """Sums over all paths of a `MasBatch`. What belongs to a failed item is zero, its score NaN.

    Attributes:
        posteriors: of the accumulator's type, the items' [S, T] end to end ([T, S] where the batch is `frames_first`):
            the probability that a path is on the token in the frame.
        scores: float64 [B], log-likelihood: the log of the sum over all paths.
        statuses: int32 [B], `Status` of each item.
        kernel_ns: time in the kernels, copies excluded.
    """

    posteriors: npt.NDArray[np.floating]
    scores: npt.NDArray[np.float64]
    statuses: npt.NDArray[np.int32]
    kernel_ns: int


@dataclass(frozen=True, slots=True)
class MasCosts:
    """Negative log-likelihoods of a `MasBatch` and their gradients.

    Attributes:
        costs: of the accumulator's type [B]: +inf where no path has a finite score, more tokens than frames included;
            NaN where a score that a path can visit is NaN or +inf, and for empty items.
        gradients: of the accumulator's type, the items' [S, T] end to end ([T, S] where the batch is `frames_first`):
            derivative of the cost by each score, 0 in cells that no path can visit. All 0 where the cost is +inf, all
            NaN where it is NaN. None where they were not asked for.
        statuses: int32 [B], `Status` of each item.
        kernel_ns: time in the kernels, copies excluded.
    """

    costs: npt.NDArray[np.floating]
    gradients: npt.NDArray[np.floating] | None
    statuses: npt.NDArray[np.int32]
    kernel_ns: int
