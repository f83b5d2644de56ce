"""What the tests of the GPU kernels share."""

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
    """`torch.empty` returns memory full of garbage (for floats: huge negative numbers), as a busy GPU's would be."""
    empty = torch.empty

    def filled(*args: Any, **kwargs: Any) -> torch.Tensor:
        tensor = empty(*args, **kwargs)
        tensor.view(torch.uint8).fill_(0xE7)
        return tensor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", filled)
        yield


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
