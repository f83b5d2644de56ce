# mypy: allow-untyped-defs
"""Monotonic alignment search on the CPU (Numba).

The band of cells that legal paths can visit is walked frame by frame. Scores are laid out [tokens, frames], so a block
of frames is first transposed into a tile in which a frame's tokens are contiguous. One bit per cell says whether the
best path comes from the token before.
"""

import time
from collections.abc import Iterable
from typing import Final

import numpy as np
from numba import njit

from alignd_kernels.compile_cache import kernel
from alignd_kernels.dtypes import DType
from alignd_kernels.mas.batch import MasBatch, MasResult
from alignd_kernels.numba_helpers import kernel_values, widen
from alignd_kernels.ragged import Int64Array, offsets_of
from alignd_kernels.status import Status
from alignd_kernels.threads import WorkerPool

FRAMES: Final = 16  # frames of a tile: one cache line of float32
PACK: Final = np.uint64(0x0102040810204080)  # gathers the lowest bits of 8 bytes into the highest byte

OK: Final = int(Status.OK)
EMPTY: Final = int(Status.EMPTY)
TOO_FEW_FRAMES: Final = int(Status.TOO_FEW_FRAMES)
NOT_FINITE: Final = int(Status.NOT_FINITE)
NO_FINITE_PATH: Final = int(Status.NO_FINITE_PATH)


def align(batch: MasBatch, pool: WorkerPool | None = None) -> MasResult:
    """Best path of each item.

    Args:
        batch: items of any lengths, zero included.
        pool: shares a large batch among threads; None does all on the calling thread.

    Raises:
        MemoryError: the scratch for an item (`scratch_bytes`) cannot be had; no result is lost but this batch's.
    """
    accumulator = batch.dtype.accumulator
    values = kernel_values(batch.values, batch.dtype)
    tokens, frames = np.array(batch.tokens, np.int64), np.array(batch.frames, np.int64)
    offsets, pitches = np.array(batch.offsets, np.int64), np.array(batch.pitches, np.int64)
    starts = offsets_of(tokens)
    durations = np.zeros(starts[-1], np.int32)
    scores = np.full(len(batch), np.nan)
    statuses = np.zeros(len(batch), np.int32)
    row_bytes = _row_bytes(tokens, frames)

    def work(start: int, stop: int) -> None:
        feasible = row_bytes[start:stop] > 0
        widest = int(np.max(tokens[start:stop], where=feasible, initial=0))
        rows = np.empty((2 + FRAMES, widest + 8), accumulator)
        flags = np.zeros(widest + 16, np.uint8)
        bits = np.empty(int(np.max(row_bytes[start:stop] * frames[start:stop], initial=0)), np.uint8)
        _align_range(
            values, offsets, tokens, frames, pitches, row_bytes, start, stop,
            rows, flags, bits, starts, durations, scores, statuses,
        )  # fmt: skip

    begun = time.perf_counter_ns()
    if len(batch):
        if pool is None:
            work(0, len(batch))
        else:
            pool.run(work, tokens * frames)
    elapsed = time.perf_counter_ns() - begun
    return MasResult(durations, scores, statuses, elapsed)


def scratch_bytes(batch: MasBatch) -> Int64Array:
    """Memory that an item in progress needs beside its input and output, int64 [B].

    T · ⌈(min(S, T − S + 1) + 14) / 8⌉ for the back-pointers, (2 + 16) · (S + 8) accumulators, S + 16; 0 where S > T.
    """
    row_bytes = _row_bytes(batch.tokens, batch.frames)
    accumulator = np.dtype(batch.dtype.accumulator).itemsize
    whole = batch.frames * row_bytes + (2 + FRAMES) * (batch.tokens + 8) * accumulator + batch.tokens + 16
    return np.where(row_bytes > 0, whole, 0)


def warm_up(dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from the cache, so that no later call has to."""
    one = np.ones(1, np.int64)
    for dtype in dtypes:
        align(MasBatch(np.zeros(1, dtype.storage), dtype, one - 1, one, one, one))


def _row_bytes(tokens: Int64Array, frames: Int64Array) -> Int64Array:
    """Bytes of one frame's back-pointers: a bit for each token of the band, from a multiple of 8; 0 if infeasible."""
    width = np.minimum(tokens, frames - tokens + 1)
    return np.where((tokens > 0) & (width > 0), (width + 14) >> 3, 0)


@njit(nogil=True)
def _fill_tile(values, offset, pitch, first, count, low, high, tile):
    """tile[j, s + 1] = score of token s in frame first + j, for the band's tokens."""
    for s in range(low, high + 1):
        row = values[offset + s * pitch + first : offset + s * pitch + first + count]
        for j in range(count):
            tile[j, s + 1] = widen(row[j])


@njit(nogil=True)
def _advance(scores, left, stay, new, flags):
    """One frame: V[s, t] = x + max(V[s, t-1], V[s-1, t-1]). A tie, or NaN in `stay`, stays."""
    for i in range(len(new)):
        moved = left[i] > stay[i]
        new[i] = scores[i] + (left[i] if moved else stay[i])
        flags[i] = moved


@njit(nogil=True)
def _pack(flags, bits):
    """8 flags of 0 or 1 to a byte, the first to the lowest bit."""
    words = flags.view(np.uint64)
    for i in range(len(bits)):
        bits[i] = (words[i] * PACK) >> np.uint64(56)


@njit(nogil=True)
def _visited_not_finite(values, offset, pitch, S, T):
    """Whether NaN or +inf stands in a cell that a legal path can visit."""
    for s in range(S):
        for t in range(s, T - S + s + 1):
            if not widen(values[offset + s * pitch + t]) < np.inf:
                return True
    return False


@njit(nogil=True)
def _forward(values, offset, pitch, S, T, row_bytes, rows, flags, bits):
    """Fill the back-pointers. Returns V[S-1, T-1] and whether any V was NaN or +inf when its token left the band (both
    stay in a token's row once they are there, and nothing else brings them there but overflow)."""
    tile = rows[2:]
    old, new = rows[0], rows[1]
    old[: S + 1] = -np.inf
    new[: S + 1] = -np.inf
    old[0] = 0.0  # the virtual frame before the first: a path starts left of token 0
    suspect = False
    for first in range(0, T, FRAMES):
        count = min(FRAMES, T - first)
        _fill_tile(values, offset, pitch, first, count, max(0, S - T + first), min(S - 1, first + count - 1), tile)
        for j in range(count):
            t = first + j
            low, high = max(0, S - T + t), min(S - 1, t)
            base = low & ~7
            _advance(
                tile[j, low + 1 : high + 2],
                old[low : high + 1],
                old[low + 1 : high + 2],
                new[low + 1 : high + 2],
                flags[low - base : high - base + 1],
            )
            used = (high - base + 8) >> 3
            _pack(flags[: used * 8], bits[t * row_bytes : t * row_bytes + used])
            if S - T + t >= 0 and not new[low + 1] < np.inf:
                suspect = True
            if t == 0:
                old[0] = -np.inf
            old, new = new, old
    return old[S], suspect


@njit(nogil=True)
def _backward(S, T, row_bytes, bits, durations):
    """Follow the back-pointers from the last cell to the first; count each token's frames."""
    s = S - 1
    for t in range(T - 1, -1, -1):
        durations[s] += 1
        low = max(0, S - T + t)
        position = s - (low & ~7)
        if t > 0 and s > 0 and (bits[t * row_bytes + (position >> 3)] >> (position & 7)) & 1:
            s -= 1


@njit(nogil=True)
def _score(values, offset, pitch, S, durations):
    """The path's own sum in frame order, in float64."""
    total = 0.0
    t = 0
    for s in range(S):
        for _ in range(durations[s]):
            total += np.float64(widen(values[offset + s * pitch + t]))
            t += 1
    return total


@kernel
def _align_range(
    values, offsets, tokens, frames, pitches, row_bytes, start, stop,
    rows, flags, bits, starts, durations, scores, statuses,
):  # fmt: skip
    """Items start … stop − 1, on one thread."""
    for b in range(start, stop):
        S, T, offset, pitch = tokens[b], frames[b], offsets[b], pitches[b]
        if S <= 0 or T <= 0:
            statuses[b] = EMPTY
            continue
        if S > T:
            statuses[b] = TOO_FEW_FRAMES
            continue
        final, suspect = _forward(values, offset, pitch, S, T, row_bytes[b], rows, flags, bits)
        if suspect and _visited_not_finite(values, offset, pitch, S, T):
            statuses[b] = NOT_FINITE
            continue
        if not np.isfinite(final):
            statuses[b] = NO_FINITE_PATH
            continue
        own = durations[starts[b] : starts[b] + S]
        _backward(S, T, row_bytes[b], bits, own)
        # One rounding, to the accumulator's type.
        scores[b] = rows.dtype.type(_score(values, offset, pitch, S, own))
        statuses[b] = OK
