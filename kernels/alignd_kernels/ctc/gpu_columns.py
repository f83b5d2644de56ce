# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
# ruff: noqa: SIM102  (`and` evaluates both sides)
"""From the probabilities of CTC's states to the gradient by the log-probs on a GPU: minus those of each column.

Thread l owns a frame, and goes through the item's labels in their order: what several labels of one column add up to
depends on nothing but the item, without an atomic operation.
"""

import triton
import triton.language as tl

from alignd_kernels.ctc.gpu_item import (
    BLANK,
    COLUMNS,
    LOG_PROBS,
    PATHS,
    PITCH,
    STAR,
    STRIPS,
    TARGETS,
    left_of_strip,
    strips_of,
)
from alignd_kernels.ctc.gpu_star import has_star
from alignd_kernels.ctc.gpu_sum_item import CELLS, OUT, OUT_PITCH, cells_of, frames_of_strip
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import (
    NO_FINITE_PATH,
    OK,
    TOO_FEW_FRAMES,
    accumulator_in_kernel,
    entry_of,
    kernel,
    room_of,
    uniform,
    widen,
)

NO_COLUMN = tl.constexpr(2**31 - 1)

AT_A_TIME = tl.constexpr(8)
"""Columns of 32 frames that are looked at for a wildcard's: more would not fit into the registers."""


def constants(dtype: DType) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype)}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for log-probs of this type."""
    return [constants(dtype)]


@triton.jit
def _largest_labels(log_probs, pitch, begin, T, V, blank, ACC: tl.constexpr):
    """The first column with the largest non-blank log-prob, of frames begin … begin + 31; −1 where there is none."""
    t = begin + tl.arange(0, 32)[:, None]
    best = tl.full([32], float("-inf"), ACC)
    found = tl.full([32], -1, tl.int32)
    for v0 in range(0, V, AT_A_TIME):
        v = v0 + tl.arange(0, AT_A_TIME)[None, :]
        here = (t < T) & (v < V) & (v != blank)
        x = widen(tl.load(log_probs + t.to(tl.int64) * pitch + v, mask=here, other=float("-inf")), ACC)
        x = tl.where(here & (x == x), x, float("-inf"))  # NaN is in no frame in which a wildcard's label counts
        largest = tl.max(x, 1)
        first = tl.min(tl.where(here & (x == largest[:, None]), v, NO_COLUMN), 1)
        better = (first < NO_COLUMN) & ((found < 0) | (largest > best))
        best = tl.where(better, largest, best)
        found = tl.where(better, first, found)
    return found


@triton.jit
def _add_strip(cells, T, L, strip, begin, last, t, targets, target_words, wild, out, total):
    """Take a strip's labels off the gradient's rows, `out`, and add its blanks to `total`, both in their order."""
    here = (t >= begin) & (t <= last)
    i0 = left_of_strip(L, strip)
    place = cells_of(cells, T, L, strip) + t.to(tl.int64) * 64
    for j in range(tl.maximum(-i0, 0), 32):
        total += tl.load(place + j, mask=here, other=0.0).to(tl.float64)
        i = i0 + j
        if i < L:
            y = tl.load(targets + i.to(tl.int64) * target_words)
            column = tl.where(y == STAR, wild, y + 0 * wild)
            found = tl.load(place + 32 + j, mask=here, other=0.0)
            known = here & (column >= 0)
            tl.store(out + column, tl.load(out + column, mask=known, other=0.0) - found, mask=known)
    return total


@triton.jit
def _fill_nan(out, out_pitch, begin, T, V):
    block = tl.arange(0, 128)
    for t in range(begin, tl.minimum(begin + 32, T)):
        for start in range(0, V, 128):
            place = out + out_pitch * t + start + block
            tl.store(place, tl.full([128], float("nan"), out.dtype.element_ty), mask=block < V - start)


@kernel
def ctc_columns_kernel(
    log_probs,
    targets,
    target_lengths,
    frames,
    table,
    star_scores,
    cells,
    repeats,
    spares,
    statuses,
    out,
    pitch_of_table,
    items,
    target_words,
    ACC: tl.constexpr,
):
    """Gradients of all items: `items` × (blocks of 32 frames of the longest item) programs. See `gpu_sum_item` for
    `table`.

    Args:
        cells: the states' probabilities, as `ctc_sum_backward_kernel` has left them.
        repeats, spares, statuses: as `ctc_sum_forward_kernel` has left them.
        out: accumulators, zero, written: zero where the cost is +∞, NaN where it is NaN.
    """
    b = tl.program_id(0) % items
    begin = tl.program_id(0) // items * 32
    status = tl.load(statuses + b)
    V = entry_of(table, pitch_of_table, b, COLUMNS).to(tl.int32)
    out += entry_of(table, pitch_of_table, b, OUT)
    out_pitch = entry_of(table, pitch_of_table, b, OUT_PITCH)
    # Of lengths that are out of range, so many frames are the item's.
    room = room_of(table, pitch_of_table, b, PATHS)
    T = tl.maximum(tl.minimum(tl.load(frames + b), room), 0).to(tl.int32)
    if begin < T:
        if status == OK:
            L = tl.load(target_lengths + b).to(tl.int32)
            log_probs += entry_of(table, pitch_of_table, b, LOG_PROBS)
            targets += entry_of(table, pitch_of_table, b, TARGETS)
            blank = entry_of(table, pitch_of_table, b, BLANK).to(tl.int32)
            cells += entry_of(table, pitch_of_table, b, CELLS)
            repeats += entry_of(table, pitch_of_table, b, STRIPS)
            spare = tl.load(spares + b)
            star = tl.load(star_scores + b)
            wild = tl.full([32], -1, tl.int32)
            if star != star:
                if uniform(has_star(targets, target_words, L)) != 0:
                    pitch = entry_of(table, pitch_of_table, b, PITCH)
                    wild = _largest_labels(log_probs, pitch, begin, T, V, blank, ACC)
            t = begin + tl.arange(0, 32)
            row = out + t.to(tl.int64) * out_pitch
            total = tl.zeros([32], tl.float64)
            strips = strips_of(L)
            for strip in range(strips):
                R_before = tl.load(repeats + strip)
                R_after = tl.load(repeats + strip + 1, mask=strip + 1 < strips, other=0)
                R_after = tl.where(strip + 1 < strips, R_after, T - L - spare)
                first, last = frames_of_strip(T, L, strip, R_before, R_after, spare)
                if (first < begin + 32) & (last >= begin):
                    total = _add_strip(cells, T, L, strip, first, last, t, targets, target_words, wild, row, total)
            tl.store(row + blank, (0.0 - total).to(ACC), mask=t < T)
        elif (status != TOO_FEW_FRAMES) & (status != NO_FINITE_PATH):
            _fill_nan(out, out_pitch, begin, T, V)
