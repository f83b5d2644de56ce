# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""Sums over all monotonic paths on a GPU, from the begin to each cell: one program of one warp a strip of 32 tokens.

Thread l owns token s0 + l of its strip, whose sum (`gpu_scaled`) stays in registers while all frames pass. Strips are
laid from the right, as those of the best path (`gpu_forward`), and hand over mantissa and exponent of their last token.
Of each cell is kept which share of its sum came by staying on the token: the way back needs nothing else.
"""

import triton
import triton.language as tl

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import (
    INTERNAL,
    NO_FINITE_PATH,
    NOT_FINITE,
    OK,
    TOO_FEW_FRAMES,
    accumulator_in_kernel,
    entry_of,
    kernel,
    uniform,
    widen,
    within,
)
from alignd_kernels.gpu_scaled import CUT, LEAST, NOTHING, added, exp_parts, log_of, share_of
from alignd_kernels.gpu_strips import (
    NOT_FINITE_SEEN,
    NOT_HANDED_OVER,
    arrive,
    columns,
    draw_ticket,
    hand_over,
    look,
    look_again,
)
from alignd_kernels.mas.gpu_item import left_of_strip
from alignd_kernels.mas.gpu_sum_item import (
    BORDERS,
    FRAMES_PER_CHUNK,
    PITCH,
    SHARES,
    STRIPS,
    VALUES,
    W,
    all_inside,
    cells_of_strip,
    end_chunk,
    first_chunk,
    inside,
    places_of,
    status_of_lengths,
)

TOO_LARGE_SEEN = tl.constexpr(4)
"""What can go wrong in a strip, beside what `gpu_strips` names: a score that could lift paths beyond `MOST_UPWARD`."""

MOST_UPWARD = tl.constexpr(2.0**26)
MOST = tl.constexpr(2.0**26)
MOST_FLOAT32 = tl.constexpr(2.0**23)
"""A path is lifted by scores above 0, over all frames, by e^`MOST_UPWARD` at most, and a sum is within 2^±`MOST`;
else an item has no finite sum. So what is cut off counts for nothing: a path with a score below `CUT` sums to less than
2^−`MOST` however it is lifted, and `NOTHING` stays far below. Of float32, `MOST_FLOAT32` is what the CPU's exponents
hold: the same items are refused."""


def constants(dtype: DType, frames_first: bool) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype), "N": FRAMES_PER_CHUNK[dtype], "FRAMES_FIRST": frames_first}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for scores of this type."""
    return [constants(dtype, frames_first) for frames_first in (False, True)]


@triton.jit
def _tile(values, pitch, s0, slack, t0, N: tl.constexpr, FRAMES_FIRST: tl.constexpr):
    """Scores [32, N] of tokens s0 … in frames t0 …; −∞ outside the band, whatever is there, which keeps it clean."""
    places = values + places_of(pitch, s0, t0, N, FRAMES_FIRST)
    if all_inside(s0, slack, t0, N):
        tile = tl.load(places)
    else:
        tile = tl.load(places, mask=inside(s0, slack, t0, N), other=float("-inf"))
    return tile


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
    shares,
    keep,
    ACC: tl.constexpr,
    N: tl.constexpr,
    FRAMES_FIRST: tl.constexpr,
):
    """The tokens of a strip in all frames in which a path can visit them.

    Args:
        borders: words of the item's borders, [strip, T − S + 1].
        shares: of the strip, [chunk, frame, token], written if `keep` is 1.

    Returns:
        mantissa and exponent of the sum of cell (S − 1, T − 1) (in the last strip), and what went wrong.
    """
    lane = tl.arange(0, 32)
    before = tl.maximum(lane - 1, 0)
    after = (lane + 1) % 32
    zeros = tl.zeros([32], tl.int32)
    s0 = left_of_strip(S, strip, W)
    slack = T - S  # a path can visit token s in the frames s … s + slack
    m = tl.full([32], 1.0, ACC)
    # Before frame 0 a path stands left of token 0 with weight 1.
    e = tl.where(s0 + lane == -1, 0, NOTHING)
    begin = first_chunk(s0, N)
    # A border's words begin with the first frame in which its token is visited. Exponents are handed over as the bits
    # of float32, behind the words of the mantissas.
    from_left = borders + (strip - 1).to(tl.int64) * (slack + 1) - (s0 - 1)
    to_right = from_left + (slack + 1 - W)
    exponents = plane.to(tl.int64) * (2 if tl.float64 == ACC else 1)
    trouble = tl.full([], 0, tl.int32)
    largest = tl.full([32], float("-inf"), ACC)  # NaN if any is
    ring = m
    ring_e = e
    step = pitch
    start = s0
    kept = lane < keep * 32
    place = shares + lane
    tile = _tile(values, pitch, s0, slack, begin * N, N, FRAMES_FIRST)
    t_left = begin * N - 1 + lane
    needed = within(t_left, s0 - 1, slack) & (lane < N) & (strip > 0)
    low, high = look(from_left, plane, t_left, needed, ACC)
    low_e, high_e = look(from_left + exponents, plane, t_left, needed, tl.float32)
    for chunk in range(begin, end_chunk(S, T, s0, N)):
        t0 = chunk * N
        ahead = _tile(values, step, start, slack, t0 + N, N, FRAMES_FIRST)
        x = columns(widen(tile, ACC), N)
        # A first look for the next chunk, whose answer is there by then.
        t_after = t_left + N
        needed_after = within(t_after, s0 - 1, slack) & (lane < N) & (strip > 0)
        low_after, high_after = look(from_left, plane, t_after, needed_after, ACC)
        low_e_after, high_e_after = look(from_left + exponents, plane, t_after, needed_after, tl.float32)
        # A ring: thread 0 takes what enters from its own entry; the rest move up, and thread 31 puts in what leaves.
        looks = tl.where(trouble != 0, 1, patience)  # for an item that is lost, waste no more time
        ring, _, missing = look_again(low, high, from_left, plane, t_left, needed, epoch, looks, ACC)
        ring_bits, _, missing_e = look_again(
            low_e, high_e, from_left + exponents, plane, t_left, needed, epoch, looks, tl.float32
        )
        missing = tl.maximum(missing, missing_e)
        trouble |= missing * NOT_HANDED_OVER
        ring = tl.where(needed, ring, 1.0)
        ring_e = tl.where(needed, ring_bits.to(tl.int32, bitcast=True), NOTHING)
        ring_e = tl.where(s0 + t0 + lane == 0, 0, ring_e)
        t_left = t_after
        needed = needed_after
        low = low_after
        high = high_after
        low_e = low_e_after
        high_e = high_e_after
        # Always the pitch, but the compiler must not know: else it keeps the addresses of all rows in registers.
        step = tl.where(missing > 1, 0, step)
        start = tl.where(missing > 1, 0, start)
        for j in tl.static_range(N):
            move = tl.where(lane == 0, ring, tl.gather(m, before, 0))
            move_e = tl.where(lane == 0, ring_e, tl.gather(e, before, 0))
            both, both_e = added(m, e, move, move_e, ACC)
            tl.store(place + j * W, share_of(m, e, move_e, both, both_e, ACC), mask=kept)
            largest = tl.maximum(largest, x[j], propagate_nan=tl.PropagateNan.ALL)
            f, n = exp_parts(tl.minimum(x[j], -CUT))  # of NaN and +∞ the item's status tells
            m = both * f
            e = both_e + n
            ring = tl.where(lane == 31, m, tl.gather(ring, after, 0))
            ring_e = tl.where(lane == 31, e, tl.gather(ring_e, after, 0))
        place += N * W
        t = t0 + N - 32 + lane
        mine = within(t, s0 + W - 1, slack) & (lane >= 32 - N) & (s0 + W < S)
        hand_over(to_right, plane, t, mine, epoch, ring, zeros)
        hand_over(to_right + exponents, plane, t, mine, epoch, ring_e.to(tl.float32, bitcast=True), zeros)
        tile = ahead
    most = tl.max(tl.where(largest < float("inf"), largest, float("inf")), 0)
    trouble |= tl.where(most < float("inf"), 0, NOT_FINITE_SEEN)
    trouble |= tl.where(most * T.to(ACC) > MOST_UPWARD, TOO_LARGE_SEEN, 0)
    last = lane == 32 - N + (T - 1) % N
    return tl.max(tl.where(last, ring, 0.0), 0), tl.max(tl.where(last, ring_e, 2 * NOTHING), 0), trouble


@triton.jit
def _trouble_of(trouble, strips):
    """What went wrong in any strip, `gpu_strips.trouble_of` and this file's."""
    lane = tl.arange(0, 32)
    seen = tl.zeros([32], tl.int32)
    for start in range(0, strips, 32):
        seen |= tl.load(trouble + start + lane, mask=lane < strips - start, other=0)
    found = tl.max(seen & NOT_FINITE_SEEN, 0) | tl.max(seen & NOT_HANDED_OVER, 0)
    return found | tl.max(seen & TOO_LARGE_SEEN, 0)


@triton.jit
def _finish(
    tokens,
    frames,
    table,
    ends_m,
    ends_e,
    trouble,
    ways,
    costs,
    scores,
    statuses,
    pitch_of_table,
    b,
    ACC: tl.constexpr,
    N: tl.constexpr,
):
    """Score, cost and status of item b, when all its strips have ended."""
    S64 = tl.load(tokens + b)
    status = status_of_lengths(table, pitch_of_table, b, S64, tl.load(frames + b), N)
    score = tl.full([], float("nan"), tl.float64)
    if status == OK:
        strips = tl.cdiv(S64, W).to(tl.int32)
        wrong = _trouble_of(trouble + entry_of(table, pitch_of_table, b, STRIPS), strips)
        e = tl.load(ends_e + b)
        found = log_of(tl.load(ends_m + b), e)
        most: tl.constexpr = (MOST if tl.float64 == ACC else MOST_FLOAT32) * 0.6931471805599453
        finite = (e > LEAST) & (tl.abs(found) < most) & ((wrong & TOO_LARGE_SEEN) == 0)
        status = tl.where(finite, OK, NO_FINITE_PATH)
        status = tl.where((wrong & NOT_FINITE_SEEN) != 0, NOT_FINITE, status)
        status = tl.where((wrong & NOT_HANDED_OVER) != 0, INTERNAL, status)
        score = tl.where(status == OK, found, score)
    pathless = (status == NO_FINITE_PATH) | (status == TOO_FEW_FRAMES)
    cost = tl.where(pathless, float("inf"), 0.0 - score)
    tl.store(scores + b, score)
    tl.store(costs + b, cost.to(costs.dtype.element_ty))
    tl.store(statuses + b, status)
    tl.store(ways + b, status)


@kernel
def mas_sum_forward_kernel(
    values,
    tokens,
    frames,
    table,
    borders,
    tickets,
    shares,
    ends_m,
    ends_e,
    trouble,
    arrivals,
    ways,
    costs,
    scores,
    statuses,
    pitch_of_table,
    items,
    keep,
    first_ticket,
    epoch,
    plane,
    patience,
    ACC: tl.constexpr,
    N: tl.constexpr,
    FRAMES_FIRST: tl.constexpr,
):
    """Sums of all cells: `items` × (strips of the widest item) programs. `table`: see `gpu_sum_item`.

    Args:
        shares: accumulators, written if `keep` is 1.
        borders: [2 or (float64) 3 planes, words of all items].
        ends_m, ends_e, trouble: scratch, of each item, and of each strip.
        arrivals: int32 [items], zero, and zero again in the end.
        ways, costs, scores, statuses: written; `ways` are the statuses, for the way back.
    """
    ticket = draw_ticket(tickets, first_ticket)
    b = ticket % items
    strip = ticket // items
    S64 = tl.load(tokens + b)
    T64 = tl.load(frames + b)
    if uniform(status_of_lengths(table, pitch_of_table, b, S64, T64, N)) == OK:
        S = S64.to(tl.int32)
        T = T64.to(tl.int32)
        if strip < tl.cdiv(S, W):
            own = entry_of(table, pitch_of_table, b, SHARES) + strip * cells_of_strip(S64, T64, N)
            m, e, wrong = _strip(
                values + entry_of(table, pitch_of_table, b, VALUES),
                entry_of(table, pitch_of_table, b, PITCH).to(tl.int32),
                S,
                T,
                strip,
                borders + entry_of(table, pitch_of_table, b, BORDERS),
                plane,
                epoch,
                patience,
                shares + own,
                keep,
                ACC,
                N,
                FRAMES_FIRST,
            )
            tl.store(trouble + entry_of(table, pitch_of_table, b, STRIPS) + strip, wrong)
            if (strip + 1) * W >= S:
                tl.store(ends_m + b, m)
                tl.store(ends_e + b, e)
    if arrive(arrivals + b) == tl.num_programs(0) // items - 1:
        tl.store(arrivals + b, 0)
        _finish(
            tokens, frames, table, ends_m, ends_e, trouble, ways, costs, scores, statuses, pitch_of_table, b, ACC, N
        )  # fmt: skip
