# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""What sums over a transducer's paths say of each node, and where it goes: every node on its own."""

import triton
import triton.language as tl

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import NOT_FINITE, OK, accumulator_in_kernel, entry_of, kernel
from alignd_kernels.gpu_scaled import exp_parts, power
from alignd_kernels.transducer.gpu_item import (
    CELLS,
    NODES,
    NODES_A_FRAME,
    ROWS_PER_TILE,
    TILES,
    item_of_tile,
    left_of_strip,
    rows_of,
    strips_of,
)

ROWS_AT_A_TIME = tl.constexpr(4)
"""Loads in flight for each thread and array."""


def constants(dtype: DType, posteriors: bool) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype), "POSTERIORS": posteriors}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for log-probs of this type."""
    return [constants(dtype, True), constants(dtype, False)]


@triton.jit
def _node(row, lane, u0, T, U, skew):
    """Frame and label position of a strip's node, and whether there is one."""
    t = row - 1 - skew * lane
    u = u0 + lane + 0 * row
    return t, u, (t >= 0) & (t < T) & (u >= 0) & (u <= U)


@triton.jit
def _product(a, x, b, y, inverse, e_inverse, ACC: tl.constexpr):
    """a · 2ˣ · b · 2ʸ · `inverse` · 2^`e_inverse`, a probability."""
    return a * b * inverse * power(tl.minimum(x + y + e_inverse, 1), ACC)


@kernel
def transducer_gradient_kernel(
    frames,
    labels,
    table,
    arcs,
    sums_m,
    sums_e,
    statuses,
    fastemit,
    found,
    pitch_of_table,
    items,
    skew,
    cells,
    ACC: tl.constexpr,
    POSTERIORS: tl.constexpr,
):
    """The probability of each node, or the cost's derivatives by its arcs: a program for each tile of each item.

    Args:
        arcs, sums_m, sums_e, statuses: as `transducer_sum_forward_kernel` has left them.
        fastemit: accumulator [1], 1 + λ.
        found: accumulators, of each node, zero, written; with POSTERIORS one, else two: blank's and label's. NaN for
            items with NaN or +∞ in an arc, zero for others that failed.
    """
    tile = tl.program_id(0)
    b = item_of_tile(table, pitch_of_table, items, tile)
    status = tl.load(statuses + b)
    if (status == OK) | (status == NOT_FINITE):
        T = tl.load(frames + b).to(tl.int32)
        U = tl.load(labels + b).to(tl.int32)
        own_tile = (tile - entry_of(table, pitch_of_table, b, TILES)).to(tl.int32)
        strip = own_tile % strips_of(U)
        begin = own_tile // strips_of(U) * ROWS_PER_TILE
        rows = rows_of(T, skew)
        item_cells = entry_of(table, pitch_of_table, b, CELLS)
        nodes_a_frame = entry_of(table, pitch_of_table, b, NODES_A_FRAME)
        first = entry_of(table, pitch_of_table, b, NODES)
        end = item_cells + strips_of(U).to(tl.int64) * rows * 32 - 1
        total_m = tl.load(sums_m + end, mask=status == OK, other=1.0)
        total_e = tl.load(sums_e + end, mask=status == OK, other=0)
        inverse = tl.where(status == OK, 1.0 / total_m, float("nan"))
        lane = tl.arange(0, 32)[None, :]
        for done in range(0, ROWS_PER_TILE, ROWS_AT_A_TIME):
            row = begin + done + tl.arange(0, ROWS_AT_A_TIME)[:, None]
            t, u, known = _node(row, lane, left_of_strip(U, strip), T, U, skew)
            cell = item_cells + (strip.to(tl.int64) * rows + row) * 32 + lane
            node = first + t.to(tl.int64) * nodes_a_frame + u
            alpha = tl.load(sums_m + cell, mask=known, other=1.0)
            alpha_e = tl.load(sums_e + cell, mask=known, other=0)
            if POSTERIORS:
                beta = tl.load(sums_m + (cells + cell), mask=known, other=1.0)
                beta_e = tl.load(sums_e + (cells + cell), mask=known, other=0)
                probability = _product(alpha, alpha_e, beta, beta_e, inverse, -total_e, ACC)
                tl.store(found + node, tl.where(status == OK, probability, 0.0), mask=known)
            else:
                blank, blank_e = exp_parts(tl.load(arcs + cell * 2 - lane, mask=known, other=0.0))
                label, label_e = exp_parts(tl.load(arcs + cell * 2 - lane + 32, mask=known, other=0.0))
                to = cells + cell + 32
                beta = tl.load(sums_m + to, mask=known, other=1.0)
                beta_e = tl.load(sums_e + to, mask=known, other=0)
                slope = _product(alpha * blank, alpha_e + blank_e, beta, beta_e, inverse, -total_e, ACC)
                tl.store(found + node * 2, 0.0 - slope, mask=known)
                # A label leads to the thread on the right, of thread 31 to the next strip's, 32 of its rows before.
                to += tl.where(lane < 31, 1, (rows - 32 * skew).to(tl.int64) * 32 - 31)
                on = known & (u < U)
                beta = tl.load(sums_m + to, mask=on, other=1.0)
                beta_e = tl.load(sums_e + to, mask=on, other=0)
                slope = _product(alpha * label, alpha_e + label_e, beta, beta_e, inverse, -total_e, ACC)
                slope *= tl.load(fastemit)
                tl.store(found + node * 2 + 1, 0.0 - slope, mask=known)
