"""Masks of padded batches: prefix rectangles [0:tokens, 0:frames], as their lengths."""

from typing import Any

import numpy as np
import numpy.typing as npt

from alignd_kernels.compile_cache import kernel
from alignd_kernels.mas.dense import WORDS
from alignd_kernels.numba_helpers import unlocked
from alignd_kernels.ragged import Int64Array
from alignd_kernels.threads import WorkerPool


def rectangle_lengths(mask: npt.NDArray[Any], pool: WorkerPool) -> tuple[Int64Array, Int64Array]:
    """Tokens and frames of each item, int64 [B] each.

    Args:
        mask: [B, S, T] of any numeric or boolean dtype; what is not zero belongs to the item.
        pool: shares the reading of a large mask.

    Raises:
        ValueError: naming an item whose mask is not a prefix rectangle.
    """
    if mask.dtype.kind == "c" or mask.dtype.itemsize not in WORDS or not mask.dtype.isnative:
        mask = mask != 0
    if not mask.flags.c_contiguous and mask.transpose(0, 2, 1).flags.c_contiguous:
        frames, tokens = rectangle_lengths(mask.transpose(0, 2, 1), pool)  # a transposed rectangle is one
        return tokens, frames
    words = np.ascontiguousarray(mask).view(WORDS[mask.dtype.itemsize])
    # Minus zero is zero, though not all of its bits are.
    ignored = words.dtype.type(1 << (8 * mask.dtype.itemsize - 1)) if mask.dtype.kind == "f" else words.dtype.type(0)
    B, S, T = mask.shape
    tokens, frames = np.zeros(B, np.int64), np.zeros(B, np.int64)
    wrong = np.zeros(B, np.uint8)
    flat = unlocked(words.reshape(-1))

    def work(start: int, stop: int) -> None:
        _measure(flat, ~ignored, S, T, start, stop, tokens, frames, wrong)

    if mask.size:
        pool.run(work, np.full(B, S * T // 4, np.int64))  # reading costs less than a lattice cell
    if wrong.any():
        index = int(np.argmax(wrong))
        raise ValueError(
            f"the mask of item {index} is not a prefix rectangle: it must cover the item's first tokens and first "
            "frames, and nothing else"
        )
    return tokens, frames


def warm_up() -> None:
    """Compile the kernel for masks of any dtype, or load it from the cache."""
    kind: Any
    for kind in WORDS.values():
        _measure(
            np.ones(1, kind), ~kind(0), 1, 1, 0, 1, np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.uint8)
        )


@kernel
def _measure(words, relevant, S, T, start, stop, tokens, frames, wrong):  # type: ignore[no-untyped-def]
    for b in range(start, stop):
        first = b * S * T
        S_b = 0
        while S_b < S and words[first + S_b * T] & relevant:
            S_b += 1
        T_b = 0
        while S_b > 0 and T_b < T and words[first + T_b] & relevant:
            T_b += 1
        tokens[b], frames[b] = S_b, T_b
        missing = 0
        excess = words[first] & relevant & ~relevant  # zero, of the words' type
        for s in range(S):
            inside = T_b if s < S_b else 0
            row = words[first + s * T : first + s * T + inside]
            for t in range(len(row)):
                missing += (row[t] & relevant) == 0
            rest = words[first + s * T + inside : first + (s + 1) * T]
            for t in range(len(rest)):
                excess |= rest[t] & relevant
        wrong[b] = missing != 0 or excess != 0
