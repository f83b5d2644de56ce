# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
# ruff: noqa: RUF005  (Triton knows no starred expressions)
"""Posteriors of monotonic paths on a GPU, from the last frame back: one program of one warp a strip of 32 tokens.

Thread l holds the probability that a path is on token s0 + l. By the share that the way forward has kept it divides
into what stays on the token and what moves on to the token before; there is no exponential. Strips begin from the
right, and each hands over what moves on from its first token.
"""

import triton
import triton.language as tl

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import (
    INTERNAL,
    NOT_FINITE,
    OK,
    accumulator_in_kernel,
    entry_of,
    kernel,
    uniform,
    within,
)
from alignd_kernels.gpu_strips import draw_ticket, hand_over, look, look_again, tile_of
from alignd_kernels.mas.gpu_item import left_of_strip
from alignd_kernels.mas.gpu_sum_item import (
    BORDERS,
    FOUND,
    FOUND_PITCH,
    FRAMES_PER_CHUNK,
    SHARES,
    W,
    all_inside,
    cells_of_strip,
    end_chunk,
    first_chunk,
    inside,
    places_of,
    status_of_lengths,
)


def constants(dtype: DType, frames_first: bool) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype), "N": FRAMES_PER_CHUNK[dtype], "FRAMES_FIRST": frames_first}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for scores of this type."""
    return [constants(dtype, frames_first) for frames_first in (False, True)]


@triton.jit
def _shares(shares, t0, T, N: tl.constexpr):
    """Of a chunk, a tuple of vectors; all stay after the last frame."""
    lane = tl.arange(0, 32)
    found = ()
    for j in tl.static_range(N):
        found = found + (tl.load(shares + (j * W + lane), mask=lane - lane + (t0 + j) < T, other=1.0),)
    return found


@triton.jit
def _strip(
    shares,
    S,
    T,
    strip,
    borders,
    plane,
    epoch,
    patience,
    found,
    pitch,
    sign,
    ACC: tl.constexpr,
    N: tl.constexpr,
    FRAMES_FIRST: tl.constexpr,
):
    """The tokens of a strip in all frames in which a path can visit them.

    Args:
        shares: of the strip, [chunk, frame, token].
        borders: words of the item's borders, [strip, T − S + 1].
        found: of the item, probabilities times `sign`, written in the band.

    Returns:
        1 if something was not handed over, else 0.
    """
    lane = tl.arange(0, 32)
    before = (lane + 31) % 32
    after = tl.minimum(lane + 1, 31)
    zeros = tl.zeros([32], tl.int32)
    s0 = left_of_strip(S, strip, W)
    slack = T - S
    stays = tl.where(s0 + lane == S - 1, tl.full([32], 1.0, ACC), 0.0)
    moves = tl.zeros([32], ACC)
    begin = first_chunk(s0, N)
    end = end_chunk(S, T, s0, N)
    # A border's words begin with the first frame in which its token, the right strip's first one, is visited.
    from_right = borders + strip.to(tl.int64) * (slack + 1) - (s0 + W)
    to_left = from_right + (W - (slack + 1))
    lost = tl.full([], 0, tl.int32)
    own = shares + (end - 1 - begin).to(tl.int64) * (N * W)
    kept = _shares(own, (end - 1) * N, T, N)
    t_right = end * N - 31 + lane
    needed = within(t_right, s0 + W, slack) & (lane >= 32 - N) & (s0 + W < S)
    low, high = look(from_right, plane, t_right, needed, ACC)
    for back in range(end - begin):
        t0 = (end - 1 - back) * N
        # The first chunk's are read twice: there are none before it.
        own -= tl.where(back < end - begin - 1, N * W, 0)
        ahead = _shares(own, t0 - N, T, N)
        # A first look for the next chunk, whose answer is there by then.
        t_after = t_right - N
        needed_after = within(t_after, s0 + W, slack) & (lane >= 32 - N) & (s0 + W < S)
        low_after, high_after = look(from_right, plane, t_after, needed_after, ACC)
        # A ring: thread 31 takes what enters from its own entry; the rest move up, and thread 0 puts in what leaves.
        looks = tl.where(lost != 0, 1, patience)  # for an item that is lost, waste no more time
        ring, _, missing = look_again(low, high, from_right, plane, t_right, needed, epoch, looks, ACC)
        ring = tl.where(needed, tl.where(missing != 0, float("nan"), ring), 0.0)
        lost |= missing
        t_right = t_after
        needed = needed_after
        low = low_after
        high = high_after
        here = ()
        for i in tl.static_range(N):
            p = stays + tl.where(lane == 31, ring, tl.gather(moves, after, 0))
            stays = p * kept[N - 1 - i]
            moves = p - stays
            ring = tl.where(lane == 0, moves, tl.gather(ring, before, 0))
            here = (p * sign,) + here
        t = t0 + lane
        mine = within(t, s0, slack) & (lane < N) & (strip > 0)
        hand_over(to_left, plane, t, mine, epoch, ring, zeros)
        places = found + places_of(pitch, s0, t0, N, FRAMES_FIRST)
        tile = tile_of(here, N)
        if all_inside(s0, slack, t0, N):
            tl.store(places, tile)
        else:
            tl.store(places, tile, mask=inside(s0, slack, t0, N))
        kept = ahead
    return lost


@triton.jit
def _fill_nan(found, pitch, S, T, strip, N: tl.constexpr, FRAMES_FIRST: tl.constexpr):
    """All cells of a strip, those too that no path can visit."""
    s0 = left_of_strip(S, strip, W)
    token = s0 + tl.arange(0, 32)[:, None]
    column = tl.arange(0, N)[None, :]
    nan = tl.full([32, N], float("nan"), found.dtype.element_ty)
    chunks = tl.cdiv(T, N)
    for back in range(chunks):
        t0 = (chunks - 1 - back) * N
        tl.store(found + places_of(pitch, s0, t0, N, FRAMES_FIRST), nan, mask=(token >= 0) & (t0 + column < T))


@kernel
def mas_sum_backward_kernel(
    tokens,
    frames,
    table,
    shares,
    ways,
    borders,
    tickets,
    found,
    costs,
    scores,
    statuses,
    pitch_of_table,
    items,
    sign,
    first_ticket,
    epoch,
    plane,
    patience,
    ACC: tl.constexpr,
    N: tl.constexpr,
    FRAMES_FIRST: tl.constexpr,
):
    """Probabilities of all cells: `items` × (strips of the widest item) programs. `table`: see `gpu_sum_item`.

    Args:
        shares, ways: as `mas_sum_forward_kernel` has left them.
        borders: [1 or (float64) 2 planes, words of all items].
        found: accumulators, zero, written: probabilities times `sign`, which is 1 or −1. With −1 what belongs to an
            item whose cost is NaN becomes NaN.
        costs, scores, statuses: rewritten for items of which something was not handed over.
    """
    ticket = draw_ticket(tickets, first_ticket)
    b = ticket % items
    S64 = tl.load(tokens + b)
    T64 = tl.load(frames + b)
    if uniform(status_of_lengths(table, pitch_of_table, b, S64, T64, N)) == OK:
        S = S64.to(tl.int32)
        T = T64.to(tl.int32)
        strip = tl.cdiv(S, W) - 1 - ticket // items
        way = uniform(tl.load(ways + b))
        found += entry_of(table, pitch_of_table, b, FOUND)
        pitch = entry_of(table, pitch_of_table, b, FOUND_PITCH).to(tl.int32)
        if (strip >= 0) & (way == OK):
            begin = entry_of(table, pitch_of_table, b, SHARES) + strip * cells_of_strip(S64, T64, N)
            lost = _strip(
                shares + begin,
                S,
                T,
                strip,
                borders + entry_of(table, pitch_of_table, b, BORDERS),
                plane,
                epoch,
                patience,
                found,
                pitch,
                sign.to(ACC),
                ACC,
                N,
                FRAMES_FIRST,
            )
            if lost != 0:  # any strip that finds so writes the same
                tl.store(statuses + b, INTERNAL)
                tl.store(scores + b, float("nan"))
                tl.store(costs + b, float("nan"))
        if (strip >= 0) & ((way == NOT_FINITE) | (way == INTERNAL)) & (sign < 0):
            _fill_nan(found, pitch, S, T, strip, N, FRAMES_FIRST)
