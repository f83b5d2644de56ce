"""Requests with a purpose: small ones by the hundred, and work that keeps a lane of the server busy."""

import numpy as np

from alignd.wire import CtcRequest, DataType, MasRequest

HELD, PAUSED = -0.015625, -0.03125
"""Scores of wildcards, by which `gated_server` knows what to be busy with until its gate opens, or for a moment."""

LONG_FRAMES, LONG_LABELS = 16_000, 7_000
"""Of an item with more lattice cells than the default --max-batch-cells: it goes through the heavy lane."""


def held(small_items: int = 0) -> CtcRequest:
    """One long item, and `small_items` that cost nothing, that keep a lane of a `GatedServer` busy."""
    return _ctc([LONG_FRAMES] + [1] * small_items, [LONG_LABELS] + [1] * small_items, HELD)


def medium() -> CtcRequest:
    """A moment's work for a `GatedServer`, in the same lane as small requests under the default limits."""
    return _ctc([20], [10], PAUSED)


def _ctc(frame_counts: list[int], label_counts: list[int], star_score: float) -> CtcRequest:
    frames, lengths = np.array(frame_counts, np.int64), np.array(label_counts, np.int64)
    targets = np.tile(np.array([1, 2], np.int32), int(lengths.sum()))[: int(lengths.sum())]
    values = np.zeros(3 * int(frames.sum()), np.float16).view(np.uint16)
    return CtcRequest(values, DataType.FLOAT16, frames, 3, targets, lengths, star_score=star_score)


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
