"""Sums over all CTC paths on a GPU: posteriors, costs and their gradients. It needs torch.

Errors, with u half an ulp of 1 of the accumulator. In each frame a sum is added to twice and multiplied by a log-prob's
exponential once (8 u together, for |x| ≤ 8,192, as if the item had other log-probs, off by that much each), so
log-likelihoods err by at most 8 (T + 1) u beside their own rounding. Probabilities are quotients of such sums, 16 u a
frame, of which each frame's two shares and five operations are rounded, another 14 u: at most 30 (T + 1) u. Larger
log-probs add u · |x|, as their own type does. No path is finite from ±2²³ ln 2 on for float32, as on the CPU, nor below
what `gpu_scaled` can tell from 0 for float64, about −9.3 · 10⁷; and where an item's largest log-prob above 0, times its
frames, is above 2²⁵ ln 2.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Final

import numpy as np
import torch

from alignd_kernels.ctc import gpu_columns, gpu_star, gpu_sum_backward, gpu_sum_forward
from alignd_kernels.ctc.batch import STAR_MAX, CtcBatch
from alignd_kernels.ctc.gpu_columns import ctc_columns_kernel
from alignd_kernels.ctc.gpu_star import ctc_star_kernel
from alignd_kernels.ctc.gpu_sum_backward import ctc_sum_backward_kernel
from alignd_kernels.ctc.gpu_sum_batch import (
    DeviceBatch,
    border_words_of,
    cells_of,
    has_paths,
    on_device,
    padded,
    strips_of,
)
from alignd_kernels.ctc.gpu_sum_forward import ctc_sum_forward_kernel
from alignd_kernels.ctc.sum_batch import CtcCosts, CtcPosteriors
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
from alignd_kernels.ragged import Int64Array

# What is wanted beside the sums: nothing, the states' posteriors, minus those of the columns.
SUMS: Final = 0
STATES: Final = 1
COLUMNS: Final = 2


def _planes(dtype: DType) -> tuple[int, int]:
    """Words of a border for each frame, forward and on the way back."""
    return (3, 2) if dtype is DType.FLOAT64 else (2, 1)


def scratch_bytes(batch: CtcBatch) -> Int64Array:
    """Device memory that each item needs beside its input and output, int64 [B]: about 8·L·(T − L) bytes for float32.

    With n = ⌊L/32⌋ + 1 strips, exactly 64·a·n·(T − L + 32) for the shares, 8·p·(n − 1)·(T − L + 1) for the borders, 8·n
    for what there is of each strip and s·T for the star, with a the accumulator's size (4, or 8 for float64), s the
    stored log-probs' and p = 3 (5 for float64); 0 for an item that has no path whatever its labels. Costs without
    gradients take no shares, and 2 planes of p (3).
    """
    L, T = batch.target_lengths, batch.frames
    need = np.dtype(batch.dtype.accumulator).itemsize * cells_of(L, T) + 8 * strips_of(L)
    need += 8 * sum(_planes(batch.dtype)) * border_words_of(L, T) + batch.dtype.storage.itemsize * T
    return np.where(has_paths(batch), need, 0).astype(np.int64)


def _enqueue(batch: DeviceBatch, wanted: int, stopwatch: Stopwatch | None = None) -> DeviceSums:
    """Queue the kernels on the current stream, without waiting for them."""
    device, items, dtype = batch.device, batch.items, batch.dtype
    costs, scores, statuses = batch.sums()
    cells = batch.empty(batch.cells if wanted else 0)
    repeats, trouble = batch.empty(batch.strips, torch.int32), batch.empty(batch.strips, torch.int32)
    spares = batch.empty(items, torch.int32)
    ends, ends_e = batch.empty(2 * items), batch.empty(2 * items, torch.int32)
    wild = batch.empty(batch.all_frames if batch.star_is_largest else 0, batch.log_probs.dtype)
    found = torch.zeros(batch.outputs, dtype=costs.dtype, device=device) if wanted else None
    place = (batch.targets, batch.target_lengths, batch.frames, batch.table)
    item, sizes = (batch.log_probs, *place, batch.star_scores), (items + 1, items, batch.target_words)
    programs = items * batch.widest
    there, back = _planes(dtype) if wanted else (_planes(dtype)[0], 0)
    launches = []
    if batch.star_is_largest:
        blocks = items * gpu_star.programs(batch.longest)
        launches.append(launcher(ctc_star_kernel, device, blocks, (*item, wild, *sizes), **gpu_star.constants(dtype)))
    launched = programs * (2 if wanted else 1)
    with borders(device, (there + back) * batch.border_words, items, launched) as memory:
        kept, answers = (cells, repeats, spares, ends), (costs, scores, statuses)
        state = (memory.first_ticket, memory.epoch, batch.border_words, PATIENCE, int(bool(wanted)))
        strips = (*item, wild, memory.words, memory.tickets, *kept, ends_e, trouble, memory.arrivals, *answers)
        constants = gpu_sum_forward.constants(dtype)
        launches.append(launcher(ctc_sum_forward_kernel, device, programs, (*strips, *sizes, *state), **constants))
        if found is not None:
            words = memory.words[there * batch.border_words :]
            state = (memory.first_ticket + programs, *state[1:-1], int(wanted == STATES))
            back_strips = (*place, words, memory.tickets, *kept, trouble, memory.arrivals, found, *answers)
            arguments = (*back_strips, *sizes, *state)
            constants = gpu_sum_backward.constants(dtype)
            launches.append(launcher(ctc_sum_backward_kernel, device, programs, arguments, **constants))
        if wanted == COLUMNS:
            blocks = items * max(1, -(-batch.longest // 32))
            columns = (*item, cells, repeats, spares, statuses, found, *sizes)
            launches.append(launcher(ctc_columns_kernel, device, blocks, columns, **gpu_columns.constants(dtype)))
        with stopwatch or nullcontext():
            for launch in launches:
                launch()
    return DeviceSums(costs, scores, statuses, found)


def posteriors(batch: CtcBatch, device: torch.device | str) -> CtcPosteriors:
    """The probability of each state in each frame, and the log-likelihood: two copies in, two launches (one more
    where a star takes the largest label), two copies out, on the device's current stream.

    Args:
        batch: items of any lengths, without targets too; also no items.
        device: a CUDA device, or "cpu" where Triton is interpreted.

    Raises:
        ValueError: no kernel runs on `device`.
        MemoryError: the batch and its `scratch_bytes` do not fit.
    """
    device = torch.device(device)
    check_device(device)
    if len(batch) == 0:
        none = np.zeros(0, batch.dtype.accumulator)
        return CtcPosteriors(none, np.zeros(0), np.zeros(0, np.int32), 0)
    with current(device):
        stopwatch = Stopwatch(device)
        sums = _enqueue(on_device(batch, device, states=True), STATES, stopwatch)
        assert sums.found is not None
        found, scores, statuses = to_host([sums.found, sums.scores, sums.statuses])
    return CtcPosteriors(found, scores, statuses, stopwatch.elapsed_ns())


def costs(batch: CtcBatch, device: torch.device | str, gradients: bool = True) -> CtcCosts:
    """Negative log-likelihoods, and their gradients by the log-probs: two copies in, three launches (one without
    gradients; one more where a star takes the largest label), a copy out of each result. Arguments and errors as for
    `posteriors`.

    Args:
        gradients: whether they are wanted.
    """
    device = torch.device(device)
    check_device(device)
    if len(batch) == 0:
        none = np.zeros(0, batch.dtype.accumulator)
        return CtcCosts(none, none if gradients else None, np.zeros(0, np.int32), 0)
    with current(device):
        stopwatch = Stopwatch(device)
        sums = _enqueue(on_device(batch, device, states=False), COLUMNS if gradients else SUMS, stopwatch)
        found = to_host([sums.costs, sums.statuses, *([] if sums.found is None else [sums.found])])
    return CtcCosts(found[0], found[2] if gradients else None, found[1], stopwatch.elapsed_ns())


def costs_on_gpu(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    frames: torch.Tensor,
    target_lengths: torch.Tensor,
    blank: int = 0,
    *,
    star_score: float = 0.0,
    gradients: bool = True,
) -> DeviceSums:
    """Negative log-likelihoods of a padded batch that lies on the device already: queued on its current stream, never
    waited for.

    Args:
        log_probs: [B, T, V] of float16, bfloat16, float32 or float64; columns contiguous, other strides free.
        targets: integers [B, L] on the same device; `STAR` is the wildcard.
        frames: int64 [B] on the same device, each ≤ T.
        target_lengths: int64 [B] on the same device, each ≤ L; 0 is one.
        blank: its column.
        star_score: log-prob of a wildcard's frames; NaN for the frame's largest non-blank log-prob.
        gradients: whether they are wanted.

    Returns:
        `found` is the gradient by the log-probs [B, T, V], or None: zero in the padding and where the cost is +inf, NaN
        in an item's frames where it is NaN. A length beyond the padded size gives `Status.INTERNAL` and a cost of NaN.

    Raises:
        MemoryError: what is needed beside the input does not fit.
        ValueError: wrong device, or columns not contiguous.
    """
    wanted = COLUMNS if gradients else SUMS
    return _on_gpu(log_probs, targets, frames, target_lengths, blank, star_score, wanted)


def posteriors_on_gpu(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    frames: torch.Tensor,
    target_lengths: torch.Tensor,
    blank: int = 0,
    *,
    star_score: float = 0.0,
) -> DeviceSums:
    """The probability of each state in each frame. Arguments and errors as for `costs_on_gpu`.

    Returns:
        `found` are the posteriors [B, T, 2L + 1], zero in the padding and for items that are not OK.
    """
    return _on_gpu(log_probs, targets, frames, target_lengths, blank, star_score, STATES)


def _on_gpu(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    frames: torch.Tensor,
    target_lengths: torch.Tensor,
    blank: int,
    star_score: float,
    wanted: int,
) -> DeviceSums:
    check_device(log_probs.device)
    B, T, V = log_probs.shape
    shape = (B, T, 2 * targets.shape[1] + 1 if wanted == STATES else V)
    if B == 0:
        none = torch.zeros(0, dtype=accumulator_of(DTYPES[log_probs.dtype]), device=log_probs.device)
        return DeviceSums(none, none.double(), none.int(), none.new_zeros(shape) if wanted else None)
    with current(log_probs.device):
        batch = padded(log_probs, targets, frames, target_lengths, blank, star_score, wanted == STATES)
        sums = _enqueue(batch, wanted)
    return sums if sums.found is None else sums._replace(found=sums.found.view(shape))


def warm_up(device: torch.device | str, dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from Triton's cache, so that no later call has to."""
    one = np.ones(1, np.int64)
    for dtype in dtypes:
        batch = CtcBatch(
            np.zeros(2, dtype.storage), dtype, one - 1, one, one + 1, one + 1, np.ones(1, np.int32), one - 1, one,
            np.zeros(1, np.int32), np.full(1, STAR_MAX, np.float32),
        )  # fmt: skip
        posteriors(batch, device)
        costs(batch, device)
