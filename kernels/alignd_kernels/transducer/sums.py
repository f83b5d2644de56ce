# mypy: allow-untyped-defs
"""Sums over the paths of one transducer lattice: forward, and backward with what is wanted of each node.

Steps n go from diagonal to diagonal, n = t + u, in the modified topology from frame to frame, n = t. In both a node
(n, u) is reached from (n − 1, u) by a blank and from (n − 1, u − 1) by a label, so that one recurrence serves both, and
all nodes of a step are independent of each other: its loop is compiled to vectors. The arcs are brought into that order
first. A step's nodes that paths can be in are lo … hi, and an impossible one stands before and after them, so that the
loops need no conditions.
"""

import math
from typing import Final

import numpy as np

from alignd_kernels.compile_cache import part
from alignd_kernels.numba_helpers import array_at, widen
from alignd_kernels.sums import distinct
from alignd_kernels.transducer.scaled import added
from alignd_kernels.vector_math import exp_parts, power_of_two

PRECISE: Final = 20_000.0
"""Logarithms up to this magnitude become numbers without loss; in float32 larger ones by their own ulp."""

HEADROOM: Final = 4
"""Powers of two by which a product of a few mantissas may exceed 1."""


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
def to_scaled(m, e, largest):
    """Logarithms `m` to numbers m · 2ᵉ, in place.

    Returns:
        whether NaN or +inf is among them; whether an exponent above `largest` is; whether one above 0 is; whether a
        finite logarithm below −`PRECISE` is.
    """
    distinct()
    bad = beyond = upward = low = 0
    least = -m.dtype.type(PRECISE)
    most, infinite = m.dtype.type(largest), m.dtype.type(np.inf)
    for i in range(len(m)):
        bad |= not m[i] < infinite
        low |= (m[i] < least) & (m[i] > -infinite)
        m[i], e[i] = exp_parts(m[i])
        beyond |= e[i] > most
        upward |= e[i] > 0
    return bad != 0, beyond != 0, upward != 0, low != 0


@part(inline=True)
def row(array, at, count):
    """`count` elements of `array` from `at` on, for less than what a slice costs."""
    return array_at(array.ctypes.data + at * array.itemsize, count, array)


@part
def forward_step(stay_m, stay_e, move_m, move_e, blank_m, blank_e, label_m, label_e, m, e):
    """One step's sums of what comes by blanks from nodes of the same u and by labels from those of u − 1."""
    distinct()
    for i in range(len(m)):
        one, other = stay_e[i] + blank_e[i], move_e[i] + label_e[i]
        m[i], e[i] = added(stay_m[i] * blank_m[i], one, move_m[i] * label_m[i], other)


@part
def forward(U, N, slack, base, kept, blank_m, blank_e, label_m, label_e, m, e):
    """Fill `m` and `e` with the sums over the paths to each node, laid out as the arcs are; if not `kept`, with those
    of two steps, in two rows of U + 3.

    Returns:
        where the end's is.
    """
    m[0] = m[1] = m[2] = 1
    e[0] = e[2] = -np.inf
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
        e[here + lo - 1] = e[here + hi + 1] = -np.inf
        before = here
    return before + U


@part
def backward_step(
    stay_m, stay_e, move_m, move_e, blank_m, blank_e, label_m, label_e, m, e, alpha_m, alpha_e,
    total_e, by_blank, by_label,
):  # fmt: skip
    """One step's sums `m`, `e` over the paths to the end, and in place of the arcs' factors their gradients: the share
    of the paths that take an arc, of 2^`total_e`, times `by_blank` or `by_label`."""
    distinct()
    for i in range(len(m)):
        blank, label = stay_m[i] * blank_m[i], move_m[i] * label_m[i]
        one, other = stay_e[i] + blank_e[i], move_e[i] + label_e[i]
        m[i], e[i] = added(blank, one, label, other)
        ahead = alpha_e[i] - total_e
        blank_m[i] = alpha_m[i] * blank * by_blank * power_of_two(ahead + one)
        label_m[i] = alpha_m[i] * label * by_label * power_of_two(ahead + other)


@part
def occupation_step(m, e, alpha_m, alpha_e, total_e, factor, found):
    """Fill `found` with the share of the paths that are in each of a step's nodes."""
    distinct()
    for i in range(len(m)):
        found[i] = alpha_m[i] * m[i] * factor * power_of_two(alpha_e[i] - total_e + e[i])


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
    e[after + U - 1] = e[after + U + 1] = -np.inf
    e[after + U] = 0
    scale = 2.0**HEADROOM / total_m
    by_blank, by_label, exponent = kind(-scale), kind(-scale * by_label), total_e + kind(HEADROOM)
    for step in range(N):
        n = N - 1 - step
        lo, hi = first_node(n, U, slack), min(n, U)
        here, at, count = n % 2 * (U + 3) + 1, base[n] + lo, hi - lo + 1
        backward_step(
            row(m, after + lo, count), row(e, after + lo, count),
            row(m, after + lo + 1, count), row(e, after + lo + 1, count),
            row(blank_m, at, count), row(blank_e, at, count), row(label_m, at, count), row(label_e, at, count),
            row(m, here + lo, count), row(e, here + lo, count),
            row(alpha_m, at, count), row(alpha_e, at, count), exponent, by_blank, by_label,
        )  # fmt: skip
        if nodes:
            occupation_step(
                row(m, here + lo, count), row(e, here + lo, count), row(alpha_m, at, count), row(alpha_e, at, count),
                exponent, -by_blank, row(blank_m, at, count),
            )  # fmt: skip
        m[here + lo - 1] = m[here + hi + 1] = 1
        e[here + lo - 1] = e[here + hi + 1] = -np.inf
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
