# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
# ruff: noqa: RUF005  (Triton knows no starred expressions)
"""Dynamic time warping on a GPU: one program of one warp for each strip of 32 tokens of an item.

Thread l owns token s0 + l; its score stays in a register while all frames pass, skewed as `gpu_item` says: of the step
before are its own score, in the frame before, and the left thread's in the same frame; what that one was then, is the
diagonal's now. What a strip hands to the one on its right is the score of its last token in each frame.

Each cell leaves two bits (it is reached from the token above; or else by the diagonal), 32 steps to a word each. The
strip of an item that ends last follows them back (`gpu_dtw_trace`).
"""

from typing import Final

import triton
import triton.language as tl

from alignd_kernels.attention.gpu_dtw_trace import trace_item
from alignd_kernels.attention.gpu_item import BITS, BORDERS, CELLS, STRIPS, chunks_of, steps_of, strips_of
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import OK, accumulator_in_kernel, entry_of, kernel, uniform, within
from alignd_kernels.gpu_strips import NOT_HANDED_OVER, arrive, draw_ticket, hand_over, look, look_again

STEP: Final = {DType.FLOAT16: 16, DType.BFLOAT16: 16, DType.FLOAT32: 16, DType.FLOAT64: 8}
"""Steps of which the cells are loaded ahead, and between two looks at the border: about as long as a trip to memory."""


def constants(dtype: DType) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype), "STEP": STEP[dtype]}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for values of this type."""
    return [constants(dtype)]


@triton.jit
def _cells_ahead(places, STEP: tl.constexpr):
    """Cells of STEP steps, a tuple of vectors."""
    x = ()
    for j in tl.static_range(STEP):
        x = x + (tl.load(places + j * 32),)
    return x


@triton.jit
def _strip(cells, S, T, strip, borders, plane, epoch, patience, bits, ACC: tl.constexpr, STEP: tl.constexpr):
    """The tokens of a strip in all frames.

    Args:
        cells: of the strip, as `attention_cells_kernel` has left them.
        borders: words of the item's borders, [strip, T].
        bits: of the strip, [chunk of 32 steps, from above or slanted, 32], written.

    Returns:
        D[S − 1, T − 1] (in the last strip), and what went wrong.
    """
    lane = tl.arange(0, 32)
    before = tl.maximum(lane - 1, 0)
    after = (lane + 1) % 32
    steps = steps_of(T)
    token = S - (strips_of(S) - strip) * 32 + lane
    # Before its first frame all of a thread's past is −∞, but the score 0 of token −1, by which a path begins.
    score = tl.where(token == -1, 0.0, tl.full([32], float("-inf"), ACC))
    diagonal = tl.where(token == 0, 0.0, tl.full([32], float("-inf"), ACC))
    places = cells + lane
    words = bits + lane
    from_left = borders + (strip - 1).to(tl.int64) * T
    to_right = from_left + T
    trouble = tl.full([], 0, tl.int32)
    leaving = tl.full([32], 0.0, ACC)
    zeros = tl.zeros([32], tl.int32)
    x = _cells_ahead(places, STEP)
    t_left = lane  # thread 0 is at frame n in step n
    needed = within(t_left, 0, T - 1) & (lane < STEP) & (strip > 0)
    low, high = look(from_left, plane, t_left, needed, ACC)
    for chunk in range(tl.cdiv(steps, 32)):
        above_word = tl.zeros([32], tl.int32)
        slanted_word = tl.zeros([32], tl.int32)
        for done in range(0, tl.minimum(32, steps - chunk * 32), STEP):
            n = chunk * 32 + done
            places += 32 * STEP
            x_ahead = _cells_ahead(places, STEP)
            # A first look for the next steps, whose answer is there by then.
            t_after = t_left + STEP
            needed_after = within(t_after, 0, T - 1) & (lane < STEP) & (strip > 0)
            low_after, high_after = look(from_left, plane, t_after, needed_after, ACC)
            looks = tl.where(trouble != 0, 1, patience)  # for an item that is lost, waste no more time
            ring, _, missing = look_again(low, high, from_left, plane, t_left, needed, epoch, looks, ACC)
            trouble |= tl.where(missing != 0, NOT_HANDED_OVER, 0)
            t_left = t_after
            needed = needed_after
            low = low_after
            high = high_after
            came_above = tl.zeros([32], tl.int32)
            came_slanted = tl.zeros([32], tl.int32)
            for j in tl.static_range(STEP):
                up = tl.where(lane == 0, ring, tl.gather(score, before, 0))
                slanted = diagonal > score
                best = tl.where(slanted, diagonal, score)
                above = up > best
                score = x[j] + tl.where(above, up, best)
                diagonal = up
                came_above |= tl.where(above, 1 << j, 0)
                came_slanted |= tl.where(slanted, 1 << j, 0)
                # A ring: what enters moves on to thread 0, what leaves thread 31 follows it.
                ring = tl.where(lane == 31, score, tl.gather(ring, after, 0))
            above_word |= came_above << done
            slanted_word |= came_slanted << done
            leaving = ring
            t_right = n + STEP - 32 + lane - 31
            mine = within(t_right, 0, T - 1) & (lane >= 32 - STEP) & (strip + 1 < strips_of(S))
            hand_over(to_right, plane, t_right, mine, epoch, ring, zeros)
            x = x_ahead
        tl.store(words, above_word)
        tl.store(words + 32, slanted_word)
        words += 64
    last = 32 - STEP + (steps - 1) % STEP
    return tl.max(tl.where(lane == last, leaving, float("-inf")), 0), trouble


@kernel
def attention_dtw_forward_kernel(
    tokens,
    frames,
    table,
    cells,
    bad,
    borders,
    tickets,
    bits,
    best,
    trouble,
    arrivals,
    rates,
    heads,
    starts,
    ends,
    on_path,
    scores,
    statuses,
    pitch_of_table,
    items,
    first_ticket,
    epoch,
    plane,
    patience,
    ACC: tl.constexpr,
    STEP: tl.constexpr,
):
    """Warps each chosen head: `items` × (strips of the item that has most) programs. `table`: see `gpu_item`.

    Args:
        cells, bad: as `attention_cells_kernel` has left them.
        bits, best, trouble, on_path: scratch.
        arrivals: int32 [items], zero, and zero again in the end.
        rates, heads, statuses: as `attention_heads_kernel` has left them; cleared of an item that fails.
        starts, ends: int32, zero, written.
        scores: NaN, written.
    """
    ticket = draw_ticket(tickets, first_ticket)
    b = ticket % items
    strip = ticket // items
    if uniform(tl.load(statuses + b)) == OK:
        S = tl.load(tokens + b).to(tl.int32)
        T = tl.load(frames + b).to(tl.int32)
        if strip < strips_of(S):
            end, wrong = _strip(
                cells + (entry_of(table, pitch_of_table, b, CELLS) + strip.to(tl.int64) * steps_of(T) * 32),
                S,
                T,
                strip,
                borders + entry_of(table, pitch_of_table, b, BORDERS),
                plane,
                epoch,
                patience,
                bits + (entry_of(table, pitch_of_table, b, BITS) + strip.to(tl.int64) * chunks_of(T) * 64),
                ACC,
                STEP,
            )
            tl.store(trouble + entry_of(table, pitch_of_table, b, STRIPS) + strip, wrong)
            if strip + 1 == strips_of(S):
                tl.store(best + b, end.to(tl.float64))
    if arrive(arrivals + b) == tl.num_programs(0) // items - 1:
        tl.store(arrivals + b, 0)
        trace_item(
            tokens,
            frames,
            table,
            cells,
            bad,
            bits,
            best,
            trouble,
            rates,
            heads,
            starts,
            ends,
            on_path,
            scores,
            statuses,
            pitch_of_table,
            b,
            ACC,
        )
