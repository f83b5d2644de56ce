# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""The path of dynamic time warping on a GPU, back: by the one program of an item that ends last.

Steps are counted over all strips here: position p (that of the first strip's thread 0 is 0) is at frame N − p in step
N. The way back takes one step for a frame, or for a token, and two for both at once, T + S − 1 in all; a thread reads
the words of one position for 32 of them. Strips are 32 positions apart, hence chunks of 32 steps are whole chunks of
any strip.
"""

import triton
import triton.language as tl

from alignd_kernels.attention.gpu_item import (
    BITS,
    CELLS,
    FRAMES,
    STRIPS,
    TOKENS,
    chunks_of,
    clear_rates,
    steps_of,
    strips_of,
)
from alignd_kernels.gpu_language import (
    INTERNAL,
    NO_FINITE_PATH,
    NOT_FINITE,
    OK,
    entry_of,
    fill_zeros,
    sum_in_order,
    uniform,
    visited,
    within,
)
from alignd_kernels.gpu_strips import trouble_of

ABOVE = tl.constexpr(1)
SLANTED = tl.constexpr(2)
"""How a path came into a token's first cell; 0 in its other ones."""


@triton.jit
def _write(cells, S, T, N, position, here, came, starts, ends, on_path):
    """What a chunk's cells of the path, one for each thread where `here`, say of their tokens."""
    first = strips_of(S) * 32 - S  # of token 0
    token = position - first
    t = N - position
    real = here & within(token, 0, S - 1) & within(t, 0, T - 1)
    strip = position // 32
    place = (strip.to(tl.int64) * steps_of(T) + (N - strip * 32)) * 32 + position % 32
    x = tl.load(cells + place, mask=real, other=0.0)
    # A step that the diagonal skips adds 0 to the path's sum.
    tl.store(on_path + (N - first), x, mask=within(N, first, T + S - 2))
    tl.store(starts + token, t, mask=real & (came != 0))
    tl.store(ends + (token - 1), tl.where(came == ABOVE, t + 1, t), mask=real & (came != 0) & (token > 0))


@triton.jit
def _chunk(cells, S, T, bits, chunk, top, skip, starts, ends, on_path):
    """Follow the moves back from position `top` at the end of a chunk: they pass at most 32 positions.

    Args:
        cells, bits: the item's.
        skip: 1 if the diagonal skips the chunk's last step.
        starts, ends: [S], written for the tokens that the path enters in the chunk, and those that it comes from.
        on_path: [T + S − 1], the chunk's scores, from the path's first step on, written.

    Returns:
        the position before the chunk, and whether its last step is skipped.
    """
    lane = tl.arange(0, 32)
    chunks = chunks_of(T)
    first = strips_of(S) * 32 - S
    position = tl.zeros([32], tl.int32) + top  # uniform, as is what follows
    skips = tl.zeros([32], tl.int32) + skip
    window = position - lane  # a thread holds the words of one position: moves are then read by shuffles
    row = chunk - window // 32
    known = (window >= 0) & (row >= 0) & (row < chunks)
    place = ((window // 32).to(tl.int64) * chunks + row) * 64 + window % 32
    # Outside the path's steps there is nothing to follow.
    inside = visited(tl.zeros([32], tl.int32) + chunk * 32, first, T + S - 2)
    above_word = tl.load(bits + place, mask=known, other=0) & inside
    slanted_word = tl.load(bits + place + 32, mask=known, other=0) & inside & ~above_word
    path = tl.zeros([32], tl.int32)
    came = tl.zeros([32], tl.int32)
    on = tl.zeros([32], tl.int32)
    for i in range(32):
        j = 31 - i
        mine = lane == j
        here = 1 - skips
        source = top - position
        above = (tl.gather(above_word, source, 0) >> j) & here
        slanted = (tl.gather(slanted_word, source, 0) >> j) & here
        path = tl.where(mine, position, path)
        came = tl.where(mine, above * ABOVE + slanted * SLANTED, came)
        on = tl.where(mine, here, on)
        position -= above + slanted
        skips = slanted
    _write(cells, S, T, chunk * 32 + lane, path, on == 1, came, starts, ends, on_path)
    return tl.max(position, 0), tl.max(skips, 0)


@triton.jit
def trace_item(
    tokens,
    frames,
    table,
    cells,
    bad,
    bits,
    best,
    trouble,
    rates,
    heads,
    starts,
    ends,
    on_path,
    scores,
    statuses,
    pitch_of_table,
    b,
    ACC: tl.constexpr,
):
    """The path of item b, its score and status, from what all its strips have left. See
    `attention_dtw_forward_kernel`."""
    if uniform(tl.load(statuses + b)) == OK:
        S = tl.load(tokens + b).to(tl.int32)
        T = tl.load(frames + b).to(tl.int32)
        strips = strips_of(S)
        status = tl.where(tl.abs(tl.load(best + b)) < float("inf"), OK, NO_FINITE_PATH)
        status = tl.where(tl.load(bad + b) != 0, NOT_FINITE, status)
        wrong = trouble_of(trouble + entry_of(table, pitch_of_table, b, STRIPS), strips)
        status = tl.where(wrong != 0, INTERNAL, status)
        if uniform(status) == OK:
            token_begin = entry_of(table, pitch_of_table, b, TOKENS)
            starts += token_begin
            ends += token_begin
            on_path += token_begin + entry_of(table, pitch_of_table, b, FRAMES)
            cells += entry_of(table, pitch_of_table, b, CELLS)
            bits += entry_of(table, pitch_of_table, b, BITS)
            first = strips * 32 - S
            position = strips * 32 - 1
            skip = tl.full([], 0, tl.int32)
            chunk = (T - 1 + position) // 32
            tl.store(ends + (S - 1), T)
            while chunk >= first // 32:
                position, skip = _chunk(cells, S, T, bits, chunk, position, skip, starts, ends, on_path)
                chunk -= 1
            tl.debug_barrier()  # other threads have written what the sum reads
            tl.store(scores + b, sum_in_order(on_path, T + S - 1).to(ACC).to(tl.float64))
            if position != first - 1:  # a path comes by the diagonal into (0, 0)
                tl.store(scores + b, float("nan"))
                status = INTERNAL
                fill_zeros(starts, S)
                fill_zeros(ends, S)
        if status != OK:
            clear_rates(heads, rates, table, pitch_of_table, b)
            tl.store(statuses + b, status)
