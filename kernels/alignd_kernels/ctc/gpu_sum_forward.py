# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
# ruff: noqa: RUF005  (Triton knows no starred expressions)
"""Sums over all CTC paths on a GPU, forward: one program of one warp for each strip of 32 pairs of an item.

Thread l owns the blank and the label of pair i0 + l, as m · 2ᵉ (`gpu_scaled`), in registers while all frames pass. What
junction i gathers, blank i and label i − 1 of the frame before, goes to blank i and, with label i itself, to label i;
of equal labels the latter is the blank's part alone. Of each junction is kept which share of its sum came from the
blank, of each label which came by staying: the way back (`gpu_sum_backward`) needs nothing else. What a strip hands to
the one on its right are the sums of its last label.

Cells that no path can visit are 2^`NOTHING`, whatever stands there.
"""

import triton
import triton.language as tl

from alignd_kernels.ctc.gpu_item import (
    BLANK,
    BORDERS,
    LOG_PROBS,
    PATHS,
    PITCH,
    STAR,
    STRIPS,
    TARGETS,
    frames_of_border,
    left_of_strip,
    strips_of,
)
from alignd_kernels.ctc.gpu_sum_item import (
    CELLS,
    FINE,
    LARGE,
    NOT_FINITE_SEEN,
    NOT_HANDED_OVER,
    STEP,
    cells_of,
    check_sum_item,
    frames_of_strip,
    labels_of_strip,
    worst_of,
)
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import (
    INTERNAL,
    NEVER,
    NO_FINITE_PATH,
    NOT_FINITE,
    OK,
    TOO_FEW_FRAMES,
    accumulator_in_kernel,
    entry_of,
    kernel,
    widen,
    within,
)
from alignd_kernels.gpu_scaled import LEAST, NOTHING, added, exp_parts, log_of, share_of
from alignd_kernels.gpu_strips import arrive, draw_ticket, hand_over, look, look_again

TOO_LARGE = tl.constexpr(2.0**25)
"""A log-prob of which this stands in place is too large whatever the item's frames."""

BAD = tl.constexpr(2**30 - 1)
"""Exponent of NaN and +∞, above those of all that is finite."""

MOST_POWERS = tl.constexpr(2**25)
"""Powers of 2 by which an item's log-probs above 0 may lift a path: what is below `gpu_scaled`'s CUT stays, so lifted,
below LEAST, and what cannot be far below that."""

FLOAT32_LIMIT = tl.constexpr(2.0**23 * 0.6931471805599453)
"""Log-likelihoods beyond it have no finite path in float32, as on the CPU (`sums.summed`)."""


def constants(dtype: DType) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype), "STEP": STEP[dtype]}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for log-probs of this type."""
    return [constants(dtype)]


@triton.jit
def _parts(x):
    """exp(x) as (m, e); what is too large has an exponent that tells so (`BAD`, or more than `MOST_POWERS`)."""
    m, e = exp_parts(tl.where(x < TOO_LARGE, x, TOO_LARGE))
    return m, tl.where(x < float("inf"), e, BAD)


@triton.jit
def _labels(columns, pace, t, first, span, STEP: tl.constexpr):
    """Stored log-probs of the labels in frames t … t + STEP − 1, 0 where no path is."""
    base = columns + t.to(tl.int64) * pace
    x = ()
    for j in tl.static_range(STEP):
        x = x + (tl.load(base + j * pace, mask=within(t + j, first, span), other=0.0),)
    return x


@triton.jit
def _blanks(log_probs, pitch, blank, t, last):
    """Of the blank in frames t … t + 31. Before frame 0, where a path stands on blank 0, it stays for 0."""
    t = t + tl.arange(0, 32)
    return tl.load(log_probs + t.to(tl.int64) * pitch + blank, mask=(t >= 0) & (t <= last), other=0.0)


@triton.jit
def _trouble(most, missing, T):
    """What went wrong, from the largest exponent that a path meets."""
    found = tl.where(most.to(tl.int64) * T > MOST_POWERS, LARGE, FINE)
    found = tl.where(most >= BAD, NOT_FINITE_SEEN, found)
    return tl.where(missing != 0, NOT_HANDED_OVER, found)


@triton.jit
def _strip(
    log_probs,
    pitch,
    blank,
    targets,
    target_words,
    wild,
    star,
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
    keep,
    ends,
    ends_e,
    ACC: tl.constexpr,
    STEP: tl.constexpr,
):
    """The pairs of a strip in all frames in which a path can visit them.

    Args:
        targets: see `check_sum_item`, which has found them good: the low word is all of one.
        wild: log-prob of the star in each frame, if `star`, a scalar accumulator, is NaN.
        borders: words of the item's borders, [strip, frame from the label's first on].
        cells: of the item, written if `keep` is 1.
        ends, ends_e: [2], sums of label L − 1 and blank L in frame T − 1, written by the last strip.

    Returns:
        what went wrong.
    """
    half: tl.constexpr = STEP // 2  # loops are unrolled by so much: for twice as much compilers need twice the time
    lane = tl.arange(0, 32)
    before = tl.maximum(lane - 1, 0)
    after = (lane + 1) % 32
    i, y, repeat, first = labels_of_strip(targets, target_words, L, strip, R_before)
    R_after = R_before + tl.sum(repeat, 0)
    begin, last = frames_of_strip(T, L, strip, R_before, R_after, spare)
    has_label = (i >= 0) & (i < L)
    wildcard = y == STAR
    star_score = tl.zeros([32], ACC) + star
    fixed = wildcard & (star_score == star_score)
    extra = tl.where(fixed, star_score, 0.0)  # to the 0 that is read in its place
    columns = tl.where(wildcard, wild, log_probs + tl.maximum(y, 0))
    pace = tl.where(wildcard, 1, pitch)
    label_first = tl.where(has_label, first, NEVER)
    read_first = tl.where(fixed, NEVER, label_first)
    span = spare + 0 * lane
    # A blank between different labels has no frame where there is none to spare. Blank 0 stands before frame 0 too.
    blank_span = tl.where(i == 0, spare - 1 + STEP, spare - 1 + repeat)
    blank_first = tl.where(i == 0, -STEP, tl.where((i > 0) & (blank_span >= 0), first - repeat, NEVER))
    blank_span = tl.maximum(blank_span, 0)
    own = cells_of(cells, T, L, strip) + lane
    kept_from = tl.where(keep == 1, begin, NEVER)
    first_left = left_of_strip(L, strip) - 1 + R_before
    first_right = left_of_strip(L, strip) + 31 + R_after
    width = frames_of_border(T, L)
    from_left = borders + (strip - 1).to(tl.int64) * width - first_left
    to_right = borders + strip.to(tl.int64) * width - first_right
    # Exponents are handed over as the bits of float32, behind the words of the mantissas.
    exponents = plane.to(tl.int64) * (2 if tl.float64 == ACC else 1)
    is_led = strip > 0
    leads = strip < strips_of(L) - 1

    m_blank = tl.full([32], 1.0, ACC)
    e_blank = tl.where(i == 0, 0, NOTHING)
    m_label = tl.full([32], 1.0, ACC)
    e_label = tl.full([32], NOTHING, tl.int32)
    most = tl.full([32], NOTHING, tl.int32)
    lost = tl.full([], 0, tl.int32)
    zeros = tl.zeros([32], tl.int32)
    steps = tl.cdiv(last - begin + 1, STEP)
    t = last + 1 - steps * STEP  # so that sums are the last frame's in the end
    x = _labels(columns, pace, t, read_first, span, half)
    x_next = _labels(columns, pace, t + half, read_first, span, half)
    blanks = _blanks(log_probs, pitch, blank, t, last)
    t_left = t - 1 + lane
    needed = within(t_left, first_left, spare) & (lane < STEP) & is_led
    low, high = look(from_left, plane, t_left, needed, ACC)
    low_e, high_e = look(from_left + exponents, plane, t_left, needed, tl.float32)
    for _ in range(steps):
        blanks_ahead = _blanks(log_probs, pitch, blank, t + STEP, last)
        # A first look for the next frames, whose answer is there by then.
        t_after = t_left + STEP
        needed_after = within(t_after, first_left, spare) & (lane < STEP) & is_led
        low_after, high_after = look(from_left, plane, t_after, needed_after, ACC)
        low_e_after, high_e_after = look(from_left + exponents, plane, t_after, needed_after, tl.float32)
        looks = tl.where(lost != 0, 1, patience)  # for an item that is lost, waste no more time
        ring, _, missing = look_again(low, high, from_left, plane, t_left, needed, epoch, looks, ACC)
        ring_bits, _, missing_e = look_again(
            low_e, high_e, from_left + exponents, plane, t_left, needed, epoch, looks, tl.float32
        )
        lost |= missing | missing_e
        ring = tl.where(needed, ring, 1.0)
        ring_e = tl.where(needed, ring_bits.to(tl.int32, bitcast=True), NOTHING)
        t_left = t_after
        needed = needed_after
        low = low_after
        high = high_after
        low_e = low_e_after
        high_e = high_e_after
        m_blanks, e_blanks = _parts(widen(blanks, ACC))
        for done in range(0, STEP, half):
            x_after = _labels(columns, pace, t + done + STEP, read_first, span, half)
            for j in tl.static_range(half):
                left_m = tl.where(lane == 0, ring, tl.gather(m_label, before, 0))
                left_e = tl.where(lane == 0, ring_e, tl.gather(e_label, before, 0))
                both_m, both_e = added(m_blank, e_blank, left_m, left_e, ACC)
                to_m = tl.where(repeat == 0, both_m, m_blank)
                to_e = tl.where(repeat == 0, both_e, e_blank)
                sum_m, sum_e = added(m_label, e_label, to_m, to_e, ACC)
                place = own + (t + done + j).to(tl.int64) * 64
                here = zeros + t + done + j >= kept_from
                tl.store(place, share_of(m_blank, e_blank, left_e, both_m, both_e, ACC), mask=here)
                tl.store(place + 32, share_of(m_label, e_label, to_e, sum_m, sum_e, ACC), mask=here)
                m_x, e_x = _parts(widen(x[j], ACC) + extra)
                e_x = tl.where(within(t + done + j, label_first, span), e_x, NOTHING)
                at = 0 * lane + done + j
                e_x_blank = tl.where(within(t + done + j, blank_first, blank_span), tl.gather(e_blanks, at, 0), NOTHING)
                most = tl.maximum(most, tl.maximum(e_x, e_x_blank))
                m_label = sum_m * m_x
                e_label = sum_e + e_x
                m_blank = both_m * tl.gather(m_blanks, at, 0)
                e_blank = both_e + e_x_blank
                # A ring: what enters moves on to thread 0, what leaves thread 31 follows it.
                ring = tl.where(lane == 31, m_label, tl.gather(ring, after, 0))
                ring_e = tl.where(lane == 31, e_label, tl.gather(ring_e, after, 0))
            x = x_next
            x_next = x_after
        t_right = t + STEP - 32 + lane
        mine = within(t_right, first_right, spare) & (lane >= 32 - STEP) & leads
        hand_over(to_right, plane, t_right, mine, epoch, ring, zeros)
        hand_over(to_right + exponents, plane, t_right, mine, epoch, ring_e.to(tl.float32, bitcast=True), zeros)
        blanks = blanks_ahead
        t += STEP
    if not leads:
        tl.store(ends + zeros, m_label, mask=i == L - 1)
        tl.store(ends_e + zeros, e_label, mask=i == L - 1)
        tl.store(ends + 1 + zeros, m_blank, mask=i == L)
        tl.store(ends_e + 1 + zeros, e_blank, mask=i == L)
    return _trouble(tl.max(most, 0), lost, T)


@triton.jit
def _finish(status, wrong, ends, ends_e, ACC: tl.constexpr):
    """Score and status of an item, when all its strips have ended, and which share of its paths end on the last label.

    Args:
        status: of its lengths and targets.
        wrong: what went wrong in any strip.
    """
    score = tl.full([], float("nan"), tl.float64)
    share = tl.full([], 0.0, ACC)
    if status == OK:
        in_label = tl.load(ends)
        label_e = tl.load(ends_e)
        in_blank = tl.load(ends + 1)
        blank_e = tl.load(ends_e + 1)
        m, e = added(in_label, label_e, in_blank, blank_e, ACC)
        found = log_of(m, e)
        finite = e > LEAST
        if tl.float64 != ACC:
            finite &= tl.abs(found) < FLOAT32_LIMIT
        status = tl.where(finite & (wrong != LARGE), OK, NO_FINITE_PATH)
        status = tl.where(wrong == NOT_FINITE_SEEN, NOT_FINITE, status)
        status = tl.where(wrong == NOT_HANDED_OVER, INTERNAL, status)
        score = tl.where(status == OK, found, score)
        share = share_of(in_label, label_e, blank_e, m, e, ACC)
    return status, score, share


@kernel
def ctc_sum_forward_kernel(
    log_probs,
    targets,
    target_lengths,
    frames,
    table,
    star_scores,
    wild,
    borders,
    tickets,
    cells,
    repeats,
    spares,
    ends,
    ends_e,
    trouble,
    arrivals,
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
    keep,
    ACC: tl.constexpr,
    STEP: tl.constexpr,
):
    """Sums over all paths: `items` × (strips of the widest item) programs. `table`: see `gpu_sum_item`.

    Args:
        wild: see `gpu_star`.
        borders: [2 or (float64) 3 planes, words of all items].
        cells: accumulators, shares, written if `keep` is 1.
        repeats: int32, of each strip those before its first label, written.
        spares: int32 [items], frames to spare, written.
        ends: accumulators [2, items]: scratch, and the share of the paths that end on the last label in the first of an
            item's. ends_e: int32, scratch.
        trouble: int32, of each strip, scratch.
        arrivals: int32 [items], zero, and zero again in the end.
        costs, scores, statuses: written.
    """
    ticket = draw_ticket(tickets, first_ticket)
    b = ticket % items
    strip = ticket // items
    status, R_before, spare = check_sum_item(
        targets, target_words, target_lengths, frames, table, pitch_of_table, b, strip
    )
    own = entry_of(table, pitch_of_table, b, STRIPS)
    L = tl.load(target_lengths + b).to(tl.int32)
    if status == OK:
        T = tl.load(frames + b).to(tl.int32)
        if strip < strips_of(L):
            wrong = _strip(
                log_probs + entry_of(table, pitch_of_table, b, LOG_PROBS),
                entry_of(table, pitch_of_table, b, PITCH),
                entry_of(table, pitch_of_table, b, BLANK),
                targets + entry_of(table, pitch_of_table, b, TARGETS),
                target_words,
                wild + entry_of(table, pitch_of_table, b, PATHS),
                tl.load(star_scores + b).to(ACC),
                T,
                L,
                strip,
                R_before,
                spare,
                borders + entry_of(table, pitch_of_table, b, BORDERS),
                plane,
                epoch,
                patience,
                cells + entry_of(table, pitch_of_table, b, CELLS),
                keep,
                ends + 2 * b,
                ends_e + 2 * b,
                ACC,
                STEP,
            )
            tl.store(trouble + own + strip, wrong)
            tl.store(repeats + own + strip, R_before)
    if arrive(arrivals + b) == tl.num_programs(0) // items - 1:
        tl.store(arrivals + b, 0)
        tl.store(spares + b, spare)
        wrong = tl.full([], FINE, tl.int32)
        if status == OK:
            wrong = worst_of(trouble + own, strips_of(L))
        status, score, share = _finish(status, wrong, ends + 2 * b, ends_e + 2 * b, ACC)
        tl.debug_barrier()  # what stands in `ends` is read by all threads before it is written over
        tl.store(ends + 2 * b, share)
        pathless = (status == NO_FINITE_PATH) | (status == TOO_FEW_FRAMES)
        cost = tl.where(pathless, float("inf"), 0.0 - score)
        tl.store(costs + b, cost.to(ACC))
        tl.store(scores + b, score)
        tl.store(statuses + b, status)
