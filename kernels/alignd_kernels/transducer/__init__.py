"""Transducer (RNN-T) lattices: best paths, posteriors and losses of given labels through joint log-probabilities."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from alignd_kernels.status import Status
from alignd_kernels.transducer.batch import (
    TransducerBatch,
    TransducerCosts,
    TransducerPosteriors,
    TransducerResult,
    reduced,
)

if TYPE_CHECKING:
    from alignd_kernels.threads import WorkerPool

__all__ = [
    "TransducerBatch",
    "TransducerCosts",
    "TransducerPosteriors",
    "TransducerResult",
    "align",
    "posteriors",
    "reason",
    "reduced",
]


def align(batch: TransducerBatch, device: str = "cpu", pool: "WorkerPool | None" = None) -> TransducerResult:
    """Best path of each item of a ragged batch; items that have none are told by their status, not raised.

    Args:
        batch: arrays in host memory.
        device: "cpu", or a CUDA device ("cuda", "cuda:1"), which needs the extra `alignd-kernels[gpu]`.
        pool: shares a large batch among threads (CPU only); None does all on the calling thread.

    Raises:
        MemoryError: the device cannot hold what the batch needs; smaller batches may still be done.
    """
    if device == "cpu":
        from alignd_kernels.transducer import cpu

        return cpu.align(batch, pool)
    from alignd_kernels.transducer import gpu

    return gpu.align(batch, device)


def posteriors(batch: TransducerBatch, device: str = "cpu", pool: "WorkerPool | None" = None) -> TransducerPosteriors:
    """The probability of each node, given the labels, and the labels' log-likelihood. Arguments as for `align`."""
    if device == "cpu":
        from alignd_kernels.transducer import cpu_sum

        return cpu_sum.posteriors(batch, pool)
    from alignd_kernels.transducer import gpu_sum

    return gpu_sum.posteriors(batch, device)


def reason(
    status: Status | int, frames: int, targets: npt.NDArray[np.integer], vocabulary: int, blank: int, modified: bool
) -> str:
    """One sentence on why an item has no path, and what would help.

    Args:
        status: the item's.
        frames: T.
        targets: integers [U].
        vocabulary: V, columns of its log-probs.
        blank: blank's column.
        modified: the topology.
    """
    U = len(targets)
    size = f"{U} labels, {frames} frames"
    match Status(status):
        case Status.EMPTY:
            return f"empty item ({size}, vocabulary of {vocabulary}): it needs a frame and a column"
        case Status.TOO_FEW_FRAMES:
            return f"too few frames ({frames}) for {U} labels: the modified topology emits at most one in a frame"
        case Status.NOT_FINITE:
            return f"NaN or +inf in a log-prob that a path can take ({size}); -inf is allowed"
        case Status.NO_FINITE_PATH:
            return (
                f"no path has a finite score ({size}): every path meets a log-prob of -inf, "
                "or the sums overflow (float64 holds more)"
            )
        case Status.TARGET_OUT_OF_RANGE:
            if not 0 <= blank < vocabulary:
                return f"blank ({blank}) is not a column of the vocabulary (0 … {vocabulary - 1})"
            wrong = [int(y) for y in targets if not 0 <= y < vocabulary]
            return f"target {wrong[0]} is out of range: the vocabulary has columns 0 … {vocabulary - 1}"
        case Status.TARGET_IS_BLANK:
            return f"a target is the blank ({blank}): give the labels alone, without padding"
        case Status.OUT_OF_MEMORY:
            return f"not enough memory on the device ({size})"
        case Status.OK:
            return "aligned"
        case other:
            return f"{other.name.lower().replace('_', ' ')} ({size})"
