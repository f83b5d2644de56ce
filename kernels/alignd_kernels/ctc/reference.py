"""CTC forced alignment in plain loops: the specification in code.

Graves et al. 2006, "Connectionist Temporal Classification"; Kürzinger et al. 2020, "CTC-Segmentation of Large Corpora".
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alignd_kernels.ctc.batch import STAR
from alignd_kernels.status import Status

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class CtcAlignment:
    """One item's outcome: `path` int32 [T] states, `durations` int32 [L], `frame_scores` float32 [T], `score`."""

    status: Status
    path: npt.NDArray[np.int32]
    durations: npt.NDArray[np.int32]
    frame_scores: npt.NDArray[np.float32]
    score: float


def check_targets(targets: npt.NDArray[np.integer], frames: int, vocabulary: int, blank: int) -> Status:
    """What can be said of an item before its emissions are read. Checks apply in this order: the first that fails is
    the item's status."""
    L = len(targets)
    if L == 0 or frames == 0 or vocabulary == 0:
        return Status.EMPTY
    if not 0 <= blank < vocabulary:
        return Status.TARGET_OUT_OF_RANGE
    repeats = 0
    for i in range(L):
        y = targets[i]
        if y != STAR and not 0 <= y < vocabulary:
            return Status.TARGET_OUT_OF_RANGE
        if y == blank:
            return Status.TARGET_IS_BLANK
        if i > 0 and y == targets[i - 1]:
            if y == STAR:
                return Status.ADJACENT_STARS
            repeats += 1
    return Status.TOO_FEW_FRAMES if frames < L + repeats else Status.OK


def visiting_times(targets: npt.NDArray[np.integer], frames: int) -> tuple[list[int], list[int]]:
    """First and last frame at which a legal path can be in each of the 2L + 1 states. Since every state may stay, a
    state lies on a legal path at exactly the frames from its first to its last."""
    L = len(targets)
    first = [0] * (2 * L + 1)
    last = [frames - 1] * (2 * L + 1)
    for i in range(L):
        skip = i == 0 or targets[i] != targets[i - 1]
        before = first[2 * i - 1] if i > 0 else -1
        first[2 * i + 1] = before + (1 if skip else 2)
        first[2 * i + 2] = first[2 * i + 1] + 1
    for i in range(L - 1, -1, -1):
        skip = i == L - 1 or targets[i] != targets[i + 1]
        after = last[2 * i + 3] if i < L - 1 else frames
        last[2 * i + 1] = after - (1 if skip else 2)
        last[2 * i] = last[2 * i + 1] - 1
    return first, last


def emissions(log_probs: FloatArray, targets: npt.NDArray[np.integer], blank: int, star_score: float) -> FloatArray:
    """Log-prob of every state in every frame, [T, 2L + 1]."""
    T, V = log_probs.shape
    L = len(targets)
    x = np.empty((T, 2 * L + 1), log_probs.dtype)
    for t in range(T):
        for s in range(2 * L + 1):
            y = targets[s // 2] if s % 2 else blank
            if y != STAR:
                x[t, s] = log_probs[t, y]
            elif np.isnan(star_score):
                labels = [log_probs[t, v] for v in range(V) if v != blank]
                x[t, s] = np.max(labels, initial=-np.inf)  # NaN if any is
            else:
                x[t, s] = star_score
    return x


def forced_align(
    log_probs: FloatArray,
    targets: npt.NDArray[np.integer],
    blank: int = 0,
    star_score: float = 0.0,
    accumulator: type[np.floating] = np.float64,
) -> CtcAlignment:
    """The best path of `targets` through the CTC lattice.

    Ties prefer to stay, then to advance one state, then two; a final tie ends on the label.

    Args:
        log_probs: [T, V].
        targets: integers [L]; `STAR` is the wildcard.
        blank: its column.
        star_score: log-prob of a wildcard's frames; NaN for the frame's largest non-blank log-prob.
        accumulator: type in which the recurrence is summed.
    """
    T, V = log_probs.shape
    L = len(targets)

    def failed(status: Status) -> CtcAlignment:
        return CtcAlignment(status, np.zeros(T, np.int32), np.zeros(L, np.int32), np.zeros(T, np.float32), np.nan)

    status = check_targets(targets, T, V, blank)
    if status is not Status.OK:
        return failed(status)
    first, last = visiting_times(targets, T)
    x = emissions(log_probs, targets, blank, star_score).astype(accumulator)
    score = np.full((T, 2 * L + 1), -np.inf, accumulator)
    step = np.zeros((T, 2 * L + 1), np.int64)
    for t in range(T):
        for s in range(2 * L + 1):
            if not first[s] <= t <= last[s]:
                continue
            if np.isnan(x[t, s]) or x[t, s] == np.inf:
                return failed(Status.NOT_FINITE)
            if t == 0:
                score[t, s] = x[t, s]
                continue
            best, move = score[t - 1, s], 0
            if s > 0 and score[t - 1, s - 1] > best:
                best, move = score[t - 1, s - 1], 1
            skips = s % 2 == 1 and s > 1 and targets[s // 2] != targets[s // 2 - 1]
            if skips and score[t - 1, s - 2] > best:
                best, move = score[t - 1, s - 2], 2
            score[t, s], step[t, s] = best + x[t, s], move
    state = 2 * L - 1 if score[T - 1, 2 * L - 1] >= score[T - 1, 2 * L] else 2 * L
    if not np.isfinite(score[T - 1, state]):
        return failed(Status.NO_FINITE_PATH)
    path = np.zeros(T, np.int32)
    for t in range(T - 1, -1, -1):
        path[t] = state
        state -= step[t, state]
    durations = np.zeros(L, np.int32)
    total = 0.0
    for t in range(T):
        total += float(x[t, path[t]])
        if path[t] % 2:
            durations[path[t] // 2] += 1
    frame_scores = x[np.arange(T), path].astype(np.float32)
    return CtcAlignment(Status.OK, path, durations, frame_scores, float(accumulator(total)))
