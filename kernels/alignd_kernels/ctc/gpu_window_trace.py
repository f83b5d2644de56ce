# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""CTC forced alignment of one long item on a GPU, back through one window of its frames. See `gpu_window`."""

import triton.language as tl

from alignd_kernels.ctc.gpu_item import BLANK, LABELS, LOG_PROBS, PITCH, first_strip_of_window
from alignd_kernels.ctc.gpu_trace import before_chunk, constants, follow_chunk, status_of
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import INTERNAL, OK, entry_of, fill_zeros, kernel, sum_in_order
from alignd_kernels.gpu_strips import BROKEN, arrive


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for scores of this type."""
    return [constants(dtype)]


@kernel
def ctc_window_trace_kernel(
    log_probs,
    target_lengths,
    frames,
    table,
    star_scores,
    labels,
    wild,
    trouble,
    checked,
    bits,
    moved,
    ends,
    states,
    arrivals,
    on_path,
    paths,
    durations,
    frame_scores,
    scores,
    statuses,
    pitch_of_table,
    window,
    chunks,
    count,
    ACC: tl.constexpr,
    CHUNKS_PER_PROGRAM: tl.constexpr,
):
    """The path in one window, and where it comes from: states[window]. See `ctc_trace_kernel`."""
    L = tl.load(target_lengths).to(tl.int32)
    T = tl.load(frames).to(tl.int32)
    status, last = status_of(checked, trouble, ends, 0, table, pitch_of_table, L)
    all_chunks = tl.cdiv(T, 32)
    first = window * chunks
    begin = first + tl.program_id(0) * CHUNKS_PER_PROGRAM
    stop = tl.minimum(first + chunks, all_chunks)
    if (status == OK) & (begin < stop):
        labels += entry_of(table, pitch_of_table, 0, LABELS)
        log_probs += entry_of(table, pitch_of_table, 0, LOG_PROBS)
        pitch = entry_of(table, pitch_of_table, 0, PITCH)
        blank = entry_of(table, pitch_of_table, 0, BLANK).to(tl.int32)
        star = tl.load(star_scores).to(ACC)
        state = tl.where(stop == all_chunks, last, tl.load(states + window + 1))
        place = (first_strip_of_window(L, state, count), first, chunks)
        end = tl.minimum(begin + CHUNKS_PER_PROGRAM, stop)
        for back in range(stop - end):
            state = before_chunk(moved, T, L, state, stop - 1 - back, place, True)
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
                place,
                True,
            )
            state = before_chunk(moved, T, L, state, chunk, place, True)
        if begin == first:
            tl.store(states + window, state)
        if window == 0:
            if (begin == 0) & (start != 0):
                tl.atomic_add(arrivals, BROKEN, sem="relaxed")
            arrived = arrive(arrivals)
            if arrived % BROKEN == tl.cdiv(stop, CHUNKS_PER_PROGRAM) - 1:
                tl.store(arrivals, 0)
                score = sum_in_order(on_path, T).to(ACC).to(tl.float64)
                if arrived >= BROKEN:
                    fill_zeros(durations, L)
                    fill_zeros(paths, T)
                    fill_zeros(frame_scores, T)
                    score = tl.full([], float("nan"), tl.float64)
                    status = INTERNAL
                tl.store(scores, score)
                tl.store(statuses, status)
    elif (status != OK) & (begin == 0):
        fill_zeros(durations, L)  # windows behind may have been traced before a wait ran out in this one
        fill_zeros(paths, T)
        fill_zeros(frame_scores, T)
        tl.store(scores, float("nan"))
        tl.store(statuses, status)
