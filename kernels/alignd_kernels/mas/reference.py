"""Monotonic alignment search in plain loops: the specification in code.

Kim et al. 2020, "Glow-TTS: A Generative Flow for Text-to-Speech via Monotonic Alignment Search", algorithm 1.
"""

import numpy as np
import numpy.typing as npt

from alignd_kernels.status import Status

FloatArray = npt.NDArray[np.floating]


def maximum_path(
    value: FloatArray, accumulator: type[np.floating] = np.float64
) -> tuple[Status, npt.NDArray[np.int32], float]:
    """The best path that starts in token 0, ends in the last one and gives every token at least one frame.

    On a tie the path stays on its token (going backwards), as Glow-TTS and super-monotonic-align do.

    Args:
        value: [S, T] scores of frame t under token s.
        accumulator: type in which the recurrence is summed.

    Returns:
        Status; durations int32 [S], zeros unless OK; the path's own sum in float64, rounded once to `accumulator`, NaN
        unless OK.
    """
    S, T = value.shape
    durations = np.zeros(S, np.int32)
    if S == 0 or T == 0:
        return Status.EMPTY, durations, np.nan
    if S > T:
        return Status.TOO_FEW_FRAMES, durations, np.nan
    V = np.full((S, T), -np.inf, accumulator)
    for t in range(T):
        for s in range(max(0, S - T + t), min(S - 1, t) + 1):
            x = accumulator(value[s, t])
            if np.isnan(x) or x == np.inf:
                return Status.NOT_FINITE, durations, np.nan
            if t == 0:
                V[s, t] = x
                continue
            stay = V[s, t - 1]
            move = V[s - 1, t - 1] if s > 0 else accumulator(-np.inf)
            V[s, t] = x + max(stay, move)
    if not np.isfinite(V[S - 1, T - 1]):
        return Status.NO_FINITE_PATH, durations, np.nan
    s = S - 1
    path = np.zeros(T, np.int64)
    for t in range(T - 1, -1, -1):
        path[t] = s
        durations[s] += 1
        if t > 0 and s > 0 and V[s, t - 1] < V[s - 1, t - 1]:
            s -= 1
    score = 0.0
    for t in range(T):
        score += float(value[path[t], t])
    return Status.OK, durations, float(accumulator(score))
