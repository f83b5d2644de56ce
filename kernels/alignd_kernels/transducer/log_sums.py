# mypy: allow-untyped-defs
"""Sums over a transducer lattice in float64 logarithms, as the reference has them: for items whose log-probs are so
large that `scaled` does not hold them (finite masks of −10⁹ that every path meets, unnormalised rows of 10³⁰)."""

import math

import numpy as np

from alignd_kernels.compile_cache import kernel, part
from alignd_kernels.numba_helpers import array_at, widen


@part
def log_add(a, b):
    largest = max(a, b)
    return largest if largest == -np.inf else largest + math.log(math.exp(a - largest) + math.exp(b - largest))


@part
def can_be(t, u, T, U, modified):
    """Whether a path can be in node (t, u), for 0 ≤ u ≤ U."""
    return U - (T - t) <= u <= t if modified else t < T or u == U


@kernel
def log_sums(
    model, address, T, U, frame_pitch, node_pitch, V, labels, blank, modified, label_factor, columns, alpha, beta, found
):
    """Sums over the paths from the begin to each node in `alpha` and to the end in `beta`, and what is wanted of them.

    Args:
        model: tells the log-probs' type.
        columns: 2 for the arcs' gradients, labels' times `label_factor`; 1 for the nodes' probabilities; 0 for neither.
        alpha, beta: float64 [(T + 1) · (U + 1)].
        found: [T · (U + 1) · columns].
    """
    values = array_at(address, (T - 1) * frame_pitch + U * node_pitch + V, model)
    W, after = U + 1, 1 if modified else 0
    alpha[:] = -np.inf
    beta[:] = -np.inf
    alpha[0] = beta[T * W + U] = 0.0
    for t in range(T):
        for u in range(W):
            here, node = t * W + u, t * frame_pitch + u * node_pitch
            if not can_be(t, u, T, U, modified):
                continue
            if can_be(t + 1, u, T, U, modified):
                down = here + W
                alpha[down] = log_add(alpha[down], alpha[here] + np.float64(widen(values[node + blank])))
            if u < U and can_be(t + after, u + 1, T, U, modified):
                right = here + after * W + 1
                alpha[right] = log_add(alpha[right], alpha[here] + np.float64(widen(values[node + labels[u]])))
    # The sum from the end, not alpha's: which of them is meant matters where they overflow.
    for t in range(T - 1, -1, -1):
        for u in range(U, -1, -1):
            here, node = t * W + u, t * frame_pitch + u * node_pitch
            if not can_be(t, u, T, U, modified):
                continue
            if can_be(t + 1, u, T, U, modified):
                beta[here] = log_add(beta[here], np.float64(widen(values[node + blank])) + beta[here + W])
            if u < U and can_be(t + after, u + 1, T, U, modified):
                by_label = np.float64(widen(values[node + labels[u]])) + beta[here + after * W + 1]
                beta[here] = log_add(beta[here], by_label)
    if columns == 0 or not np.isfinite(beta[0]):
        return
    for t in range(T):
        for u in range(W):
            here, node = t * W + u, t * frame_pitch + u * node_pitch
            if not can_be(t, u, T, U, modified):
                continue
            if columns == 1:
                found[here] = math.exp(min(alpha[here] + beta[here] - beta[0], 0.0))
                continue
            if can_be(t + 1, u, T, U, modified):
                blank_score = np.float64(widen(values[node + blank]))
                found[2 * here] = -math.exp(min(alpha[here] + blank_score + beta[here + W] - beta[0], 0.0))
            if u < U and can_be(t + after, u + 1, T, U, modified):
                label_score = np.float64(widen(values[node + labels[u]]))
                taken = math.exp(min(alpha[here] + label_score + beta[here + after * W + 1] - beta[0], 0.0))
                found[2 * here + 1] = -taken * label_factor
