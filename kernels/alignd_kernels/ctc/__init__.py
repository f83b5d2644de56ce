"""CTC forced alignment: the best path of given labels through frame-wise log-probabilities."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from alignd_kernels.ctc.batch import STAR, STAR_MAX, CtcBatch, CtcResult
from alignd_kernels.status import Status

if TYPE_CHECKING:
    from alignd_kernels.threads import WorkerPool

__all__ = ["STAR", "STAR_MAX", "CtcBatch", "CtcResult", "align", "reason"]


def align(batch: CtcBatch, device: str = "cpu", pool: "WorkerPool | None" = None) -> CtcResult:
    """Best path of each item of a ragged batch; items that have none are told by their status, not raised.

    Args:
        batch: arrays in host memory.
        device: "cpu", or a CUDA device ("cuda", "cuda:1"), which needs the extra `alignd-kernels[gpu]`.
        pool: shares a large batch among threads (CPU only); None does all on the calling thread.

    Raises:
        MemoryError: the device cannot hold what the batch needs; smaller batches may still be done.
    """
    if device == "cpu":
        from alignd_kernels.ctc import cpu

        return cpu.align(batch, pool)
    from alignd_kernels.ctc import gpu

    return gpu.align(batch, device)


def reason(status: Status | int, frames: int, targets: npt.NDArray[np.integer], vocabulary: int, blank: int = 0) -> str:
    """One sentence on why an item has no path, and what would help.

    Args:
        status: the item's.
        frames: T.
        targets: integers [L].
        vocabulary: V, columns of its log-probs.
        blank: blank's column.
    """
    L = len(targets)
    size = f"{L} targets, {frames} frames"
    match Status(status):
        case Status.EMPTY:
            return f"empty item ({size}, vocabulary of {vocabulary}): it needs a target, a frame and a column"
        case Status.TOO_FEW_FRAMES:
            repeats = int(np.count_nonzero(targets[1:] == targets[:-1]))
            return (
                f"too few frames ({frames}) for {L} targets with {repeats} repeats: at least {L + repeats} are needed, "
                "one for each target and one for the blank between equal neighbours"
            )
        case Status.NOT_FINITE:
            return f"NaN or +inf in a log-prob that a path can visit ({size}); -inf is allowed"
        case Status.NO_FINITE_PATH:
            return (
                f"no path has a finite score ({size}): every path meets a log-prob of -inf, "
                "or the sums overflow (float64 holds more)"
            )
        case Status.TARGET_OUT_OF_RANGE:
            if not 0 <= blank < vocabulary:
                return f"blank ({blank}) is not a column of the vocabulary (0 … {vocabulary - 1})"
            wrong = [int(y) for y in targets if y != STAR and not 0 <= y < vocabulary]
            return (
                f"target {wrong[0]} is out of range: the vocabulary has columns 0 … {vocabulary - 1}, and {STAR} is "
                "the wildcard"
            )
        case Status.TARGET_IS_BLANK:
            return (
                f"a target is the blank ({blank}): give the labels alone, without padding; blanks are put between them"
            )
        case Status.ADJACENT_STARS:
            return (
                f"two wildcards (STAR, {STAR}) next to each other: one already stands for any number of frames, and "
                "padding is none"
            )
        case Status.OUT_OF_MEMORY:
            return f"not enough memory on the device ({size})"
        case Status.OK:
            return "aligned"
        case other:
            return f"{other.name.lower().replace('_', ' ')} ({size})"
