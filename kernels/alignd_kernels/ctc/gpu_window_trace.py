# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""CTC forced alignment of one long item on a GPU, back through one window of its frames. See `gpu_window`."""

import triton.language as tl

from alignd_kernels.ctc.gpu_item import BLANK, LOG_PROBS, PITCH, TARGETS, first_strip_of_window
from alignd_kernels.ctc.gpu_trace import constants, fail, status_of, trace_chunks
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import OK, entry_of, kernel


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for scores of this type."""
    return [constants(dtype)]


@kernel
def ctc_window_trace_kernel(
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
    """The path in one window, and where it comes from: states[window]. See `trace_item`."""
    L = tl.load(target_lengths).to(tl.int32)
    T = tl.load(frames).to(tl.int32)
    status, last = status_of(checked, trouble, ends, 0, table, pitch_of_table, L)
    first = window * chunks
    begin = first + tl.program_id(0) * CHUNKS_PER_PROGRAM
    stop = tl.minimum(first + chunks, tl.cdiv(T, 32))
    if status != OK:
        if begin == 0:  # windows behind may have been traced before a wait ran out in this one
            fail(status, L, T, durations, paths, frame_scores, scores, statuses)
    elif begin < stop:
        state = tl.where(stop == tl.cdiv(T, 32), last, tl.load(states + window + 1))
        before = trace_chunks(
            log_probs + entry_of(table, pitch_of_table, 0, LOG_PROBS),
            entry_of(table, pitch_of_table, 0, PITCH),
            entry_of(table, pitch_of_table, 0, BLANK).to(tl.int32),
            targets + entry_of(table, pitch_of_table, 0, TARGETS),
            1,
            wild,
            tl.load(star_scores).to(ACC),
            T,
            L,
            bits,
            moved,
            state,
            stop,
            begin,
            CHUNKS_PER_PROGRAM,
            arrivals,
            on_path,
            paths,
            durations,
            frame_scores,
            scores,
            statuses,
            (first_strip_of_window(L, state, count), first, chunks),
            ACC,
            WINDOW=True,
        )
        if begin == first:
            tl.store(states + window, before)
