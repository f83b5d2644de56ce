# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
# ruff: noqa: RUF005  (Triton knows no starred expressions)
"""Derivatives of stepwise monotonic attention on a GPU: the strips of `gpu_forward`, from the right to the left and
from the last frame to the first.

Thread l carries G, the derivative by the probability of its token, later frames included (see `reference.gradient`).
What a strip hands over to the one on its left is G of its first token, one number a frame. The energies are read anew:
a sigmoid costs less than memory for its result would.
"""

import triton
import triton.language as tl

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import OK, kernel, uniform, widen
from alignd_kernels.gpu_strips import columns, draw_ticket, hand_over, look, look_again, tile_of
from alignd_kernels.stepwise import gpu_forward
from alignd_kernels.stepwise.gpu_chances import chances
from alignd_kernels.stepwise.gpu_item import (
    energies_of,
    fill,
    first_choice,
    first_step,
    lengths_of,
    places,
    start,
    store,
)


def constants(dtype: DType, frames_first: bool) -> dict[str, object]:
    """What the kernel is compiled for."""
    return gpu_forward.constants(dtype, frames_first)


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for energies of this type."""
    return gpu_forward.variants(dtype)


@triton.jit
def _values(array, pitch, s0, t0, S, T, STEP: tl.constexpr, FRAMES_FIRST: tl.constexpr):
    """Of an item, 0 beyond lengths and before frame 0."""
    s = s0 + tl.arange(0, 32)[:, None]
    t = t0 + tl.arange(0, STEP)[None, :]
    place = places(array, pitch, s0, t0, STEP, FRAMES_FIRST)
    return tl.load(place, mask=(s < S) & (t >= 0) & (t < T), other=0.0)


@triton.jit
def _strip(
    energies,
    initial,
    alpha,
    upstream,
    slopes,
    pitch,
    S,
    T,
    s0,
    most_tokens,
    most_frames,
    begin,
    end,
    given,
    keep,
    before,
    borders,
    plane,
    epoch,
    patience,
    ACC: tl.constexpr,
    STEP: tl.constexpr,
    FRAMES_FIRST: tl.constexpr,
):
    """The tokens of a strip in steps end − 1 … begin.

    Args:
        energies, initial, alpha, upstream, slopes: of the item.
        borders: words of the item's borders, [strip, most frames].

    Returns:
        the derivative by what the attention of its tokens starts as.
    """
    lane = tl.arange(0, 32)
    right = tl.minimum(lane + 1, 31)
    before_it = (lane + 31) % 32
    from_right = borders + (s0 // 32).to(tl.int64) * most_frames
    to_left = from_right - most_frames
    first = first_choice(s0 + lane, before, given)
    choosing = s0 + lane < S - keep
    first_in = first_choice(s0 + 31, before, given)
    first_out = first_choice(s0 - 1, before, given)
    inner = s0 + 32 < S
    begun = start(initial, S, s0, given, ACC)
    carried = tl.zeros([32], ACC)
    lost = tl.full([], 0, tl.int32)
    step = pitch
    t0 = (end - 1) * STEP
    x_ahead = energies_of(energies, pitch, s0, t0, S, T, keep, before, given, STEP, FRAMES_FIRST)
    up_ahead = _values(upstream, pitch, s0, t0, S, T, STEP, FRAMES_FIRST)
    past_ahead = _values(alpha, pitch, s0, t0 - 1, S, T, STEP, FRAMES_FIRST)
    t_right = t0 + STEP - 32 + lane
    needed = (t_right >= first_in) & (t_right < T) & (lane >= 32 - STEP) & inner
    low, high = look(from_right, plane, t_right, needed, ACC)
    for _ in range(begin, end):
        x = columns(x_ahead, STEP)
        up = columns(up_ahead, STEP)
        past = columns(past_ahead, STEP)
        t_next = t0 - STEP
        x_ahead = energies_of(energies, step, s0, t_next, S, T, keep, before, given, STEP, FRAMES_FIRST)
        up_ahead = _values(upstream, step, s0, t_next, S, T, STEP, FRAMES_FIRST)
        past_ahead = _values(alpha, step, s0, t_next - 1, S, T, STEP, FRAMES_FIRST)
        # A first look for the next step, whose answer is there by then.
        t_after = t_right - STEP
        needed_after = (t_after >= first_in) & (t_after < T) & (lane >= 32 - STEP) & inner
        low_after, high_after = look(from_right, plane, t_after, needed_after, ACC)
        looks = tl.where(lost != 0, 1, patience)  # for an item that is lost, waste no more time
        ring, _, missing = look_again(low, high, from_right, plane, t_right, needed, epoch, looks, ACC)
        ring = tl.where(needed, tl.where(missing != 0, float("nan"), ring), 0.0)
        lost |= missing
        t_right = t_after
        needed = needed_after
        low = low_after
        high = high_after
        # Always the pitch, but the compiler must not know: else it keeps the addresses of all rows in registers.
        step = tl.where(missing > 1, 0, step)
        found = ()
        for j in tl.static_range(STEP - 1, -1, -1):
            G = carried + up[j]
            moving = tl.where(lane == 31, ring, tl.gather(G, right, 0))
            # A ring: what enters moves on to thread 31, what leaves thread 0 follows it.
            ring = tl.where(lane == 0, G, tl.gather(ring, before_it, 0))
            earlier = past[j]
            if j == 0:
                earlier = tl.where(t0 == 0, begun, earlier)
            stay, move = chances(widen(x[j], ACC), ACC)
            chosen = choosing & (t0 + j >= first) & (t0 + j < T)
            found = (tl.where(chosen, earlier * (G - moving) * (stay * move), 0.0),) + found
            carried = tl.where(chosen, stay * G + move * moving, G)
        t = t0 + lane
        mine = (t >= first_out) & (t < T) & (lane < STEP) & (s0 > 0)
        hand_over(to_left, plane, t, mine, epoch, ring, tl.zeros([32], tl.int32))
        tile = tile_of(found, STEP)
        store(tile, slopes, step, s0, t0, S, T, most_tokens, most_frames, STEP, FRAMES_FIRST)
        t0 = t_next
    return carried


@kernel
def stepwise_backward_kernel(
    energies,
    tokens,
    frames,
    initial,
    alpha,
    upstream,
    borders,
    tickets,
    slopes,
    initial_slopes,
    items,
    most_tokens,
    most_frames,
    given,
    keep,
    before,
    first_ticket,
    epoch,
    plane,
    patience,
    ACC: tl.constexpr,
    STEP: tl.constexpr,
    FRAMES_FIRST: tl.constexpr,
):
    """The derivatives by the energies, and by what the attention starts as. See `stepwise_forward_kernel`.

    Args:
        alpha: its result.
        upstream: the derivative by alpha, accumulators, as the energies.
        slopes: accumulators, as the energies, written; 0 beyond lengths, and NaN after a border that did not come.
        initial_slopes: accumulators [items, most_tokens], written if `given` is 1.
    """
    ticket = draw_ticket(tickets, first_ticket)
    b = ticket % items
    S, T, status = lengths_of(tokens, frames, b, most_tokens, most_frames)
    # A strip waits for the one on its right: that must have drawn the lower ticket. Those beyond S wait for none.
    strips = tl.cdiv(S, 32)
    turn = ticket // items
    s0 = tl.where(turn < strips, strips - 1 - turn, turn) * 32
    pitch = most_tokens if FRAMES_FIRST else most_frames
    row = b.to(tl.int64) * most_tokens
    slopes += row * most_frames
    begin = tl.full([], 0, tl.int32)
    end = begin
    beyond = tl.where(status == OK, 0.0, float("nan"))
    by_start = tl.zeros([32], ACC) + beyond
    if uniform(S) > s0:
        end = tl.cdiv(T, STEP)
        begin = first_step(s0, before, given, end, STEP)
        by_start = _strip(
            energies + row * most_frames,
            initial + row,
            alpha + row * most_frames,
            upstream + row * most_frames,
            slopes,
            pitch,
            S,
            T,
            s0,
            most_tokens,
            most_frames,
            begin,
            end,
            given,
            keep,
            before,
            borders + b.to(tl.int64) * (tl.cdiv(most_tokens, 32) - 1) * most_frames,
            plane,
            epoch,
            patience,
            ACC,
            STEP,
            FRAMES_FIRST,
        )
    fill(beyond, slopes, pitch, s0, 0, tl.minimum(begin * STEP, most_frames), most_tokens, STEP, FRAMES_FIRST)
    fill(beyond, slopes, pitch, s0, end * STEP, most_frames, most_tokens, STEP, FRAMES_FIRST)
    s = s0 + tl.arange(0, 32)
    tl.store(initial_slopes + row + s, by_start, mask=(s < most_tokens) & (given != 0))
