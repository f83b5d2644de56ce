# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""Derivatives by a transducer's arcs brought to where the log-probs are that the arcs were read from."""

import triton.language as tl

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import NOT_FINITE, OK, accumulator_in_kernel, entry_of, kernel
from alignd_kernels.transducer.gpu_item import (
    BLANK,
    FRAME_PITCH,
    LOG_PROBS,
    NODE_PITCH,
    NODES,
    NODES_A_FRAME,
    ROWS_PER_TILE,
    TARGETS,
    TILES,
    item_of_tile,
    left_of_strip,
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


@kernel
def transducer_scatter_kernel(
    gradients,
    arc_gradients,
    factors,
    targets,
    frames,
    labels,
    table,
    statuses,
    pitch_of_table,
    items,
    ACC: tl.constexpr,
):
    """A program for each tile of each item, of 32 label positions in 32 frames. `table`: see `gpu_item`.

    Args:
        gradients: of the log-probs' type and layout, zero, written.
        arc_gradients: accumulators, of each node two.
        factors: accumulators [items]: each item's derivatives are multiplied by its own.
        statuses: of the items; those whose cost is not known have no derivatives.
    """
    tile = tl.program_id(0)
    b = item_of_tile(table, pitch_of_table, items, tile)
    status = tl.load(statuses + b)
    if (status == OK) | (status == NOT_FINITE):
        T = tl.load(frames + b).to(tl.int32)
        U = tl.load(labels + b).to(tl.int32)
        own_tile = (tile - entry_of(table, pitch_of_table, b, TILES)).to(tl.int32)
        begin = own_tile // strips_of(U) * ROWS_PER_TILE
        gradients += entry_of(table, pitch_of_table, b, LOG_PROBS)
        frame_pitch = entry_of(table, pitch_of_table, b, FRAME_PITCH)
        node_pitch = entry_of(table, pitch_of_table, b, NODE_PITCH)
        nodes_a_frame = entry_of(table, pitch_of_table, b, NODES_A_FRAME)
        blank = entry_of(table, pitch_of_table, b, BLANK)
        first = entry_of(table, pitch_of_table, b, NODES)
        factor = tl.load(factors + b)
        u = left_of_strip(U, own_tile % strips_of(U)) + tl.arange(0, 32)[None, :]
        targets += entry_of(table, pitch_of_table, b, TARGETS)
        label = tl.load(targets + u, mask=(u >= 0) & (u < U), other=0)
        for done in range(0, ROWS_PER_TILE, ROWS_AT_A_TIME):
            t = begin + done + tl.arange(0, ROWS_AT_A_TIME)[:, None]
            known = (t < T) & (u >= 0)
            node = first + t.to(tl.int64) * nodes_a_frame + u
            place = gradients + (t.to(tl.int64) * frame_pitch + u.to(tl.int64) * node_pitch)
            on_label = known & (u < U)
            of_blank = tl.load(arc_gradients + node * 2, mask=known, other=0.0) * factor
            of_label = tl.load(arc_gradients + node * 2 + 1, mask=on_label, other=0.0) * factor
            tl.store(place + blank, of_blank.to(gradients.dtype.element_ty), mask=known)
            tl.store(place + label, of_label.to(gradients.dtype.element_ty), mask=on_label)
