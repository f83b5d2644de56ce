# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
# ruff: noqa: RUF005  (Triton knows no starred expressions)
"""The CTC lattice of one item on a GPU: a strip of it forward, and the way back along the best path.

The 2L + 1 states are taken as L + 1 pairs, (blank i, label i), the last one without a label. The lattice is walked in
strips of 32 pairs, thread l owning pair i0 + l. The scores of a strip stay in registers while all its frames pass; what
the next strip needs, the scores of the last label in every frame, goes through a row of scratch. A pair leaves three
bits a frame (blank moved; label moved by one; label moved by two), 32 frames to a word.

Label i can be visited from frame i + R[i] on, where R[i] counts the repeats (a label equal to the one before it, which
costs a blank's frame) up to i, and then for T − L − R[L − 1] more frames; blank i from frame i + R[i − 1] on, for one
frame less, or as long if it parts a repeat.
"""

import triton
import triton.language as tl

from alignd_kernels.gpu_language import NEVER, entry, visited, widen, within

STAR = tl.constexpr(-1)
NO_LABEL = tl.constexpr(-2)


@triton.jit
def _load(columns, pitch, mask, t, STEP: tl.constexpr):
    """Emissions of the labels in frames t … t + STEP − 1; −∞ where no path visits them, whatever stands there."""
    x = ()
    row = columns + t * pitch
    for j in tl.static_range(STEP):
        x = x + (tl.load(row + j * pitch, mask=((mask >> j) & 1) != 0, other=float("-inf")),)
    return x


@triton.jit
def _load_frames(log_probs, pitch, blank, wild, t0, T):
    """Emissions of the blank and of the star in frames t0 … t0 + 31."""
    t = t0 + tl.arange(0, 32)
    x = tl.load(log_probs + t.to(tl.int64) * pitch + blank, mask=t < T, other=float("-inf"))
    return widen(x, wild.dtype.element_ty), tl.load(wild + t, mask=t < T, other=float("-inf"))


@triton.jit
def ctc_strip(
    log_probs,
    pitch,
    targets,
    T,
    L,
    blank,
    wild,
    i0,
    repeats_before,
    repeats,
    left,
    right,
    bits,
    ACC: tl.constexpr,
    STEP: tl.constexpr,
):
    """Pairs i0 … i0 + 31 in all frames in which a path can visit them.

    Args:
        wild: emissions of the star by frame; not read into any score if there is no star.
        repeats_before: R[i0 − 1].
        repeats: R[L − 1].
        left: scores of label i0 − 1 by frame, read.
        right: scores of the strip's last label by frame, written.
        bits: words of the strip, [chunk from i0 // 32 on, 3, pair of the strip], written.

    Returns:
        R[i0 + 31]; the score of blank L in frame T − 1 if it lies in the strip, else 0; and 1 if a state that a path
        can visit holds NaN or +∞, else 0.
    """
    lane = tl.arange(0, 32)
    before = tl.maximum(lane - 1, 0)
    i = i0 + lane
    y = tl.load(targets + i, mask=i < L, other=NO_LABEL)
    y_before = tl.load(targets + i - 1, mask=(i > 0) & (i < L), other=NO_LABEL)
    again = (i > 0) & (i < L) & (y == y_before)
    repeat = tl.where(again, 1, 0)
    R = repeats_before + tl.cumsum(repeat, 0)
    skips = (i > 0) & (i < L) & (y != y_before)
    wildcard = y == STAR
    slack = T - L - repeats
    label_first = tl.where(i < L, i + R, NEVER)
    blank_span = slack - 1 + repeat  # −1 for a blank that no path visits: `visited` is false then
    blank_first = tl.where(i <= L, i + R - repeat, NEVER)
    columns = log_probs + tl.maximum(y, 0)
    edge = tl.maximum(tl.minimum(32, L - i0) - 1, 0)

    # Before frame 0 a path stands on the first blank with score 0, from where it may stay or move.
    v_blank = tl.where(i == 0, 0.0, tl.full([32], float("-inf"), ACC))
    v_label = tl.full([32], float("-inf"), ACC)
    end = tl.full([32], 0.0, ACC)
    worst = tl.full([32], float("-inf"), ACC)  # NaN if any is
    begin = (i0 + repeats_before) // 32
    words = bits + (begin - i0 // 32).to(tl.int64) * 96 + lane
    on_label = visited(begin * 32, label_first, slack)
    x = _load(columns, pitch, tl.where(wildcard, 0, on_label), begin * 32, STEP)
    on_label_next = visited(begin * 32 + STEP, label_first, slack)
    x_next = _load(columns, pitch, tl.where(wildcard, 0, on_label_next), begin * 32 + STEP, STEP)
    blanks, stars = _load_frames(log_probs, pitch, blank, wild, begin * 32, T)
    for chunk in range(begin, tl.cdiv(tl.minimum(T, T - L + i0 + 32), 32)):
        t0 = chunk * 32
        t_left = t0 - 1 + lane
        known = within(t_left, i0 - 1 + repeats_before, slack) & (i0 > 0)
        entering = tl.load(left + t_left, mask=known, other=float("-inf"))
        blanks_ahead, stars_ahead = _load_frames(log_probs, pitch, blank, wild, t0 + 32, T)
        leaving = tl.full([32], float("-inf"), ACC)
        blank_moved = tl.zeros([32], tl.int32)
        label_moved = tl.zeros([32], tl.int32)
        label_skipped = tl.zeros([32], tl.int32)
        for done in range(0, 32, STEP):
            t = t0 + done
            on_blank = visited(t, blank_first, blank_span)
            on_label_after = visited(t + 2 * STEP, label_first, slack)
            x_after = _load(columns, pitch, tl.where(wildcard, 0, on_label_after), t + 2 * STEP, STEP)
            here = (lane + done) % 32
            from_left = tl.gather(entering, here, 0)
            blanks_here = tl.gather(blanks, here, 0)
            stars_here = tl.gather(stars, here, 0)
            blank_word = tl.zeros([32], tl.int32)
            label_word = tl.zeros([32], tl.int32)
            skip_word = tl.zeros([32], tl.int32)
            for j in tl.static_range(STEP):
                label_before = tl.where(lane == 0, entry(from_left, j), tl.gather(v_label, before, 0))
                blank_visited = ((on_blank >> j) & 1) != 0
                label_visited = ((on_label >> j) & 1) != 0
                x_blank = entry(blanks_here, j)
                x_label = tl.where(wildcard, entry(stars_here, j), widen(x[j], ACC))
                # That alone keeps the lattice clean: before a state's first frame all that can reach it is −∞ too, and
                # what happens to it after its last one (even NaN, where −∞ meets a sum that has overflowed) reaches no
                # state that a path can visit.
                x_blank = tl.where(blank_visited, x_blank, float("-inf"))
                x_label = tl.where(label_visited, x_label, float("-inf"))
                highest = tl.maximum(x_blank, x_label, propagate_nan=tl.PropagateNan.ALL)
                worst = tl.maximum(worst, highest, propagate_nan=tl.PropagateNan.ALL)
                moved = v_blank > v_label
                best = tl.where(moved, v_blank, v_label)
                skipped = skips & (label_before > best)
                label_word |= tl.where(moved, 1 << j, 0)
                skip_word |= tl.where(skipped, 1 << j, 0)
                v_label = x_label + tl.where(skipped, label_before, best)
                moved = label_before > v_blank
                blank_word |= tl.where(moved, 1 << j, 0)
                v_blank = x_blank + tl.where(moved, label_before, v_blank)
                end = tl.where(t + j == T - 1, v_blank, end)
                leaving = tl.where(lane == done + j, entry(v_label, edge), leaving)
            blank_moved |= blank_word << done
            label_moved |= label_word << done
            label_skipped |= skip_word << done
            on_label = on_label_next
            x = x_next
            on_label_next = on_label_after
            x_next = x_after
        tl.store(words, blank_moved)
        tl.store(words + 32, label_moved)
        tl.store(words + 64, label_skipped)
        words += 96
        tl.store(right + t0 + lane, leaving, mask=t0 + lane < T)
        blanks = blanks_ahead
        stars = stars_ahead
    return tl.max(R, 0), tl.sum(tl.where(i == L, end, 0.0), 0), tl.max(tl.where(worst < float("inf"), 0, 1), 0)


@triton.jit
def ctc_trace(
    log_probs,
    pitch,
    targets,
    T,
    L,
    blank,
    wild,
    bits,
    chunks,
    last,
    paths,
    durations,
    frame_scores,
    on_path,
    STEP: tl.constexpr,
):
    """Follow the moves back from state `last` in frame T − 1, 32 frames at a time: they pass at most 32 pairs.

    Args:
        chunks: words of a pair, of each kind, in `bits`.
        paths, frame_scores: [T], written.
        durations: [L], written.
        on_path: [T], the path's emission of each frame, written.

    Returns:
        the pair of frame 0 (0, or something is broken).
    """
    lane = tl.arange(0, 32)
    pair = tl.full([32], 0, tl.int32) + last // 2  # uniform, as is the next one
    label = tl.full([32], 0, tl.int32) + last % 2
    carried = tl.zeros([32], tl.int32)  # uniform: frames of the pair's label in the chunks after this one
    chunk_count = tl.cdiv(T, 32)
    for back in range(chunk_count):
        chunk = chunk_count - 1 - back
        top = pair
        window = top - lane  # a thread holds the words of one pair: moves are then read by shuffles
        strip = window // 32
        row = chunk - strip
        known = (window >= 0) & (row >= 0) & (row < chunks)
        words = bits + (strip.to(tl.int64) * chunks + row) * 96 + window % 32
        blank_moved = tl.load(words, mask=known, other=0)
        label_moved = tl.load(words + 32, mask=known, other=0)
        label_skipped = tl.load(words + 64, mask=known, other=0)
        path = tl.zeros([32], tl.int32)
        count = tl.where(lane == 0, carried, 0)
        for done in range(0, 32, STEP):
            for i in tl.static_range(STEP):
                j = 31 - done - i
                t = chunk * 32 + j
                path = tl.where(lane == j, 2 * pair + label, path)
                count += tl.where((window == pair) & (t < T), label, 0)
                at = top - pair
                # To the label of the pair before, from the label by two states, from the blank by one.
                left = (tl.where(label == 1, tl.gather(label_skipped, at, 0), tl.gather(blank_moved, at, 0)) >> j) & 1
                moved = (tl.gather(label_moved, at, 0) >> j) & 1
                label_then = tl.where(left == 1, 1, tl.where(moved == 1, 0, label))
                goes = (t > 0) & (t < T)
                pair -= tl.where(goes, left, 0)
                label = tl.where(goes, label_then, label)
        t = chunk * 32 + lane
        y = tl.load(targets + path // 2, mask=(path >= 0) & (path % 2 == 1) & (path // 2 < L), other=blank)
        read = (t < T) & (path >= 0) & (y != STAR)
        x = tl.load(log_probs + t.to(tl.int64) * pitch + y, mask=read, other=0.0)
        x = widen(x, on_path.dtype.element_ty)
        x = tl.where(y == STAR, tl.load(wild + t, mask=t < T, other=0.0), x)
        tl.store(paths + t, path, mask=t < T)
        tl.store(frame_scores + t, x.to(tl.float32), mask=t < T)
        tl.store(on_path + t, x, mask=t < T)
        # Of a pair that goes on in the chunk before, the frames so far are carried: each duration is stored once.
        tl.store(durations + window, count, mask=(window >= 0) & (window < L) & ((window > pair) | (chunk == 0)))
        carried = tl.where(top - pair < 32, tl.gather(count, tl.minimum(top - pair, 31), 0), 0)
    return tl.max(pair, 0)
