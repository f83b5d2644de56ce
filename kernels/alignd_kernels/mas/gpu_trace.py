# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""Monotonic alignment search on a GPU, back: one program of one warp for each few chunks of 32 frames of an item.

A program first runs back from the last frame to its own chunks, one load a chunk (`moved`, which the way forward has
left); then it follows each cell of its own ones. All programs of an item do so at a time; the one that ends last adds
up the score.
"""

from typing import Final

import triton
import triton.language as tl

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import (
    INTERNAL,
    NO_FINITE_PATH,
    NOT_FINITE,
    OK,
    accumulator_in_kernel,
    entry_of,
    fill_zeros,
    kernel,
    sum_in_order,
    uniform,
    widen,
)
from alignd_kernels.gpu_strips import BROKEN, NOT_FINITE_SEEN, NOT_HANDED_OVER, arrive, trouble_of
from alignd_kernels.mas.gpu_item import (
    BITS,
    DURATIONS,
    PATHS,
    PITCH,
    STRIPS,
    TOKENS_PER_THREAD,
    VALUES,
    place_of,
    status_of_lengths,
)

CHUNKS_PER_PROGRAM: Final = 4
"""Each takes about as long as the way there from ten chunks off."""


def constants(dtype: DType) -> dict[str, object]:
    """What the kernel is compiled for."""
    accumulator = accumulator_in_kernel(dtype)
    return {"ACC": accumulator, "K": TOKENS_PER_THREAD[dtype], "CHUNKS_PER_PROGRAM": CHUNKS_PER_PROGRAM}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for scores of this type."""
    return [constants(dtype)]


@triton.jit
def _top(moved, S, T, chunk, W: tl.constexpr):
    """The token of the path in the last frame of `chunk`: from the end one chunk after the other."""
    token = S - 1
    for back in range(tl.cdiv(T, 32) - 1 - chunk):
        place, known = place_of(S, T, token, tl.cdiv(T, 32) - 1 - back, W)
        token -= tl.load(moved + place, mask=known, other=0).to(tl.int32)
    return token


@triton.jit
def _chunk(values, pitch, S, T, bits, chunk, top, durations, path_out, on_path, W: tl.constexpr):
    """Follow the moves back from token `top` in the last frame of a chunk: they pass at most 32 tokens.

    Args:
        durations: [S], the chunk's frames of each token added.
        path_out, on_path: [T], the path and its scores, written.

    Returns:
        the token of the chunk's first frame.
    """
    lane = tl.arange(0, 32)
    token = tl.zeros([32], tl.int32) + top  # uniform
    window = token - lane  # a thread holds the word of one token: moves are then read by shuffles
    place, known = place_of(S, T, window, chunk, W)
    word = tl.load(bits + place, mask=known, other=0)
    path = tl.zeros([32], tl.int32)
    count = tl.zeros([32], tl.int32)
    for i in tl.static_range(32):
        j = 31 - i
        inside = chunk * 32 + j < T
        path = tl.where(lane == j, token, path)
        count += tl.where((window == token) & inside, 1, 0)
        if i < 31:
            moves = (tl.gather(word, tl.minimum(top - token, 31), 0) >> j) & 1
            token -= tl.where(inside, moves, 0)
    t = chunk * 32 + lane
    x = tl.load(values + path.to(tl.int64) * pitch + t, mask=(t < T) & (path >= 0), other=0.0)
    tl.store(on_path + t, widen(x, on_path.dtype.element_ty), mask=t < T)
    tl.store(path_out + t, path, mask=t < T)
    tl.atomic_add(durations + window, count, mask=(window >= 0) & (count > 0), sem="relaxed")
    return tl.max(token, 0)


@triton.jit
def _status(table, pitch_of_table, b, tokens, frames, best, trouble, W: tl.constexpr):
    """Of item b, when all its strips have ended."""
    status = status_of_lengths(table, pitch_of_table, b, tokens, frames, W)
    if status == OK:
        wrong = trouble_of(trouble + entry_of(table, pitch_of_table, b, STRIPS), tl.cdiv(tokens, W).to(tl.int32))
        status = tl.where(tl.abs(tl.load(best + b)) < float("inf"), status, NO_FINITE_PATH)
        status = tl.where((wrong & NOT_FINITE_SEEN) != 0, NOT_FINITE, status)
        status = tl.where((wrong & NOT_HANDED_OVER) != 0, INTERNAL, status)
    return uniform(status)


@triton.jit
def trace_chunks(
    values,
    tokens,
    frames,
    table,
    durations,
    bits,
    moved,
    best,
    trouble,
    arrivals,
    paths,
    scores,
    statuses,
    on_path,
    pitch_of_table,
    b,
    begin,
    count,
    ACC: tl.constexpr,
    K: tl.constexpr,
):
    """The path of item b in `count` chunks from `begin` on; and its score and status, if all others have ended.

    Args:
        durations, paths: zero at first, written.
        scores, statuses: written.
        bits, moved, best, trouble: what the strips have left.
        arrivals: int32 [items], zero at first, and in the end.
        on_path: scratch, accumulators, as many as paths.
    """
    W: tl.constexpr = 32 * K
    S64 = tl.load(tokens + b)
    T64 = tl.load(frames + b)
    durations += entry_of(table, pitch_of_table, b, DURATIONS)
    paths += entry_of(table, pitch_of_table, b, PATHS)
    bits_begin = entry_of(table, pitch_of_table, b, BITS)
    on_path += entry_of(table, pitch_of_table, b, PATHS)
    status = _status(table, pitch_of_table, b, S64, T64, best, trouble, W)
    S = S64.to(tl.int32)
    T = T64.to(tl.int32)
    chunks = tl.where(status == OK, tl.cdiv(T, 32), 0)
    if begin < chunks:
        values += entry_of(table, pitch_of_table, b, VALUES)
        pitch = entry_of(table, pitch_of_table, b, PITCH)
        end = tl.minimum(begin + count, chunks)
        top = _top(moved + bits_begin, S, T, end - 1, W)
        start = top
        for back in range(end - begin):
            chunk = end - 1 - back
            start = _chunk(values, pitch, S, T, bits + bits_begin, chunk, top, durations, paths, on_path, W)
            place, known = place_of(S, T, top, chunk, W)
            top -= tl.load(moved + bits_begin + place, mask=known, other=0).to(tl.int32)
        if begin == 0:
            tl.atomic_add(arrivals + b, tl.where(start == 0, 0, BROKEN), sem="relaxed")
        arrived = arrive(arrivals + b)
        if arrived % BROKEN == tl.cdiv(chunks, count) - 1:
            tl.store(arrivals + b, 0)
            score = sum_in_order(on_path, T).to(ACC).to(tl.float64)
            if arrived >= BROKEN:
                fill_zeros(durations, S)
                fill_zeros(paths, T)
                score = tl.full([], float("nan"), tl.float64)
                status = INTERNAL
            tl.store(scores + b, score)
            tl.store(statuses + b, status)
    elif (chunks == 0) & (begin == 0):
        tl.store(scores + b, float("nan"))
        tl.store(statuses + b, status)


@kernel
def mas_trace_kernel(
    values,
    tokens,
    frames,
    table,
    durations,
    bits,
    moved,
    best,
    trouble,
    arrivals,
    paths,
    scores,
    statuses,
    on_path,
    pitch_of_table,
    items,
    ACC: tl.constexpr,
    K: tl.constexpr,
    CHUNKS_PER_PROGRAM: tl.constexpr,
):
    """The best path of each item: `items` × (groups of chunks of the longest item) programs. See `trace_chunks`."""
    trace_chunks(
        values,
        tokens,
        frames,
        table,
        durations,
        bits,
        moved,
        best,
        trouble,
        arrivals,
        paths,
        scores,
        statuses,
        on_path,
        pitch_of_table,
        tl.program_id(0) % items,
        tl.program_id(0) // items * CHUNKS_PER_PROGRAM,
        CHUNKS_PER_PROGRAM,
        ACC,
        K,
    )
