# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""What the GPU kernels of all families share.

Every kernel runs one program of one warp (32 threads) for each item. Vectors in it have 32 entries, so entry l lives in
thread l, and `tl.gather` on them is a shuffle between registers. "Uniform" means the same value in all 32 entries.

Memory that a program writes and reads back (its scratch) passes between threads of its one warp. `tl.debug_barrier`
makes it visible: PTX orders the accesses of the threads of a block that meet in a barrier. Each use says what it
orders. The interpreter runs a program's operations one after another and would not notice a missing one.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import Int64Array
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

TORCH_DTYPES: Final = {
    DType.FLOAT16: torch.float16,
    DType.BFLOAT16: torch.bfloat16,
    DType.FLOAT32: torch.float32,
    DType.FLOAT64: torch.float64,
}
DTYPES: Final = {stored: dtype for dtype, stored in TORCH_DTYPES.items()}

LAUNCH_OPTIONS: Final = {
    "num_warps": 1,
    "num_stages": 1,
    "enable_fp_fusion": False,  # sums must round as the specification's
    "maxnreg": 255,  # else ptxas spills on sm_80 for more programs at a time
}

STEP: Final = 8
"""Frames that a kernel's loop takes at a time. Two such steps are loaded ahead, which takes about as long as a trip to
memory; longer steps need more registers, and Triton's compiler time beyond proportion."""

INTERPRETED: Final = os.environ.get("TRITON_INTERPRET") == "1"


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


def accumulator_of(dtype: DType) -> torch.dtype:
    """`DType.accumulator` as torch names it."""
    return torch.float64 if dtype is DType.FLOAT64 else torch.float32


def check_device(device: torch.device) -> None:
    """Raises:
    ValueError: when kernels cannot run there.
    """
    if device.type != ("cpu" if INTERPRETED else "cuda"):
        raise ValueError(
            f"Triton kernels run on CUDA devices (or interpreted, with TRITON_INTERPRET=1), not on {device}"
        )


@contextmanager
def current(device: torch.device) -> Iterator[None]:
    """Makes `device` the one that Triton launches on.

    Raises:
        MemoryError: the device's memory does not suffice.
    """
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        try:
            yield
        except torch.cuda.OutOfMemoryError as error:
            raise MemoryError(str(error)) from error


def to_device(array: npt.NDArray[np.generic], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """A copy of a 1-D or 2-D array on the device, seen as `dtype` (of the same size); not awaited.

    The staging memory is pinned, so that the copy to a GPU overlaps with other work; torch keeps it till the copy ends.
    """
    staging = torch.empty(array.shape, dtype=dtype, pin_memory=device.type == "cuda")
    same_bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[array.dtype.itemsize]
    np.copyto(staging.view(same_bits).numpy().view(array.dtype), array)
    return staging.to(device, non_blocking=True)


def to_host(tensors: Sequence[torch.Tensor]) -> list[npt.NDArray[Any]]:
    """The tensors as arrays, after everything queued on the device's current stream: the one wait of a batch."""
    if tensors[0].device.type != "cuda":
        return [tensor.numpy() for tensor in tensors]
    staging = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for pinned, tensor in zip(staging, tensors):
        pinned.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    copied.synchronize()
    return [pinned.numpy().copy() for pinned in staging]  # pinned memory is scarce: do not let results hold it


class Stopwatch:
    """Time of what is queued within the context: on a GPU from events on its stream, else by the clock."""

    def __init__(self, device: torch.device) -> None:
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
        self._wall: list[int] = []

    def __enter__(self) -> "Stopwatch":
        self._mark(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._mark(1)

    def _mark(self, which: int) -> None:
        if self._events:
            self._events[which].record()
        else:
            self._wall.append(time.perf_counter_ns())

    def elapsed_ns(self) -> int:
        """To be called when the device has finished."""
        if self._events:
            return int(self._events[0].elapsed_time(self._events[1]) * 1e6)
        return self._wall[1] - self._wall[0]


_compiled: set[tuple[Any, ...]] = set()


def launcher(
    kernel: Any, device: torch.device, items: int, args: Sequence[object], **constants: object
) -> Callable[[], None]:
    """A function that launches `kernel` with one program an item, by then compiled: the first launch of a variant would
    otherwise be timed with its compilation."""
    options = {**constants, **LAUNCH_OPTIONS}
    variant = (kernel, device, *(arg.dtype for arg in args if isinstance(arg, torch.Tensor)), *constants.values())
    if device.type == "cuda" and variant not in _compiled:
        kernel.warmup(*args, grid=(items,), **options)
        _compiled.add(variant)

    def launch() -> None:
        kernel[(items,)](*args, **options)

    return launch


def with_end(starts: Sequence[Int64Array]) -> Int64Array:
    """Rows of per-item numbers, [F, B + 1], that a kernel reads; rows of B entries are padded."""
    table = np.zeros((len(starts), max(len(row) for row in starts)), np.int64)
    for target, row in zip(table, starts):
        target[: len(row)] = row
    return table
