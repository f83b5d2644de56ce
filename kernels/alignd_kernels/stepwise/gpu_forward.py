# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
# ruff: noqa: RUF005  (Triton knows no starred expressions)
"""Stepwise monotonic attention on a GPU, forward: one program of one warp for each strip of 32 tokens of an item.

Thread l owns token s0 + l, whose probability stays in a register while all frames pass. What a strip hands over to the
one on its right (`gpu_strips`) is what moves on from its last token, one number a frame.
"""

import triton
import triton.language as tl

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import OK, accumulator_in_kernel, kernel, uniform, widen
from alignd_kernels.gpu_strips import columns, draw_ticket, hand_over, look, look_again, tile_of
from alignd_kernels.stepwise.gpu_chances import chances
from alignd_kernels.stepwise.gpu_item import (
    STEP,
    energies_of,
    fill,
    first_choice,
    first_step,
    lengths_of,
    start,
    store,
)


def constants(dtype: DType, frames_first: bool) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype), "STEP": STEP[dtype], "FRAMES_FIRST": frames_first}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for energies of this type."""
    return [constants(dtype, frames_first) for frames_first in (False, True)]


@triton.jit
def _strip(
    energies,
    initial,
    alpha,
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
    """The tokens of a strip in steps begin … end − 1.

    Args:
        energies, initial, alpha: of the item.
        borders: words of the item's borders, [strip, most frames].
    """
    lane = tl.arange(0, 32)
    left = tl.maximum(lane - 1, 0)
    after = (lane + 1) % 32
    v = start(initial, S, s0, given, ACC)
    to_right = borders + (s0 // 32).to(tl.int64) * most_frames
    from_left = to_right - most_frames
    first_in = first_choice(s0 - 1, before, given)
    first_out = first_choice(s0 + 31, before, given)
    lost = tl.full([], 0, tl.int32)
    step = pitch
    ahead = energies_of(energies, pitch, s0, begin * STEP, S, T, keep, before, given, STEP, FRAMES_FIRST)
    t_left = begin * STEP + lane
    needed = (t_left >= first_in) & (t_left < T) & (lane < STEP) & (s0 > 0)
    low, high = look(from_left, plane, t_left, needed, ACC)
    for n in range(begin, end):
        t0 = n * STEP
        x = columns(ahead, STEP)
        ahead = energies_of(energies, step, s0, t0 + STEP, S, T, keep, before, given, STEP, FRAMES_FIRST)
        # A first look for the next step, whose answer is there by then.
        t_after = t_left + STEP
        needed_after = (t_after >= first_in) & (t_after < T) & (lane < STEP) & (s0 > 0)
        low_after, high_after = look(from_left, plane, t_after, needed_after, ACC)
        looks = tl.where(lost != 0, 1, patience)  # for an item that is lost, waste no more time
        ring, _, missing = look_again(low, high, from_left, plane, t_left, needed, epoch, looks, ACC)
        ring = tl.where(needed, tl.where(missing != 0, float("nan"), ring), 0.0)
        lost |= missing
        t_left = t_after
        needed = needed_after
        low = low_after
        high = high_after
        # Always the pitch, but the compiler must not know: else it keeps the addresses of all rows in registers.
        step = tl.where(missing > 1, 0, step)
        found = ()
        for j in tl.static_range(STEP):
            stay, move = chances(widen(x[j], ACC), ACC)
            moved = v * move
            if j == 0:  # where no choice is made yet, nor does NaN that it starts as move
                moved = tl.where(t0 + before == 0, 0.0, moved)
            v = v * stay + tl.where(lane == 0, ring, tl.gather(moved, left, 0))
            found = found + (v,)
            # A ring: what enters moves on to thread 0, what leaves thread 31 follows it.
            ring = tl.where(lane == 31, moved, tl.gather(ring, after, 0))
        t = t0 + STEP - 32 + lane
        mine = (t >= first_out) & (t < T) & (lane >= 32 - STEP) & (s0 + 32 < S)
        hand_over(to_right, plane, t, mine, epoch, ring, tl.zeros([32], tl.int32))
        tile = tile_of(found, STEP)
        store(tile, alpha, step, s0, t0, S, T, most_tokens, most_frames, STEP, FRAMES_FIRST)


@kernel
def stepwise_forward_kernel(
    energies,
    tokens,
    frames,
    initial,
    borders,
    tickets,
    alpha,
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
    """The probability of each token in each frame: `items` × (strips of `most_tokens`) programs.

    Args:
        energies: [items, most_tokens, most_frames], or with FRAMES_FIRST [items, most_frames, most_tokens].
        tokens, frames: int64 [items]; those that go beyond leave NaN in all of the item.
        initial: accumulators [items, most_tokens], looked at if `given` is 1.
        borders: words [2 planes for float64, items, strips − 1, most_frames].
        alpha: accumulators, as the energies, written; 0 beyond lengths, and NaN after a border that did not come.
        given, keep, before: 0 or 1, as `PaddedBatch` says.
    """
    ticket = draw_ticket(tickets, first_ticket)
    b = ticket % items
    s0 = ticket // items * 32
    S, T, status = lengths_of(tokens, frames, b, most_tokens, most_frames)
    pitch = most_tokens if FRAMES_FIRST else most_frames
    row = b.to(tl.int64) * most_tokens
    alpha += row * most_frames
    begin = tl.full([], 0, tl.int32)
    end = begin
    if uniform(S) > s0:
        end = tl.cdiv(T, STEP)
        begin = first_step(s0, before, given, end, STEP)
        _strip(
            energies + row * most_frames,
            initial + row,
            alpha,
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
    beyond = tl.where(status == OK, 0.0, float("nan"))
    fill(beyond, alpha, pitch, s0, 0, tl.minimum(begin * STEP, most_frames), most_tokens, STEP, FRAMES_FIRST)
    fill(beyond, alpha, pitch, s0, end * STEP, most_frames, most_tokens, STEP, FRAMES_FIRST)
