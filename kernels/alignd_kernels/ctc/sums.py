# mypy: allow-untyped-defs
"""Sums over the paths of one CTC lattice: forward, and backward with the posteriors.

A frame is a column of pairs, blank k and label k, held as mantissas and exponents (`vector_math`), so that nothing
leaves a type's range and the error does not grow with the scores. What junction k gathers, blank k and label k − 1 of
the frame before, goes to blank k and, with label k itself, to label k; where labels k − 1 and k are equal, the way from
one to the other is by the blank alone. Of each cell is kept which share of its sum came by staying, of each junction
which came from the blank. The way back needs nothing else: the posteriors of a frame are what those of the next one
send back by these shares, without an exponential, and sum to 1 in every frame. Of long items they are kept for a
segment of frames at a time: the columns before each segment are, from which its shares are computed once more.

Only cells that a path can visit are computed. Label k is reached in frame r(k) at the earliest (`place_targets`) and
left N frames later at the latest, N frames being to spare; blank k lies between labels k − 1 and k. So those of a frame
are a band of begin … end − 1 labels and begin … over − 1 junctions, T + L (2N + 1) of both in all frames.

Numbers, with ulp = 2⁻²³ (2⁻⁵² for float64) and log-probs up to 20,000 in magnitude: a step multiplies what it sums by
at most 1 + 6 ulp (an exponential, two sums' terms, a product), as if the item had other log-probs, off by that much
each. So the log-likelihood is off by at most 6 · T ulp, and posteriors, of which each share is rounded too, by at most
12 · T ulp. Larger log-probs add their own ulp for each frame; in float32, those below −2 · 10³⁸ count as −∞.
"""

from typing import Final

import numpy as np

from alignd_kernels.compile_cache import part
from alignd_kernels.ctc.emissions import star_value
from alignd_kernels.numba_helpers import array_at, widen
from alignd_kernels.status import Status
from alignd_kernels.sums import BLOCK, distinct, normalise, not_finite, summed
from alignd_kernels.vector_math import exp_parts, power_of_two
from alignd_kernels.vectors import out_of_line

OK: Final = int(Status.OK)


@part
def forward(cells, model, starred, star, columns, reached, room, shares, saved, segment, keep):
    """Log-likelihood of an item, which share of it ends in the last label, and how many shares are kept of the last
    segment; a negative number if a log-prob was bad: NaN or +inf.

    Args:
        cells: address, T, V, pitch, L, blank, N.
        starred: whether there are wildcards, of the score `star`.
        columns, reached: int64 [L + 2], of label k at k + 1.
        room: [11, ≥ L + 1]: mantissas and exponents of labels and of blanks, and of what junctions gather; emissions;
            whether a label is not like the one before; three rows for `backward`.
        shares: of all frames of a segment where they are to be kept, else [2L + 1].
        saved: [4 (L + 1) for each segment] where there are several; the columns before each.
        segment: its frames.
        keep: whether `backward` is to follow.
    """
    T, L = cells[1], cells[4]
    room[0:4, : L + 1] = 1
    room[1, : L + 1] = -np.inf
    room[3, : L + 1] = -np.inf
    room[3, 0] = 0  # the virtual blank before frame 0
    for k in range(L + 1):
        room[7, k] = 1 if reached[k + 1] == reached[k] + 1 else 0
    used = 0
    for first in range(0, T, segment):
        if keep and segment < T:
            put_away(room, L, saved[first // segment * 4 * (L + 1) :])
        used = advance(cells, model, starred, star, columns, reached, room, shares, keep, first, segment)
        if used < 0:
            return np.nan, 0.0, used
    in_label, in_blank = logarithm(room[0, L], room[1, L]), logarithm(room[2, L], room[3, L])
    top = max(in_label, in_blank)
    if not np.isfinite(top):
        return top, 0.0, used
    found = summed(top + np.log(np.exp(in_label - top) + np.exp(in_blank - top)), room)
    if not np.isfinite(found):
        return found, 0.0, used
    return found, np.exp(in_label - found), used


@part
def put_away(room, L, saved):
    for row in range(4):
        for k in range(L + 1):
            saved[row * (L + 1) + k] = room[row, k]


@part
def take_back(room, L, saved):
    for row in range(4):
        for k in range(L + 1):
            room[row, k] = saved[row * (L + 1) + k]


@part
def advance(cells, model, starred, star, columns, reached, room, shares, keep, first, segment):
    """The frames of a segment, the first one of which is `first`; how many shares there are, or −1 (see `forward`)."""
    out_of_line()
    address, T, V, pitch, L, blank, spare = cells
    # Label k stands at k + 1, so that at k stands what junction k gathers.
    label_m, label_e, blank_m, blank_e = room[0, : L + 1], room[1, : L + 1], room[2, : L + 1], room[3, : L + 1]
    x, differs = room[6], room[7, : L + 1]
    begin, end, at = 0, 0, 0
    while end < L and reached[end + 1] < first:
        end += 1
    for t in range(first, min(first + segment, T)):
        over = end + 1
        while end < L and reached[end + 1] <= t:
            end += 1
        while reached[begin + 1] + spare < t:
            begin += 1
        row = array_at(address + t * pitch * model.itemsize, V, model)
        # Blank `begin` is left in the frame before label `begin` is.
        blanks = begin + (1 if reached[begin + 1] + spare == t else 0) < over
        of_blank = widen(row[blank]) if blanks else label_m.dtype.type(-np.inf)
        own = x[: end - begin]
        gather(row, columns[begin + 1 : end + 1], star_value(row, blank, star) if starred else 0.0, own)
        if not of_blank < np.inf or not_finite(own):
            return -1
        if not keep:
            at = 0
        gathered_m, gathered_e = room[4, begin:over], room[5, begin:over]
        junction_step(
            label_m[begin:over], label_e[begin:over], blank_m[begin:over], blank_e[begin:over], differs[begin:over],
            gathered_m, gathered_e, shares[at : at + over - begin], of_blank,
        )  # fmt: skip
        at += over - begin
        label_step(
            own, gathered_m[: end - begin], gathered_e[: end - begin], label_m[begin + 1 : end + 1],
            label_e[begin + 1 : end + 1], shares[at : at + end - begin],
        )  # fmt: skip
        at += end - begin
        if t % BLOCK == BLOCK - 1:
            normalise(label_m[begin + 1 : end + 1], label_e[begin + 1 : end + 1])
            normalise(blank_m[begin:over], blank_e[begin:over])
    return at


@part
def logarithm(m, e):
    return np.log(np.float64(m)) + np.float64(e) * np.log(2.0)


@part
def gather(row, columns, star, x):
    """The emissions of labels; columns beyond the vocabulary are wildcards'."""
    for k in range(len(columns)):
        x[k] = widen(row[columns[k]]) if columns[k] < len(row) else star


@part
def junction_step(label_m, label_e, blank_m, blank_e, differs, gathered_m, gathered_e, shares, x):
    """What each junction gathers goes to its blank, which emits x, and to what its label is to gather.

    Of equal labels the latter is the blank's part alone, with its own exponent: one that belongs to what was left out
    would push the label's own sum out of range.
    """
    distinct()
    f, n = exp_parts(x)
    for k in range(len(shares)):
        m, e = blank_m[k], blank_e[k]
        top = e if e > label_e[k] else label_e[k]
        stay = m * power_of_two(e - top)
        both = stay + label_m[k] * power_of_two(label_e[k] - top)
        shares[k] = stay / both if both > 0 else both
        gathered_m[k] = both if differs[k] > 0 else m
        gathered_e[k] = top if differs[k] > 0 else e
        blank_m[k] = both * f
        blank_e[k] = top + n


@part
def label_step(x, gathered_m, gathered_e, label_m, label_e, shares):
    distinct()
    for k in range(len(shares)):
        f, n = exp_parts(x[k])
        top = label_e[k] if label_e[k] > gathered_e[k] else gathered_e[k]
        stay = label_m[k] * power_of_two(label_e[k] - top)
        both = stay + gathered_m[k] * power_of_two(gathered_e[k] - top)
        shares[k] = stay / both if both > 0 else both
        label_m[k] = both * f
        label_e[k] = top + n


@part
def backward(
    cells, model, starred, star, columns, reached, last, used, room, shares, saved, segment, place, out
):  # fmt: skip
    """After `forward` with `keep`: the posteriors of the states in `out`, or minus those of the columns.

    Args:
        last, used: what `forward` has found.
        place: where in `out` the first row begins, how far it is to the next, and whether states are wanted.
    """
    T, L = cells[1], cells[4]
    room[8:10, : L + 1] = 0  # what is in labels, label k at k + 1 again, and in blanks
    room[8, L] = last
    room[9, L] = 1 - last
    first = (T - 1) // segment * segment
    while first >= 0:
        if first + segment < T:
            take_back(room, L, saved[first // segment * 4 * (L + 1) :])
            used = advance(cells, model, starred, star, columns, reached, room, shares, True, first, segment)
        retreat(cells, model, starred, star, columns, reached, used, room, shares, place, out, first, segment)
        first -= segment


@part
def retreat(cells, model, starred, star, columns, reached, at, room, shares, place, out, begin_frame, segment):
    """The frames of a segment from the last one to `begin_frame`; `at` shares are kept of them."""
    address, T, V, pitch, L, blank, spare = cells
    first, apart, states = place
    in_labels, in_blanks, moving, differs = room[8, : L + 1], room[9, : L + 1], room[10, : L + 1], room[7, : L + 1]
    begin, end = L, L
    for t in range(min(begin_frame + segment, T) - 1, begin_frame - 1, -1):
        while end > 0 and reached[end] > t:
            end -= 1
        over = end if end > 0 and reached[end] == t else end + 1
        while begin > 0 and reached[begin] + spare >= t:
            begin -= 1
        here = out[first + t * apart : first + t * apart + (2 * L + 1 if states else V)]
        if states:
            put_states(in_labels[begin + 1 : end + 1], in_blanks[begin:over], here[2 * begin :])
        else:
            wild = -1
            if starred and np.isnan(star):
                wild = largest_label(array_at(address + t * pitch * model.itemsize, V, model), blank)
            put_columns(in_labels[begin + 1 : end + 1], in_blanks[begin:over], columns[begin + 1 : end + 1],
                        blank, wild, here)  # fmt: skip
        at -= end - begin
        leave_labels(in_labels[begin + 1 : end + 1], shares[at : at + end - begin], moving[begin:end])
        if over > end:
            moving[end] = 0
        at -= over - begin
        leave_junctions(
            in_labels[begin:over], in_blanks[begin:over], moving[begin:over], differs[begin:over],
            shares[at : at + over - begin],
        )  # fmt: skip


@part
def leave_labels(in_labels, shares, moving):
    """What stays of the mass in labels and what moves on to their junctions, a frame earlier."""
    distinct()
    for k in range(len(shares)):
        stay = in_labels[k] * shares[k]
        moving[k] = in_labels[k] - stay
        in_labels[k] = stay


@part
def leave_junctions(in_labels, in_blanks, moving, differs, shares):
    """What is in blanks and what has moved out of labels goes back to blanks and to the labels before them."""
    distinct()
    for k in range(len(shares)):
        shared = moving[k] * differs[k]
        through = in_blanks[k] + shared
        stay = through * shares[k]
        in_labels[k] += through - stay
        in_blanks[k] = stay + (moving[k] - shared)


@part
def put_states(in_labels, in_blanks, row):
    for k in range(len(in_blanks)):
        row[2 * k] = in_blanks[k]
    for k in range(len(in_labels)):
        row[2 * k + 1] = in_labels[k]


@part
def put_columns(in_labels, in_blanks, columns, blank, wild, row):
    """Minus the posteriors of each column; those of wildcards at `wild`, if there is one."""
    total = 0.0
    for k in range(len(in_blanks)):
        total += np.float64(in_blanks[k])
    row[blank] = -total
    for k in range(len(in_labels)):
        column = columns[k] if columns[k] < len(row) else wild
        if column >= 0:
            row[column] -= in_labels[k]


@part
def largest_label(row, blank):
    """The first column with the largest non-blank log-prob; −1 if blank is the only one."""
    found = -1
    for v in range(len(row)):
        if v != blank and (found < 0 or widen(row[v]) > widen(row[found])):
            found = v
    return found
