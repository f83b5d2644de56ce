# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""The hard walk of stepwise monotonic attention on a GPU: one program of one warp for each item.

Where it is in a frame, only the frames before tell: a chain of T decisions. Values are read 32 frames at a time, of the
token where the walk stands then and of the 31 that it can get to; a decision is a shuffle.
"""

import triton
import triton.language as tl

from alignd_kernels.attention.gpu_item import FRAMES, MALFORMED, ROW_PITCH, TOKENS, clear_rates
from alignd_kernels.attention.gpu_logarithm import log
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import (
    OK,
    accumulator_in_kernel,
    entry_of,
    fill_zeros,
    kernel,
    sum_in_order,
    uniform,
    widen,
)
from alignd_kernels.gpu_strips import columns


def constants(dtype: DType) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype)}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for values of this type."""
    return [constants(dtype)]


@triton.jit
def _begin(starts, ends, S, T):
    """The walk begins on token 0 in frame 0; a token that it does not reach starts and ends at T."""
    block = tl.arange(0, 128)
    for begin in range(0, S, 128):
        s = begin + block
        tl.store(starts + s, tl.where(s > 0, T, 0), mask=s < S)
        tl.store(ends + s, 0 * s + T, mask=s < S)


@triton.jit
def _chunk(values, pitch, S, T, chunk, top, starts, ends, decided, ACC: tl.constexpr):
    """32 frames of a walk that stands on token `top` before them.

    Args:
        values: of the chosen head.
        starts, ends: [S], written for the tokens that the walk enters, and leaves, in the chunk.
        decided: float64 [T], logarithms of what has been decided in the chunk's frames, written.

    Returns:
        the token where the walk stands in the end, and 1 if a value that decides is no probability.
    """
    lane = tl.arange(0, 32)
    token = tl.zeros([32], tl.int32) + top  # uniform
    wrong = tl.zeros([32], tl.int32)
    row = top + lane[:, None]
    t = chunk * 32 + lane[None, :]
    places = values + (row.to(tl.int64) * pitch + t)
    x = columns(widen(tl.load(places, mask=(row < S) & (t < T), other=0.0), ACC))
    value = tl.zeros([32], ACC)
    moves = tl.zeros([32], tl.int32)
    decides = tl.zeros([32], tl.int32)
    path = tl.zeros([32], tl.int32)
    for j in tl.static_range(32):
        here = tl.gather(x[j], token - top, 0)
        frame = chunk * 32 + j
        free = (frame > 0) & (frame < T) & (token < S - 1)
        wrong |= tl.where(free & ~((here >= 0.0) & (here <= 1.0)), 1, 0)
        move = tl.where(free & ~(here > 0.5), 1, 0)
        token += move
        value = tl.where(lane == j, here, value)
        moves = tl.where(lane == j, move, moves)
        decides = tl.where((lane == j) & free, 1, decides)
        path = tl.where(lane == j, token, path)
    t = chunk * 32 + lane
    probability = value.to(tl.float64)
    probability = tl.where(moves == 1, 1.0 - probability, probability)
    tl.store(decided + t, tl.where(decides == 1, log(probability), 0.0), mask=t < T)
    tl.store(starts + path, t, mask=moves == 1)
    tl.store(ends + (path - 1), t, mask=moves == 1)
    return tl.max(token, 0), tl.max(wrong, 0)


@kernel
def attention_walk_kernel(
    values,
    tokens,
    frames,
    table,
    chosen,
    rates,
    heads,
    starts,
    ends,
    decided,
    scores,
    statuses,
    pitch_of_table,
    ACC: tl.constexpr,
):
    """The walk through each item's chosen head: a program an item. `table`: see `gpu_item`.

    Args:
        chosen: as `attention_heads_kernel` has left it.
        rates, heads, statuses: likewise; cleared of an item that fails.
        starts, ends: int32, zero, written.
        decided: float64, scratch for each frame.
        scores: NaN, written.
    """
    b = tl.program_id(0)
    if uniform(tl.load(statuses + b)) == OK:
        S = tl.load(tokens + b).to(tl.int32)
        T = tl.load(frames + b).to(tl.int32)
        values += tl.load(chosen + b)
        pitch = entry_of(table, pitch_of_table, b, ROW_PITCH)
        starts += entry_of(table, pitch_of_table, b, TOKENS)
        ends += entry_of(table, pitch_of_table, b, TOKENS)
        decided += entry_of(table, pitch_of_table, b, FRAMES)
        _begin(starts, ends, S, T)
        tl.debug_barrier()  # before other threads write over it
        token = tl.full([], 0, tl.int32)
        wrong = tl.full([], 0, tl.int32)
        chunk = tl.full([], 0, tl.int32)
        while (chunk * 32 < T) & (token < S - 1) & (wrong == 0):
            token, wrong = _chunk(values, pitch, S, T, chunk, token, starts, ends, decided, ACC)
            chunk += 1
        tl.debug_barrier()  # other threads have written what is read, or written over
        if wrong == 0:
            score = sum_in_order(decided, tl.minimum(chunk * 32, T))
            tl.store(scores + b, score.to(ACC).to(tl.float64))
        else:
            fill_zeros(starts, S)
            fill_zeros(ends, S)
            clear_rates(heads, rates, table, pitch_of_table, b)
            tl.store(statuses + b, MALFORMED)
