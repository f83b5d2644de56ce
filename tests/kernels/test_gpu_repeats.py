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

from alignd_kernels.attention import gpu as attention_gpu
from alignd_kernels.ctc import gpu as ctc_gpu
from alignd_kernels.gpu_common import INTERPRETED
from alignd_kernels.mas import gpu as mas_gpu
from alignd_kernels.status import Status
from alignd_kernels.transducer import gpu as transducer_gpu

REPEATS = 2 if INTERPRETED else 300

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


def ctc_call(device: str, dtype: torch.dtype, shapes: list[tuple[int, int]] = CTC_SHAPES) -> Call:
    (frames, labels), _ = padded(device, shapes)
    rng = np.random.default_rng(8)
    T, L = (max(sizes) for sizes in zip(*shapes))
    log_probs = rng.standard_normal((len(shapes), T, 32), dtype=np.float32)
    scores = torch.from_numpy(log_probs).to(device, dtype).log_softmax(-1)
    # No label twice in a row, so that even the tightest item has room.
    targets = torch.from_numpy(1 + np.cumsum(rng.integers(1, 31, (len(shapes), L)), 1) % 31).to(device)
    return lambda: ctc_gpu.launch(scores, targets, frames, labels)


def short_ctc_call(device: str, dtype: torch.dtype) -> Call:
    return ctc_call(device, dtype, SHORT_CTC_SHAPES)


def transducer_call(device: str, dtype: torch.dtype) -> Call:
    (frames, labels), _ = padded(device, TRANSDUCER_SHAPES)
    rng = np.random.default_rng(9)
    T, U = (max(sizes) for sizes in zip(*TRANSDUCER_SHAPES))
    scores = np.round(4 * rng.standard_normal((len(TRANSDUCER_SHAPES), T, U + 1, 2), dtype=np.float32)) / 4
    log_probs = torch.from_numpy(scores).to(device, dtype)
    targets = torch.ones((len(frames), U), dtype=torch.int32).to(device)
    return lambda: transducer_gpu.launch(log_probs, targets, frames, labels, 0)


def attention_call(device: str, dtype: torch.dtype) -> Call:
    """Dynamic time warping: the other modes hand nothing over, or are MAS's kernels."""
    (tokens, frames), scores = padded(device, ATTENTION_SHAPES)
    maps = torch.stack([scores, scores.roll(1, 2)], 1).to(dtype)
    return lambda: attention_gpu.launch(maps, tokens, frames, "dtw")


CALLS = [pytest.param(mas_call, id="mas"), pytest.param(ctc_call, id="ctc"), pytest.param(short_ctc_call, id="short")]
CALLS += [pytest.param(transducer_call, id="transducer")]
CALLS += [pytest.param(attention_call, id="attention")]
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
