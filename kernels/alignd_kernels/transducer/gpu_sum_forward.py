# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
# ruff: noqa: B007
"""Sums over a transducer's paths on a GPU, from the begin to each node and from each node to the end, in one launch.

Both directions are one program: seen from the end, strips, threads and rows are counted the other way round, and
everything else is alike. Sums are as `gpu_scaled` says; they are kept for all nodes, in the order of the arcs.
"""

import triton
import triton.language as tl

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import NO_FINITE_PATH, OK, accumulator_in_kernel, entry_of, kernel, uniform, within
from alignd_kernels.gpu_scaled import LEAST, NOTHING, added, exp_parts, log_of
from alignd_kernels.gpu_strips import NOT_HANDED_OVER, arrive, draw_ticket, hand_over, look, look_again, trouble_of
from alignd_kernels.transducer.gpu_item import (
    BORDERS,
    CELLS,
    LARGE_ARC,
    STRIPS,
    left_of_strip,
    rows_of,
    status_of_lengths,
    status_of_sum,
    status_with_labels,
    steps_of,
    strips_of,
)
from alignd_kernels.transducer.gpu_strip import STEP, arcs_ahead, backward_places, forward_places


def constants(dtype: DType) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype), "STEP": STEP[dtype]}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for log-probs of this type."""
    return [constants(dtype)]


@triton.jit
def _strip(
    blanks,
    labels,
    pace,
    sums_m,
    sums_e,
    begins,
    T,
    strip,
    last,
    skew,
    borders,
    plane,
    epoch,
    patience,
    ACC: tl.constexpr,
    STEP: tl.constexpr,
):
    """The positions of a strip in all frames, in one of the directions.

    Args:
        blanks, labels: places of the arcs that lead to the strip's nodes in step 0.
        pace: elements from a step's arcs to the next one's, twice as many as from its sums to the next one's.
        sums_m, sums_e: places of the nodes' sums in step 0, written.
        begins: which thread's first node is the one that paths begin with.
        strip, last: its number, and the last one's, seen from there.
        borders: words of the item's borders, [strip, T + 1].

    Returns:
        what went wrong.
    """
    lane = tl.arange(0, 32)
    before = tl.maximum(lane - 1, 0)
    after = (lane + 1) % 32
    steps = steps_of(T, skew)
    m = tl.full([32], 1.0, ACC)
    e = tl.where(begins, 0, NOTHING)
    from_left = borders + (strip - 1).to(tl.int64) * (T + 1)
    to_right = from_left + (T + 1)
    # Exponents are handed over as the bits of float32, behind the words of the mantissas.
    exponents = plane.to(tl.int64) * (2 if tl.float64 == ACC else 1)
    trouble = tl.full([], 0, tl.int32)
    zeros = tl.zeros([32], tl.int32)
    n = tl.full([], 0, tl.int32)
    x_blank, x_label = arcs_ahead(blanks, labels, pace, STEP)
    t_left = lane - (1 - skew)
    needed = within(t_left, 0, T) & (lane < STEP) & (strip > 0)
    low, high = look(from_left, plane, t_left, needed, ACC)
    low_e, high_e = look(from_left + exponents, plane, t_left, needed, tl.float32)
    for part in range(tl.cdiv(steps, STEP)):
        blanks += pace * STEP
        labels += pace * STEP
        x_blank_ahead, x_label_ahead = arcs_ahead(blanks, labels, pace, STEP)
        # A first look for the next steps, whose answer is there by then.
        t_after = t_left + STEP
        needed_after = within(t_after, 0, T) & (lane < STEP) & (strip > 0)
        low_after, high_after = look(from_left, plane, t_after, needed_after, ACC)
        low_e_after, high_e_after = look(from_left + exponents, plane, t_after, needed_after, tl.float32)
        looks = tl.where(trouble != 0, 1, patience)  # for an item that is lost, waste no more time
        ring, _, missing = look_again(low, high, from_left, plane, t_left, needed, epoch, looks, ACC)
        ring_bits, _, missing_e = look_again(
            low_e, high_e, from_left + exponents, plane, t_left, needed, epoch, looks, tl.float32
        )
        trouble |= tl.where((missing != 0) | (missing_e != 0), NOT_HANDED_OVER, 0)
        ring = tl.where(needed, ring, 1.0)
        ring_e = tl.where(needed, ring_bits.to(tl.int32, bitcast=True), NOTHING)
        t_left = t_after
        needed = needed_after
        low = low_after
        high = high_after
        low_e = low_e_after
        high_e = high_e_after
        for j in tl.static_range(STEP):
            blank, blank_e = exp_parts(x_blank[j])
            label, label_e = exp_parts(x_label[j])
            label *= tl.where(lane == 0, ring, tl.gather(m, before, 0))
            label_e += tl.where(lane == 0, ring_e, tl.gather(e, before, 0))
            m, e = added(m * blank, e + blank_e, label, label_e, ACC)
            here = lane - lane + n + j < steps
            tl.store(sums_m, m, mask=here)
            tl.store(sums_e, e, mask=here)
            sums_m += pace // 2
            sums_e += pace // 2
            # A ring: what enters moves on to thread 0, what leaves thread 31 follows it.
            ring = tl.where(lane == 31, m, tl.gather(ring, after, 0))
            ring_e = tl.where(lane == 31, e, tl.gather(ring_e, after, 0))
        t_right = n + STEP - 32 + lane - 31 * skew
        mine = within(t_right, 0, T) & (lane >= 32 - STEP) & (strip < last)
        hand_over(to_right, plane, t_right, mine, epoch, ring, zeros)
        ring_bits = ring_e.to(tl.float32, bitcast=True)
        hand_over(to_right + exponents, plane, t_right, mine, epoch, ring_bits, zeros)
        x_blank = x_blank_ahead
        x_label = x_label_ahead
        n += STEP
    return trouble


@triton.jit
def _both_directions(
    arcs,
    sums_m,
    sums_e,
    T,
    U,
    strip,
    backward,
    cells,
    skew,
    borders,
    plane,
    epoch,
    patience,
    ACC: tl.constexpr,
    STEP: tl.constexpr,
):
    """A strip, counted from where its direction begins. See `_strip`.

    Args:
        arcs, sums_m, sums_e: of the item; the sums of `backward` lie `cells` further.
    """
    lane = tl.arange(0, 32)
    rows = rows_of(T, skew)
    last = strips_of(U) - 1
    place = tl.where(backward, last - strip, strip)
    cell = place.to(tl.int64) * rows * 32
    there, label_there = forward_places(arcs + cell * 2, T, place, skew)
    back, label_back = backward_places(arcs + cell * 2, T, skew)
    first = cell + tl.where(backward, (rows - 1).to(tl.int64) * 32 + 31 - lane + cells, 32 + lane)
    begins = tl.where(backward, (strip == 0) & (lane == 0), left_of_strip(U, place) + lane == 0)
    return _strip(
        tl.where(backward, back, there),
        tl.where(backward, label_back, label_there),
        tl.where(backward, -64, 64).to(tl.int64),
        sums_m + first,
        sums_e + first,
        begins,
        T,
        strip,
        last,
        skew,
        borders,
        plane,
        epoch,
        patience,
        ACC,
        STEP,
    )


@triton.jit
def _finish(
    frames,
    labels,
    table,
    checked,
    sums_m,
    sums_e,
    trouble,
    costs,
    scores,
    statuses,
    pitch_of_table,
    b,
    skew,
):
    """Score, cost and status of item b, when all its strips have ended."""
    T64 = tl.load(frames + b)
    U64 = tl.load(labels + b)
    status = status_with_labels(table, pitch_of_table, b, T64, U64, skew, checked)
    score = tl.full([], float("nan"), tl.float64)
    if status == OK:
        strips = strips_of(U64.to(tl.int32))
        end = entry_of(table, pitch_of_table, b, CELLS) + strips.to(tl.int64) * rows_of(T64, skew) * 32 - 1
        e = tl.load(sums_e + end)
        found = tl.load(checked + b)
        finite = (e > LEAST) & (found != LARGE_ARC)
        wrong = trouble_of(trouble + 2 * entry_of(table, pitch_of_table, b, STRIPS), 2 * strips)
        status = status_of_sum(found, wrong, finite)
        score = tl.where(status == OK, log_of(tl.load(sums_m + end), e), score)
    cost = tl.where(status == NO_FINITE_PATH, float("inf"), 0.0 - score)
    tl.store(scores + b, score)
    tl.store(costs + b, cost.to(costs.dtype.element_ty))
    tl.store(statuses + b, status)


@kernel
def transducer_sum_forward_kernel(
    frames,
    labels,
    table,
    arcs,
    checked,
    borders,
    tickets,
    sums_m,
    sums_e,
    trouble,
    arrivals,
    costs,
    scores,
    statuses,
    pitch_of_table,
    items,
    skew,
    cells,
    first_ticket,
    epoch,
    plane,
    patience,
    ACC: tl.constexpr,
    STEP: tl.constexpr,
):
    """Sums of all nodes: `items` × (strips of the widest item) × 2 programs. `table`: see `gpu_item`.

    Args:
        arcs, checked: as `transducer_arcs_kernel` has left them.
        borders: [2 or (float64) 3 planes, 2 directions, words of all items].
        sums_m, sums_e: mantissas and exponents [2 directions, `cells`], written.
        trouble: scratch.
        arrivals: int32 [items], zero, and zero again in the end.
        costs, scores, statuses: written.
        plane: words of both directions.
    """
    ticket = draw_ticket(tickets, first_ticket)
    b = ticket % items
    backward = ticket // items % 2
    strip = ticket // items // 2
    T64 = tl.load(frames + b)
    U64 = tl.load(labels + b)
    if uniform(status_of_lengths(table, pitch_of_table, b, T64, U64, skew)) == OK:
        T = T64.to(tl.int32)
        U = U64.to(tl.int32)
        if strip < strips_of(U):
            begin = entry_of(table, pitch_of_table, b, CELLS)
            own_borders = entry_of(table, pitch_of_table, b, BORDERS) + backward.to(tl.int64) * (plane // 2)
            wrong = _both_directions(
                arcs + begin * 2,
                sums_m + begin,
                sums_e + begin,
                T,
                U,
                strip,
                backward == 1,
                cells,
                skew,
                borders + own_borders,
                plane,
                epoch,
                patience,
                ACC,
                STEP,
            )
            tl.store(trouble + 2 * (entry_of(table, pitch_of_table, b, STRIPS) + strip) + backward, wrong)
    if arrive(arrivals + b) == tl.num_programs(0) // items - 1:
        tl.store(arrivals + b, 0)
        _finish(
            frames,
            labels,
            table,
            checked,
            sums_m,
            sums_e,
            trouble,
            costs,
            scores,
            statuses,
            pitch_of_table,
            b,
            skew,
        )
