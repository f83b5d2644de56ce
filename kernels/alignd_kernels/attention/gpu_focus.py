# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
# ruff: noqa: RUF005  (Triton knows no starred expressions)
"""Focus rates of attention heads on a GPU, and the choice of a head.

Two launches: the largest value of any token, in all frames of all heads at a time, for which every cell is read once;
then the mean over frames, added up in frame order in float64 as the specification says. That is a chain of T additions,
32 heads of an item side by side; the program of an item that ends last chooses.
"""

import triton
import triton.language as tl

from alignd_kernels.attention.gpu_item import (
    BLOCKS,
    FRAMES_PER_BLOCK,
    HEAD_PITCH,
    LARGEST,
    RATES,
    ROW_PITCH,
    VALUES,
    clear_rates,
    status_of_lengths,
)
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import (
    NEVER,
    NOT_FINITE,
    OK,
    accumulator_in_kernel,
    entry_of,
    item_at,
    kernel,
    room_of,
    widen,
)
from alignd_kernels.gpu_strips import arrive

STEP = tl.constexpr(8)
"""Frames of which the largest values are loaded ahead."""


def constants(dtype: DType, monotonic: bool) -> dict[str, object]:
    """What both kernels are compiled for.

    Args:
        monotonic: in mode "mas".
    """
    tokens = 4 if dtype is DType.FLOAT64 else 8  # loads in flight for each thread, four times as many
    return {"ACC": accumulator_in_kernel(dtype), "TOKENS_AT_A_TIME": tokens, "MONOTONIC": monotonic}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for values of this type."""
    return [constants(dtype, monotonic) for monotonic in (False, True)]


@kernel
def attention_largest_kernel(
    values,
    tokens,
    frames,
    table,
    largest,
    bad,
    pitch_of_table,
    items,
    ACC: tl.constexpr,
    TOKENS_AT_A_TIME: tl.constexpr,
    MONOTONIC: tl.constexpr,
):
    """The largest value of any token in each frame: a program for each head and block of frames. `table`: see
    `gpu_item`.

    Args:
        largest: accumulators, the items' [frame, head], written.
        bad: int32 [items], zero; 1 is written where NaN or +∞ is found.
    """
    block = tl.program_id(0)
    b = item_at(table, pitch_of_table, items, block, BLOCKS)
    S64 = tl.load(tokens + b)
    T64 = tl.load(frames + b)
    if status_of_lengths(table, pitch_of_table, b, S64, T64, MONOTONIC) == OK:
        S = S64.to(tl.int32)
        T = T64.to(tl.int32)
        H = room_of(table, pitch_of_table, b, RATES)
        own = block - entry_of(table, pitch_of_table, b, BLOCKS)
        head = own % H
        t = (own // H * FRAMES_PER_BLOCK).to(tl.int32) + tl.arange(0, FRAMES_PER_BLOCK)
        token = tl.arange(0, TOKENS_AT_A_TIME)
        pitch = entry_of(table, pitch_of_table, b, ROW_PITCH)
        values += entry_of(table, pitch_of_table, b, VALUES) + head * entry_of(table, pitch_of_table, b, HEAD_PITCH)
        places = values + token.to(tl.int64)[:, None] * pitch + t[None, :]
        found = tl.full([TOKENS_AT_A_TIME, FRAMES_PER_BLOCK], float("-inf"), ACC)  # NaN if any is
        for s in range(0, S, TOKENS_AT_A_TIME):
            inside = (s + token < S)[:, None] & (t < T)[None, :]
            x = widen(tl.load(places, mask=inside, other=float("-inf")), ACC)
            found = tl.maximum(found, x, propagate_nan=tl.PropagateNan.ALL)
            places += TOKENS_AT_A_TIME * pitch
        not_finite = tl.max(tl.max(tl.where(found < float("inf"), 0, 1), 0), 0)
        tl.atomic_max(bad + b, 1, mask=not_finite != 0, sem="relaxed")
        largest += entry_of(table, pitch_of_table, b, LARGEST) + head
        tl.store(largest + t.to(tl.int64) * H, tl.max(found, 0), mask=t < T)


@triton.jit
def _frames_ahead(column, t0, T, H, known):
    """Largest values of STEP frames, a tuple of vectors of heads; 0 beyond the last frame."""
    x = ()
    for j in tl.static_range(STEP):
        x = x + (tl.load(column + (t0 + j) * H, mask=known & (t0 + j < T), other=0.0),)
    return x


@triton.jit
def _mean(column, T, H, known):
    """Means over frames of 32 heads, float32. `H` is int64: it multiplies frames."""
    total = tl.zeros([32], tl.float64)
    x = _frames_ahead(column, 0, T, H, known)
    for t in range(0, T, STEP):
        ahead = _frames_ahead(column, t + STEP, T, H, known)
        for j in tl.static_range(STEP):
            total += x[j].to(tl.float64)
        x = ahead
    return (total / T.to(tl.float64)).to(tl.float32)


@triton.jit
def _first_largest(rates, H):
    """The head to align. A NaN is not larger than anything, and nothing is larger than it."""
    lane = tl.arange(0, 32)
    head = tl.full([], 0, tl.int32)
    most = tl.load(rates)
    for begin in range(0, H, 32):
        found = tl.load(rates + begin + lane, mask=begin + lane < H, other=float("-inf"))
        larger = found > most
        top = tl.max(tl.where(larger, found, float("-inf")), 0)
        first = tl.min(tl.where(larger & (found == top), begin + lane, NEVER), 0)
        head = tl.where(first != NEVER, first, head)
        most = tl.where(first != NEVER, top, most)
    return head


@kernel
def attention_heads_kernel(
    tokens,
    frames,
    table,
    largest,
    bad,
    arrivals,
    rates,
    heads,
    chosen,
    wanted,
    scores,
    statuses,
    pitch_of_table,
    items,
    ACC: tl.constexpr,
    TOKENS_AT_A_TIME: tl.constexpr,
    MONOTONIC: tl.constexpr,
):
    """Focus rates, and the first largest: `items` × (groups of 32 heads of the item that has most) programs.

    Args:
        largest, bad: as `attention_largest_kernel` has left them.
        arrivals: int32 [items], zero.
        rates: float32, the items' [heads], written: 0 of an item that is not aligned.
        heads: int32 [items], written.
        chosen: int64 [items], index of the chosen head's cell (0, 0), written.
        wanted: int64 [items], tokens to align, written: 0 of an item that is not aligned.
        scores: NaN is written.
        statuses: written.
    """
    b = tl.program_id(0) % items
    group = tl.program_id(0) // items
    S64 = tl.load(tokens + b)
    T64 = tl.load(frames + b)
    status = status_of_lengths(table, pitch_of_table, b, S64, T64, MONOTONIC)
    H64 = room_of(table, pitch_of_table, b, RATES)
    H = H64.to(tl.int32)
    own_rates = rates + entry_of(table, pitch_of_table, b, RATES)
    if (status == OK) & (group * 32 < H):
        head = group * 32 + tl.arange(0, 32)
        column = largest + entry_of(table, pitch_of_table, b, LARGEST) + head
        tl.store(own_rates + head, _mean(column, T64.to(tl.int32), H64, head < H), mask=head < H)
    if arrive(arrivals + b) == tl.num_programs(0) // items - 1:
        status = tl.where((status == OK) & (tl.load(bad + b) != 0), NOT_FINITE, status)
        if status == OK:
            head = _first_largest(own_rates, H)
            tl.store(heads + b, head)
            pitch = entry_of(table, pitch_of_table, b, HEAD_PITCH)
            tl.store(chosen + b, entry_of(table, pitch_of_table, b, VALUES) + head * pitch)
        else:
            clear_rates(heads, rates, table, pitch_of_table, b)
            tl.store(chosen + b, 0)
        tl.store(wanted + b, tl.where(status == OK, S64, 0))
        tl.store(scores + b, float("nan"))
        tl.store(statuses + b, status)
