# mypy: allow-untyped-defs
"""Monotonic alignment search on the CPU (Numba).

The lattice is walked in square tiles, a column of them after the other, and only those that hold cells of the band that
legal paths can visit. One bit per cell says whether the best path comes from the token before.
"""

import time
from collections.abc import Iterable
from typing import Final

import numpy as np
from numba import njit

from alignd_kernels.compile_cache import kernel
from alignd_kernels.dtypes import DType
from alignd_kernels.mas.batch import MasBatch, MasResult
from alignd_kernels.mas.tile import advance_tile
from alignd_kernels.numba_helpers import kernel_values, lane_count, lanes, widen
from alignd_kernels.ragged import Int64Array, as_one, offsets_of
from alignd_kernels.status import Status
from alignd_kernels.threads import WorkerPool

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
    flat, begins = as_one(batch.values, batch.sources, batch.offsets)
    values = kernel_values(flat, batch.dtype)
    tokens, frames = np.array(batch.tokens, np.int64), np.array(batch.frames, np.int64)
    offsets, pitches = np.array(begins, np.int64), np.array(batch.pitches, np.int64)
    starts = offsets_of(tokens)
    durations = np.zeros(starts[-1], np.int32)
    scores = np.full(len(batch), np.nan)
    statuses = np.zeros(len(batch), np.int32)
    N = lane_count(batch.dtype)
    tiles = _tiles(tokens, frames, N)
    words = tiles * (frames + N - 1)

    def work(start: int, stop: int) -> None:
        widest = int(np.max(tokens[start:stop], where=tiles[start:stop] > 0, initial=0))
        V = np.empty(widest + N, accumulator)
        squares = np.empty((2, N * N), accumulator)
        bits = np.empty(int(np.max(words[start:stop], initial=0)), np.uint16)
        _align_range(
            values, offsets, tokens, frames, pitches, tiles, start, stop,
            V, squares, bits, starts, durations, scores, statuses,
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

    2 (T + N − 1) · ⌊(min(S, T − S + N) + 2N − 2) / N⌋ for the back-pointers and S + N + 2N² accumulators, with tiles of
    N = 16 (8 for float64) tokens and frames; 0 where S > T.
    """
    N = lane_count(batch.dtype)
    tiles = _tiles(batch.tokens, batch.frames, N)
    accumulator = np.dtype(batch.dtype.accumulator).itemsize
    whole = 2 * tiles * (batch.frames + N - 1) + (batch.tokens + N + 2 * N * N) * accumulator
    return np.where(tiles > 0, whole, 0)


def warm_up(dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from the cache, so that no later call has to."""
    one = np.ones(1, np.int64)
    for dtype in dtypes:
        align(MasBatch(np.zeros(1, dtype.storage), dtype, one - 1, one, one, one))


def _tiles(tokens: Int64Array, frames: Int64Array, N: int) -> Int64Array:
    """Tiles of a column at most: N frames of a band of T − S + 1 tokens that moves by one a frame. 0 if infeasible."""
    band = np.minimum(tokens, frames - tokens + N)
    return np.where((tokens > 0) & (tokens <= frames), (band + 2 * N - 2) // N, 0)


@njit(nogil=True)
def _visited_not_finite(values, offset, pitch, S, T):
    """Whether NaN or +inf stands in a cell that a legal path can visit."""
    for s in range(S):
        cells = values[offset + s * pitch + s : offset + s * pitch + T - S + s + 1]
        found = 0
        for t in range(len(cells)):  # never left early, so that it is compiled to vectors
            found |= not widen(cells[t]) < np.inf
        if found:
            return True
    return False


@njit(nogil=True)
def _masked_tile(values, offset, pitch, S, T, N, token, frame, square):
    """Copy a tile that the band covers in part.

    A cell that is out of reach, or beyond the tokens, gets -inf, so that its V is -inf; one whose token is done with
    gets 0, so that NaN and +inf stay visible in V until the tile is done.
    """
    for i in range(N):
        s = token + i
        row = square[i * N : (i + 1) * N]
        begin = min(max(s - frame, 0), N) if s < S else N
        end = min(max(T - S + s + 1 - frame, begin), N)
        row[:begin] = -np.inf
        row[end:] = 0.0
        cells = values[offset + s * pitch + frame + begin : offset + s * pitch + frame + end]
        for j in range(end - begin):
            row[begin + j] = widen(cells[j])


@njit(nogil=True)
def _forward(values, offset, pitch, S, T, tiles, V, squares, bits):
    """Fill the back-pointers. Returns V[S-1, T-1] and whether any V was NaN or +inf when its token left the band (both
    stay in a token's row once they are there, and nothing else brings them there but overflow)."""
    N = lanes(values)
    square, edge = squares[0], squares[1]
    V[: S + N - 1] = -np.inf
    suspect = False
    # The frames are made a multiple of N by virtual ones before the first.
    ahead = -T % N
    for frame in range(-ahead, T, N):
        low, high = max(0, S - T + frame) // N, min(S - 1, frame + N - 1) // N
        edge[:] = -np.inf
        if low > 0:
            edge[N - 1] = V[low * N - 1]
        if frame <= 0:
            edge[-frame * N + N - 1] = 0.0  # a path starts left of token 0, before frame 0
        for w in range(low, high + 1):
            token = w * N
            word = (frame + ahead) * tiles + w - low
            if token + N <= S and token + N - 1 <= frame and token >= S - T + frame + N - 1:
                advance_tile(values, offset + token * pitch + frame, pitch, V, token, edge, bits, word, tiles)
                continue
            _masked_tile(values, offset, pitch, S, T, N, token, frame, square)
            advance_tile(square, 0, N, V, token, edge, bits, word, tiles)
            for i in range(N):
                suspect |= not V[token + i] < np.inf
    return V[S - 1], suspect


@njit(nogil=True)
def _backward(values, S, T, tiles, bits, durations):
    """Follow the back-pointers from the last cell to the first; count each token's frames."""
    N = lanes(values)
    s = S - 1
    ahead = -T % N
    for frame in range(T - N, -N, -N):
        low = max(0, S - T + frame) // N
        for t in range(frame + N - 1, max(frame, 0) - 1, -1):
            durations[s] += 1
            if t > 0 and s > 0:
                s -= (bits[(t + ahead) * tiles + s // N - low] >> (s % N)) & 1


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
    values, offsets, tokens, frames, pitches, tiles, start, stop,
    V, squares, bits, starts, durations, scores, statuses,
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
        final, suspect = _forward(values, offset, pitch, S, T, tiles[b], V, squares, bits)
        if suspect and _visited_not_finite(values, offset, pitch, S, T):
            statuses[b] = NOT_FINITE
            continue
        if not np.isfinite(final):
            statuses[b] = NO_FINITE_PATH
            continue
        own = durations[starts[b] : starts[b] + S]
        _backward(values, S, T, tiles[b], bits, own)
        scores[b] = V.dtype.type(_score(values, offset, pitch, S, own))  # one rounding, to the accumulator's type
        statuses[b] = OK
