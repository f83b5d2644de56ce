"""What the tests of the GPU kernels share."""

import mmap
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import alignd_kernels
from alignd_kernels.gpu_common import INTERPRETED
from support.interpreter import quicken

if INTERPRETED:
    quicken()

on_each_device = pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.interpreter), pytest.param("cuda", marks=pytest.mark.gpu)]
)
"""The same test in the interpreter and, with `-m gpu`, on a GPU."""


def examples(interpreted: int) -> int:
    """How many examples a test tries: in the interpreter, which takes milliseconds for a frame, as many as said."""
    return interpreted if INTERPRETED else 20 * interpreted


@contextmanager
def garbage_in_new_memory() -> Iterator[None]:
    """What `torch.empty` and its like return is full of garbage, as a busy GPU's memory would be: NaN, or integers of
    bytes 0xE7."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in [(torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")]:
            patch.setattr(owner, name, _filled(getattr(owner, name)))
        yield


def _filled(empty: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def filled(*args: Any, **kwargs: Any) -> torch.Tensor:
        tensor = empty(*args, **kwargs)
        if tensor.is_floating_point():
            return tensor.fill_(float("nan"))
        tensor.view(torch.uint8).fill_(0xE7)
        return tensor

    return filled


def far_apart(items: torch.Tensor, device: str) -> torch.Tensor:
    """A copy of two contiguous items [2, …], the second one 2³² elements and some behind the first: in memory of zeros
    that on the CPU is not there where nobody has written."""
    step = 2**32 + 64
    size = step + items[1].numel()
    if device == "cpu":
        memory = torch.frombuffer(mmap.mmap(-1, size * items.element_size()), dtype=items.dtype)
    else:
        memory = torch.zeros(size, dtype=items.dtype, device=device)
    return memory.as_strided(items.shape, (step, *items.stride()[1:])).copy_(items)


class Launches:
    """Stands in for a kernel: notes the grid and arguments of each launch, and makes it unless told not to."""

    def __init__(self, kernel: Any, really: bool = True) -> None:
        self._kernel, self._really = kernel, really
        self.grids: list[tuple[int, ...]] = []
        self.arguments: list[dict[str, Any]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: Any, **options: Any) -> None:
            self.grids.append(grid)
            self.arguments.append(dict(zip(self._kernel.arg_names, args)) | options)
            if self._really:
                self._kernel[grid](*args, **options)

        return launch

    def warmup(self, *args: Any, **options: Any) -> None:
        self._kernel.warmup(*args, **options)


def python_lines(call: Callable[[], object]) -> int:
    """How many lines of this project's kernels package Python executes in `call`."""
    package = str(Path(alignd_kernels.__file__).parent)
    lines = 0

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.startswith(package):
            return None
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines
