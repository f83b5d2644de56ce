"""Sums over all paths of monotonic alignment search in plain loops: the specification in code.

The lattice is that of `reference.maximum_path` with log-sum-exp in place of the maximum: a path starts in token 0, ends
in the last one and gives every token at least one frame. Badlani et al. 2022, "One TTS Alignment To Rule Them All",
section 2.1, without its blank.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from alignd_kernels.status import Status

FloatArray = npt.NDArray[np.floating]


def visitable(tokens: int, frames: int) -> Iterator[tuple[int, int]]:
    """Every (token, frame) that a path can be in, frame by frame."""
    for t in range(frames):
        for s in range(max(0, tokens - frames + t), min(tokens - 1, t) + 1):
            yield s, t


def check(value: FloatArray) -> Status:
    """What can be said of an item before anything is summed; what stands in cells that no path can visit is ignored."""
    S, T = value.shape
    if S == 0 or T == 0:
        return Status.EMPTY
    if S > T:
        return Status.TOO_FEW_FRAMES
    if any(np.isnan(value[cell]) or value[cell] == np.inf for cell in visitable(S, T)):
        return Status.NOT_FINITE
    return Status.OK


def _log_add(a: float, b: float) -> float:
    largest = max(a, b)
    return largest if largest == -np.inf else largest + np.log(np.exp(a - largest) + np.exp(b - largest))


def forward_backward(value: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Log-sums over the paths from the begin to each cell, with its own score, and from each cell to the end, without.

    Args:
        value: [S, T], for which `check` is OK.

    Returns:
        alpha, beta: float64 [S, T], −inf in cells that no path can visit.
    """
    S, T = value.shape
    alpha, beta = np.full((S, T), -np.inf), np.full((S, T), -np.inf)
    cells = list(visitable(S, T))
    for s, t in cells:
        before = 0.0 if (s, t) == (0, 0) else -np.inf
        if t > 0:
            before = _log_add(alpha[s, t - 1], alpha[s - 1, t - 1] if s > 0 else -np.inf)
        alpha[s, t] = before + float(value[s, t])
    beta[S - 1, T - 1] = 0.0
    for s, t in reversed(cells):
        if t < T - 1:
            stay = float(value[s, t + 1]) + beta[s, t + 1] if beta[s, t + 1] > -np.inf else -np.inf
            move = -np.inf
            if s < S - 1 and beta[s + 1, t + 1] > -np.inf:
                move = float(value[s + 1, t + 1]) + beta[s + 1, t + 1]
            beta[s, t] = _log_add(stay, move)
    return alpha, beta


def posteriors(value: FloatArray) -> tuple[Status, FloatArray, float]:
    """The probability that a path is on token s in frame t, if each has the exponential of its score as its weight.

    Args:
        value: [S, T] scores.

    Returns:
        Status; float64 [S, T], zeros unless OK; log-likelihood, the log of the sum of all weights, NaN unless OK.
    """
    status = check(value)
    if status is not Status.OK:
        return status, np.zeros(value.shape), np.nan
    alpha, beta = forward_backward(value)
    total = float(alpha[-1, -1])
    if not np.isfinite(total):
        return Status.NO_FINITE_PATH, np.zeros(value.shape), np.nan
    return Status.OK, np.exp(alpha + beta - total), total


def cost(value: FloatArray) -> tuple[float, FloatArray]:
    """Negative log-likelihood, and its gradient by the scores, float64 [S, T]: minus the posteriors.

    NaN or +inf in a cell that a path can visit makes both NaN, as an empty item does; where there is no path of finite
    score, more tokens than frames included, the cost is +inf and the gradient 0.
    """
    status, found, total = posteriors(value)
    if status in (Status.EMPTY, Status.NOT_FINITE):
        return np.nan, np.full(value.shape, np.nan)
    return (-total, -found) if status is Status.OK else (np.inf, np.zeros(value.shape))
