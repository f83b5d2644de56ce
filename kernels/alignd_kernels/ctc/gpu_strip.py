# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
# ruff: noqa: RUF005  (Triton knows no starred expressions)
"""CTC forced alignment on a GPU, forward, in Triton's language: what one warp does for a strip of 32 pairs of an item.

Thread l owns the blank and the label of pair i0 + l; their scores stay in registers while all frames pass. What a strip
hands to the one on its right are the scores of its last label.

Each pair leaves three bits a frame (blank moved; label moved by one; label moved by two), 32 frames to a word, and each
chunk of 32 frames leaves for each state how many states its path has moved in the chunk: along these the way back takes
one load for each chunk (`gpu_trace`).

A legal path visits a state in its frames only, and what stands elsewhere must not matter. What happens to a state
after its last frame reaches no state that a path can still visit. Before its first frame all that can reach it is −∞,
to which any score may be added but NaN and +∞: a label's first emission is read in place of all earlier ones, and
blanks that are NaN or +∞ are taken for −∞. Whether such cells are visited is looked up at the end, if there were any:
NaN stays with its label (nothing compares greater), and so does +∞ or the NaN that it may become.
"""

from typing import Final

import triton
import triton.language as tl

from alignd_kernels.ctc.gpu_item import STAR, chunk_of, first_frame, frames_of_border, left_of_strip, strips_of
from alignd_kernels.gpu_language import widen, within
from alignd_kernels.gpu_strips import NOT_FINITE_SEEN, NOT_HANDED_OVER, hand_over, look, look_again

STEP: Final = 16
"""Frames between two looks at the border, half a chunk: shorter steps follow the strip on the left more closely, but
each has a cost of its own. Two are loaded ahead, as one takes about as long as a trip to memory."""


@triton.jit
def _emissions(column, row_bytes, earliest, t, T, pointer: tl.constexpr, FIRST: tl.constexpr, STEP: tl.constexpr):
    """Emissions of the labels in frames t … t + STEP − 1, or of other rows if T ≤ t.

    Before a label's first frame, `earliest`, that one's. With FIRST, −∞ before frame 0, where a path stands on blank 0:
    it may go to label 0, but not yet.
    """
    t_here = tl.minimum(t, T - STEP)
    base = column + t_here.to(tl.int64) * row_bytes
    lead = earliest - t_here
    x = ()
    for j in tl.static_range(STEP):
        place = (base + tl.maximum(lead, j).to(tl.int64) * row_bytes).to(pointer)
        if FIRST:
            x = x + (tl.load(place, mask=t + j + 0 * lead >= 0, other=float("-inf")),)
        else:
            x = x + (tl.load(place),)
    return x


@triton.jit
def _blanks(log_probs, pitch, blank, T, t0):
    """Emissions of the blank in frames t0 … t0 + 31. Before frame 0, where a path stands on blank 0, it stays for 0."""
    t = t0 + tl.arange(0, 32)
    return tl.load(log_probs + t.to(tl.int64) * pitch + blank, mask=(t >= 0) & (t < T), other=0.0)


@triton.jit
def _holds_not_finite(
    log_probs,
    pitch,
    blank,
    columns,
    pace,
    extra,
    label_first,
    label_last,
    blank_first,
    blank_last,
    begin,
    T,
    ACC: tl.constexpr,
):
    """Whether a cell of the strip that a path can visit holds NaN or +∞.

    Args:
        columns, pace: place of each label's emission in frame 0, and elements from a frame to the next.
        extra: to be added to it, for halves.
        begin: a frame before which none is visited.
    """
    bad = tl.zeros([32], tl.int32)
    for t0 in range(begin, T, 4):
        for j in tl.static_range(4):  # so many loads at a time
            t = t0 + j
            on_label = (t >= label_first) & (t <= label_last)
            x = widen(tl.load(columns + t.to(tl.int64) * pace, mask=on_label, other=0.0), ACC)
            if log_probs.dtype.element_ty.primitive_bitwidth == 16:
                x += tl.where(on_label, extra, 0.0)
            on_blank = (t >= blank_first) & (t <= blank_last)
            place = log_probs + (t.to(tl.int64) * pitch + blank + 0 * blank_first)
            x_blank = widen(tl.load(place, mask=on_blank, other=0.0), ACC)
            bad |= tl.where((x < float("inf")) & (x_blank < float("inf")), 0, 1)
    return tl.max(bad, 0)


@triton.jit
def strip_forward(
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
    slack,
    borders,
    plane,
    epoch,
    patience,
    bits,
    moved,
    ends,
    kept,
    first_strip,
    first_chunk,
    chunks,
    ACC: tl.constexpr,
    STEP: tl.constexpr,
    WINDOW: tl.constexpr,
    KEEP: tl.constexpr,
):
    """The pairs of a strip in all frames in which a path can visit them; or with WINDOW, in those of some chunks.

    Args:
        targets: see `check_item`, which has found them good: the low word is all of one.
        wild: log-prob of the star in each frame, if `star`, a scalar accumulator, is NaN; else the strip's own entry,
            the one of its number, is written.
        R_before: repeats before the strip's first label.
        borders: words of the item's borders, [strip, frame from the label's first on].
        bits: of the strip, [chunk from its first on, 3, pair of the strip], written.
        moved: of the strip, [chunk from its first on, pair of the strip], distance of the label and, in the lower byte,
            of the blank, written.
        ends: [2], scores of label L − 1 and blank L in frame T − 1, written by the last strip.
        kept: accumulators [2, 2, pairs of all strips], scores of blanks and labels before the window, read; and after
            it, written unless KEEP.
        first_strip: the leftmost one that works; what is left of it hands nothing over.
        first_chunk, chunks: of the window; its borders are [strip from the first on, frame of the window].
        KEEP: whether `bits` and `moved` are written.

    Returns:
        what went wrong.
    """
    stored: tl.constexpr = log_probs.dtype.element_ty
    pointer: tl.constexpr = tl.pointer_type(stored)
    lane = tl.arange(0, 32)
    before = tl.maximum(lane - 1, 0)
    after = (lane + 1) % 32
    i0 = left_of_strip(L, strip)
    i = i0 + lane
    known = (i > 0) & (i < L)
    # Threads without a label run along with one: nothing reaches those on the left, and what they on the right hold
    # reaches nothing.
    place = targets + tl.minimum(tl.maximum(i, 0), L - 1).to(tl.int64) * target_words
    y = tl.load(place)
    repeat = tl.where(known & (y == tl.load(place - target_words, mask=known, other=STAR)), 1, 0)
    skips = (i > 0) & (repeat == 0)
    R = R_before + tl.cumsum(repeat, 0)
    first = tl.maximum(i, 0) + R
    wildcard = y == STAR
    star_score = tl.zeros([32], ACC) + star
    fixed = star_score == star_score
    if star == star:
        wild += strip
        # Halves would round it: it is added to their zero.
        tl.store(wild, star if stored.primitive_bitwidth > 16 else 0.0)
    tl.debug_barrier()  # one thread has written what others read
    columns = tl.where(wildcard, wild, log_probs + tl.maximum(y, 0))
    pace = tl.where(wildcard, tl.where(fixed, 0, 1), pitch)
    extra = tl.where(wildcard & fixed, star_score, 0.0)  # for halves, to which `wild` would have to round it
    # In bytes, and by a product of two int32 (see `MAX_PITCH`): an address takes one instruction.
    column = columns.to(tl.pointer_type(tl.int8))
    row_bytes = (pace * (stored.primitive_bitwidth // 8)).to(tl.int32).to(tl.int64)
    earliest = tl.minimum(first, T - 1)  # to the last one's thread, which has no label, the item may be too short
    first_left = i0 - 1 + R_before
    first_right = i0 + 31 + tl.max(R, 0)
    width = frames_of_border(T, L)
    from_left = borders + (strip - 1).to(tl.int64) * width - first_left
    to_right = borders + strip.to(tl.int64) * width - first_right
    lowest_chunk = chunk_of(T, tl.maximum(i0, 0))
    begin_frame = tl.maximum(i0, 0) + R_before
    begin = chunk_of(T, begin_frame)
    end = chunk_of(T, tl.minimum(first_right + slack, T - 1)) + 1

    v_blank = tl.where(i == 0, 0.0, tl.full([32], float("-inf"), ACC))
    v_label = tl.full([32], float("-inf"), ACC)
    from_step = (begin_frame - first_frame(T, begin)) // STEP * STEP
    if WINDOW:
        pairs = strips_of(L).to(tl.int64) * 32
        own = kept + strip.to(tl.int64) * 32
        if begin < first_chunk:
            v_blank = tl.load(own + lane)
            v_label = tl.load(own + pairs + lane)
            from_step = 0
        begin = tl.maximum(begin, first_chunk)
        end = tl.minimum(end, first_chunk + chunks)
        lowest_chunk = first_chunk
        first_border = tl.where(begin == first_chunk, first_frame(T, first_chunk), 0)
        from_left = borders + (strip - first_strip - 1).to(tl.int64) * chunks * 32 - first_frame(T, first_chunk)
        to_right = from_left + chunks * 32
        is_led = (strip > first_strip) & (begin < end)  # others would look beyond the window's borders
    else:
        first_border = 0
        is_led = strip > 0
    trouble = tl.full([], 0, tl.int32)
    suspect = tl.zeros([32], tl.int32)
    t0 = first_frame(T, begin)
    x = _emissions(column, row_bytes, earliest, t0 + from_step, T, pointer, True, STEP)
    x_next = _emissions(column, row_bytes, earliest, t0 + from_step + STEP, T, pointer, False, STEP)
    blanks = _blanks(log_probs, pitch, blank, T, t0)
    t_left = t0 + from_step - 1 + lane
    needed = within(t_left, first_left, slack) & (lane < STEP) & is_led & (t_left >= first_border)
    low, high = look(from_left, plane, t_left, needed, ACC)
    for chunk in range(begin, end):
        t0 = first_frame(T, chunk)
        blanks_ahead = _blanks(log_probs, pitch, blank, T, t0 + 32)
        x_blanks = widen(blanks, ACC)
        suspect |= tl.where(x_blanks < float("inf"), 0, 1)
        x_blanks = tl.where(x_blanks < float("inf"), x_blanks, float("-inf"))
        # Where a path stood before the chunk is carried as that state's number, which no move changes.
        blank_from = 2 * i
        label_from = 2 * i + 1
        blank_moves = tl.zeros([32], tl.int32)
        early_moves = tl.zeros([32], tl.int32)
        late_moves = tl.zeros([32], tl.int32)
        for done in range(from_step, 32, STEP):
            t = t0 + done
            x_after = _emissions(column, row_bytes, earliest, t + 2 * STEP, T, pointer, False, STEP)
            # A first look for the next step, whose answer is there by then. It stands before the loop in `look_again`,
            # as compilers would put it off otherwise.
            t_after = t + STEP - 1 + lane
            needed_after = within(t_after, first_left, slack) & (lane < STEP) & is_led
            low_after, high_after = look(from_left, plane, t_after, needed_after, ACC)
            looks = tl.where(trouble != 0, 1, patience)  # for an item that is lost, waste no more time
            ring, distance, missing = look_again(low, high, from_left, plane, t_left, needed, epoch, looks, ACC)
            t_left = t_after
            needed = needed_after
            low = low_after
            high = high_after
            trouble |= tl.where(missing != 0, NOT_HANDED_OVER, 0)
            # A distance of the chunk before is none in this one; that of a word which never came could be anything.
            distance = tl.where((lane + done == 0) | (missing != 0), 0, distance)
            came_from = 2 * i0 - 1 - distance
            if WINDOW:  # what enters from the frame before the window is in no border
                edge = (lane + done == 0) & (chunk == first_chunk) & (strip > 0) & within(t0 - 1, first_left, slack)
                ring = tl.where(edge, tl.load(own + pairs - 1 + 0 * lane, mask=edge, other=0.0), ring)
            x_blanks_here = tl.gather(x_blanks, (lane + done) % 32, 0)
            blank_word = tl.zeros([32], tl.int32)
            label_word = tl.zeros([32], tl.int32)
            for j in tl.static_range(STEP):
                x_blank = tl.gather(x_blanks_here, 0 * lane + j, 0)
                x_label = widen(x[j], ACC)
                if stored.primitive_bitwidth == 16:
                    x_label += extra
                label_before = tl.where(lane == 0, ring, tl.gather(v_label, before, 0))
                before_from = tl.where(lane == 0, came_from, tl.gather(label_from, before, 0))
                by_one = v_blank > v_label
                best = tl.where(by_one, v_blank, v_label)
                best_from = tl.where(by_one, blank_from, label_from)
                by_two = skips & (label_before > best)
                by_left = label_before > v_blank
                v_label = x_label + tl.where(by_two, label_before, best)
                v_blank = x_blank + tl.where(by_left, label_before, v_blank)
                label_from = tl.where(by_two, before_from, best_from)
                blank_from = tl.where(by_left, before_from, blank_from)
                blank_word |= tl.where(by_left, 1 << j, 0)
                label_word |= tl.where(by_two, 2, tl.where(by_one, 1, 0)) << 2 * j
                # A ring: what enters moves on to thread 0, what leaves thread 31 follows it.
                ring = tl.where(lane == 31, v_label, tl.gather(ring, after, 0))
                came_from = tl.where(lane == 31, label_from, tl.gather(came_from, after, 0))
            t_right = t + STEP - 32 + lane
            mine = within(t_right, first_right, slack) & (lane >= 32 - STEP) & (i0 + 32 <= L)
            hand_over(to_right, plane, t_right, mine, epoch, ring, 2 * i0 + 63 - came_from)
            blank_moves |= blank_word << done
            early_moves = tl.where(done == 0, label_word, early_moves)
            late_moves = tl.where(done == 0, late_moves, label_word)
            x = x_next
            x_next = x_after
        if KEEP:
            row = (chunk - lowest_chunk).to(tl.int64)
            words = bits + row * 96 + lane
            tl.store(words, blank_moves)
            tl.store(words + 32, early_moves)
            tl.store(words + 64, late_moves)
            distances = ((2 * i + 1 - label_from) << 8) | (2 * i - blank_from)
            tl.store(moved + row * 32 + lane, distances.to(tl.int16))
        blanks = blanks_ahead
        from_step = 0
    last_frame = T
    if WINDOW:
        last_frame = tl.minimum(first_frame(T, first_chunk + chunks), T)
        if (begin < end) & (not KEEP):
            tl.store(own + 2 * pairs + lane, v_blank)
            tl.store(own + 3 * pairs + lane, v_label)
    suspect |= tl.where(v_label < float("inf"), 0, 1)
    if (tl.max(suspect, 0) != 0) & (begin < end):
        label_last = tl.where((i >= 0) & (i < L), first + slack, -1)
        blank_last = tl.where(i >= 0, first + slack - 1, -1)
        t0 = tl.maximum(first_frame(T, begin), 0)
        bad = _holds_not_finite(
            log_probs,
            pitch,
            blank,
            columns,
            pace,
            extra,
            first,
            label_last,
            first - repeat,
            blank_last,
            t0,
            last_frame,
            ACC,
        )
        trouble |= tl.where(bad != 0, NOT_FINITE_SEEN, 0)
    if (i0 + 32 > L) & (last_frame == T):
        tl.store(ends + tl.zeros([32], tl.int32), v_label.to(tl.float64), mask=i == L - 1)
        tl.store(ends + tl.full([32], 1, tl.int32), v_blank.to(tl.float64), mask=i == L)
    return trouble
