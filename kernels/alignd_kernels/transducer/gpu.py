"""Best paths of transducers on a GPU. Imported only where one is used (or Triton's interpreter): it needs torch."""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch

from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_borders import PATIENCE, borders
from alignd_kernels.gpu_common import Stopwatch, check_device, current, launcher
from alignd_kernels.gpu_copies import to_host
from alignd_kernels.ragged import Int64Array
from alignd_kernels.transducer import gpu_forward
from alignd_kernels.transducer.batch import TransducerBatch, TransducerResult, reduced
from alignd_kernels.transducer.gpu_batch import DeviceBatch, has_paths, on_device, sizes_of, there
from alignd_kernels.transducer.gpu_forward import transducer_forward_kernel


class DeviceResult(NamedTuple):
    """Best paths on the device: as `TransducerResult`, in the layout of the batch."""

    emission_frames: torch.Tensor
    scores: torch.Tensor
    statuses: torch.Tensor


def _planes(dtype: DType) -> int:
    """Words of a border for each frame."""
    return 2 if dtype is DType.FLOAT64 else 1


def scratch_bytes(batch: TransducerBatch) -> Int64Array:
    """Device memory that each item needs beside its input and output, int64 [B]: about 8·T·U bytes for float32.

    With n = ⌊U/32⌋ + 1 strips and s = 31 (0 in the modified topology), exactly 64·a·n·(T + 2 + s) for the arcs,
    128·n·(⌊(T + s)/32⌋ + 1) for the way back, 8·p·(n − 1)·(T + 1) for the borders and a·(T + U) for the path, with a
    the accumulator's size (4, or 8 for float64) and p = 1 (2 for float64); 0 for an item that has no path.
    """
    size, planes = np.dtype(batch.dtype.accumulator).itemsize, _planes(batch.dtype)
    cells, words, border_words, _, _ = sizes_of(batch.frames, batch.labels, 0 if batch.modified else 1)
    need = 2 * size * cells + 4 * words + 8 * planes * border_words + size * (batch.frames + batch.labels)
    return np.where(has_paths(batch), need, 0)


def _enqueue(batch: DeviceBatch, stopwatch: Stopwatch | None = None) -> DeviceResult:
    """Queue the kernels on the current stream, without waiting for them."""
    device, items = batch.device, batch.items
    _, words, border_words, strips, _ = batch.totals
    scores = batch.empty(items, torch.float64)
    statuses = batch.empty(items, torch.int32)
    emissions = torch.zeros(batch.emissions, dtype=torch.int32, device=device)
    bits, best = batch.empty(words, torch.int32), batch.empty(items, torch.float64)
    trouble, on_path = batch.empty(strips, torch.int32), batch.empty(batch.path_scores)
    arcs, checked, read_arcs = batch.arcs()
    programs = items * batch.widest
    with borders(device, _planes(batch.dtype) * border_words, items, programs) as memory:
        arguments = (
            *(batch.frames, batch.labels, batch.table, arcs, checked, memory.words, memory.tickets),
            *(bits, best, trouble, memory.arrivals, emissions, on_path, scores, statuses),
            *(items + 1, items, batch.skew, memory.first_ticket, memory.epoch, border_words, PATIENCE),
        )
        find_paths = launcher(
            transducer_forward_kernel, device, programs, arguments, **gpu_forward.constants(batch.dtype)
        )
        with stopwatch or nullcontext():
            read_arcs()
            find_paths()
    return DeviceResult(emissions, scores, statuses)


def align(batch: TransducerBatch, device: torch.device | str) -> TransducerResult:
    """Best paths of a batch: two copies in, two kernel launches, two copies out, on the device's current stream.

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
        none = np.zeros(0, np.int32)
        return TransducerResult(none, np.zeros(0), none, 0)
    with current(device):
        stopwatch = Stopwatch(device)
        emissions, scores, statuses = to_host(_enqueue(on_device(batch, device), stopwatch))
    return TransducerResult(emissions, scores, statuses, stopwatch.elapsed_ns())


def launch(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    frames: torch.Tensor,
    labels: torch.Tensor,
    blank: int,
    modified: bool = False,
    largest: tuple[int, int] | None = None,
) -> DeviceResult:
    """Best paths of a batch that lies on the device already: queued on its current stream, never waited for.

    Args:
        log_probs: [B, T, U + 1, V] of float16, bfloat16, float32 or float64, columns contiguous, other strides free;
            or, without padding, [N, V], the nodes of all items end to end, node (t, u) of an item at t (U + 1) + u.
        targets: integers on the same device, [B, U], or the items' labels end to end.
        frames, labels: int64 [B] on the same device. What goes beyond the tensors gives `Status.INTERNAL`.
        blank: its column.
        modified: the topology.
        largest: of all frames, and of all labels, for [N, V]; None looks it up, and waits.

    Returns:
        emission frames int32 of the shape of `targets`, zero in the padding and for failed items; scores float64 [B];
        statuses int32 [B].

    Raises:
        MemoryError: what is needed beside the input does not fit.
        ValueError: wrong device, or columns not contiguous.
    """
    check_device(log_probs.device)
    device = log_probs.device
    if len(frames) == 0:
        none = torch.zeros(0, dtype=torch.int32, device=device)
        return DeviceResult(none.reshape(targets.shape), torch.zeros(0, dtype=torch.float64, device=device), none)
    with current(device):
        found = _enqueue(there(log_probs, targets, frames, labels, blank, modified, largest))
    return found._replace(emission_frames=found.emission_frames.reshape(targets.shape))


def warm_up(device: torch.device | str, dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from Triton's cache, so that no later call has to."""
    one = np.ones(1, np.int64)
    for dtype in dtypes:
        align(reduced(np.zeros(2, dtype.storage), dtype, one - 1, one, one - 1), device)
