"""Sums over all monotonic paths on a GPU: posteriors, costs and their gradients. It needs torch.

Errors, with ulp = 2⁻²³ (2⁻⁵² for float64) and scores up to 8,192 in magnitude: as `cpu_sum` says, since a step
multiplies what it sums by at most 1 + 4 ulp (2.5 of them the exponential's). Larger scores add half their own ulp for
each frame. No path is finite beyond `gpu_sum_forward.MOST_UPWARD` and `MOST`: float32's log-likelihoods beyond ±5.8
million as on the CPU, float64's beyond ±46 million; and where the largest score, times the frames, is above 67 million.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Final

import numpy as np
import torch

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_batch import DeviceSums
from alignd_kernels.gpu_borders import PATIENCE, borders
from alignd_kernels.gpu_common import (
    DTYPES,
    Stopwatch,
    accumulator_of,
    check_device,
    current,
    launcher,
)
from alignd_kernels.gpu_copies import to_host
from alignd_kernels.mas import gpu_sum_backward, gpu_sum_forward
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.mas.gpu_sum_backward import mas_sum_backward_kernel
from alignd_kernels.mas.gpu_sum_batch import DeviceBatch, border_words, on_device, padded, shares_of
from alignd_kernels.mas.gpu_sum_forward import mas_sum_forward_kernel
from alignd_kernels.mas.soft_batch import MasCosts, MasPosteriors
from alignd_kernels.ragged import Int64Array, offsets_of
from alignd_kernels.status import Status

INTERNAL: Final = int(Status.INTERNAL)


def _planes(dtype: DType) -> tuple[int, int]:
    """Words of a border for each frame: forward, a mantissa and an exponent; backward, a probability."""
    return (3, 2) if dtype is DType.FLOAT64 else (2, 1)


def scratch_bytes(batch: MasBatch) -> Int64Array:
    """Device memory that each item needs beside its input and output, int64 [B]: about 4·S·T bytes for float32.

    With n = ⌈S/32⌉ strips, exactly 32·a·n·N·(⌊(T − S + 30)/N⌋ + 2) for what is kept of each cell and
    8·p·(n − 1)·(T − S + 1) for the borders, with a the accumulator's size (4, or 8 for float64), N = 16 and p = 3 (8
    and 5 for float64); 0 for an item that has no path.
    """
    S, T = batch.tokens, batch.frames
    size, planes = np.dtype(batch.dtype.accumulator).itemsize, sum(_planes(batch.dtype))
    need = size * shares_of(S, T, batch.dtype) + 8 * planes * border_words(S, T)
    return np.where((S >= 1) & (S <= T), need, 0).astype(np.int64)


def _enqueue(batch: DeviceBatch, sign: int, stopwatch: Stopwatch | None = None) -> DeviceSums:
    """Queue the kernels on the current stream, without waiting for them.

    Args:
        sign: 1 for posteriors, −1 for gradients, 0 for neither.
    """
    device, items, programs = batch.device, batch.items, batch.items * batch.widest
    shares, ends_m = batch.empty(batch.shares if sign else 0), batch.empty(items)
    ends_e, ways = (batch.empty(items, torch.int32) for _ in range(2))
    trouble = batch.empty(batch.strips, torch.int32)
    costs, scores, statuses = batch.sums()
    found = torch.zeros(batch.cells, dtype=costs.dtype, device=device) if sign else None
    there, back = _planes(batch.dtype)
    words = batch.border_words
    item = (batch.tokens, batch.frames, batch.table)
    outputs = (ways, costs, scores, statuses)
    planes, launched = (there + back, 2 * programs) if sign else (there, programs)
    with borders(device, planes * words, items, launched) as memory:
        forward = (
            *(batch.values, *item, memory.words, memory.tickets, shares, ends_m, ends_e, trouble, memory.arrivals),
            *(*outputs, items + 1, items, abs(sign), memory.first_ticket, memory.epoch, words, PATIENCE),
        )
        constants = gpu_sum_forward.constants(batch.dtype, batch.frames_first)
        launches = [launcher(mas_sum_forward_kernel, device, programs, forward, **constants)]
        if found is not None:
            backward = (
                *(*item, shares, ways, memory.words[there * words :], memory.tickets, found, *outputs[1:]),
                *(items + 1, items, sign, memory.first_ticket + programs, memory.epoch, words, PATIENCE),
            )
            constants = gpu_sum_backward.constants(batch.dtype, batch.frames_first)
            launches.append(launcher(mas_sum_backward_kernel, device, programs, backward, **constants))
        with stopwatch or nullcontext():
            for launch in launches:
                launch()
    return DeviceSums(costs, scores, statuses, found)


def posteriors(batch: MasBatch, device: torch.device | str) -> MasPosteriors:
    """The probability of each cell and the log-likelihood: two copies in, two launches, two copies out.

    Args:
        batch: any lengths, also of no items.
        device: a CUDA device, or "cpu" where Triton is interpreted.

    Raises:
        ValueError: no kernel runs on `device`.
        MemoryError: the batch and its `scratch_bytes` do not fit.
    """
    device = torch.device(device)
    check_device(device)
    if len(batch) == 0:
        return MasPosteriors(np.zeros(0, batch.dtype.accumulator), np.zeros(0), np.zeros(0, np.int32), 0)
    with current(device):
        stopwatch = Stopwatch(device)
        sums = _enqueue(on_device(batch, device), 1, stopwatch)
        assert sums.found is not None
        found, scores, statuses = to_host([sums.found, sums.scores, sums.statuses])
    _spoil(found, batch, statuses, 0.0)
    return MasPosteriors(found, scores, statuses, stopwatch.elapsed_ns())


def costs(batch: MasBatch, device: torch.device | str, gradients: bool = True) -> MasCosts:
    """Negative log-likelihoods, and their gradients by the scores: two copies in, one or two launches, a copy
    out of each result.

    Args:
        batch: any lengths, also of no items.
        device: a CUDA device, or "cpu" where Triton is interpreted.
        gradients: whether they are wanted.

    Raises:
        ValueError: no kernel runs on `device`.
        MemoryError: the batch and its `scratch_bytes` do not fit.
    """
    device = torch.device(device)
    check_device(device)
    if len(batch) == 0:
        none = np.zeros(0, batch.dtype.accumulator)
        return MasCosts(none, none if gradients else None, np.zeros(0, np.int32), 0)
    with current(device):
        stopwatch = Stopwatch(device)
        sums = _enqueue(on_device(batch, device), -1 if gradients else 0, stopwatch)
        found, statuses, *slopes = to_host([sums.costs, sums.statuses, *([] if sums.found is None else [sums.found])])
    if gradients:
        _spoil(slopes[0], batch, statuses, np.nan)
    return MasCosts(found, slopes[0] if gradients else None, statuses, stopwatch.elapsed_ns())


def _spoil(found: np.ndarray, batch: MasBatch, statuses: np.ndarray, value: float) -> None:
    """What was found of items that the device has lost: some of it may have been written before that was seen."""
    starts = offsets_of(np.maximum(batch.tokens, 0) * np.maximum(batch.frames, 0))
    for index in np.flatnonzero(statuses == INTERNAL):
        found[starts[index] : starts[index + 1]] = value


def costs_on_gpu(
    value: torch.Tensor, tokens: torch.Tensor, frames: torch.Tensor, *, gradients: bool = True
) -> DeviceSums:
    """Negative log-likelihoods of a padded batch that lies on the device already: queued on its current stream.

    Args:
        value: [B, S, T] of float16, bfloat16, float32 or float64; read where it lies if tokens or frames are
            contiguous.
        tokens: int64 [B] on the same device; one beyond S gives `Status.INTERNAL`.
        frames: int64 [B] on the same device; one beyond T gives `Status.INTERNAL`.
        gradients: whether they are wanted.

    Returns:
        `found` are the derivatives by the scores, [B, S, T], in memory as the scores are; zero in the padding, and NaN
        in an item whose scores are, as `MasCosts` says.

    Raises:
        MemoryError: what is needed beside the input does not fit.
        ValueError: wrong device.
    """
    return _padded_sums(value, tokens, frames, -1 if gradients else 0)


def posteriors_on_gpu(value: torch.Tensor, tokens: torch.Tensor, frames: torch.Tensor) -> DeviceSums:
    """The probability of each cell of a padded batch that lies on the device already: `found`, zero in the padding and
    in failed items. Otherwise as `costs_on_gpu`; of an item of `Status.INTERNAL`, nothing is to be used."""
    return _padded_sums(value, tokens, frames, 1)


def _padded_sums(value: torch.Tensor, tokens: torch.Tensor, frames: torch.Tensor, sign: int) -> DeviceSums:
    check_device(value.device)
    B, S, T = value.shape
    if B == 0:
        none = torch.zeros(0, dtype=accumulator_of(DTYPES[value.dtype]), device=value.device)
        statuses = torch.zeros(0, dtype=torch.int32, device=value.device)
        return DeviceSums(none, none.double(), statuses, none.reshape(0, S, T) if sign else None)
    with current(value.device):
        batch = padded(value, tokens, frames)
        sums = _enqueue(batch, sign)
    if sums.found is None:
        return sums
    turned = batch.frames_first
    found = sums.found.reshape(B, T, S).transpose(1, 2) if turned else sums.found.reshape(B, S, T)
    return sums._replace(found=found)


def warm_up(device: torch.device | str, dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from Triton's cache, so that no later call has to."""
    one = np.ones(1, np.int64)
    for dtype in dtypes:
        for frames_first in (False, True):
            values = np.zeros(1, dtype.storage)
            posteriors(MasBatch(values, dtype, one - 1, one, one, one, frames_first=frames_first), device)
