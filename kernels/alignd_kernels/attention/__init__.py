"""Attention maps: the focus rate of each head, and the alignment of the head that is most focused."""

from typing import TYPE_CHECKING

from alignd_kernels.attention.batch import MODES, AttentionBatch, AttentionResult, Mode, check_mode
from alignd_kernels.status import Status

if TYPE_CHECKING:
    from alignd_kernels.threads import WorkerPool

__all__ = ["MODES", "AttentionBatch", "AttentionResult", "Mode", "align", "reason"]


def align(batch: AttentionBatch, device: str = "cpu", pool: "WorkerPool | None" = None) -> AttentionResult:
    """Head and alignment of each item of a ragged batch; items that have none are told by their status, not raised.

    Args:
        batch: arrays in host memory.
        device: "cpu", or a CUDA device ("cuda", "cuda:1"), which needs the extra `alignd-kernels[gpu]`.
        pool: shares a large batch among threads (CPU only); None does all on the calling thread.

    Raises:
        MemoryError: the scratch that the batch needs cannot be had; smaller batches may still be done.
        ValueError: there is no such mode, or it takes no logarithms.
    """
    check_mode(batch.mode, batch.log)
    if device == "cpu":
        from alignd_kernels.attention import cpu

        return cpu.align(batch, pool)
    from alignd_kernels.attention import gpu

    return gpu.align(batch, device)


def reason(status: Status | int, heads: int, tokens: int, frames: int, mode: Mode) -> str:
    """One sentence on why an item of this shape has no alignment in this mode, and what would help."""
    size = f"{heads} heads, {tokens} tokens, {frames} frames"
    match Status(status):
        case Status.EMPTY:
            return f"empty item ({size}): it needs at least one head, one token and one frame"
        case Status.TOO_FEW_FRAMES:
            return (
                f"more tokens ({tokens}) than frames ({frames}): every token needs at least one frame; "
                'in mode "dtw" tokens may share frames'
            )
        case Status.NOT_FINITE:
            return (
                "NaN or +inf in a head, or with log=True, which takes the logarithm of probabilities itself, a negative"
                f" value that a path can visit ({size}); without log -inf is allowed"
            )
        case Status.NO_FINITE_PATH:
            return (
                f"no path has a finite score ({size}): every path meets a score of -inf, "
                "or the sums overflow (float64 holds more)"
            )
        case Status.MALFORMED:
            return f'a value outside 0 … 1 ({size}): mode "{mode}" reads them as probabilities to stay'
        case Status.OUT_OF_MEMORY:
            return f"not enough memory on the device ({size})"
        case Status.OK:
            return "aligned"
        case other:
            return f"{other.name.lower().replace('_', ' ')} ({size})"
