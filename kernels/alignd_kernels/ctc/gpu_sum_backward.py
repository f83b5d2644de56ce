# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
# ruff: noqa: RUF005, SIM102  (Triton knows no starred expressions, and `and` evaluates both sides)
"""Sums over all CTC paths on a GPU, the way back: the probability of each state in each frame.

A frame's probabilities are what those of the frame after it send back, by the shares that `gpu_sum_forward` has kept: a
few products and sums, without an exponential, and what is sent is what is there. One program for each strip again, from
right to left: what a strip hands to the one on its left is what goes back to that one's last label.
"""

import triton
import triton.language as tl

from alignd_kernels.ctc.gpu_item import BORDERS, STRIPS, TARGETS, frames_of_border, left_of_strip, strips_of
from alignd_kernels.ctc.gpu_sum_item import (
    CELLS,
    FINE,
    NOT_HANDED_OVER,
    OUT,
    OUT_PITCH,
    STEP,
    cells_of,
    frames_of_strip,
    labels_of_strip,
    worst_of,
)
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import INTERNAL, OK, accumulator_in_kernel, entry_of, kernel, within
from alignd_kernels.gpu_strips import arrive, draw_ticket, hand_over, look, look_again


def constants(dtype: DType) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype), "STEP": STEP[dtype]}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for log-probs of this type."""
    return [constants(dtype)]


@triton.jit
def _shares(own, t, begin, last, STEP: tl.constexpr):
    """The junctions' and the labels' shares in frames t, t − 1 … t − STEP + 1. In a frame after the strip's last, all
    stays as it is."""
    of_blank = ()
    of_label = ()
    for j in tl.static_range(STEP):
        place = own + (t - j).to(tl.int64) * 64
        here = tl.zeros([32], tl.int32) + t - j
        here = (here >= begin) & (here <= last)
        of_blank = of_blank + (tl.load(place, mask=here, other=1.0),)
        of_label = of_label + (tl.load(place + 32, mask=here, other=1.0),)
    return of_blank, of_label


@triton.jit
def _strip(
    targets,
    target_words,
    T,
    L,
    strip,
    R_before,
    spare,
    borders,
    plane,
    epoch,
    patience,
    cells,
    ends_on_label,
    out,
    out_pitch,
    states,
    ACC: tl.constexpr,
    STEP: tl.constexpr,
):
    """The pairs of a strip in all frames in which a path can visit them, from the last one on.

    Args:
        targets: the low word is all of one.
        borders: words of the item's borders, [strip, frame from the label's first on].
        cells: of the item: shares, read; probabilities in their place, written unless `states` is 1.
        ends_on_label: share of the paths that end on the last label.
        out: [T, 2L + 1], rows `out_pitch` apart: probabilities, written if `states` is 1.

    Returns:
        what went wrong.
    """
    lane = tl.arange(0, 32)
    before = (lane + 31) % 32
    after = tl.minimum(lane + 1, 31)
    i, _, repeat, _ = labels_of_strip(targets, target_words, L, strip, R_before)
    R_after = R_before + tl.sum(repeat, 0)
    begin, last = frames_of_strip(T, L, strip, R_before, R_after, spare)
    own = cells_of(cells, T, L, strip) + lane
    written = tl.where(states == 1, out + 2 * i, own)
    pace = tl.where(states == 1, out_pitch, 64)
    to_label = tl.where(states == 1, 1, 32)
    first_left = left_of_strip(L, strip) - 1 + R_before
    first_right = left_of_strip(L, strip) + 31 + R_after
    width = frames_of_border(T, L)
    to_left = borders + (strip - 1).to(tl.int64) * width - first_left
    from_right = borders + strip.to(tl.int64) * width - first_right
    leads = strip > 0
    is_led = strip < strips_of(L) - 1

    # Before a strip's last frame nothing is in it, but where the paths end.
    in_label = tl.where(i == L - 1, ends_on_label, tl.zeros([32], ACC))
    in_blank = tl.where(i == L, 1.0 - ends_on_label, tl.zeros([32], ACC))
    lost = tl.full([], 0, tl.int32)
    zeros = tl.zeros([32], tl.int32)
    t = last + 1
    of_blank, of_label = _shares(own, t, begin, last, STEP)
    t_right = t - 32 + lane
    needed = within(t_right, first_right, spare) & (lane >= 32 - STEP) & is_led
    low, high = look(from_right, plane, t_right, needed, ACC)
    for _ in range(tl.cdiv(t - begin + 1, STEP)):
        of_blank_ahead, of_label_ahead = _shares(own, t - STEP, begin, last, STEP)
        # A first look for the next frames, whose answer is there by then.
        t_after = t_right - STEP
        needed_after = within(t_after, first_right, spare) & (lane >= 32 - STEP) & is_led
        low_after, high_after = look(from_right, plane, t_after, needed_after, ACC)
        looks = tl.where(lost != 0, 1, patience)  # for an item that is lost, waste no more time
        ring, _, missing = look_again(low, high, from_right, plane, t_right, needed, epoch, looks, ACC)
        lost |= missing
        ring = tl.where(needed, ring, 0.0)
        t_right = t_after
        needed = needed_after
        low = low_after
        high = high_after
        for j in tl.static_range(STEP):
            stay = in_label * of_label[j]
            moving = in_label - stay
            shared = tl.where(repeat == 0, moving, 0.0)
            through = in_blank + shared
            stay_blank = through * of_blank[j]
            leaving = through - stay_blank
            in_blank = stay_blank + (moving - shared)
            in_label = stay + tl.where(lane == 31, ring, tl.gather(leaving, after, 0))
            # A ring: what enters moves on to thread 31, what leaves thread 0 follows it.
            ring = tl.where(lane == 0, leaving, tl.gather(ring, before, 0))
            t_here = t - j - 1
            here = (zeros + t_here >= begin) & (i >= 0)
            place = written + t_here.to(tl.int64) * pace
            tl.store(place, in_blank, mask=here)
            tl.store(place + to_label, in_label, mask=here & (i < L))
        t_left = t - STEP + lane
        mine = within(t_left, first_left, spare) & (lane < STEP) & leads
        hand_over(to_left, plane, t_left, mine, epoch, ring, zeros)
        of_blank = of_blank_ahead
        of_label = of_label_ahead
        t -= STEP
    return tl.where(lost != 0, NOT_HANDED_OVER, FINE)


@triton.jit
def _clear(out, out_pitch, T, states):
    """Zeros in all rows of an item."""
    block = tl.arange(0, 128)
    for t in range(T):
        for start in range(0, states, 128):
            place = out + out_pitch * t + start + block
            tl.store(place, tl.zeros([128], out.dtype.element_ty), mask=block < states - start)


@kernel
def ctc_sum_backward_kernel(
    targets,
    target_lengths,
    frames,
    table,
    borders,
    tickets,
    cells,
    repeats,
    spares,
    ends,
    trouble,
    arrivals,
    out,
    costs,
    scores,
    statuses,
    pitch_of_table,
    items,
    target_words,
    first_ticket,
    epoch,
    plane,
    patience,
    states,
    ACC: tl.constexpr,
    STEP: tl.constexpr,
):
    """Probabilities of all states: `items` × (strips of the widest item) programs. `table`: see `gpu_sum_item`.

    Args:
        borders: [1 or (float64) 2 planes, words of all items].
        cells, repeats, spares, ends: as `ctc_sum_forward_kernel` has left them.
        trouble: int32, of each strip, scratch.
        arrivals: int32 [items], zero, and zero again in the end.
        out: zero; if `states` is 1, probabilities are written there, else in `cells`.
        costs, scores, statuses: of an item whose borders do not come, written.
    """
    ticket = draw_ticket(tickets, first_ticket)
    b = ticket % items
    status = tl.load(statuses + b)
    own = entry_of(table, pitch_of_table, b, STRIPS)
    out += entry_of(table, pitch_of_table, b, OUT)
    out_pitch = entry_of(table, pitch_of_table, b, OUT_PITCH)
    L = tl.load(target_lengths + b).to(tl.int32)
    T = tl.load(frames + b).to(tl.int32)
    if status == OK:
        strip = strips_of(L) - 1 - ticket // items
        if strip >= 0:
            wrong = _strip(
                targets + entry_of(table, pitch_of_table, b, TARGETS),
                target_words,
                T,
                L,
                strip,
                tl.load(repeats + own + strip),
                tl.load(spares + b),
                borders + entry_of(table, pitch_of_table, b, BORDERS),
                plane,
                epoch,
                patience,
                cells + entry_of(table, pitch_of_table, b, CELLS),
                tl.load(ends + 2 * b),
                out,
                out_pitch,
                states,
                ACC,
                STEP,
            )
            tl.store(trouble + own + strip, wrong)
    if arrive(arrivals + b) == tl.num_programs(0) // items - 1:
        tl.store(arrivals + b, 0)
        if status == OK:
            if worst_of(trouble + own, strips_of(L)) != FINE:
                tl.store(costs + b, float("nan"))
                tl.store(scores + b, float("nan"))
                tl.store(statuses + b, INTERNAL)
                if states == 1:
                    _clear(out, out_pitch, T, 2 * L + 1)
