"""Alignment by attention maps in plain loops: the specification in code.

Focus rate and choice of a head: Ren et al. 2019, "FastSpeech: Fast, Robust and Controllable Text to Speech", section
3.3. Dynamic time warping: Sakoe and Chiba 1978; over attention as Whisper's word timing does. Stepwise: He et al. 2019,
"Robust Sequence-to-Sequence Acoustic Modeling with Stepwise Monotonic Attention for Neural TTS".
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from alignd_kernels.attention.batch import Mode, check_mode
from alignd_kernels.mas import reference as mas
from alignd_kernels.status import Status

FloatArray = npt.NDArray[np.floating]


class AttentionAlignment(NamedTuple):
    """What is found in one item: zeros, and a score of NaN, unless the status is OK.

    Attributes:
        status: of the item.
        head: the one that was aligned.
        focus_rates: float32 [H].
        starts: int32 [S], first frame of each token.
        ends: int32 [S], the frame after each token's last one.
        score: the path's own sum in float64, rounded once to the accumulator's type.
    """

    status: Status
    head: int
    focus_rates: npt.NDArray[np.float32]
    starts: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int32]
    score: float


def align(
    attention: FloatArray, mode: Mode = "mas", log: bool = False, accumulator: type[np.floating] = np.float64
) -> AttentionAlignment:
    """Choose a head by its focus rate and align it.

    The item is `NOT_FINITE` if NaN or +inf stands in any cell of any head, whether or not a path could visit it: each
    of them decides on a focus rate. With `log`, so is a negative value in a cell of the chosen head that a legal path
    can visit: in mode "dtw" any cell. -inf is legal, and its focus rate may be -inf.

    Args:
        attention: [H, S, T].
        mode: how the head is aligned.
        log: take the logarithm of the chosen head's values, in float64, rounded once to `accumulator`.
        accumulator: type in which recurrences are summed.

    Raises:
        ValueError: there is no such mode, or it takes no logarithms.
    """
    check_mode(mode, log)
    H, S, T = attention.shape
    if H == 0 or S == 0 or T == 0:
        return failed(Status.EMPTY, H, S)
    if mode == "mas" and S > T:
        return failed(Status.TOO_FEW_FRAMES, H, S)
    for value in attention.reshape(-1):
        if not value < np.inf:
            return failed(Status.NOT_FINITE, H, S)
    rates = focus_rates(attention)
    head = 0
    for h in range(H):
        if rates[h] > rates[head]:
            head = h
    x = attention[head].astype(accumulator)
    if log:
        with np.errstate(divide="ignore", invalid="ignore"):
            x = np.log(x.astype(np.float64)).astype(accumulator)
    search = {"mas": maximum_path, "dtw": warp, "stepwise": walk}[mode]
    status, starts, ends, score = search(x)
    if status is not Status.OK:
        return failed(status, H, S)
    return AttentionAlignment(status, head, rates, starts, ends, float(accumulator(score)))


def failed(status: Status, heads: int, tokens: int) -> AttentionAlignment:
    nothing = np.zeros(tokens, np.int32)
    return AttentionAlignment(status, 0, np.zeros(heads, np.float32), nothing, nothing, np.nan)


def focus_rates(attention: FloatArray) -> npt.NDArray[np.float32]:
    """The mean over frames of the largest value of any token, summed in frame order in float64, rounded once.

    Heads are compared by these rates as rounded, so that the chosen one is the first largest of what is returned.

    Args:
        attention: [H, S, T].

    Returns:
        float32 [H].
    """
    H, S, T = attention.shape
    rates = np.zeros(H, np.float32)
    for h in range(H):
        total = 0.0
        for t in range(T):
            largest = attention[h, 0, t]
            for s in range(1, S):
                largest = max(largest, attention[h, s, t])
            total += float(largest)
        with np.errstate(over="ignore"):
            rates[h] = np.float32(total / T)
    return rates


Spans = tuple[Status, npt.NDArray[np.int32], npt.NDArray[np.int32], float]
"""Status, starts and ends of the tokens, score in float64 before rounding."""


def maximum_path(x: FloatArray) -> Spans:
    """Monotonic alignment search: every token has at least one frame, every frame one token."""
    status, durations, score = mas.maximum_path(x, x.dtype.type)
    ends = np.cumsum(durations, dtype=np.int32)
    return status, ends - durations, ends, score


def warp(x: FloatArray) -> Spans:
    """Dynamic time warping: D[i, j] = x[i, j] + max(D[i-1, j-1], D[i-1, j], D[i, j-1]), from (0, 0) to (S-1, T-1).

    Ties prefer D[i, j-1], then D[i-1, j-1], then D[i-1, j].
    """
    S, T = x.shape
    starts, ends = np.zeros(S, np.int32), np.zeros(S, np.int32)
    for value in x.reshape(-1):
        if not value < np.inf:
            return Status.NOT_FINITE, starts, ends, np.nan
    D = np.full((S, T), -np.inf, x.dtype)
    came_from = np.zeros((S, T, 2), np.int64)
    for i in range(S):
        for j in range(T):
            if i == j == 0:
                D[i, j] = x[i, j]
                continue
            best = D[i, j - 1] if j > 0 else x.dtype.type(-np.inf)
            came_from[i, j] = i, j - 1
            if i > 0 and j > 0 and D[i - 1, j - 1] > best:
                best = D[i - 1, j - 1]
                came_from[i, j] = i - 1, j - 1
            if i > 0 and D[i - 1, j] > best:
                best = D[i - 1, j]
                came_from[i, j] = i - 1, j
            D[i, j] = best + x[i, j]
    if not np.isfinite(D[S - 1, T - 1]):
        return Status.NO_FINITE_PATH, starts, ends, np.nan
    path = [(S - 1, T - 1)]
    while path[-1] != (0, 0):
        i, j = came_from[path[-1]]
        path.append((int(i), int(j)))
    score = 0.0
    for i, j in reversed(path):
        if ends[i] == 0:
            starts[i] = j
        ends[i] = j + 1
        score += float(x[i, j])
    return Status.OK, starts, ends, score


def walk(p: FloatArray) -> Spans:
    """The hard walk of stepwise monotonic attention, from token 0 in frame 0: coming from token j into frame t, stay
    there iff p[j, t] > 0.5, else move to token j + 1. The last token stays, whatever its values are; frame 0 decides
    nothing.

    The score is the sum over frames of log p, or log(1 - p), of what was decided. A value that decides and is outside
    0 … 1 is no probability: such an item is `MALFORMED`.
    """
    S, T = p.shape
    starts, ends = np.full(S, T, np.int32), np.full(S, T, np.int32)
    starts[0] = j = 0
    score = 0.0
    for t in range(1, T):
        if j == S - 1:
            break
        value = float(p[j, t])
        if not 0.0 <= value <= 1.0:
            return Status.MALFORMED, starts, ends, np.nan
        if value > 0.5:
            score += float(np.log(value))
            continue
        score += float(np.log(1.0 - value))
        j += 1
        ends[j - 1] = starts[j] = t
    return Status.OK, starts, ends, score
