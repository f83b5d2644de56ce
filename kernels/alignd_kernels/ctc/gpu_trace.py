# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""CTC forced alignment on a GPU, back: one program of one warp for each few chunks of 32 frames of an item.

A program first runs back from the last frame to its own chunks, one load a chunk (`moved`, which the way forward has
left); then it follows each cell of its own ones. All programs of an item do so at a time; the one that ends last adds
up the score.
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
def before_chunk(moved, T, L, state, chunk, window, WINDOW: tl.constexpr):
    """The state before a chunk of the path that ends it in `state`."""
    line, position, known = _place(T, L, state // 2, chunk, window, WINDOW)
    distances = tl.load(moved + line * 32 + position, mask=known, other=0).to(tl.int32)
    return state - tl.where(state % 2 == 1, distances >> 8, distances & 0xFF)


@triton.jit
def follow_chunk(
    log_probs,
    pitch,
    blank,
    labels,
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
    for i in tl.static_range(32):
        j = 31 - i
        path = tl.where(lane == j, 2 * pair + label, path)
        if i < 31:
            at = tl.minimum(top - pair, 31)
            of_blank = (tl.gather(blank_moves, at, 0) >> j) & 1
            of_label = (tl.gather(early_moves if j < 16 else late_moves, at, 0) >> j % 16 * 2) & 3
            # A blank goes to the label of the pair before, as does a label by two states; by one, to its own blank.
            left = tl.where(label == 1, of_label >> 1, of_blank)
            label_then = tl.where(label == 1, 1 - (of_label & 1), of_blank)
            goes = t0 + j > 0
            pair -= tl.where(goes, left, 0)
            label = tl.where(goes, label_then, label)
    t = t0 + lane
    here = (t >= 0) & (path >= 0)
    on_label = here & (path % 2 == 1) & (path // 2 < L)
    y = tl.load(labels + path // 2, mask=on_label, other=blank)
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


@kernel
def ctc_trace_kernel(
    log_probs,
    target_lengths,
    frames,
    table,
    star_scores,
    labels,
    wild,
    repeats,
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
    ACC: tl.constexpr,
    CHUNKS_PER_PROGRAM: tl.constexpr,
):
    """The best path of each item: `items` × (groups of chunks of the longest item) programs. `table`: see `gpu_item`.

    Args:
        labels, wild, trouble, checked, bits, moved, ends: as the kernels before left them.
        arrivals: int32 [items], zero, and zero again in the end.
        on_path: scratch, accumulators, as many as paths; `frame_scores` itself if they are of this type.
        durations: zero, written.
        paths, frame_scores, scores, statuses: written.
    """
    b = tl.program_id(0) % items
    group = tl.program_id(0) // items
    frame_begin = entry_of(table, pitch_of_table, b, PATHS)
    frame_room = room_of(table, pitch_of_table, b, PATHS)
    paths += frame_begin
    frame_scores += frame_begin
    on_path += frame_begin
    L = tl.load(target_lengths + b).to(tl.int32)
    T = tl.load(frames + b).to(tl.int32)
    status, last = status_of(checked, trouble, ends, b, table, pitch_of_table, L)
    chunks = tl.where(status == OK, tl.cdiv(T, 32), 0)
    begin = group * CHUNKS_PER_PROGRAM
    if begin < chunks:
        log_probs += entry_of(table, pitch_of_table, b, LOG_PROBS)
        pitch = entry_of(table, pitch_of_table, b, PITCH)
        blank = entry_of(table, pitch_of_table, b, BLANK).to(tl.int32)
        label_begin = entry_of(table, pitch_of_table, b, LABELS)
        labels += label_begin
        durations += label_begin
        wild += frame_begin
        star = tl.load(star_scores + b).to(ACC)
        bits_begin = entry_of(table, pitch_of_table, b, BITS)
        bits += bits_begin * 3
        moved += bits_begin
        end = tl.minimum(begin + CHUNKS_PER_PROGRAM, chunks)
        state = last
        for back in range(chunks - end):
            state = before_chunk(moved, T, L, state, chunks - 1 - back, (0, 0, 0), False)
        start = state
        for back in range(end - begin):
            chunk = end - 1 - back
            start = follow_chunk(
                log_probs,
                pitch,
                blank,
                labels,
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
                (0, 0, 0),
                False,
            )
            state = before_chunk(moved, T, L, state, chunk, (0, 0, 0), False)
        if (group == 0) & (start != 0):
            tl.atomic_add(arrivals + b, BROKEN, sem="relaxed")
        arrived = arrive(arrivals + b)
        if arrived % BROKEN == tl.cdiv(chunks, CHUNKS_PER_PROGRAM) - 1:
            tl.store(arrivals + b, 0)
            score = sum_in_order(on_path, T).to(ACC).to(tl.float64)
            if arrived >= BROKEN:
                fill_zeros(durations, L)
                fill_zeros(paths, T)
                fill_zeros(frame_scores, T)
                score = tl.full([], float("nan"), tl.float64)
                status = INTERNAL
            tl.store(scores + b, score)
            tl.store(statuses + b, status)
    elif (chunks == 0) & (group == 0):
        tl.store(scores + b, float("nan"))
        tl.store(statuses + b, status)
    # The first chunk may have fewer frames: programs' frames for this are counted from 0.
    padding = tl.maximum(begin * 32, tl.where(status == OK, T, 0))
    missing = tl.minimum(frame_room, (begin + CHUNKS_PER_PROGRAM) * 32) - padding
    fill_zeros(paths + padding, missing)
    fill_zeros(frame_scores + padding, missing)
