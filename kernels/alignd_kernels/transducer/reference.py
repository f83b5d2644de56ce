"""Transducer lattices in plain loops: the specification in code.

Graves 2012, "Sequence Transduction with Recurrent Neural Networks"; the modified topology (one symbol a frame):
Tripathi et al. 2019, "Monotonic Recurrent Neural Network Transducer"; FastEmit: Yu et al. 2021, "FastEmit: Low-latency
Streaming ASR with Sequence-level Emission Regularization".

A node (t, u) stands before frame t with u labels emitted. Its blank arc goes to (t + 1, u); its label arc to
(t, u + 1), in the modified topology to (t + 1, u + 1). A path begins in (0, 0) and ends, after the last frame's blank
arc (modified: after the last frame's arc, of either kind), in (T, U).
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from alignd_kernels.status import Status

FloatArray = npt.NDArray[np.floating]
Node = tuple[int, int]


def check_labels(
    labels: npt.NDArray[np.integer], frames: int, vocabulary: int, blank: int, modified: bool = False
) -> Status:
    """What can be said of an item before its log-probs are read. Checks apply in this order: the first that fails is
    the item's status."""
    if frames < 1 or vocabulary < 1:
        return Status.EMPTY
    if not 0 <= blank < vocabulary:
        return Status.TARGET_OUT_OF_RANGE
    for y in labels:
        if not 0 <= y < vocabulary:
            return Status.TARGET_OUT_OF_RANGE
        if y == blank:
            return Status.TARGET_IS_BLANK
    return Status.TOO_FEW_FRAMES if modified and len(labels) > frames else Status.OK


def arcs_of(log_probs: FloatArray, labels: npt.NDArray[np.integer], blank: int) -> FloatArray:
    """Joint log-probs [T, U + 1, V] reduced to blank and next label, [T, U + 1, 2]; after the last label −inf."""
    T, nodes, _ = log_probs.shape
    arcs = np.full((T, nodes, 2), -np.inf, log_probs.dtype)
    for u in range(nodes):
        arcs[:, u, 0] = log_probs[:, u, blank]
        if u < nodes - 1:
            arcs[:, u, 1] = log_probs[:, u, labels[u]]
    return arcs


def legal(t: int, u: int, frames: int, labels: int, modified: bool) -> bool:
    """Whether a path can be in node (t, u)."""
    if not (0 <= t <= frames and 0 <= u <= labels):
        return False
    if modified:
        return labels - (frames - t) <= u <= t
    return t < frames or u == labels


def arcs_from(t: int, u: int, frames: int, labels: int, modified: bool) -> Iterator[tuple[int, Node]]:
    """The arcs of node (t, u) that a path can take: 0 for blank, 1 for the label, and where it leads."""
    if t == frames:
        return
    after = [(0, (t + 1, u)), (1, (t + 1 if modified else t, u + 1))]
    for kind, node in after:
        if legal(*node, frames, labels, modified):
            yield kind, node


def check_arcs(arcs: FloatArray, modified: bool) -> Status:
    """NOT_FINITE if an arc that a path can take is NaN or +inf."""
    T, U = len(arcs), arcs.shape[1] - 1
    for t in range(T):
        for u in range(U + 1):
            if not legal(t, u, T, U, modified):
                continue
            for kind, _ in arcs_from(t, u, T, U, modified):
                if np.isnan(arcs[t, u, kind]) or arcs[t, u, kind] == np.inf:
                    return Status.NOT_FINITE
    return Status.OK


def align(
    arcs: FloatArray, modified: bool = False, accumulator: type[np.floating] = np.float64
) -> tuple[Status, npt.NDArray[np.int32], float]:
    """The best path. On a tie it comes by the blank arc, seen from the end.

    Args:
        arcs: [T, U + 1, 2], log-probs of blank and label; T ≥ 1, and U ≤ T in the modified topology.
        modified: the topology.
        accumulator: type in which the recurrence is summed.

    Returns:
        Status; frame in which each label is emitted, int32 [U], zeros unless OK; the path's own sum in float64, rounded
        once to `accumulator`, NaN unless OK.
    """
    T, U = len(arcs), arcs.shape[1] - 1
    frames = np.zeros(U, np.int32)
    if check_arcs(arcs, modified) is not Status.OK:
        return Status.NOT_FINITE, frames, np.nan
    x = arcs.astype(accumulator)
    V = np.full((T + 1, U + 1), -np.inf, accumulator)
    came_by = np.zeros((T + 1, U + 1), np.int64)
    V[0, 0] = 0
    for t in range(T + 1):
        for u in range(U + 1):
            if not legal(t, u, T, U, modified):
                continue
            if t > 0 and legal(t - 1, u, T, U, modified):
                V[t, u] = V[t - 1, u] + x[t - 1, u, 0]
            before = t - 1 if modified else t
            if u > 0 and 0 <= before < T and legal(before, u - 1, T, U, modified):
                by_label = V[before, u - 1] + x[before, u - 1, 1]
                if by_label > V[t, u]:
                    V[t, u], came_by[t, u] = by_label, 1
    if not np.isfinite(V[T, U]):
        return Status.NO_FINITE_PATH, frames, np.nan
    t, u = T, U
    taken = []
    while (t, u) != (0, 0):
        if came_by[t, u]:
            t, u = (t - 1 if modified else t), u - 1
            frames[u] = t
            taken.append(float(arcs[t, u, 1]))
        else:
            t -= 1
            taken.append(float(arcs[t, u, 0]))
    score = 0.0
    for value in reversed(taken):
        score += value
    return Status.OK, frames, float(accumulator(score))


def _log_add(a: float, b: float) -> float:
    largest = max(a, b)
    return largest if largest == -np.inf else largest + np.log(np.exp(a - largest) + np.exp(b - largest))


def forward_backward(arcs: FloatArray, modified: bool = False) -> tuple[FloatArray, FloatArray]:
    """Log-sums over the paths from the begin to each node and from each node to the end, float64 [T + 1, U + 1]."""
    T, U = len(arcs), arcs.shape[1] - 1
    alpha = np.full((T + 1, U + 1), -np.inf)
    beta = np.full((T + 1, U + 1), -np.inf)
    alpha[0, 0] = beta[T, U] = 0.0
    nodes = [(t, u) for t in range(T + 1) for u in range(U + 1) if legal(t, u, T, U, modified)]
    for t, u in nodes:
        for kind, after in arcs_from(t, u, T, U, modified):
            alpha[after] = _log_add(alpha[after], alpha[t, u] + float(arcs[t, u, kind]))
    for t, u in reversed(nodes):
        for kind, after in arcs_from(t, u, T, U, modified):
            beta[t, u] = _log_add(beta[t, u], float(arcs[t, u, kind]) + beta[after])
    return alpha, beta


def posteriors(arcs: FloatArray, modified: bool = False) -> tuple[Status, FloatArray, float]:
    """The probability that a path visits each node, given the labels.

    Returns:
        Status; float64 [T, U + 1], zeros unless OK; log-likelihood of the labels, NaN unless OK.
    """
    T, U = len(arcs), arcs.shape[1] - 1
    nothing = np.zeros((T, U + 1))
    if check_arcs(arcs, modified) is not Status.OK:
        return Status.NOT_FINITE, nothing, np.nan
    alpha, beta = forward_backward(arcs, modified)
    total = float(beta[0, 0])
    if not np.isfinite(total):
        return Status.NO_FINITE_PATH, nothing, np.nan
    # Never above 1, whatever sums of 10³⁰ round to.
    return Status.OK, np.exp(np.minimum(alpha[:T] + beta[:T] - total, 0.0)), total


def cost(arcs: FloatArray, modified: bool = False, fastemit_lambda: float = 0.0) -> tuple[float, FloatArray]:
    """Negative log-likelihood of the labels, and its gradient by the arcs, float64 [T, U + 1, 2].

    FastEmit multiplies the gradients of labels by 1 + `fastemit_lambda` and leaves the cost. NaN or +inf in an arc that
    a path can take make the cost and all gradients NaN; a cost of +inf has gradients of 0.
    """
    T, U = len(arcs), arcs.shape[1] - 1
    gradient = np.zeros((T, U + 1, 2))
    if check_arcs(arcs, modified) is not Status.OK:
        return np.nan, np.full_like(gradient, np.nan)
    alpha, beta = forward_backward(arcs, modified)
    total = float(beta[0, 0])
    if not np.isfinite(total):
        return np.inf, gradient
    for t in range(T):
        for u in range(U + 1):
            if not legal(t, u, T, U, modified):
                continue
            for kind, after in arcs_from(t, u, T, U, modified):
                occupation = np.exp(min(alpha[t, u] + float(arcs[t, u, kind]) + beta[after] - total, 0.0))
                gradient[t, u, kind] = -occupation * (1.0 + fastemit_lambda if kind else 1.0)
    return -total, gradient
