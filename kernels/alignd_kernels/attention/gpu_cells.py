# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""The chosen heads, or their logarithms, in the order in which dynamic time warping reads them: see `gpu_item`.

A launch before the lattice's, in which every cell is on its own: the serial part then reads whole lines, whatever the
strides and the type of the values, and has nothing to check and no logarithm to take.
"""

import triton.language as tl

from alignd_kernels.attention.gpu_item import CELLS, ROW_PITCH, TILES, steps_of, strips_of
from alignd_kernels.attention.gpu_logarithm import log_of
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import OK, accumulator_in_kernel, entry_of, item_at, kernel, widen

ROWS_AT_A_TIME = tl.constexpr(8)
"""Loads in flight for each thread. The next rows' lie in the same lines."""


def constants(dtype: DType, log: bool) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype), "LOG": log}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for values of this type."""
    return [constants(dtype, log) for log in (False, True)]


@kernel
def attention_cells_kernel(
    values,
    tokens,
    frames,
    table,
    chosen,
    statuses,
    bad,
    cells,
    pitch_of_table,
    items,
    ACC: tl.constexpr,
    LOG: tl.constexpr,
):
    """Cells of the chosen heads: a program for each tile of 32 rows of a strip. `table`: see `gpu_item`.

    Args:
        chosen, statuses: as `attention_heads_kernel` has left them.
        bad: int32 [items], zero for the items that are OK; 1 is written where a value has no logarithm.
        cells: accumulators [cell's strip, row, 32], written; −∞ where there is none.
    """
    tile = tl.program_id(0)
    b = item_at(table, pitch_of_table, items, tile, TILES)
    if tl.load(statuses + b) == OK:
        S = tl.load(tokens + b).to(tl.int32)
        T = tl.load(frames + b).to(tl.int32)
        own = (tile - entry_of(table, pitch_of_table, b, TILES)).to(tl.int32)
        strips = strips_of(S)
        strip = own % strips
        values += tl.load(chosen + b)
        pitch = entry_of(table, pitch_of_table, b, ROW_PITCH)
        cells += entry_of(table, pitch_of_table, b, CELLS) + strip.to(tl.int64) * steps_of(T) * 32
        lane = tl.arange(0, 32)[None, :]
        token = S - (strips - strip) * 32 + lane
        seen = tl.zeros([ROWS_AT_A_TIME, 32], tl.int32)
        for done in range(0, 32, ROWS_AT_A_TIME):
            row = own // strips * 32 + done + tl.arange(0, ROWS_AT_A_TIME)[:, None]
            t = row - lane
            inside = (token >= 0) & (t >= 0) & (t < T)
            stored = tl.load(values + (token.to(tl.int64) * pitch + t), mask=inside, other=1.0)
            if LOG:
                x = log_of(stored, ACC)
                seen |= tl.where(inside & (x != x), 1, 0)
            else:
                x = widen(stored, ACC)
            x = tl.where(inside, x, float("-inf"))
            # A path begins as if it came by the diagonal into (0, 0): left of token 0 the score is 0 till frame −1.
            x = tl.where((token == -1) & (t < 0), 0.0, x)
            tl.store(cells + (row.to(tl.int64) * 32 + lane), x, mask=row < steps_of(T))
        if LOG:
            tl.atomic_max(bad + b, 1, mask=tl.max(tl.max(seen, 1), 0) != 0, sem="relaxed")
