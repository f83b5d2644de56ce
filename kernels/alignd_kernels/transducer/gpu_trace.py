# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""The best path of a transducer on a GPU, back: by the one program of an item that ends last.

Steps are counted over all strips here: position p (that of the first strip's thread 0 is 0) is at frame N − skew·p in
step N, so that each arc, blank's or label's, leads to the next step, and a label's to the next position. The way back
is then one move a step, T + U moves in all (T in the modified topology); a thread reads the word of one position for
32 of them. Strips are 32 positions apart, hence chunks of 32 steps are whole chunks of any strip.
"""

import triton
import triton.language as tl

from alignd_kernels.gpu_language import (
    INTERNAL,
    OK,
    entry_of,
    fill_zeros,
    sum_in_order,
    uniform,
    within,
)
from alignd_kernels.gpu_strips import trouble_of
from alignd_kernels.transducer.gpu_item import (
    BITS,
    CELLS,
    FRAMES,
    LABELS,
    STRIPS,
    rows_of,
    status_of_sum,
    status_with_labels,
    steps_of,
    strips_of,
)


@triton.jit
def _chunk(arcs, T, U, skew, bits, chunk, top, emissions, on_path):
    """Follow the moves back from position `top` at the end of a chunk: they pass at most 32 positions.

    Args:
        arcs, bits: the item's.
        emissions: [U], frames of the labels that the chunk's arcs emit, written.
        on_path: the scores of its arcs, from the path's first on, written.

    Returns:
        the position before the chunk.
    """
    lane = tl.arange(0, 32)
    rows = rows_of(T, skew)
    chunks = tl.cdiv(steps_of(T, skew), 32)
    positions = strips_of(U) * 32
    first = positions - 1 - U  # u = 0
    begin = skew * first
    position = tl.zeros([32], tl.int32) + top  # uniform
    window = position - lane  # a thread holds the word of one position: moves are then read by shuffles
    row = chunk - window // 32 * skew
    known = (window >= 0) & (row >= 0) & (row < chunks)
    word = tl.load(bits + ((window // 32).to(tl.int64) * chunks + row) * 32 + window % 32, mask=known, other=0)
    path = tl.zeros([32], tl.int32)
    came = tl.zeros([32], tl.int32)
    for i in tl.static_range(32):
        j = 31 - i
        N = chunk * 32 + j
        inside = within(N, begin + 1, T + skew * U - 1)
        label = tl.where(inside, (tl.gather(word, top - position, 0) >> j) & 1, 0)
        path = tl.where(lane == j, position, path)
        came = tl.where(lane == j, label, came)
        position -= label
    # The arc that leads to the path's node in step N comes from the step before.
    N = chunk * 32 + lane
    inside = within(N, begin + 1, T + skew * U - 1)
    source = path - came
    t = N - 1 - skew * source
    row = t + skew * (source % 32) + 1
    inside &= (t >= 0) & (t < T) & (source >= first)
    place = (((source // 32).to(tl.int64) * rows + row) * 2 + came) * 32 + source % 32
    tl.store(on_path + (N - begin - 1), tl.load(arcs + place, mask=inside, other=0.0), mask=inside)
    tl.store(emissions + (source - first), t, mask=inside & (came == 1))
    return tl.max(position, 0)


@triton.jit
def trace_item(
    frames,
    labels,
    table,
    arcs,
    checked,
    bits,
    best,
    trouble,
    emissions,
    on_path,
    scores,
    statuses,
    pitch_of_table,
    b,
    skew,
    ACC: tl.constexpr,
):
    """The path of item b, its score and status, from what all its strips have left. See `transducer_forward_kernel`."""
    T64 = tl.load(frames + b)
    U64 = tl.load(labels + b)
    strips = strips_of(U64).to(tl.int32)
    trouble += entry_of(table, pitch_of_table, b, STRIPS)
    status = status_with_labels(table, pitch_of_table, b, T64, U64, skew, checked)
    if status == OK:
        finite = tl.abs(tl.load(best + b)) < float("inf")
        status = status_of_sum(tl.load(checked + b), trouble_of(trouble, strips), finite)
    score = tl.full([], float("nan"), tl.float64)
    if uniform(status) == OK:
        T = T64.to(tl.int32)
        U = U64.to(tl.int32)
        label_begin = entry_of(table, pitch_of_table, b, LABELS)
        emissions += label_begin
        on_path += label_begin + entry_of(table, pitch_of_table, b, FRAMES)
        arcs += entry_of(table, pitch_of_table, b, CELLS) * 2
        bits += entry_of(table, pitch_of_table, b, BITS)
        last = strips * 32 - 1
        position = last
        first = last - U
        chunk = (T + skew * last) // 32
        while chunk >= skew * first // 32:
            position = _chunk(arcs, T, U, skew, bits, chunk, position, emissions, on_path)
            chunk -= 1
        tl.debug_barrier()  # other threads have written what the sum reads
        score = sum_in_order(on_path, T + skew * U).to(ACC).to(tl.float64)
        if position != first:
            fill_zeros(emissions, U)
            score = tl.full([], float("nan"), tl.float64)
            status = INTERNAL
    tl.store(scores + b, score)
    tl.store(statuses + b, status)
