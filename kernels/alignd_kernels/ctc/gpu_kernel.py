# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""CTC forced alignment as a Triton kernel: one program of one warp for each item, from checks to score."""

import triton
import triton.language as tl

from alignd_kernels.ctc.gpu_lattice import NO_LABEL, STAR, ctc_strip, ctc_trace
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import (
    ADJACENT_STARS,
    EMPTY,
    INTERNAL,
    MAX_FRAMES,
    NO_FINITE_PATH,
    NOT_FINITE,
    OK,
    STEP,
    TARGET_IS_BLANK,
    TARGET_OUT_OF_RANGE,
    TOO_FEW_FRAMES,
    accumulator_in_kernel,
    fill_zeros,
    sum_in_order,
    uniform,
    widen,
)

CLEAN = tl.constexpr(32 * 16)
COLUMNS = tl.constexpr(256)


@triton.jit
def _check(targets, T, L, V, blank):
    """Status of the targets (of the first bad one), number of repeats, and whether there is a star."""
    lane = tl.arange(0, 32)
    status = tl.full([], OK, tl.int32)
    repeats = tl.zeros([32], tl.int32)
    stars = tl.zeros([32], tl.int32)
    for i0 in range(0, L, 32):
        here = lane < L - i0
        y = tl.load(targets + i0 + lane, mask=here, other=NO_LABEL)
        before = tl.load(targets + i0 + lane - 1, mask=here & (i0 + lane > 0), other=NO_LABEL)
        follows_itself = here & (y == before) & (i0 + lane > 0)
        code = tl.where(follows_itself & (y == STAR), ADJACENT_STARS, 0)
        code = tl.where(y == blank, TARGET_IS_BLANK, code)
        code = tl.where((y != STAR) & ((y < 0) | (y >= V)), TARGET_OUT_OF_RANGE, code)
        first = tl.min(tl.where(here & (code != 0), lane * 16 + code, CLEAN), 0)
        status = tl.where((status == OK) & (first < CLEAN), first % 16, status)
        repeats += tl.where(follows_itself, 1, 0)
        stars |= tl.where(here & (y == STAR), 1, 0)
    count = tl.sum(repeats, 0)
    status = tl.where((status == OK) & (L + count > T), TOO_FEW_FRAMES, status)
    status = tl.where((blank < 0) | (blank >= V), TARGET_OUT_OF_RANGE, status)
    status = tl.where((L <= 0) | (T <= 0) | (V <= 0), EMPTY, status)
    return status, count, tl.max(stars, 0)


@triton.jit
def _fill_wild(log_probs, pitch, T, V, blank, star, wild):
    """Log-prob of a star in each frame: `star`, or if that is NaN the frame's largest non-blank one, −∞ where there is
    none. NaN in a frame becomes +∞: a path may visit neither."""
    column = tl.arange(0, COLUMNS)
    if star != star:
        for t in range(T):
            best = tl.full([COLUMNS], float("-inf"), wild.dtype.element_ty)
            for v0 in range(0, V, COLUMNS):
                v = v0 + column
                x = tl.load(log_probs + v, mask=(v < V) & (v != blank), other=float("-inf"))
                x = widen(x, wild.dtype.element_ty)
                best = tl.maximum(best, tl.where(x == x, x, float("inf")))
            tl.store(wild + t, tl.max(best, 0))
            log_probs += pitch
    else:
        for t0 in range(0, T, COLUMNS):
            tl.store(wild + t0 + column, tl.zeros([COLUMNS], wild.dtype.element_ty) + star, mask=column < T - t0)


@triton.jit(
    do_not_specialize=["pitch_of_table"],
    do_not_specialize_on_alignment=[
        "log_probs",
        "targets",
        "table",
        "star_scores",
        "paths",
        "durations",
        "frame_scores",
        "scores",
        "statuses",
        "rows",
        "bits",
    ],
)
def ctc_best_path_kernel(
    log_probs,
    targets,
    table,
    star_scores,
    paths,
    durations,
    frame_scores,
    scores,
    statuses,
    rows,
    bits,
    pitch_of_table,
    ACC: tl.constexpr,
    STEP: tl.constexpr,
):
    """Best path of item `program_id`. Rows of `table`, int64: index of cell (0, 0), frames, columns, pitch; index of
    the first target, targets, blank; start of the item's part of `paths` and `frame_scores`, of `durations`, of `rows`
    and of `bits`, each with one more entry for the end."""
    b = tl.program_id(0)
    item = table + b
    log_probs += tl.load(item)
    frames = tl.load(item + pitch_of_table)
    V = tl.load(item + 2 * pitch_of_table)
    pitch = tl.load(item + 3 * pitch_of_table)
    targets += tl.load(item + 4 * pitch_of_table)
    labels = tl.load(item + 5 * pitch_of_table)
    blank = tl.load(item + 6 * pitch_of_table)
    frame_begin = tl.load(item + 7 * pitch_of_table)
    frame_room = tl.load(item + 7 * pitch_of_table + 1) - frame_begin
    label_begin = tl.load(item + 8 * pitch_of_table)
    label_room = tl.load(item + 8 * pitch_of_table + 1) - label_begin
    rows_begin = tl.load(item + 9 * pitch_of_table)
    rows_room = tl.load(item + 9 * pitch_of_table + 1) - rows_begin
    bits_begin = tl.load(item + 10 * pitch_of_table)
    bits_room = tl.load(item + 10 * pitch_of_table + 1) - bits_begin
    paths += frame_begin
    frame_scores += frame_begin
    durations += label_begin
    rows += rows_begin
    bits += bits_begin

    status, repeats, has_star = _check(targets, frames, tl.minimum(labels, label_room), V, blank)
    strips = tl.cdiv(labels + 1, 32)
    chunks = (frames - labels + 31) // 32 + 1
    fits = (strips * chunks * 96 <= bits_room) & (3 * frames <= rows_room)
    status = tl.where((fits & (frames <= MAX_FRAMES)) | (status != OK), status, INTERNAL)
    status = uniform(tl.where((frames > frame_room) | (labels > label_room), INTERNAL, status))
    score = tl.full([], 0.0, tl.float64)
    if status == OK:
        T = frames.to(tl.int32)
        L = labels.to(tl.int32)
        wild = rows + 2 * frames
        if has_star != 0:
            _fill_wild(log_probs, pitch, T, V, blank, tl.load(star_scores + b).to(ACC), wild)
            tl.debug_barrier()  # the strips read what other threads wrote to `wild`
        last_blank = tl.full([], 0.0, ACC)
        bad = tl.full([], 0, tl.int32)
        repeats_before = tl.full([], 0, tl.int32)
        for strip in range(strips.to(tl.int32)):
            left = rows + ((strip + 1) % 2) * frames
            right = rows + (strip % 2) * frames
            repeats_before, last_blank, strip_bad = ctc_strip(
                log_probs,
                pitch,
                targets,
                T,
                L,
                blank,
                wild,
                strip * 32,
                repeats_before,
                repeats,
                left,
                right,
                bits + strip * chunks * 96,
                ACC,
                STEP,
            )
            bad = tl.maximum(bad, strip_bad)
            # What follows reads `right`, which other threads have written, and overwrites `left`, which they have read.
            tl.debug_barrier()
        last_label = tl.load(rows + ((L - 1) // 32 % 2) * frames + frames - 1)
        on_label = last_label >= last_blank
        best = tl.where(on_label, last_label, last_blank)
        status = tl.where(tl.abs(best) < float("inf"), status, NO_FINITE_PATH)
        status = uniform(tl.where(bad == 0, status, NOT_FINITE))
        if status == OK:
            # The barrier after the last strip also orders its words, and its use of `rows`, before this; and no thread
            # has left `uniform` before all had loaded what the trace overwrites.
            start = ctc_trace(
                log_probs,
                pitch,
                targets,
                T,
                L,
                blank,
                wild,
                bits,
                chunks.to(tl.int32),
                tl.where(on_label, 2 * L - 1, 2 * L),
                paths,
                durations,
                frame_scores,
                rows,
                STEP,
            )
            status = tl.where(start == 0, status, INTERNAL)
            tl.debug_barrier()  # the sum reads what other threads wrote to `rows`
            score = sum_in_order(rows, T).to(ACC).to(tl.float64)
    if status != OK:
        tl.debug_barrier()  # a broken trace has written to the same places from other threads
        fill_zeros(paths, tl.minimum(frames, frame_room))
        fill_zeros(frame_scores, tl.minimum(frames, frame_room))
        fill_zeros(durations, tl.minimum(labels, label_room))
        score = tl.full([], float("nan"), tl.float64)
    tl.store(scores + b, score)
    tl.store(statuses + b, status)


def constants(dtype: DType) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype), "STEP": STEP}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for scores of this type."""
    return [constants(dtype)]
