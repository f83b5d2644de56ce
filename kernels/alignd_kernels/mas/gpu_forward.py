# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
# ruff: noqa: B007, RUF005, SIM102  (Triton knows no starred expressions, and `and` evaluates both sides)
"""Monotonic alignment search on a GPU, forward: one program of one warp for each strip of 32·K tokens of an item.

Thread l owns the K adjacent tokens from s0 + l·K; their scores stay in registers while all frames pass. Strips are laid
from the right: the last one is full, so that the item's last token is the last of thread 31, as every border is; the
first one may begin left of token 0, where there is nothing to visit.

Each cell leaves one bit (stay or move), 32 frames to a word, and each chunk of 32 frames leaves for each token how many
tokens its path has moved in the chunk: along these the way back takes one load for each chunk (`gpu_trace`).
"""

import triton
import triton.language as tl

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import OK, accumulator_in_kernel, entry_of, kernel, uniform, widen, within
from alignd_kernels.gpu_strips import (
    NOT_FINITE_SEEN,
    NOT_HANDED_OVER,
    arrive,
    columns,
    draw_ticket,
    hand_over,
    take_over,
)
from alignd_kernels.mas.gpu_item import (
    BITS,
    BORDERS,
    MAX_CHUNKS,
    PITCH,
    STRIPS,
    TOKENS_PER_THREAD,
    VALUES,
    chunks_of_strip,
    first_chunk,
    left_of_strip,
    status_of_lengths,
)
from alignd_kernels.mas.gpu_trace import trace_chunks


def constants(dtype: DType, fused: bool) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype), "K": TOKENS_PER_THREAD[dtype], "FUSED": fused}


def fusible(dtype: DType) -> bool:
    """Whether there is a variant with FUSED: float64 fills the registers without it."""
    return dtype is not DType.FLOAT64


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for scores of this type."""
    return [constants(dtype, fused) for fused in ((True, False) if fusible(dtype) else (False,))]


@triton.jit
def _tile(values, pitch, s0, slack, t0, k: tl.constexpr, K: tl.constexpr):
    """Scores [32, 32] of tokens s0 + k, s0 + k + K, … in frames t0 … t0 + 31; −∞ outside the band, whatever is there.

    That alone keeps the band clean: before a token's first frame all that can reach it is −∞ too, and what happens to
    it after its last frame (even NaN, where −∞ meets a sum that has overflowed) reaches no cell of the band.
    """
    row = tl.arange(0, 32)[:, None] * K + k
    column = tl.arange(0, 32)[None, :]
    places = values + (s0.to(tl.int64) * pitch + t0) + (row.to(tl.int64) * pitch + column)
    if (s0 >= 0) & (t0 >= s0 + 32 * K - 1) & (t0 + 31 <= s0 + slack):
        tile = tl.load(places)
    else:
        token = s0 + row
        tile = tl.load(places, mask=(token >= 0) & within(t0 + column, token, slack), other=float("-inf"))
    return tile


@triton.jit
def _tiles(values, pitch, s0, slack, t0, K: tl.constexpr):
    tiles = ()
    for k in tl.static_range(K):
        tiles = tiles + (_tile(values, pitch, s0, slack, t0, k, K),)
    return tiles


@triton.jit
def _holds_not_finite(values, pitch, s0, slack, begin, end, K: tl.constexpr, ACC: tl.constexpr):
    """Whether a cell of the strip that a path can visit holds NaN or +∞."""
    worst = tl.full([32, 32], float("-inf"), ACC)  # NaN if any is
    for k in tl.static_range(K):
        for chunk in range(begin, end):
            tile = widen(_tile(values, pitch, s0, slack, chunk * 32, k, K), ACC)
            worst = tl.maximum(worst, tile, propagate_nan=tl.PropagateNan.ALL)
    return tl.max(tl.max(tl.where(worst < float("inf"), 0, 1), 0), 0)


@triton.jit
def _strip(
    values,
    pitch,
    S,
    T,
    strip,
    borders,
    plane,
    epoch,
    patience,
    bits,
    moved,
    ACC: tl.constexpr,
    K: tl.constexpr,
):
    """The tokens of a strip in all frames in which a path can visit them.

    Args:
        borders: words of the item's borders, [strip, T − S + 1].
        bits, moved: of the strip, [chunk from its first on, token of the strip], written.

    Returns:
        V[S − 1, T − 1] (in the last strip), and what went wrong.
    """
    W: tl.constexpr = 32 * K
    lane = tl.arange(0, 32)
    before = tl.maximum(lane - 1, 0)
    after = (lane + 1) % 32
    s0 = left_of_strip(S, strip, W)
    slack = T - S  # a path can visit token s in the frames s … s + slack
    v = ()
    for k in tl.static_range(K):
        token = s0 + lane * K + k
        # Before frame 0 a path stands left of token 0 with score 0.
        v = v + (tl.where(token == -1, 0.0, tl.full([32], float("-inf"), ACC)),)
    begin = first_chunk(s0)
    end = tl.cdiv(tl.minimum(T, slack + s0 + W), 32)
    # A border's words begin with the first frame in which its token is visited.
    from_left = borders + (strip - 1).to(tl.int64) * (slack + 1) - (s0 - 1)
    trouble = tl.full([], 0, tl.int32)
    leaving = tl.full([32], 0.0, ACC)
    step = pitch
    start = s0
    tiles = _tiles(values, pitch, s0, slack, begin * 32, K)
    for chunk in range(begin, end):
        t0 = chunk * 32
        ahead = _tiles(values, step, start, slack, t0 + 32, K)
        x = ()
        for k in tl.static_range(K):
            x = x + (columns(tiles[k]),)
        t_left = t0 - 1 + lane
        needed = within(t_left, s0 - 1, slack) & (strip > 0)
        # A ring: thread 0 takes what enters from its own entry; the rest move up, and thread 31 puts in what leaves.
        looks = tl.where(trouble != 0, 1, patience)  # for an item that is lost, waste no more time
        ring, ring_moved, missing = take_over(from_left, plane, t_left, needed, epoch, looks, ACC)
        ring = tl.where(s0 + t0 + lane == 0, 0.0, ring)
        # A distance of the chunk before is none in this one; that of a word which never came could be anything.
        ring_moved = tl.where((lane == 0) | (missing != 0), 0, ring_moved)
        trouble |= missing * NOT_HANDED_OVER
        # Always the pitch, but the compiler must not know: else it keeps the addresses of all rows in registers.
        step = tl.where(missing > 1, 0, step)
        start = tl.where(missing > 1, 0, start)
        words = ()
        distance = ()
        for k in tl.static_range(K):
            words = words + (tl.zeros([32], tl.int32),)
            distance = distance + (tl.zeros([32], tl.int32),)
        for j in tl.static_range(32):
            move = tl.where(lane == 0, ring, tl.gather(v[K - 1], before, 0))
            came = tl.where(lane == 0, ring_moved, tl.gather(distance[K - 1], before, 0))
            new_v = ()
            new_words = ()
            new_distance = ()
            for k in tl.static_range(K):
                moves = move > v[k]
                new_v = new_v + (widen(x[k][j], ACC) + tl.where(moves, move, v[k]),)
                new_words = new_words + (words[k] | tl.where(moves, 1 << j, 0),)
                new_distance = new_distance + (tl.where(moves, came + 1, distance[k]),)
                move = v[k]
                came = distance[k]
            v = new_v
            words = new_words
            distance = new_distance
            ring = tl.where(lane == 31, v[K - 1], tl.gather(ring, after, 0))
            ring_moved = tl.where(lane == 31, distance[K - 1], tl.gather(ring_moved, after, 0))
        t = t0 + lane
        to_right = from_left + (slack + 1 - W)
        hand_over(to_right, plane, t, within(t, s0 + W - 1, slack) & (s0 + W < S), epoch, ring, ring_moved)
        leaving = ring
        place = (chunk - begin).to(tl.int64) * W + lane * K
        for k in tl.static_range(K):
            tl.store(bits + place + k, words[k])
            tl.store(moved + place + k, distance[k].to(tl.int8))
        tiles = ahead
    # NaN stays with its token, and so does +∞, which becomes NaN where the band ends: nothing need be looked at before.
    suspect = tl.full([32], 0, tl.int32)
    for k in tl.static_range(K):
        suspect |= tl.where(v[k] < float("inf"), 0, 1)
    if tl.max(suspect, 0) != 0:
        if _holds_not_finite(values, pitch, s0, slack, begin, end, K, ACC) != 0:
            trouble |= NOT_FINITE_SEEN
    end_score = tl.max(tl.where(lane == (T - 1) % 32, leaving, float("-inf")), 0)
    return end_score, trouble


@kernel
def mas_forward_kernel(
    values,
    tokens,
    frames,
    table,
    durations,
    borders,
    tickets,
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
    first_ticket,
    epoch,
    plane,
    patience,
    ACC: tl.constexpr,
    K: tl.constexpr,
    FUSED: tl.constexpr,
):
    """Scores of all cells, strip by strip: `items` × (strips of the widest item) programs. See `gpu_item` for `table`.

    Writes what `trace_chunks` reads. With FUSED the strip of an item that ends last goes
    on to find its path: for short items, whose way back takes less than a launch.
    """
    W: tl.constexpr = 32 * K
    ticket = draw_ticket(tickets, first_ticket)
    b = ticket % items
    strip = ticket // items
    S64 = tl.load(tokens + b)
    T64 = tl.load(frames + b)
    if uniform(status_of_lengths(table, pitch_of_table, b, S64, T64, W)) == OK:
        S = S64.to(tl.int32)
        T = T64.to(tl.int32)
        if strip < tl.cdiv(S, W):
            share = entry_of(table, pitch_of_table, b, BITS) + strip.to(tl.int64) * chunks_of_strip(S, T, W) * W
            end, wrong = _strip(
                values + entry_of(table, pitch_of_table, b, VALUES),
                entry_of(table, pitch_of_table, b, PITCH).to(tl.int32),
                S,
                T,
                strip,
                borders + entry_of(table, pitch_of_table, b, BORDERS),
                plane,
                epoch,
                patience,
                bits + share,
                moved + share,
                ACC,
                K,
            )
            tl.store(trouble + entry_of(table, pitch_of_table, b, STRIPS) + strip, wrong)
            if (strip + 1) * W >= S:
                tl.store(best + b, end.to(tl.float64))
    if FUSED:
        if arrive(arrivals + b) == tl.num_programs(0) // items - 1:
            tl.store(arrivals + b, 0)
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
                b,
                0,
                MAX_CHUNKS,
                ACC,
                K,
            )
