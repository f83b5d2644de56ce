# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: SIM102  (`and` evaluates both sides)
"""CTC forced alignment on a GPU, forward: one program for each strip of an item (`gpu_strip`), which first finds out by
itself whether the item can be aligned (`gpu_targets`)."""

import triton.language as tl

from alignd_kernels.ctc.gpu_item import (
    BITS,
    BLANK,
    BORDERS,
    LABELS,
    LOG_PROBS,
    PATHS,
    PITCH,
    STRIPS,
    TARGETS,
    chunks_of_strip,
    strips_of,
)
from alignd_kernels.ctc.gpu_strip import STEP, strip_forward
from alignd_kernels.ctc.gpu_targets import check_item
from alignd_kernels.ctc.gpu_trace import trace_item
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import MAX_FRAMES, OK, accumulator_in_kernel, entry_of, kernel, room_of, uniform
from alignd_kernels.gpu_strips import arrive, draw_ticket


def constants(dtype: DType, fused: bool) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype), "STEP": STEP, "FUSED": fused}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for scores of this type."""
    return [constants(dtype, fused) for fused in (True, False)]


@kernel
def ctc_forward_kernel(
    log_probs,
    targets,
    target_lengths,
    frames,
    table,
    star_scores,
    wild,
    trouble,
    checked,
    borders,
    tickets,
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
    first_ticket,
    epoch,
    plane,
    patience,
    ACC: tl.constexpr,
    STEP: tl.constexpr,
    FUSED: tl.constexpr,
):
    """Scores of all cells, strip by strip: `items` × (strips of the widest item) programs. `table`: see `gpu_item`.

    Writes what `trace_item` reads. With FUSED the program of an item that ends last goes on to find its path: for short
    items, whose way back takes less than a launch.
    """
    ticket = draw_ticket(tickets, first_ticket)
    b = ticket % items
    strip = ticket // items
    status, repeats, slack = check_item(targets, target_words, target_lengths, frames, table, pitch_of_table, b, strip)
    tl.store(checked + b, status)  # all programs of the item find the same
    label = strip * 32 + tl.arange(0, 32)
    own = durations + entry_of(table, pitch_of_table, b, LABELS) + label
    tl.store(own, tl.zeros([32], tl.int32), mask=label < room_of(table, pitch_of_table, b, LABELS))
    if status == OK:
        L = tl.load(target_lengths + b).to(tl.int32)
        T = tl.load(frames + b).to(tl.int32)
        if strip < strips_of(L):
            share = entry_of(table, pitch_of_table, b, BITS) + strip.to(tl.int64) * chunks_of_strip(T, L) * 32
            wrong = strip_forward(
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
                repeats,
                slack,
                borders + entry_of(table, pitch_of_table, b, BORDERS),
                plane,
                epoch,
                patience,
                bits + share * 3,
                moved + share,
                ends + 2 * b,
                ends,
                0,
                0,
                0,
                ACC,
                STEP,
                WINDOW=False,
                KEEP=True,
            )
            tl.store(trouble + entry_of(table, pitch_of_table, b, STRIPS) + strip, wrong)
    if FUSED:
        if uniform(arrive(arrivals + b)) == tl.num_programs(0) // items - 1:
            tl.store(arrivals + b, 0)
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
                b,
                0,
                MAX_FRAMES // 32,
                ACC,
            )
