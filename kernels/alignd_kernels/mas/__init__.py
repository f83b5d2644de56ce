"""Monotonic alignment search: the best path in which every token has at least one frame, in order."""

from dataclasses import replace
from typing import TYPE_CHECKING

from alignd_kernels.mas.batch import MasBatch, MasResult, paths_of
from alignd_kernels.status import Status

if TYPE_CHECKING:
    from alignd_kernels.threads import WorkerPool

__all__ = ["MasBatch", "MasResult", "align", "reason"]


def align(batch: MasBatch, device: str = "cpu", pool: "WorkerPool | None" = None, *, paths: bool = False) -> MasResult:
    """Best path of each item of a ragged batch; items that have none are told by their status, not raised.

    Args:
        batch: arrays in host memory.
        device: "cpu", or a CUDA device ("cuda", "cuda:1"), which needs the extra `alignd-kernels[gpu]`.
        pool: shares a large batch among threads (CPU only); None does all on the calling thread.
        paths: whether the token of each frame is wanted too, beside the durations.

    Raises:
        MemoryError: the device cannot hold what the batch needs; smaller batches may still be done.
    """
    if device == "cpu":
        from alignd_kernels.mas import cpu

        return cpu.align(batch, pool, paths=paths)
    from alignd_kernels.mas import gpu

    result = gpu.align(batch, device)
    return replace(result, paths=paths_of(batch, result)) if paths else result


def reason(status: Status | int, tokens: int, frames: int) -> str:
    """One sentence on why an item with this many tokens and frames has no path, and what would help."""
    match Status(status):
        case Status.EMPTY:
            return f"empty item ({tokens} tokens, {frames} frames): it needs at least one token and one frame"
        case Status.TOO_FEW_FRAMES:
            return (
                f"more tokens ({tokens}) than frames ({frames}): every token needs at least one frame; "
                "scores are [tokens, frames]"
            )
        case Status.NOT_FINITE:
            return f"NaN or +inf in a score that a path can visit ({tokens} tokens, {frames} frames); -inf is allowed"
        case Status.NO_FINITE_PATH:
            return (
                f"no path has a finite score ({tokens} tokens, {frames} frames): every path meets a score of -inf, "
                "or the sums overflow (float64 holds more)"
            )
        case Status.OUT_OF_MEMORY:
            return f"not enough memory on the device for {tokens} tokens × {frames} frames"
        case Status.OK:
            return "aligned"
        case other:
            return f"{other.name.lower().replace('_', ' ')} ({tokens} tokens, {frames} frames)"
