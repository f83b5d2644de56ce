"""What Python does on a CUDA device before a launch, with stand-ins for the device: which memory, which variant."""

import functools
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch

from alignd_kernels import gpu_borders, gpu_common

CUDA = torch.device("cuda", 0)
WORD, WORDS = torch.zeros(1, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)


class Cuda:
    """What is asked of `torch.cuda`: the current stream, and whether it is captured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stream, self.capturing = 1, False
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)
        monkeypatch.setattr(torch.cuda, "current_stream", self._current_stream)

    def _current_stream(self, device: torch.device) -> Any:
        assert device == CUDA
        return SimpleNamespace(cuda_stream=self.stream)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


class Kernel:
    """Notes what is compiled, for which it takes 2 seconds on a clock of its own, loaded and launched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.done: list[tuple[Any, ...]] = []
        monkeypatch.setattr(gpu_common, "_compiled", {})
        monkeypatch.setattr(gpu_common, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def warmup(self, *args: object, grid: tuple[int, ...], **options: object) -> Any:
        assert gpu_common._compiling.locked()
        self.now += 2.0
        self.done.append(("compiled", args, grid, options))
        return self

    @property
    def run(self) -> object:
        self.done.append(("loaded",))
        return None

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **options: self.done.append(("launched", args, grid, options))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def test_a_kernel_is_loaded_before_its_first_launch(cuda: Cuda, kernel: Kernel) -> None:
    options = {"wide": True, **gpu_common.LAUNCH_OPTIONS}
    launch = gpu_common.launcher(kernel, CUDA, 5, (WORD, 7), wide=True)
    assert kernel.done == [("compiled", (WORD, 7), (5,), options), ("loaded",)]
    launch()
    assert kernel.done[2:] == [("launched", (WORD, 7), (5,), options)]
    assert gpu_common.compile_seconds() == 2.0


@pytest.mark.parametrize(
    ("args", "wide", "seconds"),
    [
        ((WORDS, -(2**31), 2**31 - 1), True, 2.0),
        ((WORD, 2**31, 0), True, 4.0),
        ((WORD, 0, -(2**31) - 1), True, 4.0),
        ((WORD.int(), 0, 0), True, 4.0),
        ((WORD, 0, 0), False, 4.0),
    ],
    ids=["other values", "a large integer", "a small integer", "another dtype", "another constant"],
)
def test_only_another_variant_is_loaded_too(
    cuda: Cuda, kernel: Kernel, args: tuple[Any, ...], wide: bool, seconds: float
) -> None:
    """As Triton has them: an integer that int32 does not hold is an int64 to it."""
    gpu_common.launcher(kernel, CUDA, 5, (WORD, 0, 0), wide=True)
    for _ in range(2):
        gpu_common.launcher(kernel, CUDA, 6, args, wide=wide)
    assert gpu_common.compile_seconds() == seconds


def test_what_another_thread_has_loaded_meanwhile_is_not_loaded_again(
    cuda: Cuda, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late:
        """A lock that another thread has first."""

        def __enter__(self) -> None:
            monkeypatch.setattr(gpu_common, "_compiling", threading.Lock())
            gpu_common.launcher(kernel, CUDA, 5, (WORD,))

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(gpu_common, "_compiling", Late())
    gpu_common.launcher(kernel, CUDA, 5, (WORD,))
    assert [what for what, *_ in kernel.done] == ["compiled", "loaded"]


def test_nothing_is_loaded_while_a_graph_is_captured(cuda: Cuda, kernel: Kernel) -> None:
    gpu_common.launcher(kernel, CUDA, 5, (WORD,))
    cuda.capturing = True
    gpu_common.launcher(kernel, CUDA, 5, (WORD,))()
    with pytest.raises(RuntimeError, match="cannot be loaded while a graph is captured"):
        gpu_common.launcher(kernel, CUDA, 5, (WORD.int(),))
    assert [what for what, *_ in kernel.done] == ["compiled", "loaded", "launched"]
    cuda.capturing = False
    gpu_common.launcher(kernel, CUDA, 5, (WORD.int(),))
    assert gpu_common.compile_seconds() == 4.0


Lend = Callable[..., gpu_borders.Borders]


@pytest.fixture
def lend(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> Lend:
    """Borders as a launch of 3 programs sees them, whose words are marked by it."""
    cleared = gpu_borders._cleared
    monkeypatch.setattr(gpu_borders, "_cleared", lambda _, *sizes: cleared(torch.device("cpu"), *sizes))
    monkeypatch.setattr(gpu_borders, "_kept", functools.cache(lambda device, stream: gpu_borders._Kept()))

    def lent(words: int = 10, items: int = 2) -> gpu_borders.Borders:
        with gpu_borders.borders(CUDA, words, items, 3) as memory:
            seen = gpu_borders.Borders(memory.words, memory.tickets, memory.arrivals, memory.epoch, memory.first_ticket)
            assert seen.suffice(words, items, 3)
        return seen

    return lent


def test_each_stream_has_memory_of_its_own(cuda: Cuda, lend: Lend) -> None:
    found = []
    for stream in (1, 2, 1, 2, 2):
        cuda.stream = stream
        found.append(lend())
    assert [(memory.epoch, memory.first_ticket) for memory in found] == [(1, 0), (1, 0), (2, 3), (2, 3), (3, 6)]
    assert found[0].words is found[2].words
    assert found[1].words is found[3].words is found[4].words
    assert found[0].words is not found[1].words


def test_a_captured_graph_has_memory_of_its_own(cuda: Cuda, lend: Lend) -> None:
    before = lend()
    cuda.capturing = True
    captured = [lend(), lend()]
    cuda.capturing = False
    after = lend()
    assert [(memory.epoch, memory.first_ticket) for memory in captured] == [(1, 0)] * 2
    assert len({id(memory.words) for memory in (before, *captured)}) == 3
    assert after.words is before.words
    assert (after.epoch, after.first_ticket) == (2, 3)


def test_large_launches_leave_the_streams_memory_alone(cuda: Cuda, lend: Lend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_borders, "KEPT_WORDS", 20)
    before, large, after = lend(), lend(21), lend(20)
    assert large.words is not before.words
    assert after.words is before.words
    assert [(memory.epoch, memory.first_ticket) for memory in (large, after)] == [(1, 0), (2, 3)]
    assert len(large.words) == 21
