"""Sums over the paths of transducers on a GPU: posteriors, costs and their gradients. It needs torch.

Errors, with u half an ulp of 1 of the accumulator and N = T + U, the arcs of a path (modified: T). A path's probability
is a product of N factors, each a log-prob's exponential (5 u, for |x| ≤ 8,192), multiplied and added once (2 u): scores
err by at most 8 (N + 1) u beside their own rounding; probabilities and gradients, products of two sums over a third,
relative by at most 16 (N + 1) u. Larger log-probs add u · |x|, as their own type does. For what is too large or too
small see `gpu_scaled`.
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
    TORCH_DTYPES,
    Stopwatch,
    accumulator_of,
    check_device,
    current,
    launcher,
)
from alignd_kernels.gpu_copies import to_host
from alignd_kernels.ragged import Int64Array, offsets_of
from alignd_kernels.status import Status
from alignd_kernels.transducer import gpu_gradient, gpu_scatter, gpu_sum_forward
from alignd_kernels.transducer.batch import TransducerBatch, TransducerCosts, TransducerPosteriors, reduced
from alignd_kernels.transducer.gpu_batch import (
    PADDING,
    DeviceBatch,
    has_paths,
    on_device,
    sizes_of,
    there,
)
from alignd_kernels.transducer.gpu_gradient import transducer_gradient_kernel
from alignd_kernels.transducer.gpu_scatter import transducer_scatter_kernel
from alignd_kernels.transducer.gpu_sum_forward import transducer_sum_forward_kernel

OK: Final = int(Status.OK)
NO_FINITE_PATH: Final = int(Status.NO_FINITE_PATH)


def _planes(dtype: DType) -> int:
    """Words of a border for each frame, in each direction."""
    return 3 if dtype is DType.FLOAT64 else 2


def scratch_bytes(batch: TransducerBatch) -> Int64Array:
    """Device memory that each item needs beside its input and output, int64 [B]: about 24·T·U bytes for float32.

    With n = ⌊U/32⌋ + 1 strips and s = 31 (0 in the modified topology), exactly (4a + 8)·32·n·(T + 2 + s) for arcs and
    sums and 16·p·(n − 1)·(T + 1) for the borders, with a the accumulator's size (4, or 8 for float64) and p = 2 (3 for
    float64); 0 for an item that has no path.
    """
    size, planes = np.dtype(batch.dtype.accumulator).itemsize, _planes(batch.dtype)
    cells, _, border_words, _, _ = sizes_of(batch.frames, batch.labels, 0 if batch.modified else 1)
    return np.where(has_paths(batch), (4 * size + 8) * cells + 16 * planes * border_words, 0)


def _enqueue(
    batch: DeviceBatch,
    *,
    posteriors: bool,
    gradients: bool,
    label_factor: float = 1.0,
    stopwatch: Stopwatch | None = None,
) -> DeviceSums:
    """Queue the kernels on the current stream, without waiting for them."""
    device, items = batch.device, batch.items
    cells, _, border_words, strips, tiles = batch.totals
    cells += PADDING  # the first item's begin there
    arcs, checked, read_arcs = batch.arcs()
    sums_m, sums_e = batch.empty(2 * cells), batch.empty(2 * cells, torch.int32)
    trouble = batch.empty(2 * strips, torch.int32)
    costs, scores, statuses = batch.sums()
    programs = 2 * items * batch.widest
    found = None
    if posteriors or gradients:
        shape = (batch.nodes,) if posteriors else (batch.nodes, 2)
        found = torch.zeros(shape, dtype=costs.dtype, device=device)
    item = (batch.frames, batch.labels, batch.table, arcs)
    with borders(device, 2 * _planes(batch.dtype) * border_words, items, programs) as memory:
        state = (memory.first_ticket, memory.epoch, 2 * border_words, PATIENCE)
        arguments = (
            *(*item, checked, memory.words, memory.tickets, sums_m, sums_e, trouble, memory.arrivals),
            *(costs, scores, statuses, items + 1, items, batch.skew, cells, *state),
        )
        constants = gpu_sum_forward.constants(batch.dtype)
        launches = [read_arcs, launcher(transducer_sum_forward_kernel, device, programs, arguments, **constants)]
        if found is not None:
            fastemit = torch.full((1,), label_factor, dtype=costs.dtype, device=device)
            nodes = (*item, sums_m, sums_e, statuses, fastemit, found, items + 1, items, batch.skew, cells)
            constants = gpu_gradient.constants(batch.dtype, posteriors)
            launches.append(launcher(transducer_gradient_kernel, device, max(1, tiles), nodes, **constants))
        with stopwatch or nullcontext():
            for launch in launches:
                launch()
    return DeviceSums(costs, scores, statuses, found)


def posteriors(batch: TransducerBatch, device: torch.device | str) -> TransducerPosteriors:
    """The probability of each node and the log-likelihood of the labels: two copies in, three launches, two
    copies out.

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
        none = np.zeros(0, batch.dtype.accumulator)
        return TransducerPosteriors(none, np.zeros(0), np.zeros(0, np.int32), 0)
    with current(device):
        stopwatch = Stopwatch(device)
        sums = _enqueue(on_device(batch, device), posteriors=True, gradients=False, stopwatch=stopwatch)
        assert sums.found is not None
        found, scores, statuses = to_host([sums.found, sums.scores, sums.statuses])
    return TransducerPosteriors(found, scores, statuses, stopwatch.elapsed_ns())


def costs(
    batch: TransducerBatch, device: torch.device | str, *, fastemit_lambda: float = 0.0, gradients: bool = True
) -> TransducerCosts:
    """Negative log-likelihoods, and their gradients by the arcs: two copies in, two or three launches, a copy
    out of each result.

    Args:
        batch: any lengths, also of no items.
        device: a CUDA device, or "cpu" where Triton is interpreted.
        fastemit_lambda: gradients of labels are multiplied by 1 + this.
        gradients: whether they are wanted.

    Raises:
        ValueError: no kernel runs on `device`.
        MemoryError: the batch and its `scratch_bytes` do not fit.
    """
    device = torch.device(device)
    check_device(device)
    if len(batch) == 0:
        none = np.zeros(0, batch.dtype.accumulator)
        return TransducerCosts(none, none if gradients else None, np.zeros(0, np.int32), 0)
    with current(device):
        stopwatch, copied = Stopwatch(device), on_device(batch, device)
        factor = 1.0 + fastemit_lambda
        sums = _enqueue(copied, posteriors=False, gradients=gradients, label_factor=factor, stopwatch=stopwatch)
        wanted = [sums.costs, sums.statuses, *([] if sums.found is None else [sums.found.reshape(-1)])]
        found, statuses, *slopes = to_host(wanted)
    if gradients:
        starts = offsets_of(2 * np.maximum(batch.frames, 0) * (np.maximum(batch.labels, -1) + 1))
        for index in np.flatnonzero((statuses != OK) & (statuses != NO_FINITE_PATH)):
            slopes[0][starts[index] : starts[index + 1]] = np.nan
    return TransducerCosts(found, slopes[0] if gradients else None, statuses, stopwatch.elapsed_ns())


def costs_on_gpu(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    frames: torch.Tensor,
    labels: torch.Tensor,
    blank: int = 0,
    *,
    modified: bool = False,
    fastemit_lambda: float = 0.0,
    gradients: bool = True,
    largest: tuple[int, int] | None = None,
) -> DeviceSums:
    """Negative log-likelihoods of a batch that lies on the device already: queued on its current stream.

    Args:
        log_probs: [B, T, U + 1, V] of float16, bfloat16, float32 or float64, columns contiguous; or, without padding,
            [N, V], the nodes of all items end to end, node (t, u) of an item at t (U + 1) + u.
        targets: integers on the same device, [B, U], or the items' labels end to end.
        frames, labels: int64 [B] on the same device. What goes beyond the tensors gives `Status.INTERNAL`.
        blank: its column.
        modified: the topology.
        fastemit_lambda: gradients of labels are multiplied by 1 + this.
        gradients: whether they are wanted.
        largest: of all frames, and of all labels, for [N, V]: the scratch is made for them. None looks it up in the
            lengths, which waits for the device; nothing else does.

    Returns:
        `found` are the derivatives by the arcs, [B, T, U + 1, 2] or [N, 2]; zero in the padding and for items that
        cannot be computed, NaN where an arc is NaN or +∞.

    Raises:
        MemoryError: what is needed beside the input does not fit.
        ValueError: wrong device, or columns not contiguous.
    """
    given = (log_probs, targets, frames, labels, blank, modified, largest)
    return _on_gpu(*given, (*log_probs.shape[:-1], 2), gradients=gradients, label_factor=1.0 + fastemit_lambda)


def posteriors_on_gpu(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    frames: torch.Tensor,
    labels: torch.Tensor,
    blank: int = 0,
    *,
    modified: bool = False,
    largest: tuple[int, int] | None = None,
) -> DeviceSums:
    """The probability of each node. Arguments and errors as for `costs_on_gpu`.

    Returns:
        `found` are the posteriors, [B, T, U + 1] or [N]; zero in the padding and for items that are not OK.
    """
    given = (log_probs, targets, frames, labels, blank, modified, largest)
    return _on_gpu(*given, tuple(log_probs.shape[:-1]), posteriors=True)


def _on_gpu(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    frames: torch.Tensor,
    labels: torch.Tensor,
    blank: int,
    modified: bool,
    largest: tuple[int, int] | None,
    shape: tuple[int, ...],
    *,
    posteriors: bool = False,
    gradients: bool = False,
    label_factor: float = 1.0,
) -> DeviceSums:
    """`found`, if either is wanted, of this shape."""
    check_device(log_probs.device)
    if len(frames) == 0:
        none = torch.zeros(0, dtype=accumulator_of(DTYPES[log_probs.dtype]), device=log_probs.device)
        wanted = posteriors or gradients
        return DeviceSums(none, none.double(), none.int(), none.new_zeros(shape) if wanted else None)
    with current(log_probs.device):
        batch = there(log_probs, targets, frames, labels, blank, modified, largest)
        sums = _enqueue(batch, posteriors=posteriors, gradients=gradients, label_factor=label_factor)
    return sums if sums.found is None else sums._replace(found=sums.found.reshape(shape))


def scatter_on_gpu(
    arc_gradients: torch.Tensor,
    factors: torch.Tensor,
    gradients: torch.Tensor,
    targets: torch.Tensor,
    frames: torch.Tensor,
    labels: torch.Tensor,
    statuses: torch.Tensor,
    blank: int = 0,
    *,
    modified: bool = False,
    largest: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Bring what `costs_on_gpu` has found to where the log-probs are: queued on the device's current stream.

    Args:
        arc_gradients, statuses: as `costs_on_gpu` has returned them.
        factors: of the accumulator's type [B]: each item's derivatives are multiplied by its own.
        gradients: zeros, of the log-probs' type and shape, columns contiguous; written.
        targets, frames, labels, blank, modified, largest: as given to `costs_on_gpu`.

    Returns:
        gradients.
    """
    check_device(gradients.device)
    if len(frames):
        with current(gradients.device):
            batch = there(gradients, targets, frames, labels, blank, modified, largest)
            item = (batch.targets, batch.frames, batch.labels, batch.table, statuses)
            arguments = (gradients, arc_gradients, factors.contiguous(), *item, batch.items + 1, batch.items)
            constants = gpu_scatter.constants(batch.dtype)
            launcher(transducer_scatter_kernel, batch.device, max(1, batch.totals[-1]), arguments, **constants)()
    return gradients


def warm_up(device: torch.device | str, dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from Triton's cache, so that no later call has to."""
    one = np.ones(1, np.int64)
    for dtype in dtypes:
        batch = reduced(np.zeros(2, dtype.storage), dtype, one - 1, one, one - 1)
        costs(batch, device)
        posteriors(batch, device)
        log_probs = torch.zeros((1, 1, 1, 2), dtype=TORCH_DTYPES[dtype], device=device)
        targets = torch.zeros((1, 0), dtype=torch.int32, device=device)
        lengths = torch.ones(1, dtype=torch.int64, device=device)
        sums = costs_on_gpu(log_probs, targets, lengths, lengths - 1)
        assert sums.found is not None
        scatter_on_gpu(sums.found, sums.costs, log_probs, targets, lengths, lengths - 1, sums.statuses)
