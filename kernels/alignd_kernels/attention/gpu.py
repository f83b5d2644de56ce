"""Alignment by attention maps on a GPU. Imported only where one is used (or Triton's interpreter): it needs torch.

Focus rates of all heads, the choice of one, and the alignment of the chosen ones are launches one behind the other: the
host does not wait for the choice. Mode "mas" launches that family's own kernels, told by the choice where to read.

Results are those of `attention.cpu`, to the last bit, logarithms included; but in mode "stepwise" scores, which are
sums of logarithms, may differ in it: here those of `gpu_logarithm` are summed, there the C library's.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch

from alignd_kernels.attention import gpu_cells, gpu_dtw, gpu_focus, gpu_logarithm, gpu_walk
from alignd_kernels.attention.batch import MODES, AttentionBatch, AttentionResult, Mode, check_mode
from alignd_kernels.attention.gpu_batch import (
    DeviceBatch,
    aligned_type,
    may_align,
    on_device,
    padded,
    sizes_of,
)
from alignd_kernels.attention.gpu_cells import attention_cells_kernel
from alignd_kernels.attention.gpu_dtw import attention_dtw_forward_kernel
from alignd_kernels.attention.gpu_focus import attention_heads_kernel, attention_largest_kernel
from alignd_kernels.attention.gpu_logarithm import attention_logarithms_kernel
from alignd_kernels.attention.gpu_spans import attention_spans_kernel
from alignd_kernels.attention.gpu_walk import attention_walk_kernel
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_borders import PATIENCE, borders
from alignd_kernels.gpu_common import Stopwatch, check_device, current, launcher
from alignd_kernels.gpu_copies import to_host, together
from alignd_kernels.mas import gpu as mas
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.ragged import Int64Array


class DeviceResult(NamedTuple):
    """Alignments on the device: as `AttentionResult`, in the layout of the batch."""

    heads: torch.Tensor
    focus_rates: torch.Tensor
    starts: torch.Tensor
    ends: torch.Tensor
    scores: torch.Tensor
    statuses: torch.Tensor


def _planes(dtype: DType) -> int:
    """Words of a border for each frame."""
    return 2 if dtype is DType.FLOAT64 else 1


def scratch_bytes(batch: AttentionBatch) -> Int64Array:
    """Device memory that each item needs beside its input and output, int64 [B]. With a the accumulator's size (4, or 8
    for float64):

    For the focus rates, a·H·T. In mode "mas" what `mas.gpu.scratch_bytes` says of [S, T] and 4·S; with `log` of the
    accumulator's type, and a·S·T. In mode "dtw", with n = ⌈S/32⌉ strips, 32·a·n·(T + 31) for the cells,
    256·n·⌈(T + 31)/32⌉ for the way back, 8·p·(n − 1)·T for the borders, p = 1 (2 for float64), and a·(S + T) for the
    path. In mode "stepwise" 8·T. 0 for an item that is not aligned: H, S or T below 1, or S > T in mode "mas".
    """
    H, S, T = (np.asarray(lengths, np.int64) for lengths in (batch.heads, batch.tokens, batch.frames))
    size = np.dtype(batch.dtype.accumulator).itemsize
    sizes = sizes_of(H, S, T, batch.mode, batch.log)
    need = size * (sizes.largest + sizes.cells) + 4 * sizes.bits + 8 * _planes(batch.dtype) * sizes.borders
    if batch.mode == "mas":
        kind = aligned_type(batch.dtype, batch.log)
        need = need + mas.scratch_bytes(MasBatch(np.zeros(0, kind.storage), kind, T, S, T, T)) + 4 * S
    elif batch.mode == "dtw":
        need = need + size * (S + T)
    else:
        need = need + 8 * T
    return np.where(may_align(batch), need, 0)


class _Launch:
    """The launches of one batch, queued on the current stream, without waiting for them."""

    def __init__(self, batch: DeviceBatch, stopwatches: list[Stopwatch] | None = None) -> None:
        self._batch, self._stopwatches = batch, stopwatches
        items, totals = batch.items, batch.totals
        of_items = (items, torch.int32), (totals.rates, torch.float32), (items, torch.float64), (items, torch.int32)
        heads, rates, scores, statuses = together(batch.device, *of_items)
        starts, ends = together(batch.device, *(2 * [(totals.tokens, torch.int32)]), cleared=True)
        self.found = DeviceResult(heads, rates, starts, ends, scores, statuses)
        self._bad, self._arrivals = batch.zeros(2 * items).view(2, items)
        self._wanted = batch.empty(items, torch.int64)

    def _stopwatch(self) -> Stopwatch | None:
        """A new one for the next launches, if time is taken at all."""
        if self._stopwatches is None:
            return None
        self._stopwatches.append(Stopwatch(self._batch.device))
        return self._stopwatches[-1]

    def _run(self, *launches: tuple[Any, int, tuple[Any, ...], dict[str, object]]) -> None:
        """Kernels, how many programs of each, its arguments, and what it is compiled for: compiled before any runs."""
        ready = [launcher(kernel, self._batch.device, n, given, **of) for kernel, n, given, of in launches]
        with self._stopwatch() or nullcontext():
            for launch in ready:
                launch()

    def align(self) -> DeviceResult:
        """All of it."""
        {"mas": self._search, "dtw": self._warp, "stepwise": self._walk}[self._batch.mode]()
        return self.found

    def _focus(self, chosen: torch.Tensor) -> list[tuple[Any, int, tuple[Any, ...], dict[str, object]]]:
        """Focus rates, the heads, and where they begin."""
        batch, found, pitch = self._batch, self.found, self._batch.items + 1
        largest = batch.empty(batch.totals.largest)
        lengths = (batch.tokens, batch.frames, batch.table)
        arguments = (batch.values, *lengths, largest, self._bad, pitch, batch.items)
        heads = (
            *(*lengths, largest, self._bad, self._arrivals, found.focus_rates, found.heads),
            *(chosen, self._wanted, found.scores, found.statuses, pitch, batch.items),
        )
        of = gpu_focus.constants(batch.dtype, batch.mode == "mas")
        # One block at least: of no items that can be looked at, the last one's program finds that out.
        blocks = max(1, batch.totals.blocks)
        return [
            (attention_largest_kernel, blocks, arguments, of),
            (attention_heads_kernel, batch.items * batch.groups, heads, of),
        ]

    def _search(self) -> None:
        batch, found = self._batch, self.found
        pitch = batch.items + 1
        logarithms = batch.cells() if batch.log else None
        search = batch.search(logarithms)._replace(tokens=self._wanted)
        if logarithms is None:
            self._run(*self._focus(search.table[0]))
        else:
            chosen = batch.empty(batch.items, torch.int64)
            arguments = (
                *(batch.values, batch.tokens, batch.frames, batch.table, chosen, found.statuses, logarithms),
                *(pitch, batch.items),
            )
            tiles, of = max(1, batch.totals.tiles), gpu_logarithm.constants(batch.dtype)
            self._run(*self._focus(chosen), (attention_logarithms_kernel, tiles, arguments, of))
        paths = search.enqueue(self._stopwatch())
        spans = (
            *(batch.tokens, batch.table, paths.durations, paths.scores, paths.statuses),
            *(found.focus_rates, found.heads, found.starts, found.ends, found.scores, found.statuses, pitch),
        )
        self._run((attention_spans_kernel, batch.items, spans, {}))

    def _warp(self) -> None:
        batch, found = self._batch, self.found
        pitch, totals = batch.items + 1, batch.totals
        chosen, cells = batch.empty(batch.items, torch.int64), batch.cells()
        bits, best = batch.empty(totals.bits, torch.int32), batch.empty(batch.items, torch.float64)
        trouble, on_path = batch.empty(totals.strips, torch.int32), batch.empty(totals.tokens + totals.frames)
        lengths = (batch.tokens, batch.frames, batch.table)
        copied = (batch.values, *lengths, chosen, found.statuses, self._bad, cells, pitch, batch.items)
        programs = batch.items * batch.widest
        with borders(batch.device, _planes(batch.dtype) * totals.borders, batch.items, programs) as memory:
            warped = (
                *(*lengths, cells, self._bad, memory.words, memory.tickets, bits, best, trouble, memory.arrivals),
                *(found.focus_rates, found.heads, found.starts, found.ends, on_path, found.scores, found.statuses),
                *(pitch, batch.items, memory.first_ticket, memory.epoch, totals.borders, PATIENCE),
            )
            self._run(
                *self._focus(chosen),
                (attention_cells_kernel, max(1, totals.tiles), copied, gpu_cells.constants(batch.dtype, batch.log)),
                (attention_dtw_forward_kernel, programs, warped, gpu_dtw.constants(batch.dtype)),
            )

    def _walk(self) -> None:
        batch, found = self._batch, self.found
        chosen, decided = batch.empty(batch.items, torch.int64), batch.empty(batch.totals.frames, torch.float64)
        walked = (
            *(batch.values, batch.tokens, batch.frames, batch.table, chosen, found.focus_rates, found.heads),
            *(found.starts, found.ends, decided, found.scores, found.statuses, batch.items + 1),
        )
        of = gpu_walk.constants(batch.dtype)
        self._run(*self._focus(chosen), (attention_walk_kernel, batch.items, walked, of))


def align(batch: AttentionBatch, device: torch.device | str) -> AttentionResult:
    """Head and alignment of each item: two or three copies in, a few launches, two copies out, on the device's
    current stream.

    Args:
        batch: any lengths, also of no items.
        device: a CUDA device, or "cpu" where Triton is interpreted.

    Raises:
        ValueError: no kernel runs on `device`; there is no such mode, or it takes no logarithms.
        MemoryError: the batch and its `scratch_bytes` do not fit.
    """
    check_mode(batch.mode, batch.log)
    device = torch.device(device)
    check_device(device)
    if len(batch) == 0:
        none = np.zeros(0, np.int32)
        return AttentionResult(none, np.zeros(0, np.float32), none, none, np.zeros(0), none, 0)
    with current(device):
        stopwatches: list[Stopwatch] = []
        heads, rates, starts, ends, scores, statuses = to_host(_Launch(on_device(batch, device), stopwatches).align())
    elapsed = sum(stopwatch.elapsed_ns() for stopwatch in stopwatches)
    return AttentionResult(heads, rates, starts, ends, scores, statuses, elapsed)


def launch(
    attention: torch.Tensor, tokens: torch.Tensor, frames: torch.Tensor, mode: Mode = "mas", log: bool = False
) -> DeviceResult:
    """Alignments of a padded batch that lies on the device already: queued on its current stream, never waited for.

    Args:
        attention: [B, H, S, T] of float16, bfloat16, float32 or float64; frames contiguous, other strides free.
        tokens, frames: int64 [B] on the same device. What goes beyond the tensor gives `Status.INTERNAL`.
        mode, log: as in `AttentionBatch`.

    Returns:
        heads int32 [B]; focus rates float32 [B, H]; starts and ends int32 [B, S], zero in the padding and for failed
        items; scores float64 [B]; statuses int32 [B].

    Raises:
        MemoryError: what is needed beside the input does not fit.
        ValueError: wrong device or mode, or frames not contiguous.
    """
    check_mode(mode, log)
    check_device(attention.device)
    B, H, S, _ = attention.shape
    if B == 0:
        none = torch.zeros(0, dtype=torch.int32, device=attention.device)
        spans = none.reshape(0, S)
        return DeviceResult(none, none.float().reshape(0, H), spans, spans, none.double(), none)
    with current(attention.device):
        found = _Launch(padded(attention, tokens, frames, mode, log)).align()
    return found._replace(
        focus_rates=found.focus_rates.view(B, H), starts=found.starts.view(B, S), ends=found.ends.view(B, S)
    )


def warm_up(device: torch.device | str, dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from Triton's cache, so that no later call has to."""
    one, wanted = np.ones(1, np.int64), tuple(dtypes)
    for dtype in wanted:
        for mode in MODES:
            for log in (False, True) if mode != "stepwise" else (False,):
                align(AttentionBatch(np.ones(1, dtype.storage), dtype, one - 1, one, one, one, mode, log), device)
    mas.warm_up(device, {aligned_type(dtype, log) for dtype in wanted for log in (False, True)})
