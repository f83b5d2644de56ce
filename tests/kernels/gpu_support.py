"""What the tests of the GPU kernels share."""

import functools
import mmap
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import alignd_kernels
from alignd_kernels import gpu_borders
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


LITTLE_PATIENCE = 3 if INTERPRETED else 1 << 16
"""Looks at a border's words: on a GPU, where strips run side by side, still enough for those that do come."""


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


@contextmanager
def way_back(module: Any, launches: int) -> Iterator[None]:
    """Found by the strip that ends last, or in a launch of its own, as for long items; `module` makes the launches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FUSED_CHUNKS", 2**31 if launches == 1 else 0)
        yield


def watched(module: Any, names: Sequence[str], monkeypatch: pytest.MonkeyPatch, *, really: bool) -> list[Launches]:
    """The launches of `module`'s kernels. Borders are of this test alone: what is not launched draws no tickets."""
    monkeypatch.setattr(gpu_borders, "_kept", functools.cache(lambda device, stream: gpu_borders._Kept()))
    launches = [Launches(getattr(module, name), really) for name in names]
    for name, launch in zip(names, launches):
        monkeypatch.setattr(module, name, launch)
    return launches


def lose_the_first_strip(module: Any, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tickets begin with the second one: the first strip of the first item is never computed, nor long waited for."""

    def one_drawn(words: int, items: int) -> gpu_borders.Borders:
        counters = torch.zeros(1 + items, dtype=torch.int32, device=device)
        return gpu_borders.Borders(torch.zeros(words, dtype=torch.int64, device=device), counters[:1] + 1, counters[1:])

    monkeypatch.setattr(gpu_borders, "_cleared", lambda _, words, items: one_drawn(words, items))
    monkeypatch.setattr(module, "PATIENCE", LITTLE_PATIENCE)


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
