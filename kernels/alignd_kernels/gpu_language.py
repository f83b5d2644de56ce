# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""What the GPU kernels of all families share, in Triton's language: torch is not needed to compile them.

Every kernel runs one program of one warp (32 threads) for each item. Vectors in it have 32 entries, so entry l lives in
thread l, and `tl.gather` on them is a shuffle between registers. "Uniform" means the same value in all 32 entries.

Memory that a program writes and reads back (its scratch) passes between threads of its one warp. `tl.debug_barrier`
makes it visible: PTX orders the accesses of the threads of a block that meet in a barrier. Each use says what it
orders. The interpreter runs a program's operations one after another and would not notice a missing one.
"""

import inspect
from collections.abc import Callable
from typing import Any, Final

import triton
import triton.language as tl

from alignd_kernels.dtypes import DType
from alignd_kernels.status import Status

OK = tl.constexpr(int(Status.OK))
EMPTY = tl.constexpr(int(Status.EMPTY))
TOO_FEW_FRAMES = tl.constexpr(int(Status.TOO_FEW_FRAMES))
NOT_FINITE = tl.constexpr(int(Status.NOT_FINITE))
NO_FINITE_PATH = tl.constexpr(int(Status.NO_FINITE_PATH))
TARGET_OUT_OF_RANGE = tl.constexpr(int(Status.TARGET_OUT_OF_RANGE))
TARGET_IS_BLANK = tl.constexpr(int(Status.TARGET_IS_BLANK))
ADJACENT_STARS = tl.constexpr(int(Status.ADJACENT_STARS))
INTERNAL = tl.constexpr(int(Status.INTERNAL))

MAX_FRAMES = tl.constexpr(2**31 - 256)
"""Frames and states are counted in int32 in the kernels; what is longer gets `Status.INTERNAL`."""

NEVER = tl.constexpr(2**31 - 1)
"""First frame of a state that no path visits: `visited` is false for every frame."""

LAUNCH_OPTIONS: Final = {
    "num_warps": 1,
    "num_stages": 1,
    "enable_fp_fusion": False,  # sums must round as the specification's
    "maxnreg": 255,  # else ptxas spills on sm_80 for more programs at a time
}

STEP: Final = 8
"""Frames that a kernel's loop takes at a time. Two such steps are loaded ahead, which takes about as long as a trip to
memory; longer steps need more registers, and Triton's compiler time beyond proportion."""


def kernel(function: Callable[..., None]) -> Any:
    """`triton.jit` for what is launched: compiled for its constants and the tensors' element types alone. Otherwise an
    argument that is 1, or a multiple of 16, or a tensor that begins at one, would each be a variant of its own,
    compiled when a request first brings it."""
    given = [name for name, one in inspect.signature(function).parameters.items() if one.annotation is not tl.constexpr]
    return triton.jit(do_not_specialize=given, do_not_specialize_on_alignment=given)(function)


@triton.jit
def entry_of(table, pitch_of_table, b, ROW: tl.constexpr):
    """Of item b: `table` has rows of int64 [items + 1]."""
    return tl.load(table + ROW * pitch_of_table + b)


@triton.jit
def room_of(table, pitch_of_table, b, ROW: tl.constexpr):
    """How much of an array is item b's, where the row tells where each one's part begins."""
    return tl.load(table + ROW * pitch_of_table + b + 1) - tl.load(table + ROW * pitch_of_table + b)


@triton.jit
def item_at(table, pitch_of_table, items, place, ROW: tl.constexpr):
    """The item that a place is in, by bisection: the last one that begins at it or before, as the row tells."""
    low = tl.full([], 0, tl.int32)
    high = low + items
    while high - low > 1:
        middle = (low + high) // 2
        at_or_before = entry_of(table, pitch_of_table, middle, ROW) <= place
        low = tl.where(at_or_before, middle, low)
        high = tl.where(at_or_before, high, middle)
    return low


@triton.jit
def within(t, first, span):
    """Whether first ≤ t ≤ first + span: one comparison, since a negative difference is a huge unsigned number."""
    return (t - first).to(tl.uint32, bitcast=True) <= span.to(tl.uint32, bitcast=True)


@triton.jit
def visited(t0, first, span):
    """Words whose bit j says whether frame t0 + j is within first … first + span, for vectors of 32 and 0 ≤ j < 32."""
    low = tl.minimum(tl.maximum(first - t0, 0), 32)
    high = tl.minimum(tl.maximum(first - t0 + span + 1, 0), 32)  # for NEVER the sum may wrap: high ≤ low in any case
    one = tl.full([32], 1, tl.int64)
    return tl.where(low < high, (one << high) - (one << low), 0).to(tl.int32)


@triton.jit
def widen(x, ACC: tl.constexpr):
    """Stored scores as accumulators, exactly. bfloat16 is the high half of float32; the interpreter's own conversion
    loses bits of subnormal ones."""
    if x.dtype == tl.bfloat16:
        x = (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return x.to(ACC)


@triton.jit
def entry(vector, index):
    """Entry `index` of a vector of 32, uniform."""
    return tl.gather(vector, tl.full([32], index, tl.int32), 0)


@triton.jit
def uniform(scalar):
    """The same int32, by a reduction that leaves it in a register of the whole warp. A branch on it is then known not
    to diverge; else the compiler guards and doubles every shuffle behind the branch."""
    return tl.max(tl.zeros([32], tl.int32) + scalar, 0)


@triton.jit
def sum_in_order(values, n):
    """Sum of n values in float64, in their order: a tree would round differently than the specification."""
    lane = tl.arange(0, 32)
    total = tl.zeros([32], tl.float64)
    x = tl.load(values + lane, mask=lane < n, other=0.0)
    for start in range(0, n, 32):
        following = tl.load(values + start + 32 + lane, mask=lane < n - start - 32, other=0.0)
        for j in tl.static_range(32):
            total += entry(x, j).to(tl.float64)
        x = following
    return tl.max(total, 0)


@triton.jit
def fill_zeros(out, n):
    """Write n zeros (n may be negative)."""
    block = tl.arange(0, 128)
    for start in range(0, n, 128):
        tl.store(out + start + block, tl.zeros([128], out.dtype.element_ty), mask=block < n - start)


def accumulator_in_kernel(dtype: DType) -> tl.dtype:
    """Type in which the kernels sum paths."""
    return tl.float64 if dtype is DType.FLOAT64 else tl.float32
