# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""CTC forced alignment of one long item on a GPU, in windows of frames, in Triton's language.

All back-pointers of two hours of audio are 11 GB, all borders 7 GB. Here the way forward goes through one window of
chunks after the other, keeps the scores at each window's end and no back-pointers. The way back takes the windows from
the last to the first: each one's lattice is computed once more from the scores before it, now with back-pointers, but
only in the strips from which the path can have come: it passes at most one pair a frame, so that what a window lacks
on its left reaches no state of the path. The result is the same to the bit.
"""

import triton.language as tl

from alignd_kernels.ctc.gpu_item import BLANK, LOG_PROBS, PITCH, TARGETS, first_strip_of_window, strips_of
from alignd_kernels.ctc.gpu_strip import STEP, strip_forward
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import OK, accumulator_in_kernel, entry_of, kernel, uniform
from alignd_kernels.gpu_strips import draw_ticket


def constants(dtype: DType, keep: bool) -> dict[str, object]:
    """What the strips' kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype), "STEP": STEP, "KEEP": keep}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for scores of this type."""
    return [constants(dtype, keep) for keep in (False, True)]


@kernel
def ctc_window_kernel(
    log_probs,
    targets,
    target_lengths,
    frames,
    table,
    star_scores,
    wild,
    repeats,
    trouble,
    checked,
    borders,
    tickets,
    bits,
    moved,
    ends,
    kept,
    states,
    pitch_of_table,
    first_ticket,
    epoch,
    plane,
    patience,
    window,
    chunks,
    count,
    ACC: tl.constexpr,
    STEP: tl.constexpr,
    KEEP: tl.constexpr,
):
    """The last `count` strips that can hold states[window + 1], the path's state at the window's end, in its `chunks`.

    Args:
        kept: accumulators [windows + 1, 2, pairs of all strips], scores of blanks and labels before each window: read,
            and with not KEEP written for the next one.
        bits, moved: of the window, see `place_in_window`, written with KEEP.
    """
    ticket = draw_ticket(tickets, first_ticket)
    if uniform(tl.load(checked)) == OK:
        L = tl.load(target_lengths).to(tl.int32)
        T = tl.load(frames).to(tl.int32)
        first_strip = first_strip_of_window(L, tl.load(states + window + 1), count)
        strip = first_strip + ticket
        if strip < strips_of(L):
            pairs = strips_of(L).to(tl.int64) * 32
            share = ticket.to(tl.int64) * chunks * 32
            wrong = strip_forward(
                log_probs + entry_of(table, pitch_of_table, 0, LOG_PROBS),
                entry_of(table, pitch_of_table, 0, PITCH),
                entry_of(table, pitch_of_table, 0, BLANK),
                targets + entry_of(table, pitch_of_table, 0, TARGETS),
                1,
                wild,
                tl.load(star_scores).to(ACC),
                T,
                L,
                strip,
                tl.load(repeats + strip),
                tl.load(checked + 1),
                borders,
                plane,
                epoch,
                patience,
                bits + share * 3,
                moved + share,
                ends,
                kept + window * 2 * pairs,
                first_strip,
                window * chunks,
                chunks,
                ACC,
                STEP,
                WINDOW=True,
                KEEP=KEEP,
            )
            tl.store(trouble + strip, tl.load(trouble + strip) | wrong)
