"""The specification of CTC with a frame's states in one NumPy operation: a judge for items too long for plain loops."""

import numpy as np
import numpy.typing as npt

from alignd_kernels.ctc.batch import STAR
from alignd_kernels.ctc.reference import CtcAlignment, check_targets, visiting_times
from alignd_kernels.status import Status


def forced_align(
    log_probs: npt.NDArray[np.floating],
    targets: npt.NDArray[np.integer],
    blank: int,
    star_score: float,
    accumulator: type[np.floating],
) -> CtcAlignment:
    """As `reference.forced_align`, which this is tested against."""
    T, V = log_probs.shape
    L = len(targets)

    def failed(status: Status) -> CtcAlignment:
        return CtcAlignment(status, np.zeros(T, np.int32), np.zeros(L, np.int32), np.zeros(T, np.float32), np.nan)

    status = check_targets(targets, T, V, blank)
    if status is not Status.OK:
        return failed(status)
    first, last = (np.array(times) for times in visiting_times(targets, T))
    labels = np.full(2 * L + 1, blank)
    labels[1::2] = targets
    skips = np.zeros(2 * L + 1, bool)
    skips[3::2] = targets[1:] != targets[:-1]
    others = np.arange(V) != blank
    steps = np.zeros((T, 2 * L + 1), np.uint8)

    def emissions(t: int) -> npt.NDArray[np.floating]:
        star = np.max(log_probs[t, others], initial=-np.inf) if np.isnan(star_score) else star_score
        return np.where(labels == STAR, star, log_probs[t, np.maximum(labels, 0)]).astype(accumulator)

    never = np.array([-np.inf], accumulator)
    scores = np.zeros(0, accumulator)
    for t in range(T):
        x, visited = emissions(t), (first <= t) & (t <= last)
        if np.any(visited & ~(x < np.inf)):
            return failed(Status.NOT_FINITE)
        if t == 0:
            scores = np.where(visited, x, -np.inf)
            continue
        by_one, by_two = np.concatenate([never, scores[:-1]]), np.concatenate([never, never, scores[:-2]])
        moves = by_one > scores
        best = np.where(moves, by_one, scores)
        jumps = skips & (by_two > best)
        steps[t] = np.where(jumps, 2, moves)
        scores = np.where(visited, np.where(jumps, by_two, best) + x, -np.inf)
    state = 2 * L - 1 if scores[2 * L - 1] >= scores[2 * L] else 2 * L
    if not np.isfinite(scores[state]):
        return failed(Status.NO_FINITE_PATH)
    path = np.zeros(T, np.int32)
    total = 0.0
    for t in range(T - 1, -1, -1):
        path[t] = state
        state -= int(steps[t, state])
    on_path = np.array([emissions(t)[state] for t, state in enumerate(path)])
    for x in on_path.tolist():
        total += x
    durations = np.bincount(path[path % 2 == 1] // 2, minlength=L).astype(np.int32)
    return CtcAlignment(Status.OK, path, durations, on_path.astype(np.float32), float(accumulator(total)))
