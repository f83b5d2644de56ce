# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""What monotonic alignment search has found of the chosen heads, as attention maps' results, on a GPU."""

from typing import Any

import triton.language as tl

from alignd_kernels.attention.gpu_item import TOKENS, clear_rates
from alignd_kernels.gpu_language import OK, entry_of, kernel, uniform

TOKENS_AT_A_TIME = tl.constexpr(128)


def variants(_: Any) -> list[dict[str, object]]:
    """All that are ever launched."""
    return [{}]


@kernel
def attention_spans_kernel(
    tokens,
    table,
    durations,
    found_scores,
    found_statuses,
    rates,
    heads,
    starts,
    ends,
    scores,
    statuses,
    pitch_of_table,
):
    """Starts and ends of each token: a program an item. `table`: see `gpu_item`.

    Args:
        durations, found_scores, found_statuses: of `mas.gpu`, of no tokens where an item had failed before.
        rates, heads, statuses: as `attention_heads_kernel` has left them; cleared of an item that fails.
        starts, ends: int32, zero, written.
        scores: NaN, written.
    """
    b = tl.program_id(0)
    if uniform(tl.load(statuses + b)) == OK:  # all threads have read it before one writes
        status = tl.load(found_statuses + b)
        tl.store(statuses + b, status)
        if status == OK:
            tl.store(scores + b, tl.load(found_scores + b))
            S = tl.load(tokens + b).to(tl.int32)
            begin = entry_of(table, pitch_of_table, b, TOKENS)
            before = tl.full([], 0, tl.int32)
            for first in range(0, S, TOKENS_AT_A_TIME):
                s = first + tl.arange(0, TOKENS_AT_A_TIME)
                duration = tl.load(durations + begin + s, mask=s < S, other=0)
                end = before + tl.cumsum(duration, 0)
                tl.store(starts + begin + s, end - duration, mask=s < S)
                tl.store(ends + begin + s, end, mask=s < S)
                before += tl.sum(duration, 0)
        else:
            clear_rates(heads, rates, table, pitch_of_table, b)
