"""Requests with a purpose: small ones by the hundred, and work that keeps a lane of the server busy."""

import numpy as np

from alignd.wire import CtcRequest, DataType, MasRequest

BUSY_FRAMES, BUSY_LABELS = 40_000, 18_000
BUSY_CELLS = BUSY_FRAMES * (2 * BUSY_LABELS + 1)
"""Lattice cells of one busy item: more than the default --max-batch-cells, so that it goes through the heavy lane."""


def busy(items: int = 1, small_items: int = 0) -> CtcRequest:
    """Half a second of work on one core for each item, out of 310 KB; and `small_items` that cost nothing. (Tests need
    seconds of work here: when kernels become faster, items must become longer.)"""
    return _long([BUSY_FRAMES] * items + [1] * small_items, [BUSY_LABELS] * items + [1] * small_items)


def medium() -> CtcRequest:
    """Tens of milliseconds of work, in the same lane as small requests under the default limits."""
    return _long([8_000], [3_600])


def _long(frame_counts: list[int], label_counts: list[int]) -> CtcRequest:
    frames, lengths = np.array(frame_counts, np.int64), np.array(label_counts, np.int64)
    targets = np.tile(np.array([1, 2], np.int32), int(lengths.sum()))[: int(lengths.sum())]
    values = np.zeros(3 * int(frames.sum()), np.float16).view(np.uint16)
    return CtcRequest(values, DataType.FLOAT16, frames, 3, targets, lengths)


def small_mas(rng: np.random.Generator) -> MasRequest:
    """One item of a dozen frames, on a dyadic grid: float32 sums are exact."""
    S = int(rng.integers(1, 6))
    T = int(rng.integers(S, 13))
    values = rng.integers(-64, 64, S * T).astype(np.float32) / 8
    return MasRequest(values, DataType.FLOAT32, np.array([S]), np.array([T]), return_paths=True)


def small_ctc(rng: np.random.Generator) -> CtcRequest:
    """One item of a dozen frames and three labels at most, on a dyadic grid."""
    V, L = 5, int(rng.integers(1, 4))
    T = int(rng.integers(2 * L, 13))
    log_probs = rng.integers(-64, 0, T * V).astype(np.float32) / 8
    targets = rng.integers(1, V, L).astype(np.int32)
    return CtcRequest(log_probs, DataType.FLOAT32, np.array([T]), V, targets, np.array([L]))
