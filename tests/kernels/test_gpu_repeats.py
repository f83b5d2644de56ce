"""One input hundreds of times gives the same bits each time, on one stream and on two at once.

Strips of an item hand scores over through global memory while they run, which tools that look for races do not see: a
missing wait would show as a result that changes from run to run. The interpreter runs programs one after another, so
there this says no more than that a run leaves nothing behind for the next.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from kernels.gpu_support import garbage_in_new_memory, on_each_device
from kernels.strategies import ctc_batch, normal

from alignd_kernels import gpu_common
from alignd_kernels.attention import gpu as attention_gpu
from alignd_kernels.ctc import gpu as ctc_gpu
from alignd_kernels.ctc import gpu_long as ctc_gpu_long
from alignd_kernels.ctc import gpu_sum as ctc_gpu_sum
from alignd_kernels.gpu_common import INTERPRETED
from alignd_kernels.mas import gpu as mas_gpu
from alignd_kernels.mas import gpu_sum as mas_gpu_sum
from alignd_kernels.status import Status
from alignd_kernels.stepwise import gpu as stepwise_gpu
from alignd_kernels.stepwise.tensors import PaddedBatch
from alignd_kernels.transducer import gpu as transducer_gpu
from alignd_kernels.transducer import gpu_sum as transducer_gpu_sum

# What a strip reads beyond its last row may be anything; NumPy, under the interpreter, warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero) encountered:RuntimeWarning")

REPEATS = 1 if INTERPRETED else 300

MAS_SHAPES = [(3, 9), (66, 70), (1, 20)] if INTERPRETED else [(3, 9), (70, 99), (1, 400), (333, 2050), (1030, 4099)]
"""Tokens and frames: one strip, and several."""

CTC_SHAPES = [(9, 3), (40, 34)] if INTERPRETED else [(9, 3), (90, 40), (2050, 333), (4099, 2040)]
"""Frames and labels."""

SHORT_CTC_SHAPES = [(9, 3), (40, 34)] if INTERPRETED else [(9, 3), (90, 40), (512, 222), (500, 400)]
"""Whose paths are found in the launch of the strips; MAS's and CTC's longer ones, on a GPU, take one more."""

TRANSDUCER_SHAPES = [(9, 3), (5, 40)] if INTERPRETED else [(9, 3), (400, 90), (1500, 300), (30, 1000)]
"""Frames and labels."""

ATTENTION_SHAPES = [(3, 5), (34, 3)] if INTERPRETED else [(3, 9), (70, 99), (333, 1500), (1030, 20)]
"""Tokens and frames."""

SUM_SHAPES = [(33, 34)] if INTERPRETED else [(3, 9), (70, 99), (1, 400), (333, 2050), (1030, 4099)]
"""Tokens and frames, of MAS's sums and of stepwise attention."""

CTC_SUM_SHAPES = [(34, 32)] if INTERPRETED else CTC_SHAPES

TRANSDUCER_SUM_SHAPES = [(1, 33)] if INTERPRETED else TRANSDUCER_SHAPES

WINDOWED, WINDOW_CHUNKS = ((34, 33), 1) if INTERPRETED else ((4099, 2040), 16)
"""Frames and labels of one item, and chunks of 32 frames of its windows."""

Call = Callable[[], Any]


@pytest.fixture(autouse=True, scope="module")
def garbage() -> Iterator[None]:
    with garbage_in_new_memory():
        yield


def padded(device: str, shapes: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Lengths int64 [2, B] on the device, and normal scores [B, largest, largest] of which every eighth is a tie."""
    lengths = torch.tensor(shapes).T
    rng = np.random.default_rng(7)
    scores = rng.standard_normal((len(shapes), int(lengths[0].max()), int(lengths[1].max())), dtype=np.float32)
    scores[:, ::8] = np.round(scores[:, ::8])
    return lengths.to(device), torch.from_numpy(scores).to(device)


def mas_call(device: str, dtype: torch.dtype) -> Call:
    (tokens, frames), value = padded(device, MAS_SHAPES)
    value = value.to(dtype)
    value[2, 0, 5] = float("nan")  # an item that fails: its status must not change either
    return lambda: mas_gpu.launch(value, tokens, frames)


def labels_of(rng: np.random.Generator, items: int, labels: int) -> np.ndarray:
    """Of 1 … 31, [items, labels], none twice in a row, so that even the tightest item has room."""
    return 1 + np.cumsum(rng.integers(1, 31, (items, labels)), 1) % 31


def ctc_arguments(device: str, dtype: torch.dtype, shapes: list[tuple[int, int]]) -> tuple[torch.Tensor, ...]:
    (frames, labels), _ = padded(device, shapes)
    rng = np.random.default_rng(8)
    T, L = (max(sizes) for sizes in zip(*shapes))
    log_probs = rng.standard_normal((len(shapes), T, 32), dtype=np.float32)
    scores = torch.from_numpy(log_probs).to(device, dtype).log_softmax(-1)
    targets = torch.from_numpy(labels_of(rng, len(shapes), L)).to(device)
    return scores, targets, frames, labels


def ctc_call(device: str, dtype: torch.dtype) -> Call:
    arguments = ctc_arguments(device, dtype, CTC_SHAPES)
    return lambda: ctc_gpu.launch(*arguments)


def short_ctc_call(device: str, dtype: torch.dtype) -> Call:
    arguments = ctc_arguments(device, dtype, SHORT_CTC_SHAPES)
    return lambda: ctc_gpu.launch(*arguments)


def transducer_arguments(device: str, dtype: torch.dtype, shapes: list[tuple[int, int]]) -> tuple[torch.Tensor, ...]:
    (frames, labels), _ = padded(device, shapes)
    rng = np.random.default_rng(9)
    T, U = (max(sizes) for sizes in zip(*shapes))
    scores = np.round(4 * rng.standard_normal((len(shapes), T, U + 1, 2), dtype=np.float32)) / 4
    log_probs = torch.from_numpy(scores).to(device, dtype)
    targets = torch.ones((len(frames), U), dtype=torch.int32).to(device)
    return log_probs, targets, frames, labels


def transducer_call(device: str, dtype: torch.dtype) -> Call:
    arguments = transducer_arguments(device, dtype, TRANSDUCER_SHAPES)
    return lambda: transducer_gpu.launch(*arguments, 0)


def attention_call(device: str, dtype: torch.dtype) -> Call:
    """Dynamic time warping: the other modes hand nothing over, or are MAS's kernels."""
    (tokens, frames), scores = padded(device, ATTENTION_SHAPES)
    maps = torch.stack([scores, scores.roll(1, 2)], 1).to(dtype)
    return lambda: attention_gpu.launch(maps, tokens, frames, "dtw")


def summed(sums: Any) -> tuple[torch.Tensor, ...]:
    return sums.costs, sums.scores, sums.found, sums.statuses


def mas_sum_call(device: str, dtype: torch.dtype) -> Call:
    (tokens, frames), value = padded(device, SUM_SHAPES)
    value = value.to(dtype)
    return lambda: summed(mas_gpu_sum.posteriors_on_gpu(value, tokens, frames))


def ctc_sum_call(device: str, dtype: torch.dtype) -> Call:
    arguments = ctc_arguments(device, dtype, CTC_SUM_SHAPES)
    return lambda: summed(ctc_gpu_sum.costs_on_gpu(*arguments))


def transducer_sum_call(device: str, dtype: torch.dtype) -> Call:
    arguments = transducer_arguments(device, dtype, TRANSDUCER_SUM_SHAPES)
    return lambda: summed(transducer_gpu_sum.costs_on_gpu(*arguments))


def stepwise_call(device: str, dtype: torch.dtype) -> Call:
    (tokens, frames), energies = padded(device, SUM_SHAPES)
    batch = PaddedBatch(energies.to(dtype), tokens, frames)

    def again() -> tuple[torch.Tensor, ...]:
        alpha = stepwise_gpu.forward(batch)
        slopes, _ = stepwise_gpu.backward(batch, alpha, alpha)
        return alpha, slopes, *stepwise_gpu.hard(batch)

    return again


def windows_call(device: str, dtype: torch.dtype) -> Call:
    """What `ctc_gpu.align` queues of one long item, which is there already."""
    (T, L), rng = WINDOWED, np.random.default_rng(10)
    batch = ctc_batch(
        [(normal(rng, (T, 32)), labels_of(rng, 1, L)[0].astype(np.int32), 0, 0.0)], gpu_common.DTYPES[dtype]
    )
    asked: list[tuple[Any, ...]] = []
    enqueue = ctc_gpu_long.enqueue

    def noted(*arguments: Any) -> Any:
        asked.append(arguments[:-1])  # without the stopwatch
        return enqueue(*arguments)

    def again() -> tuple[torch.Tensor, ...]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ctc_gpu_long, "WINDOW_CHUNKS", WINDOW_CHUNKS)
            return enqueue(*asked[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ctc_gpu_long, "enqueue", noted)
        ctc_gpu._align(batch, torch.device(device), windows=True)
    return again


CALLS = [pytest.param(mas_call, id="mas"), pytest.param(ctc_call, id="ctc"), pytest.param(short_ctc_call, id="short")]
CALLS += [pytest.param(transducer_call, id="transducer")]
CALLS += [pytest.param(attention_call, id="attention")]
CALLS += [pytest.param(mas_sum_call, id="mas_sum"), pytest.param(ctc_sum_call, id="ctc_sum")]
CALLS += [pytest.param(transducer_sum_call, id="transducer_sum"), pytest.param(stepwise_call, id="stepwise")]
CALLS += [pytest.param(windows_call, id="windows")]
DTYPES = [torch.float32] if INTERPRETED else [torch.float32, torch.float64, torch.bfloat16]


def bits(result: Any) -> list[torch.Tensor]:
    """Bytes of each part of a result, so that NaN equals NaN and 0.0 is not −0.0."""
    return [tensor.contiguous().view(torch.uint8) for tensor in result]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def streams(device: str) -> list[AbstractContextManager[Any]]:
    if device == "cpu":
        return [nullcontext(), nullcontext()]
    return [torch.cuda.stream(torch.cuda.Stream(device)) for _ in range(2)]


@on_each_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_repeats_give_the_same_bits(device: str, call: Callable[[str, torch.dtype], Call], dtype: torch.dtype) -> None:
    again = call(device, dtype)
    result = again()
    bad = {2} if call is mas_call else set()
    for item, status in enumerate(result[-1].tolist()):
        assert status == (Status.NOT_FINITE if item in bad else Status.OK)
    first = bits(result)
    for repeat in range(REPEATS):
        assert equal(bits(again()), first), f"repeat {repeat}"


@on_each_device
@pytest.mark.parametrize("call", CALLS)
def test_two_streams_at_once_give_the_same_bits(device: str, call: Callable[[str, torch.dtype], Call]) -> None:
    """Both queues are filled before anything is looked at, so that launches of one run among those of the other."""
    again = call(device, torch.float32)
    first = bits(again())
    if device == "cuda":
        torch.cuda.synchronize()
    found: list[list[torch.Tensor]] = []
    both = streams(device)
    for _ in range(REPEATS):
        for stream in both:
            with stream:
                found.append(bits(again()))
    if device == "cuda":
        torch.cuda.synchronize()
    for index, result in enumerate(found):
        assert equal(result, first), f"launch {index // 2} of stream {index % 2}"


@on_each_device
def test_two_families_at_once_give_the_same_bits(device: str) -> None:
    """Kernels of both families among each other, in two threads' worth of queues."""
    calls = [mas_call(device, torch.float32), ctc_call(device, torch.float32)]
    firsts = [bits(again()) for again in calls]
    if device == "cuda":
        torch.cuda.synchronize()
    both = streams(device)
    for repeat in range(REPEATS // 10 + 1):
        found = []
        for stream, again in zip(both, calls):
            with stream:
                found.append(bits(again()))
        if device == "cuda":
            torch.cuda.synchronize()
        assert all(equal(*pair) for pair in zip(found, firsts)), f"repeat {repeat}"
