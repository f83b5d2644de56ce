# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""The best path of a transducer on a GPU: one program of one warp for each strip of 32 label positions of an item.

Thread l owns position u0 + l; its score stays in a register while all frames pass, skewed as `gpu_item` says. What a
strip hands to the one on its right is the score of its last position in each frame.

Each node leaves one bit (it is reached by the label's arc), 32 steps to a word. The strip of an item that ends last
follows them back (`gpu_trace`).
"""

import triton
import triton.language as tl

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import OK, accumulator_in_kernel, entry_of, kernel, uniform, within
from alignd_kernels.gpu_strips import NOT_HANDED_OVER, arrive, draw_ticket, hand_over, look, look_again
from alignd_kernels.transducer.gpu_item import (
    BITS,
    BORDERS,
    CELLS,
    STRIPS,
    left_of_strip,
    rows_of,
    status_of_lengths,
    steps_of,
    strips_of,
)
from alignd_kernels.transducer.gpu_strip import STEP, arcs_ahead, forward_places
from alignd_kernels.transducer.gpu_trace import trace_item


def constants(dtype: DType) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype), "STEP": STEP[dtype]}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for log-probs of this type."""
    return [constants(dtype)]


@triton.jit
def _strip(arcs, T, U, strip, skew, borders, plane, epoch, patience, bits, ACC: tl.constexpr, STEP: tl.constexpr):
    """The positions of a strip in all frames.

    Args:
        arcs: of the strip, as `transducer_arcs_kernel` has left them.
        borders: words of the item's borders, [strip, T + 1].
        bits: of the strip, [chunk of 32 steps, 32], written.

    Returns:
        V[T, U] (in the last strip), and what went wrong.
    """
    lane = tl.arange(0, 32)
    before = tl.maximum(lane - 1, 0)
    after = (lane + 1) % 32
    steps = steps_of(T, skew)
    blanks, labels = forward_places(arcs, T, strip, skew)
    words = bits + lane
    v = tl.where(left_of_strip(U, strip) + lane == 0, 0.0, tl.full([32], float("-inf"), ACC))
    from_left = borders + (strip - 1).to(tl.int64) * (T + 1)
    to_right = from_left + (T + 1)
    trouble = tl.full([], 0, tl.int32)
    leaving = tl.full([32], 0.0, ACC)
    zeros = tl.zeros([32], tl.int32)
    x_blank, x_label = arcs_ahead(blanks, labels, 64, STEP)
    t_left = lane - (1 - skew)  # thread 0 is at frame n in step n, and a modified label's arc comes from the one before
    needed = within(t_left, 0, T) & (lane < STEP) & (strip > 0)
    low, high = look(from_left, plane, t_left, needed, ACC)
    for chunk in range(tl.cdiv(steps, 32)):
        word = tl.zeros([32], tl.int32)
        for done in range(0, tl.minimum(32, steps - chunk * 32), STEP):
            n = chunk * 32 + done
            blanks += 64 * STEP
            labels += 64 * STEP
            x_blank_ahead, x_label_ahead = arcs_ahead(blanks, labels, 64, STEP)
            # A first look for the next steps, whose answer is there by then.
            t_after = t_left + STEP
            needed_after = within(t_after, 0, T) & (lane < STEP) & (strip > 0)
            low_after, high_after = look(from_left, plane, t_after, needed_after, ACC)
            looks = tl.where(trouble != 0, 1, patience)  # for an item that is lost, waste no more time
            ring, _, missing = look_again(low, high, from_left, plane, t_left, needed, epoch, looks, ACC)
            trouble |= tl.where(missing != 0, NOT_HANDED_OVER, 0)
            t_left = t_after
            needed = needed_after
            low = low_after
            high = high_after
            came = tl.zeros([32], tl.int32)
            for j in tl.static_range(STEP):
                by_label = x_label[j] + tl.where(lane == 0, ring, tl.gather(v, before, 0))
                by_blank = x_blank[j] + v
                label = by_label > by_blank
                v = tl.where(label, by_label, by_blank)
                came |= tl.where(label, 1 << j, 0)
                # A ring: what enters moves on to thread 0, what leaves thread 31 follows it.
                ring = tl.where(lane == 31, v, tl.gather(ring, after, 0))
            word |= came << done
            leaving = ring
            t_right = n + STEP - 32 + lane - 31 * skew
            mine = within(t_right, 0, T) & (lane >= 32 - STEP) & (strip + 1 < strips_of(U))
            hand_over(to_right, plane, t_right, mine, epoch, ring, zeros)
            x_blank = x_blank_ahead
            x_label = x_label_ahead
        tl.store(words, word)
        words += 32
    last = 32 - STEP + (steps - 1) % STEP
    return tl.max(tl.where(lane == last, leaving, float("-inf")), 0), trouble


@kernel
def transducer_forward_kernel(
    frames,
    labels,
    table,
    arcs,
    checked,
    borders,
    tickets,
    bits,
    best,
    trouble,
    arrivals,
    emissions,
    on_path,
    scores,
    statuses,
    pitch_of_table,
    items,
    skew,
    first_ticket,
    epoch,
    plane,
    patience,
    ACC: tl.constexpr,
    STEP: tl.constexpr,
):
    """The best path of each item: `items` × (strips of the widest item) programs. `table`: see `gpu_item`.

    Args:
        arcs, checked: as `transducer_arcs_kernel` has left them.
        bits, best, trouble, on_path: scratch.
        arrivals: int32 [items], zero, and zero again in the end.
        emissions: int32, zero, written.
        scores, statuses: written.
    """
    ticket = draw_ticket(tickets, first_ticket)
    b = ticket % items
    strip = ticket // items
    T64 = tl.load(frames + b)
    U64 = tl.load(labels + b)
    if uniform(status_of_lengths(table, pitch_of_table, b, T64, U64, skew)) == OK:
        T = T64.to(tl.int32)
        U = U64.to(tl.int32)
        if strip < strips_of(U):
            chunks = tl.cdiv(steps_of(T, skew), 32)
            cells = entry_of(table, pitch_of_table, b, CELLS) + strip.to(tl.int64) * rows_of(T, skew) * 32
            end, wrong = _strip(
                arcs + cells * 2,
                T,
                U,
                strip,
                skew,
                borders + entry_of(table, pitch_of_table, b, BORDERS),
                plane,
                epoch,
                patience,
                bits + (entry_of(table, pitch_of_table, b, BITS) + strip.to(tl.int64) * chunks * 32),
                ACC,
                STEP,
            )
            tl.store(trouble + entry_of(table, pitch_of_table, b, STRIPS) + strip, wrong)
            if strip + 1 == strips_of(U):
                tl.store(best + b, end.to(tl.float64))
    if arrive(arrivals + b) == tl.num_programs(0) // items - 1:
        tl.store(arrivals + b, 0)
        trace_item(
            frames,
            labels,
            table,
            arcs,
            checked,
            bits,
            best,
            trouble,
            emissions,
            on_path,
            scores,
            statuses,
            pitch_of_table,
            b,
            skew,
            ACC,
        )
