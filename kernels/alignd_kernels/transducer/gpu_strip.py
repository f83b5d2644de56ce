# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
# ruff: noqa: RUF005  (Triton knows no starred expressions)
"""How a strip of a transducer's lattice (see `gpu_item`) reads its nodes' arcs, in Triton's language.

A node's score comes of its own thread's, and of the left thread's, in the step before, each with an arc's added. Seen
from the end, the lattice has the same shape: the backward direction is the same program with other places.
"""

from typing import Final

import triton
import triton.language as tl

from alignd_kernels.dtypes import DType
from alignd_kernels.transducer.gpu_item import rows_of

STEP: Final = {DType.FLOAT16: 16, DType.BFLOAT16: 16, DType.FLOAT32: 16, DType.FLOAT64: 8}
"""Steps of which the arcs are loaded ahead, and between two looks at the border. About as long as a trip to memory, and
as many as the registers hold."""


@triton.jit
def forward_places(arcs, T, strip, skew):
    """Where in a strip's arcs lie those that lead to its nodes in step 0: the blank's and the label's of each thread.

    A blank comes from row n of the thread, a label from row n of the thread on the left; thread 0's left neighbour is
    thread 31 of the strip before, which lies 32 rows further in its own steps if they are skewed."""
    lane = tl.arange(0, 32)
    strip_before = (32 * skew - rows_of(T, skew)).to(tl.int64) * 64 + 63
    # Of the first strip, thread 0 may read any: it adds it to a score of −∞.
    label = tl.where(lane > 0, (31 + lane).to(tl.int64), tl.where(strip > 0, strip_before, 32))
    return arcs + lane, arcs + label


@triton.jit
def arcs_ahead(blanks, labels, pace, STEP: tl.constexpr):
    """Arcs of STEP steps, two tuples of vectors.

    Args:
        blanks, labels: their places in the first one.
        pace: elements from a step to the next.
    """
    x_blank = ()
    x_label = ()
    for j in tl.static_range(STEP):
        x_blank = x_blank + (tl.load(blanks + j * pace),)
        x_label = x_label + (tl.load(labels + j * pace),)
    return x_blank, x_label


@triton.jit
def backward_places(arcs, T, skew):
    """Seen from the end, where thread l is the one that is l from the right: the arcs lie with the nodes that they come
    from, in the same row of both, from the last row on."""
    lane = tl.arange(0, 32)
    last = (rows_of(T, skew) - 1).to(tl.int64) * 64 + 31 - lane
    return arcs + last, arcs + last + 32
