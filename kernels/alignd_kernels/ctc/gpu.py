"""CTC forced alignment on a GPU. Imported only where one is used (or Triton's interpreter): it needs torch."""

import functools
import math
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from alignd_kernels.ctc import gpu_forward, gpu_long, gpu_star, gpu_trace
from alignd_kernels.ctc.batch import STAR_MAX, CtcBatch, CtcResult, joined
from alignd_kernels.ctc.gpu_forward import ctc_forward_kernel
from alignd_kernels.ctc.gpu_item import MAX_PITCH
from alignd_kernels.ctc.gpu_star import ctc_star_kernel
from alignd_kernels.ctc.gpu_trace import CHUNKS_PER_PROGRAM, ctc_trace_kernel
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_borders import PATIENCE, borders
from alignd_kernels.gpu_common import (
    DTYPES,
    TORCH_DTYPES,
    Stopwatch,
    check_device,
    current,
    launcher,
    with_end,
)
from alignd_kernels.gpu_copies import staged, to_device, to_host, together
from alignd_kernels.gpu_table import each, kept, padded_table, same
from alignd_kernels.ragged import Int64Array, offsets_of

FUSED_CHUNKS: Final = 16
"""Of items whose way back, some 1.2 µs a chunk on one warp, takes less than what a second launch costs the host."""


class DeviceResult(NamedTuple):
    """Best paths on the device: as `CtcResult`, in the layout of the batch."""

    paths: torch.Tensor
    durations: torch.Tensor
    frame_scores: torch.Tensor
    scores: torch.Tensor
    statuses: torch.Tensor


def _strips(labels: Any) -> Any:
    return (labels + 32) // 32


def _words(labels: Any, frames: Any) -> Any:
    """Words of back-pointers, of one kind, of items that have a path: for whole strips, the chunks that a strip can be
    in."""
    return _strips(labels) * 32 * ((frames - labels + 62) // 32 + 1)


def _border_words(labels: Any, frames: Any) -> Any:
    """Words, in each plane, of the borders between an item's strips."""
    return (_strips(labels) - 1) * (frames - labels + 1)


def _planes(dtype: DType) -> int:
    """Words of a border for each frame."""
    return 2 if dtype is DType.FLOAT64 else 1


KEPT_BYTES: Final = 1 << 30
"""Back-pointers and borders up to which an item's are all kept: T=75,000 for L=37,500."""


def _state_bytes(labels: Any, frames: Any, dtype: DType) -> Any:
    """Of the back-pointers and borders of items that have a path, if all are kept."""
    return 14 * _words(labels, frames) + 8 * _planes(dtype) * _border_words(labels, frames)


def _in_windows(batch: CtcBatch) -> Int64Array:
    """What `_state_bytes` is of items that are done in windows: of long ones, if that takes less; 0 of others."""
    L, T = batch.target_lengths, batch.frames
    need = np.zeros(len(batch), np.int64)
    for b in np.flatnonzero((L >= 1) & (L <= T) & (_state_bytes(L, T, batch.dtype) > KEPT_BYTES)):
        need[b] = _bytes_in_windows(int(L[b]), int(T[b]), batch.dtype)
    return need


def _bytes_in_windows(labels: int, frames: int, dtype: DType) -> int:
    """The same of one item that may have a path."""
    whole = _state_bytes(labels, frames, dtype)
    part = gpu_long.window_bytes(labels, frames, dtype, gpu_long.WINDOW_CHUNKS)
    return part if whole > KEPT_BYTES and part < whole else 0


def scratch_bytes(batch: CtcBatch) -> Int64Array:
    """Device memory that each item needs beside its input and output, int64 [B]: about 0.7·L·(T − L) bytes for float32.

    Exactly 14·32·⌈(L + 1)/32⌉·(⌊(T − L + 62)/32⌋ + 1) for the way back, 8·p·⌊L/32⌋·(T − L + 1) for the borders,
    4·⌈(L + 1)/32⌉ for what went wrong, s·T for the star and for float64 8·T for the path, with s the stored scores'
    size and p = 1, or 2 for float64; 0 for an item that has no path whatever its labels. Where the first two come to
    more than `KEPT_BYTES`, `gpu_long.window_bytes` in their place if that is less.
    """
    L, T = batch.target_lengths, batch.frames
    windows = _in_windows(batch)
    need = np.where(windows > 0, windows, _state_bytes(L, T, batch.dtype)) + 4 * _strips(L)
    need += (batch.dtype.storage.itemsize + (8 if batch.dtype is DType.FLOAT64 else 0)) * T
    return np.where((L >= 1) & (L <= T), need, 0)


class _Launch(NamedTuple):
    """A batch as the kernels take it.

    Attributes:
        log_probs, targets: of all items.
        target_words: int32 words of a target.
        target_lengths, frames: int64 [B].
        table: see `gpu_item`.
        star_scores: float32 [B].
        star_is_largest: whether one of them may be NaN.
        paths, durations, frame_scores: outputs, not cleared.
        strips: of the widest item.
        longest: frames of the longest item.
        strip_count, word_count, border_count: of all items.
    """

    log_probs: torch.Tensor
    targets: torch.Tensor
    target_words: int
    target_lengths: torch.Tensor
    frames: torch.Tensor
    table: torch.Tensor
    star_scores: torch.Tensor
    star_is_largest: bool
    paths: torch.Tensor
    durations: torch.Tensor
    frame_scores: torch.Tensor
    strips: int
    longest: int
    strip_count: int
    word_count: int
    border_count: int

    def enqueue(self, stopwatch: Stopwatch | None = None) -> DeviceResult:
        """Queue the kernels on the current stream, without waiting for them."""
        device, dtype, items = self.log_probs.device, DTYPES[self.log_probs.dtype], self.table.shape[1] - 1
        empty = functools.partial(torch.empty, device=device)
        scores, statuses = together(device, (items, torch.float64), (items, torch.int32))
        wild = empty(self.paths.numel(), dtype=self.log_probs.dtype)
        trouble = empty(self.strip_count, dtype=torch.int32)
        checked = empty(items, dtype=torch.int32)
        ends = empty(2 * items, dtype=torch.float64)
        bits, moved = empty(3 * self.word_count, dtype=torch.int32), empty(self.word_count, dtype=torch.int16)
        on_path = self.frame_scores
        if dtype is DType.FLOAT64:
            on_path = empty(self.paths.numel(), dtype=torch.float64)
        outputs = (self.paths, self.durations, self.frame_scores, scores, statuses)
        lengths = (self.target_lengths, self.frames, self.table, self.star_scores)
        item = (self.log_probs, self.targets, *lengths, wild)
        sizes = (items + 1, items, self.target_words)
        chunks = max(1, -(-self.longest // 32))
        fused = chunks <= FUSED_CHUNKS
        programs = items * self.strips
        launches = []
        if self.star_is_largest:
            blocks = items * gpu_star.programs(self.longest)
            launches.append(launcher(ctc_star_kernel, device, blocks, (*item, *sizes), **gpu_star.constants(dtype)))
        with borders(device, _planes(dtype) * self.border_count, items, programs) as memory:
            left, found = (bits, moved, ends), (memory.arrivals, on_path, *outputs)
            state = (memory.first_ticket, memory.epoch, self.border_count, PATIENCE)
            strips = (*item, trouble, checked, memory.words, memory.tickets, *left, *found, *sizes, *state)
            launches.append(
                launcher(ctc_forward_kernel, device, programs, strips, **gpu_forward.constants(dtype, fused))
            )
            if not fused:
                groups = items * -(-chunks // CHUNKS_PER_PROGRAM)
                tensors = (*item, trouble, checked, *left, *found, *sizes)
                launches.append(launcher(ctc_trace_kernel, device, groups, tensors, **gpu_trace.constants(dtype)))
            with stopwatch or nullcontext():
                for launch in launches:
                    launch()
        return DeviceResult(*outputs)


def align(batch: CtcBatch, device: torch.device | str) -> CtcResult:
    """Best paths of a batch, on the device's current stream: two copies in, one or two kernel launches (one more
    where a star takes the largest label), two copies out; and for each item whose back-pointers would take more than
    `KEPT_BYTES`, launches by windows of its frames (`gpu_long`).

    Args:
        batch: any lengths, also of no items.
        device: a CUDA device, or "cpu" where Triton is interpreted.

    Raises:
        ValueError: no kernel runs on `device`.
        MemoryError: the batch and its `scratch_bytes` do not fit.
    """
    device = torch.device(device)
    check_device(device)
    long = _in_windows(batch) > 0
    if not long.any():
        return _align(batch, device, windows=False)
    groups = [np.flatnonzero(~long), *np.flatnonzero(long)[:, None]]
    groups = [group for group in groups if len(group)]
    return joined(batch, groups, [_align(batch.take(group), device, windows=bool(long[group[0]])) for group in groups])


def _align(batch: CtcBatch, device: torch.device, *, windows: bool) -> CtcResult:
    if len(batch) == 0:
        none = np.zeros(0, np.int32)
        return CtcResult(none, none, np.zeros(0, np.float32), np.zeros(0), none, 0)
    good = (batch.target_lengths >= 1) & (batch.target_lengths <= batch.frames)
    # Of others, no path is looked for.
    L, T = np.where(good, batch.target_lengths, 1), np.where(good, batch.frames, 1)
    starts = [
        offsets_of(size) for size in (batch.target_lengths, _words(L, T), _border_words(L, T), _strips(L), batch.frames)
    ]
    labels, words, border_words, strips, frames = (int(row[-1]) for row in starts)
    with current(device):
        log_probs, offsets = staged(batch.log_probs, batch.sources, batch.offsets, device, TORCH_DTYPES[batch.dtype])
        blanks = batch.blanks.astype(np.int64)
        of_items = [offsets, batch.vocabulary, batch.pitches, batch.target_offsets, blanks]
        table = with_end([*of_items, *starts, batch.target_lengths, batch.frames])
        table_there, targets, star_scores = to_device(device, table, batch.targets, batch.star_scores)
        stopwatch = Stopwatch(device)
        star_is_largest = bool(np.isnan(batch.star_scores).any())
        if windows:
            item = (log_probs, table_there[-2], table_there[-1], table_there, star_scores)
            host = to_host(gpu_long.enqueue(item, targets, labels, frames, batch.dtype, star_is_largest, stopwatch))
            return CtcResult(host[0], host[1], host[2], host[3], host[4], stopwatch.elapsed_ns())
        paths, durations, frame_scores = together(
            device, (frames, torch.int32), (labels, torch.int32), (frames, torch.float32)
        )
        result = _Launch(
            log_probs,
            targets,
            1,
            table_there[-2],
            table_there[-1],
            table_there,
            star_scores,
            star_is_largest,
            paths,
            durations,
            frame_scores,
            max(1, int(_strips(batch.target_lengths.max()))),
            max(0, int(batch.frames.max())),
            strips,
            words,
            border_words,
        ).enqueue(stopwatch)
        host = to_host(result)
    return CtcResult(host[0], host[1], host[2], host[3], host[4], stopwatch.elapsed_ns())


def warm_up(device: torch.device | str, dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from Triton's cache, so that no later call has to."""
    device = torch.device(device)
    one, longer = np.ones(1, np.int64), 32 * FUSED_CHUNKS + 1
    for dtype in dtypes:
        for frames, windows in ((2, False), (longer, False), (2, True)):
            target, star = np.ones(1, np.int32), np.full(1, STAR_MAX, np.float32)
            of_item = (one - 1, frames * one, 2 * one, 2 * one, target, one - 1, one, 0 * target, star)
            batch = CtcBatch(np.zeros(2 * frames, dtype.storage), dtype, *of_item)
            _align(batch, device, windows=windows)


def launch(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    frames: torch.Tensor,
    target_lengths: torch.Tensor,
    *,
    blank: int = 0,
    star_score: float = 0.0,
    whole: bool = False,
) -> DeviceResult:
    """Best paths of a padded batch that lies on the device already: queued on the current stream, never waited for.

    Args:
        log_probs: [B, T, V] of float16, bfloat16, float32 or float64; columns contiguous, other strides free.
        targets: integers [B, L] on the same device; `STAR` is the wildcard.
        frames: int64 [B] on the same device, each ≤ T.
        target_lengths: int64 [B] on the same device, each ≤ L.
        blank: its column.
        star_score: log-prob of a wildcard's frames; NaN for the frame's largest non-blank log-prob.
        whole: whether it is known here that each item has T frames and L labels, so that long ones can be done in
            windows (`gpu_long`), one after the other; else all back-pointers are kept.

    Returns:
        paths int32 [B, T], durations int32 [B, L], frame_scores float32 [B, T], zero in the padding and for failed
        items; scores float64 [B]; statuses int32 [B]. A length beyond the padded size gives `Status.INTERNAL`.

    Raises:
        MemoryError: what is needed beside the input does not fit.
        ValueError: wrong device, or columns not contiguous.
    """
    check_device(log_probs.device)
    B, T, V = log_probs.shape
    L = targets.shape[1]
    if V > 1 and log_probs.stride(2) != 1:
        raise ValueError("columns must be contiguous")
    if abs(log_probs.stride(1)) > MAX_PITCH.value:
        log_probs = log_probs.contiguous()
    device = log_probs.device
    outputs = (
        torch.empty((B, T), dtype=torch.int32, device=device),
        torch.empty((B, L), dtype=torch.int32, device=device),
        torch.empty((B, T), dtype=torch.float32, device=device),
    )
    if B == 0:
        scores = torch.zeros(0, dtype=torch.float64, device=device)
        return DeviceResult(*outputs, scores, torch.zeros(0, dtype=torch.int32, device=device))
    # The lengths are unknown here: what is enough for any L' ≤ L, T' ≤ T.
    strips = max(1, _strips(L))
    words = strips * 32 * ((T + 61) // 32 + 1)
    border_words = (strips - 1) * T
    with current(device):
        labels, target_words = in_words(targets)
        rows = (
            *(*each(log_probs.stride(0)), *same(V, log_probs.stride(1)), *each(labels.stride(0)), *same(int(blank))),
            *each(L, words, border_words, strips, T),
        )
        star = None if math.isnan(star_score) else float(star_score)  # NaN is not equal to itself
        if whole and 1 <= L <= T and _bytes_in_windows(L, T, DTYPES[log_probs.dtype]):
            given = (frames, target_lengths, padded_table(device, 1, rows), padded_stars(device, 1, star))
            return _launch_in_windows(log_probs, targets, *given, star is None)
        return _Launch(
            log_probs,
            labels,
            target_words,
            target_lengths.contiguous(),
            frames.contiguous(),
            padded_table(device, B, rows),
            padded_stars(device, B, star),
            star is None,
            *outputs,
            strips,
            T,
            B * strips,
            B * words,
            B * border_words,
        ).enqueue()


def _launch_in_windows(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    frames: torch.Tensor,
    target_lengths: torch.Tensor,
    table: torch.Tensor,
    star_score: torch.Tensor,
    star_is_largest: bool,
) -> DeviceResult:
    """`launch`, one item after the other; `table` and `star_score` are of any one."""
    (T, L), dtype = (log_probs.shape[1], targets.shape[1]), DTYPES[log_probs.dtype]
    lengths = target_lengths.contiguous(), frames.contiguous()
    # What does not fit into int32 is out of range, and stays so.
    narrow = targets.long().clamp(-(2**31), 2**31 - 1).to(torch.int32).contiguous()
    found = []
    for b, scores in enumerate(log_probs):
        item = (scores, *(length[b : b + 1] for length in lengths), table, star_score)
        found.append(gpu_long.enqueue(item, narrow[b], L, T, dtype, star_is_largest))
    paths, durations, frame_scores, totals, statuses = zip(*found)
    padded = torch.stack(paths), torch.stack(durations), torch.stack(frame_scores)
    return DeviceResult(*padded, torch.cat(totals), torch.cat(statuses))


def in_words(targets: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Targets [B, L] as int32 without a copy, if their rows are contiguous: those of int64 as two words, the low one
    first. And how many words a target has."""
    if targets.dtype not in (torch.int32, torch.int64):
        targets = targets.to(torch.int64)
    if targets.stride(1) != 1:  # `contiguous` would leave the strides of a single column as they are
        targets = targets.clone(memory_format=torch.contiguous_format)
    if targets.dtype is torch.int32:
        return targets, 1
    return targets.view(torch.int32), 2


@kept
def padded_stars(device: torch.device, B: int, star_score: float | None) -> torch.Tensor:
    """float32 [B]; None for the frame's largest label."""
    return torch.full((B,), STAR_MAX if star_score is None else star_score, dtype=torch.float32, device=device)
