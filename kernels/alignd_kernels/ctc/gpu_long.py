"""One long item of CTC on a GPU, in windows of frames: how `gpu_window`'s kernels are launched, and what they take."""

import functools
from contextlib import nullcontext
from typing import Final

import torch

from alignd_kernels.ctc import gpu_star, gpu_trace, gpu_window
from alignd_kernels.ctc.gpu_prepare import ctc_prepare_kernel
from alignd_kernels.ctc.gpu_star import ctc_star_kernel
from alignd_kernels.ctc.gpu_trace import CHUNKS_PER_PROGRAM
from alignd_kernels.ctc.gpu_window import ctc_window_kernel
from alignd_kernels.ctc.gpu_window_trace import ctc_window_trace_kernel
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_borders import PATIENCE, borders
from alignd_kernels.gpu_common import Stopwatch, accumulator_of, launcher

WINDOW_CHUNKS: Final = 256
"""8,192 frames. Longer windows take more memory, shorter ones more time: in each, a strip waits for all on its left."""


def strips_of_window(labels: int, chunks: int) -> int:
    """From which the path can have come in so many chunks: it passes at most a pair a frame."""
    return min((labels + 32) // 32, chunks + 1)


def window_bytes(labels: int, frames: int, dtype: DType, chunks: int) -> int:
    """Device memory of one item in windows: scores before each window, repeats before each strip; borders and
    back-pointers of one window."""
    strips, windows = (labels + 32) // 32, -(-frames // (32 * chunks))
    accumulator, planes = (8, 2) if dtype is DType.FLOAT64 else (4, 1)
    kept = accumulator * 2 * 32 * strips * (windows + 1) + 4 * strips
    return kept + 8 * planes * strips * 32 * chunks + 14 * 32 * strips_of_window(labels, chunks) * chunks


def enqueue(
    item: tuple[torch.Tensor, ...],
    targets: torch.Tensor,
    labels: int,
    frames: int,
    dtype: DType,
    star_is_largest: bool,
    stopwatch: Stopwatch | None = None,
) -> tuple[torch.Tensor, ...]:
    """Queue the windows of one item on the current stream, without waiting for them.

    Args:
        item: log-probs, number of targets int64 [1], number of frames int64 [1], table (see `gpu_item`), star score.
        targets: int32 [L].
        labels, frames: L and T.
        star_is_largest: whether the star score is NaN.

    Returns:
        paths, durations, frame scores, score and status, as `ctc_trace_kernel` writes them.
    """
    device, chunks = item[0].device, WINDOW_CHUNKS
    strips, windows, near = (labels + 32) // 32, -(-frames // (32 * chunks)), strips_of_window(labels, chunks)
    empty, zeros = functools.partial(torch.empty, device=device), functools.partial(torch.zeros, device=device)
    wild = empty(frames, dtype=item[0].dtype)
    repeats, trouble = (empty(strips, dtype=torch.int32) for _ in range(2))
    checked, ends = empty(2, dtype=torch.int32), empty(2, dtype=torch.float64)
    bits = empty(3 * 32 * near * chunks, dtype=torch.int32)
    moved = empty(32 * near * chunks, dtype=torch.int16)
    kept = empty((windows + 1) * 2 * 32 * strips, dtype=accumulator_of(dtype))
    states = torch.full((windows + 1,), 2 * labels, dtype=torch.int32, device=device)
    frame_scores = zeros(frames, dtype=torch.float32)
    on_path = empty(frames, dtype=torch.float64) if dtype is DType.FLOAT64 else frame_scores
    durations = empty(labels, dtype=torch.int32)
    outputs = (zeros(frames, dtype=torch.int32), durations, frame_scores)
    found = (*outputs, empty(1, dtype=torch.float64), empty(1, dtype=torch.int32))
    known = (item[0], targets, *item[1:], wild)

    def forward(window: int, count: int, keep: bool) -> None:
        plane = 32 * chunks * count
        with borders(device, (2 if dtype is DType.FLOAT64 else 1) * plane, 1, count) as memory:
            tensors = (*known, repeats, trouble, checked, memory.words, memory.tickets, bits, moved, ends)
            state = (2, memory.first_ticket, memory.epoch, plane, PATIENCE, window, chunks, count)
            arguments = (*tensors, kept, states, *state)
            launcher(ctc_window_kernel, device, count, arguments, **gpu_window.constants(dtype, keep))()

    def trace(window: int) -> None:
        with borders(device, 0, 1, 0) as memory:
            tensors = (*known, trouble, checked, bits, moved, ends, states, memory.arrivals, on_path)
            arguments = (*tensors, *found, 2, window, chunks, near)
            groups = -(-chunks // CHUNKS_PER_PROGRAM)
            launcher(ctc_window_trace_kernel, device, groups, arguments, **gpu_trace.constants(dtype))()

    with stopwatch or nullcontext():
        if star_is_largest:
            arguments = (*known, 2, 1, 1)
            launcher(ctc_star_kernel, device, gpu_star.programs(frames), arguments, **gpu_star.constants(dtype))()
        lengths = known[1:5]  # targets, their number, that of frames, table
        launcher(ctc_prepare_kernel, device, strips, (*lengths, repeats, trouble, checked, durations, 2))()
        for window in range(windows):
            forward(window, strips, keep=False)
        for window in reversed(range(windows)):
            forward(window, near, keep=True)
            trace(window)
    return found
