# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""CTC forced alignment on a GPU, back: one program of one warp for each few chunks of 32 frames of an item.

A program first runs back from the last frame to its own chunks, one load a chunk (`moved`, which the way forward has
left); then it follows each cell of its own ones. All programs of an item do so at a time; the one that ends last adds
up the score. Short items take no launch for it: the strip that ends last goes through all their chunks.
"""

from typing import Final

import triton
import triton.language as tl

from alignd_kernels.ctc.gpu_item import (
    BITS,
    BLANK,
    LABELS,
    LOG_PROBS,
    PATHS,
    PITCH,
    STAR,
    STRIPS,
    TARGETS,
    first_frame,
    place_in_window,
    place_of,
    strips_of,
)
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import (
    INTERNAL,
    NO_FINITE_PATH,
    NOT_FINITE,
    OK,
    accumulator_in_kernel,
    entry_of,
    fill_zeros,
    kernel,
    room_of,
    sum_in_order,
    uniform,
    widen,
)
from alignd_kernels.gpu_strips import BROKEN, NOT_FINITE_SEEN, NOT_HANDED_OVER, arrive, trouble_of

CHUNKS_PER_PROGRAM: Final = 4
"""Each takes about as long as the way there from ten chunks off."""


def constants(dtype: DType) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype), "CHUNKS_PER_PROGRAM": CHUNKS_PER_PROGRAM}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for scores of this type."""
    return [constants(dtype)]


@triton.jit
def _place(T, L, pair, chunk, window, WINDOW: tl.constexpr):
    """See `place_of`; with WINDOW, `place_in_window`."""
    if WINDOW:
        line, position, known = place_in_window(L, pair, chunk, window[0], window[1], window[2])
    else:
        line, position, known = place_of(T, L, pair, chunk)
    return line, position, known


@triton.jit
def _before_chunk(moved, T, L, state, chunk, window, WINDOW: tl.constexpr):
    """The state before a chunk of the path that ends it in `state`."""
    line, position, known = _place(T, L, state // 2, chunk, window, WINDOW)
    distances = tl.load(moved + line * 32 + position, mask=known, other=0).to(tl.int32)
    return state - tl.where(state % 2 == 1, distances >> 8, distances & 0xFF)


@triton.jit
def _follow_chunk(
    log_probs,
    pitch,
    blank,
    targets,
    target_words,
    wild,
    star,
    T,
    L,
    bits,
    chunk,
    state,
    durations,
    paths,
    frame_scores,
    on_path,
    window,
    WINDOW: tl.constexpr,
):
    """Follow the moves back from `state` in the last frame of a chunk: they pass at most 32 pairs.

    Args:
        durations: [L], the chunk's frames of each label added.
        paths, frame_scores, on_path: [T], the path and its scores, written.

    Returns:
        the pair of the chunk's first frame.
    """
    lane = tl.arange(0, 32)
    t0 = first_frame(T, chunk)
    top = state // 2
    pair = tl.zeros([32], tl.int32) + top  # uniform, as is the next one
    label = tl.zeros([32], tl.int32) + state % 2
    # A thread holds the words of one pair: moves are then read by shuffles.
    line, position, known = _place(T, L, top - lane, chunk, window, WINDOW)
    words = bits + line * 96 + position
    blank_moves = tl.load(words, mask=known, other=0)
    early_moves = tl.load(words + 32, mask=known, other=0)
    late_moves = tl.load(words + 64, mask=known, other=0)
    path = tl.zeros([32], tl.int32)
    for half in tl.static_range(2):
        label_moves = early_moves if half == 1 else late_moves
        for back in range(16):  # not unrolled: that would double the time to compile a kernel that strips are in too
            j = 31 - 16 * half - back
            path = tl.where(lane == j, 2 * pair + label, path)
            at = tl.minimum(top - pair, 31)
            of_blank = (tl.gather(blank_moves, at, 0) >> j) & 1
            of_label = (tl.gather(label_moves, at, 0) >> 2 * (15 - back)) & 3
            # A blank goes to the label of the pair before, as does a label by two states; by one, to its own blank.
            left = tl.where(label == 1, of_label >> 1, of_blank)
            label_then = tl.where(label == 1, 1 - (of_label & 1), of_blank)
            goes = j > tl.maximum(-t0, 0)  # not from the chunk's first frame, nor from frame 0
            pair -= tl.where(goes, left, 0)
            label = tl.where(goes, label_then, label)
    t = t0 + lane
    here = (t >= 0) & (path >= 0)
    on_label = here & (path % 2 == 1) & (path // 2 < L)
    y = tl.load(targets + (path // 2).to(tl.int64) * target_words, mask=on_label, other=blank)
    x = tl.load(log_probs + t.to(tl.int64) * pitch + y, mask=here & (y != STAR), other=0.0)
    x = widen(x, on_path.dtype.element_ty)
    star_score = tl.zeros([32], on_path.dtype.element_ty) + star
    largest = tl.load(wild + t, mask=here & (y == STAR) & (star_score != star_score), other=0.0)
    largest = widen(largest, on_path.dtype.element_ty)
    x = tl.where(y == STAR, tl.where(star_score == star_score, star_score, largest), x)
    tl.store(paths + t, path, mask=t >= 0)
    tl.store(frame_scores + t, x.to(tl.float32), mask=t >= 0)
    if on_path.dtype.element_ty != tl.float32:
        tl.store(on_path + t, x, mask=t >= 0)
    tl.atomic_add(durations + path // 2, tl.full([32], 1, tl.int32), mask=on_label, sem="relaxed")
    return tl.max(pair, 0)


@triton.jit
def status_of(checked, trouble, ends, b, table, pitch_of_table, L):
    """Of item b, when all its strips have ended; and the state in which its path ends."""
    status = tl.load(checked + b)
    label_end = tl.load(ends + 2 * b)
    blank_end = tl.load(ends + 2 * b + 1)
    if status == OK:
        wrong = trouble_of(trouble + entry_of(table, pitch_of_table, b, STRIPS), strips_of(L))
        best = tl.where(label_end >= blank_end, label_end, blank_end)
        status = tl.where(tl.abs(best) < float("inf"), status, NO_FINITE_PATH)
        status = tl.where((wrong & NOT_FINITE_SEEN) != 0, NOT_FINITE, status)
        status = tl.where((wrong & NOT_HANDED_OVER) != 0, INTERNAL, status)
    return uniform(status), tl.where(label_end >= blank_end, 2 * L - 1, 2 * L)


@triton.jit
def fail(status, labels, frames, durations, paths, frame_scores, score, status_out):
    """The answer for an item without a path: zeros, NaN and why."""
    fill_zeros(durations, labels)
    fill_zeros(paths, frames)
    fill_zeros(frame_scores, frames)
    tl.store(score, float("nan"))
    tl.store(status_out, status)


@triton.jit
def trace_chunks(
    log_probs,
    pitch,
    blank,
    targets,
    target_words,
    wild,
    star,
    T,
    L,
    bits,
    moved,
    state,
    stop,
    begin,
    count,
    arrivals,
    on_path,
    paths,
    durations,
    frame_scores,
    score,
    status,
    window,
    ACC: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """The path in the chunks begin … begin + count − 1 before `stop`, of an item that has one; and its score and
    status, if all other programs have ended: with WINDOW, in the first window, which is traced last.

    Args:
        bits, moved: as `strip_forward` has left them.
        state: the path's at the end of the chunk before `stop`.
        begin: a multiple of count, in a window from its first chunk on.
        arrivals: int32 [1], zero at first, and in the end.
        window: its first strip, first chunk and chunks; without WINDOW, 0 each.

    Returns:
        the path's state before chunk `begin`.
    """
    end = tl.minimum(begin + count, stop)
    for back in range(stop - end):
        state = _before_chunk(moved, T, L, state, stop - 1 - back, window, WINDOW)
    first_pair = state
    for back in range(end - begin):
        chunk = end - 1 - back
        first_pair = _follow_chunk(
            log_probs,
            pitch,
            blank,
            targets,
            target_words,
            wild,
            star,
            T,
            L,
            bits,
            chunk,
            state,
            durations,
            paths,
            frame_scores,
            on_path,
            window,
            WINDOW,
        )
        state = _before_chunk(moved, T, L, state, chunk, window, WINDOW)
    if window[1] == 0:
        if (begin == 0) & (first_pair != 0):
            tl.atomic_add(arrivals, BROKEN, sem="relaxed")
        arrived = arrive(arrivals)
        if arrived % BROKEN == tl.cdiv(stop, count) - 1:
            tl.store(arrivals, 0)
            if arrived >= BROKEN:
                fail(INTERNAL, L, T, durations, paths, frame_scores, score, status)
            else:
                tl.store(score, sum_in_order(on_path, T).to(ACC).to(tl.float64))
                tl.store(status, OK)
    return state


@triton.jit
def trace_item(
    log_probs,
    targets,
    target_lengths,
    frames,
    table,
    star_scores,
    wild,
    trouble,
    checked,
    bits,
    moved,
    ends,
    arrivals,
    on_path,
    paths,
    durations,
    frame_scores,
    scores,
    statuses,
    pitch_of_table,
    target_words,
    b,
    begin,
    count,
    ACC: tl.constexpr,
):
    """The path of item b in `count` chunks from `begin` on; and its score and status, if all others have ended.

    Args:
        wild, trouble, checked, bits, moved, ends: as the strips have left them.
        arrivals: int32 [items], zero, and zero again in the end.
        on_path: scratch, accumulators, as many as paths; `frame_scores` itself if they are of this type.
        durations: zero, written.
        paths, frame_scores, scores, statuses: written.
    """
    L = tl.load(target_lengths + b).to(tl.int32)
    T = tl.load(frames + b).to(tl.int32)
    label_begin = entry_of(table, pitch_of_table, b, LABELS)
    frame_begin = entry_of(table, pitch_of_table, b, PATHS)
    frame_room = room_of(table, pitch_of_table, b, PATHS)
    durations += label_begin
    paths += frame_begin
    frame_scores += frame_begin
    status, state = status_of(checked, trouble, ends, b, table, pitch_of_table, L)
    if status != OK:
        if begin == 0:
            label_room = room_of(table, pitch_of_table, b, LABELS)
            fail(status, label_room, frame_room, durations, paths, frame_scores, scores + b, statuses + b)
    elif begin < tl.cdiv(T, 32):
        if begin == 0:
            fill_zeros(paths + T, frame_room - T)
            fill_zeros(frame_scores + T, frame_room - T)
        bits_begin = entry_of(table, pitch_of_table, b, BITS)
        trace_chunks(
            log_probs + entry_of(table, pitch_of_table, b, LOG_PROBS),
            entry_of(table, pitch_of_table, b, PITCH),
            entry_of(table, pitch_of_table, b, BLANK).to(tl.int32),
            targets + entry_of(table, pitch_of_table, b, TARGETS),
            target_words,
            wild + frame_begin,
            tl.load(star_scores + b).to(ACC),
            T,
            L,
            bits + bits_begin * 3,
            moved + bits_begin,
            state,
            tl.cdiv(T, 32),
            begin,
            count,
            arrivals + b,
            on_path + frame_begin,
            paths,
            durations,
            frame_scores,
            scores + b,
            statuses + b,
            (0, 0, 0),
            ACC,
            WINDOW=False,
        )


@kernel
def ctc_trace_kernel(
    log_probs,
    targets,
    target_lengths,
    frames,
    table,
    star_scores,
    wild,
    trouble,
    checked,
    bits,
    moved,
    ends,
    arrivals,
    on_path,
    paths,
    durations,
    frame_scores,
    scores,
    statuses,
    pitch_of_table,
    items,
    target_words,
    ACC: tl.constexpr,
    CHUNKS_PER_PROGRAM: tl.constexpr,
):
    """The best path of each item: `items` × (groups of chunks of the longest item) programs. See `trace_item`, and
    `gpu_item` for `table`."""
    trace_item(
        log_probs,
        targets,
        target_lengths,
        frames,
        table,
        star_scores,
        wild,
        trouble,
        checked,
        bits,
        moved,
        ends,
        arrivals,
        on_path,
        paths,
        durations,
        frame_scores,
        scores,
        statuses,
        pitch_of_table,
        target_words,
        tl.program_id(0) % items,
        tl.program_id(0) // items * CHUNKS_PER_PROGRAM,
        CHUNKS_PER_PROGRAM,
        ACC,
    )
