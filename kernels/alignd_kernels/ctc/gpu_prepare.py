# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""CTC forced alignment of one long item on a GPU, before its windows: what a strip finds out about the item, kept, so
that not every window's strips go through all targets again. See `gpu_window`."""

import triton.language as tl

from alignd_kernels.ctc.gpu_item import LABELS
from alignd_kernels.ctc.gpu_targets import check_item
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import entry_of, kernel, room_of


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched, whatever the scores' type."""
    return [{}]


@kernel
def ctc_prepare_kernel(targets, target_lengths, frames, table, repeats, trouble, checked, durations, pitch_of_table):
    """One program for each strip of the item.

    Args:
        targets: int32.
        repeats: int32, of each strip those before its first label, written.
        trouble, durations: zeroed; each strip's part of them.
        checked: int32 [2], status of the lengths and targets, and slack, written.
    """
    strip = tl.program_id(0)
    status, before, slack = check_item(targets, 1, target_lengths, frames, table, pitch_of_table, 0, strip)
    tl.store(repeats + strip, before)
    tl.store(trouble + strip, 0)
    label = strip * 32 + tl.arange(0, 32)
    own = durations + entry_of(table, pitch_of_table, 0, LABELS) + label
    tl.store(own, tl.zeros([32], tl.int32), mask=label < room_of(table, pitch_of_table, 0, LABELS))
    if strip == 0:
        tl.store(checked, status)
        tl.store(checked + 1, slack)
