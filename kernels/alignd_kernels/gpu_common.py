# mypy: allow-untyped-calls
"""What runs the GPU kernels of all families: the launch, timing."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import numpy as np
import torch

from alignd_kernels import arrays
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import LAUNCH_OPTIONS
from alignd_kernels.ragged import Int64Array

TORCH_DTYPES: Final = {
    DType.FLOAT16: torch.float16,
    DType.BFLOAT16: torch.bfloat16,
    DType.FLOAT32: torch.float32,
    DType.FLOAT64: torch.float64,
}


class _DTypes(dict[torch.dtype, DType]):
    """By torch's name of it.

    Raises:
        TypeError: scores are of no type that has kernels.
    """

    def __missing__(self, dtype: torch.dtype) -> DType:
        raise TypeError(
            f"scores must be float16, bfloat16, float32 or float64, not {str(dtype).removeprefix('torch.')}"
        )


DTYPES: Final = _DTypes((stored, dtype) for dtype, stored in TORCH_DTYPES.items())

INTERPRETED: Final = os.environ.get("TRITON_INTERPRET") == "1"


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


_compiling = threading.Lock()
_compiled: dict[tuple[Any, ...], float] = {}
"""Seconds that each variant of a kernel took to compile, or to load from Triton's cache."""


def compile_seconds() -> float:
    """Seconds that this process has spent on compiling GPU kernels."""
    return sum(_compiled.values())


def launcher(
    kernel: Any, device: torch.device, items: int, args: Sequence[object], **constants: object
) -> Callable[[], None]:
    """A function that launches `kernel` with one program an item, by then compiled: the first launch of a variant would
    otherwise be timed with its compilation."""
    options = {**constants, **LAUNCH_OPTIONS}
    variant = (kernel, device, *map(_kind, args), *constants.values())
    if device.type == "cuda" and variant not in _compiled:
        # One thread at a time: Triton gives a kernel that another is just loading without its code.
        with _compiling:
            if variant not in _compiled:
                _compiled[variant] = _load(kernel, args, items, options)

    def launch() -> None:
        kernel[(items,)](*args, **options)

    return launch


def _kind(arg: object) -> object:
    """What Triton compiles a kernel anew for: another dtype of a tensor, an integer that int32 does not hold."""
    if isinstance(arg, torch.Tensor):
        return arg.dtype
    return isinstance(arg, int) and not -(2**31) <= arg < 2**31


def _load(kernel: Any, args: Sequence[object], items: int, options: dict[str, object]) -> float:
    """Seconds that it took to compile the kernel, or find it in Triton's cache, and bring it to the device."""
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "kernels cannot be loaded while a graph is captured: call this once before, with scores alike"
        )
    begin = time.perf_counter()
    compiled = kernel.warmup(*args, grid=(items,), **options)
    _ = compiled.run  # which loads it
    return time.perf_counter() - begin


def lengths_on(device: torch.device, given: Any, name: str, items: int, largest: int) -> torch.Tensor:
    """A caller's lengths as int64 [items] on the device; `largest` for each if None is given. Those that lie there
    already are not waited for, so that kernels must find what is out of range.

    Raises:
        TypeError: they are not integers.
        ValueError: not one for each item, or, of those in host memory, one outside 0 … largest.
    """
    if arrays.is_torch(given) and given.device == device:
        if given.is_floating_point() or given.dtype == torch.bool:
            raise TypeError(f"{name} must be integers, not {given.dtype}")
        if tuple(given.shape) != (items,):
            raise ValueError(f"{name} must be of shape ({items},), one for each item, not {tuple(given.shape)}")
        return given.long()
    return torch.from_numpy(arrays.lengths(given, name, items, largest)).to(device, non_blocking=True)


def with_end(starts: Sequence[Int64Array]) -> Int64Array:
    """Rows of per-item numbers, [F, B + 1], that a kernel reads; rows of B entries are padded."""
    table = np.zeros((len(starts), max(len(row) for row in starts)), np.int64)
    for target, row in zip(table, starts):
        target[: len(row)] = row
    return table
