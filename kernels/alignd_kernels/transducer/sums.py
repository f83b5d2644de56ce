# mypy: allow-untyped-defs
"""Sums over the paths of one transducer lattice: forward, and backward with what is wanted of each node.

Steps n go from diagonal to diagonal, n = t + u, in the modified topology from frame to frame, n = t. In both a node
(n, u) is reached from (n − 1, u) by a blank and from (n − 1, u − 1) by a label, so that one recurrence serves both, and
all nodes of a step are independent of each other: its loop is compiled to vectors. The arcs are brought into that order
first. A step's nodes that paths can be in are lo … hi, and an impossible one stands before and after them, so that the
loops need no conditions.
"""

import math

import numpy as np

from alignd_kernels.compile_cache import part
from alignd_kernels.numba_helpers import array_at, widen
from alignd_kernels.transducer.scaled import (
    LARGEST,
    NOTHING,
    added,
    bits_of,
    distinct,
    exp_parts,
    exponent_like,
    float_of,
    power,
)


@part
def steps_of(T, U, modified):
    """Steps from the begin to the end, and how many of them a node's label count u may come after step u."""
    return (T, T - U) if modified else (T + U, T - 1)


@part
def first_node(n, U, slack):
    """lo of step n; its hi is min(n, U)."""
    return min(U, max(0, n - slack))


@part
def lay_out(U, N, slack, base):
    """Fill `base`, int64 [N + 1]: node (n, u) is kept at base[n] + u. Element 0 and what is between steps are pads."""
    at = 1
    for n in range(N + 1):
        lo, hi = first_node(n, U, slack), min(n, U)
        base[n] = at - lo
        at += hi - lo + 2


@part
def gather(values, T, U, frame_pitch, node_pitch, labels, blank, modified, base, blanks, after):
    """Fill `blanks` and `after`, the log-probs of the arcs by blank and by label, where `lay_out` says; −inf for those
    that no path can take."""
    N, slack = steps_of(T, U, modified)
    skew = 0 if modified else 1
    for t in range(T):
        lo, hi = (first_node(t, U, slack), min(t, U)) if modified else (0, U)
        for u in range(lo, min(hi + 1, U)):
            node, at = t * frame_pitch + u * node_pitch, base[t + u * skew] + u
            blanks[at] = widen(values[node + blank])
            after[at] = widen(values[node + labels[u]])
        if hi == U:
            blanks[base[t + U * skew] + U] = widen(values[t * frame_pitch + U * node_pitch + blank])
    nothing = -blanks.dtype.type(np.inf)
    for n in range(N + 1):
        lo, hi = first_node(n, U, slack), min(n, U)
        blanks[base[n] + lo - 1] = after[base[n] + lo - 1] = nothing
        if hi == U:
            after[base[n] + U] = nothing
        if n == N or lo < first_node(n + 1, U, slack):
            blanks[base[n] + lo] = nothing
    blanks[base[N] + U + 1] = after[base[N] + U + 1] = nothing


@part
def to_scaled(m, e):
    """Logarithms `m` to numbers m · 2ᵉ, in place; what is not within ± `LARGEST` is taken for impossible.

    Returns:
        whether NaN or +inf is among them; whether a finite one above `LARGEST` is; the least magnitude of the finite
        ones below −`LARGEST`, +inf if there are none; the largest exponent, at least 0.
    """
    distinct()
    kind = m.dtype.type
    bad, high, most, least = 0, 0, exponent_like(0, kind(0)), bits_of(kind(np.inf))
    nothing, largest, infinite = exponent_like(NOTHING, kind(0)), kind(LARGEST), kind(np.inf)
    for i in range(len(m)):
        x = m[i]
        usual = abs(x) <= largest
        bad |= not x < infinite
        high |= x > largest
        magnitude = bits_of(-x) if x < -largest else bits_of(infinite)
        least = magnitude if magnitude < least else least
        m[i], exponent = exp_parts(x if usual else kind(0))
        e[i] = exponent if usual else nothing
        most = exponent if exponent > most else most
    return bad != 0, high != 0, float_of(least), most


@part(inline=True)
def row(array, at, count):
    """`count` elements of `array` from `at` on, for less than what a slice costs."""
    return array_at(array.ctypes.data + at * array.itemsize, count, array)


@part
def forward_step(stay_m, stay_e, move_m, move_e, blank_m, blank_e, label_m, label_e, m, e):
    """One step's sums of what comes by blanks from nodes of the same u and by labels from those of u − 1."""
    distinct()
    for i in range(len(m)):
        one, other = exponent_like(stay_e[i] + blank_e[i], m[i]), exponent_like(move_e[i] + label_e[i], m[i])
        m[i], e[i] = added(stay_m[i] * blank_m[i], one, move_m[i] * label_m[i], other)


@part
def forward(U, N, slack, base, kept, blank_m, blank_e, label_m, label_e, m, e):
    """Fill `m` and `e` with the sums over the paths to each node, laid out as the arcs are; if not `kept`, with those
    of two steps, in two rows of U + 3.

    Returns:
        where the end's is.
    """
    m[0] = m[1] = m[2] = 1
    e[0] = e[2] = NOTHING
    e[1] = 0
    before = 1
    for n in range(N):
        lo, hi = first_node(n + 1, U, slack), min(n + 1, U)
        here = base[n + 1] if kept else (n + 1) % 2 * (U + 3) + 1
        count = hi - lo + 1
        forward_step(
            row(m, before + lo, count), row(e, before + lo, count),
            row(m, before + lo - 1, count), row(e, before + lo - 1, count),
            row(blank_m, base[n] + lo, count), row(blank_e, base[n] + lo, count),
            row(label_m, base[n] + lo - 1, count), row(label_e, base[n] + lo - 1, count),
            row(m, here + lo, count), row(e, here + lo, count),
        )  # fmt: skip
        m[here + lo - 1] = m[here + hi + 1] = 1
        e[here + lo - 1] = e[here + hi + 1] = NOTHING
        before = here
    return before + U


@part
def backward_step(
    stay_m, stay_e, move_m, move_e, blank_m, blank_e, label_m, label_e, m, e, alpha_m, alpha_e,
    total_e, by_blank, by_label,
):  # fmt: skip
    """One step's sums `m`, `e` over the paths to the end, and in place of the arcs' factors their gradients: the share
    of the paths that take an arc, times `by_blank` or `by_label`, which hold the total's mantissa."""
    distinct()
    for i in range(len(m)):
        blank, label = stay_m[i] * blank_m[i], move_m[i] * label_m[i]
        one, other = exponent_like(stay_e[i] + blank_e[i], m[i]), exponent_like(move_e[i] + label_e[i], m[i])
        m[i], e[i] = added(blank, one, label, other)
        ahead = exponent_like(alpha_e[i] - total_e, m[i])
        blank_m[i] = alpha_m[i] * blank * by_blank * power(exponent_like(ahead + one, m[i]))
        label_m[i] = alpha_m[i] * label * by_label * power(exponent_like(ahead + other, m[i]))


@part
def occupation_step(m, e, alpha_m, alpha_e, total_e, factor, found):
    """Fill `found` with the share of the paths that are in each of a step's nodes."""
    distinct()
    for i in range(len(m)):
        ahead = exponent_like(alpha_e[i] - total_e, m[i])
        found[i] = alpha_m[i] * m[i] * factor * power(exponent_like(ahead + e[i], m[i]))


@part
def backward(
    U, N, slack, base, blank_m, blank_e, label_m, label_e, alpha_m, alpha_e, m, e, total_m, total_e, by_label, nodes
):
    """From the end to the begin, after `forward` with all steps kept.

    In place of `blank_m` and `label_m` come the gradients of the cost by the arcs, with labels' times `by_label`; with
    `nodes`, in place of `blank_m` the probabilities of the nodes.

    Args:
        m, e: room for two steps, two rows of U + 3.
        total_m, total_e: the end's sum.
    """
    kind = m.dtype.type
    after = N % 2 * (U + 3) + 1
    m[after + U - 1] = m[after + U] = m[after + U + 1] = 1
    e[after + U - 1] = e[after + U + 1] = NOTHING
    e[after + U] = 0
    by_blank, by_label = kind(-1 / total_m), kind(-by_label / total_m)
    for step in range(N):
        n = N - 1 - step
        lo, hi = first_node(n, U, slack), min(n, U)
        here, at, count = n % 2 * (U + 3) + 1, base[n] + lo, hi - lo + 1
        backward_step(
            row(m, after + lo, count), row(e, after + lo, count),
            row(m, after + lo + 1, count), row(e, after + lo + 1, count),
            row(blank_m, at, count), row(blank_e, at, count), row(label_m, at, count), row(label_e, at, count),
            row(m, here + lo, count), row(e, here + lo, count),
            row(alpha_m, at, count), row(alpha_e, at, count), total_e, by_blank, by_label,
        )  # fmt: skip
        if nodes:
            occupation_step(
                row(m, here + lo, count), row(e, here + lo, count), row(alpha_m, at, count), row(alpha_e, at, count),
                total_e, -by_blank, row(blank_m, at, count),
            )  # fmt: skip
        m[here + lo - 1] = m[here + hi + 1] = 1
        e[here + lo - 1] = e[here + hi + 1] = NOTHING
        after = here


@part
def log_of(m, e):
    """The logarithm of m · 2ᵉ, float64."""
    return np.float64(e) * math.log(2.0) + math.log(np.float64(m))


@part
def deliver(T, U, modified, base, blank_m, label_m, columns, found):
    """The gradients [T, U + 1, 2], or with one column the nodes' probabilities [T, U + 1], from the steps' order."""
    _, slack = steps_of(T, U, modified)
    skew = 0 if modified else 1
    for t in range(T):
        own = found[t * (U + 1) * columns : (t + 1) * (U + 1) * columns]
        lo, hi = (first_node(t, U, slack), min(t, U)) if modified else (0, U)
        if modified:
            for i in range(len(own)):
                own[i] = 0
        for u in range(lo, hi + 1):
            at = base[t + u * skew] + u
            own[u * columns] = blank_m[at]
            if columns == 2:
                own[2 * u + 1] = label_m[at]
