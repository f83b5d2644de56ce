# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""Joint log-probs reduced to each node's two arcs, in the order in which the lattice's kernels read them.

A launch before the lattice's, in which every node is on its own: the serial part then reads whole lines, whatever the
vocabulary, the strides and the type of the log-probs, and has nothing to check.
"""

import triton
import triton.language as tl

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import OK, TOO_FEW_FRAMES, accumulator_in_kernel, entry_of, kernel, widen
from alignd_kernels.gpu_scaled import MOST_UPWARD
from alignd_kernels.transducer.gpu_item import (
    BAD_ARC,
    BLANK,
    CELLS,
    FRAME_PITCH,
    LARGE_ARC,
    LOG_PROBS,
    NODE_PITCH,
    ROWS_PER_TILE,
    TARGETS,
    TILES,
    VOCABULARY,
    item_of_tile,
    left_of_strip,
    rows_of,
    status_of_lengths,
    strips_of,
)

ROWS_AT_A_TIME = tl.constexpr(8)
"""Loads in flight for each thread and arc."""


def constants(dtype: DType) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype)}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for log-probs of this type."""
    return [constants(dtype)]


@triton.jit
def legal_arcs(t, u, T, U, skew):
    """Whether a path can take the blank's, and the label's, arc of node (t, u)."""
    inside = (t >= 0) & (t < T) & (u >= 0) & (u <= U)
    # Standard: the last frame's blank ends the path, after the last label. Modified: a label a frame at most, so a node
    # is reached from the begin, and leaves frames enough for the labels to come.
    reached = inside & ((skew == 1) | (u <= t) & (u >= U - T + t))
    blank = reached & tl.where(skew == 1, (t < T - 1) | (u == U), u > U - T + t)
    return blank, reached & (u < U)


@triton.jit
def _check_labels(targets, u, U, vocabulary, blank, checked):
    """Note the first label of a strip that is none."""
    known = (u >= 0) & (u < U)
    y = tl.load(targets + u, mask=known, other=0)
    wrong = tl.where(y == blank, 2 * u + 1, 2 * u)
    bad = known & ((y < 0) | (y >= vocabulary) | (y == blank))
    first = tl.min(tl.where(bad, wrong, BAD_ARC), 0)
    tl.atomic_min(checked, first, mask=first < BAD_ARC, sem="relaxed")


@triton.jit
def _arcs(log_probs, frame_pitch, node_pitch, column, t, u, legal, ACC: tl.constexpr):
    """An arc of each node, −∞ where no path can take it; and whether it is NaN or +∞, which leaves −∞ too."""
    place = t.to(tl.int64) * frame_pitch + u.to(tl.int64) * node_pitch + column
    x = widen(tl.load(log_probs + place, mask=legal, other=float("-inf")), ACC)
    finite = x < float("inf")
    return tl.where(finite, x, float("-inf")), tl.where(finite, 0, 1)


@kernel
def transducer_arcs_kernel(
    log_probs,
    targets,
    frames,
    labels,
    table,
    arcs,
    checked,
    pitch_of_table,
    items,
    skew,
    ACC: tl.constexpr,
):
    """Arcs of all nodes: a program for each tile of each item. `table`: see `gpu_item`.

    Args:
        arcs: accumulators [cell's strip, row, 2, 32], blank and label, written.
        checked: int32 [items], `NOTHING_WRONG`; lowered to what is wrong with an item.
    """
    tile = tl.program_id(0)
    b = item_of_tile(table, pitch_of_table, items, tile)
    T64 = tl.load(frames + b)
    U64 = tl.load(labels + b)
    status = status_of_lengths(table, pitch_of_table, b, T64, U64, skew)
    if (status == OK) | (status == TOO_FEW_FRAMES):
        T = T64.to(tl.int32)
        U = U64.to(tl.int32)
        own_tile = (tile - entry_of(table, pitch_of_table, b, TILES)).to(tl.int32)
        strip = own_tile % strips_of(U)
        begin = own_tile // strips_of(U) * ROWS_PER_TILE
        rows = rows_of(T, skew)
        blank = entry_of(table, pitch_of_table, b, BLANK).to(tl.int32)
        vocabulary = entry_of(table, pitch_of_table, b, VOCABULARY)
        targets += entry_of(table, pitch_of_table, b, TARGETS)
        lane = tl.arange(0, 32)
        if begin == 0:
            _check_labels(targets, left_of_strip(U, strip) + lane, U, vocabulary, blank, checked + b)
        if (status == OK) & (begin < rows):
            log_probs += entry_of(table, pitch_of_table, b, LOG_PROBS)
            frame_pitch = entry_of(table, pitch_of_table, b, FRAME_PITCH)
            node_pitch = entry_of(table, pitch_of_table, b, NODE_PITCH)
            arcs += (entry_of(table, pitch_of_table, b, CELLS) + strip.to(tl.int64) * rows * 32) * 2
            u = left_of_strip(U, strip) + lane
            y = tl.load(targets + u, mask=(u >= 0) & (u < U), other=-1)
            named = (y >= 0) & (y < vocabulary)
            seen = tl.zeros([ROWS_AT_A_TIME, 32], tl.int32)
            largest = tl.full([ROWS_AT_A_TIME, 32], float("-inf"), ACC)
            for done in range(0, ROWS_PER_TILE, ROWS_AT_A_TIME):
                row = begin + done + tl.arange(0, ROWS_AT_A_TIME)[:, None]
                t = row - 1 - skew * lane[None, :]
                u2 = u[None, :] + 0 * t
                by_blank, by_label = legal_arcs(t, u2, T, U, skew)
                by_label &= named[None, :]
                x, bad = _arcs(log_probs, frame_pitch, node_pitch, blank, t, u2, by_blank, ACC)
                x_label, bad_label = _arcs(log_probs, frame_pitch, node_pitch, y[None, :], t, u2, by_label, ACC)
                seen |= bad | bad_label
                largest = tl.maximum(largest, tl.maximum(x, x_label))
                # Both directions begin with the score 0 before their first node, and get to it by these.
                x = tl.where((u2 == 0) & (t < 0) | (u2 == U) & (t == T), 0.0, x)
                place = arcs + row.to(tl.int64) * 64 + lane[None, :]
                tl.store(place, x, mask=row < rows)
                tl.store(place + 32, x_label, mask=row < rows)
            large = tl.max(tl.max(largest, 1), 0).to(tl.float64) * (T64 + U64).to(tl.float64) > MOST_UPWARD
            bad = tl.max(tl.max(seen, 1), 0) != 0
            tl.atomic_min(checked + b, tl.where(bad, BAD_ARC, LARGE_ARC), mask=bad | large, sem="relaxed")
