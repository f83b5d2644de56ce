"""Sums over all paths of a CTC lattice in plain loops: the specification in code.

The lattice is that of `reference.forced_align` with log-sum-exp in place of the maximum, and one that needs no label:
with L = 0 all frames are blank. Graves et al. 2006, "Connectionist Temporal Classification", sections 4.1 and 4.2.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from alignd_kernels.ctc import reference
from alignd_kernels.ctc.batch import STAR
from alignd_kernels.ctc.reference import FloatArray
from alignd_kernels.status import Status

Targets = npt.NDArray[np.integer]


def check_targets(targets: Targets, frames: int, vocabulary: int, blank: int) -> Status:
    """As `reference.check_targets`, of which no targets are good ones."""
    if len(targets) > 0 or frames == 0 or vocabulary == 0:
        return reference.check_targets(targets, frames, vocabulary, blank)
    return Status.OK if 0 <= blank < vocabulary else Status.TARGET_OUT_OF_RANGE


def visitable(targets: Targets, frames: int) -> Iterator[tuple[int, int]]:
    """Every (frame, state) that a path can be in, frame by frame."""
    first, last = reference.visiting_times(targets, frames)
    for t in range(frames):
        for s in range(2 * len(targets) + 1):
            if first[s] <= t <= last[s]:
                yield t, s


def _log_sum(terms: list[float]) -> float:
    largest = max(terms, default=-np.inf)
    return largest if largest == -np.inf else largest + float(np.log(sum(np.exp(term - largest) for term in terms)))


def steps_from(targets: Targets, state: int) -> Iterator[int]:
    """The states that a path can be in a frame after `state`."""
    for after in range(state, min(state + 2, 2 * len(targets)) + 1):
        skips = after % 2 == 1 and state % 2 == 1 and targets[after // 2] != targets[state // 2]
        if after < state + 2 or skips:
            yield after


def forward_backward(x: FloatArray, targets: Targets) -> tuple[FloatArray, FloatArray]:
    """Log-sums over the paths from the begin to each cell, with its own emission, and from each cell to the end,
    without.

    Args:
        x: [T, 2L + 1] emissions of the states, finite or −inf wherever a path can be.
        targets: integers [L], for which there are frames enough.

    Returns:
        alpha, beta: float64 [T, 2L + 1], −inf in cells that no path can visit.
    """
    T, states = x.shape
    alpha, beta = np.full((T, states), -np.inf), np.full((T, states), -np.inf)
    cells = list(visitable(targets, T))
    before: dict[tuple[int, int], list[float]] = {}
    for t, s in cells:
        arriving = 0.0 if t == 0 else _log_sum(before.get((t, s), []))
        alpha[t, s] = arriving + float(x[t, s])
        for after in steps_from(targets, s):
            before.setdefault((t + 1, after), []).append(alpha[t, s])
    possible = set(cells)
    for t, s in reversed(cells):
        if t == T - 1:
            beta[t, s] = 0.0
            continue
        onward = [after for after in steps_from(targets, s) if (t + 1, after) in possible]
        beta[t, s] = _log_sum([float(x[t + 1, after]) + beta[t + 1, after] for after in onward])
    return alpha, beta


def posteriors(
    log_probs: FloatArray, targets: Targets, blank: int = 0, star_score: float = 0.0
) -> tuple[Status, FloatArray, float]:
    """The probability that a path is in a state in a frame, if each has the exponential of its score as its weight.

    Args:
        log_probs: [T, V]; rows need not be normalised.
        targets: integers [L], L ≥ 0; `STAR` is the wildcard.
        blank: its column.
        star_score: log-prob of a wildcard's frames; NaN for the frame's largest non-blank log-prob.

    Returns:
        Status; float64 [T, 2L + 1], zeros unless OK; log-likelihood, the log of the sum of all weights, NaN unless OK.
    """
    T, V = log_probs.shape
    none = np.zeros((T, 2 * len(targets) + 1))
    status = check_targets(targets, T, V, blank)
    if status is not Status.OK:
        return status, none, np.nan
    x = reference.emissions(log_probs, targets, blank, star_score).astype(np.float64)
    if any(np.isnan(x[cell]) or x[cell] == np.inf for cell in visitable(targets, T)):
        return Status.NOT_FINITE, none, np.nan
    alpha, beta = forward_backward(x, targets)
    total = _log_sum([float(score) for score in alpha[-1, -2:]])
    if not np.isfinite(total):
        return Status.NO_FINITE_PATH, none, np.nan
    return Status.OK, np.exp(alpha + beta - total), total


def cost(log_probs: FloatArray, targets: Targets, blank: int = 0, star_score: float = 0.0) -> tuple[float, FloatArray]:
    """Negative log-likelihood, and its gradient by the log-probs, float64 [T, V]: minus the posteriors of each column.

    A wildcard's posterior is that of no column if its score is given, else of the first largest non-blank one. Too few
    frames and no path of finite score make the cost +inf and the gradient 0; all else that is wrong makes both NaN.
    """
    status, found, total = posteriors(log_probs, targets, blank, star_score)
    if status in (Status.TOO_FEW_FRAMES, Status.NO_FINITE_PATH):
        return np.inf, np.zeros(log_probs.shape)
    if status is not Status.OK:
        return np.nan, np.full(log_probs.shape, np.nan)
    gradient = np.zeros(log_probs.shape)
    for t in range(len(log_probs)):
        for s in range(found.shape[1]):
            column = int(targets[s // 2]) if s % 2 else blank
            if column == STAR:
                if not np.isnan(star_score) or log_probs.shape[1] == 1:
                    continue
                labels = [v for v in range(log_probs.shape[1]) if v != blank]
                column = max(labels, key=lambda v: log_probs[t, v])
            if found[t, s] > 0:
                gradient[t, column] -= found[t, s]
    return -total, gradient
