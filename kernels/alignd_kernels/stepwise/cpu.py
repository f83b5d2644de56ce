# mypy: allow-untyped-defs
"""Stepwise monotonic attention on the CPU (Numba): expectations, their gradients, and hard paths.

Sixteen frames a block, which is turned on its way in and out where frames are contiguous: first all its sigmoids, then
frame after frame, each a loop over tokens. The gradient's way back reads the energies anew: a sigmoid costs less than
memory for its result would.

Numbers, with ulp = 2⁻²³ (2⁻⁵² for float64): all that is summed is positive, and a step multiplies each term by at most
1 + 5 ulp (of p and 1 − p, the larger one is within 1.8 ulp, the smaller one within 3.8; a product, a sum), so
expectations are off by at most 5 · T ulp, relative, after T frames. What falls below the type's smallest normal number
loses digits and then is 0; the smaller of p and 1 − p is 0 at once below it (energies beyond 87 in float32, 708 in
float64).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from alignd_kernels import spare
from alignd_kernels.compile_cache import kernel, part
from alignd_kernels.dtypes import DType
from alignd_kernels.numba_helpers import kernel_values, take_next, unlocked, widen
from alignd_kernels.ragged import Int64Array
from alignd_kernels.scratch import CACHE_LINE, from_cache_line
from alignd_kernels.stepwise.turn import AHEAD, MARGIN, to_frames, to_tokens
from alignd_kernels.threads import WorkerPool
from alignd_kernels.vector_math import exp_of_negative

FloatArray = npt.NDArray[np.floating]

BLOCK: Final = 16
"""Frames that are turned at once: a cache line of float32 of each token."""

CELL_WORK: Final = 4
"""What a cell costs, in cells of the search for a best path, by which the pool reckons."""


@dataclass(frozen=True, slots=True)
class StepwiseBatch:
    """Padded energies and what is to be done with them.

    Attributes:
        energies: of `dtype.storage`, C-contiguous, [N, S, T], or [N, T, S] where `frames_first`.
        dtype: of the energies.
        tokens: int64 [N], of each item, 0 … S.
        frames: int64 [N], of each item, 0 … T.
        initial: of the accumulator's type, C-contiguous [N, S]: what the attention starts as; None for token 0.
        keep: whether the last token keeps its mass, p = 1; else it loses 1 − p in each frame.
        before: whether the attention starts before frame 0; else in frame 0, whose energies go unused.
        frames_first: which axis of the energies is contiguous; results lie as they do.
    """

    energies: npt.NDArray[np.generic]
    dtype: DType
    tokens: Int64Array
    frames: Int64Array
    initial: FloatArray | None = None
    keep: bool = True
    before: bool = False
    frames_first: bool = False

    @property
    def most_tokens(self) -> int:
        """S."""
        return int(self.energies.shape[2 if self.frames_first else 1])


def forward(batch: StepwiseBatch, pool: WorkerPool | None = None) -> FloatArray:
    """The probability of each token in each frame: of the accumulator's type and the energies' shape, 0 beyond lengths.

    Args:
        batch: items of any lengths, zero included. A NaN among the energies makes NaN what its mass goes to, and no
            other item's.
        pool: shares a batch among threads, item by item; None does all on the calling thread.
    """
    S, kind = batch.most_tokens, batch.dtype.accumulator
    energies, initial, alpha = _energies(batch), _initial(batch), spare.empty(batch.energies.shape, kind)

    def work(cursor: Int64Array) -> None:
        blocks = _scratch(2 * (BLOCK + 1), MARGIN + S, kind).reshape(2, BLOCK + 1, -1)
        _forward_items(
            cursor, energies, batch.tokens, batch.frames, initial, batch.keep, batch.before, batch.frames_first,
            blocks, alpha,
        )  # fmt: skip

    _share(work, batch, pool)
    return alpha


def backward(
    batch: StepwiseBatch, alpha: FloatArray, upstream: FloatArray, pool: WorkerPool | None = None
) -> tuple[FloatArray, FloatArray | None]:
    """Derivatives of sum(upstream · alpha) by the energies, 0 beyond lengths, and by `initial`, None where it is.

    Args:
        batch: as for `forward`.
        alpha: its result.
        upstream: of that type and shape, C-contiguous; what it holds beyond lengths is ignored.
        pool: as for `forward`.
    """
    S, kind = batch.most_tokens, batch.dtype.accumulator
    energies, initial, found = _energies(batch), _initial(batch), spare.empty(batch.energies.shape, kind)
    by_initial = np.zeros_like(initial)
    past, given = unlocked(alpha), unlocked(upstream)

    def work(cursor: Int64Array) -> None:
        blocks = _scratch(4 * (BLOCK + 1), MARGIN + S + 1, kind).reshape(4, BLOCK + 1, -1)
        state = _scratch(1, S, kind)
        _backward_items(
            cursor, energies, batch.tokens, batch.frames, initial, batch.keep, batch.before, batch.frames_first,
            blocks, state, past, given, found, by_initial,
        )  # fmt: skip

    _share(work, batch, pool)
    return found, None if batch.initial is None else by_initial


def hard(batch: StepwiseBatch) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """The token of each frame where every choice is made, int32 [N, T], 0 beyond lengths; and for each item whether
    all energies that decide are numbers.

    Args:
        batch: of which `initial`, `keep` and `before` are not looked at.
    """
    N, T = len(batch.tokens), batch.energies.shape[1 if batch.frames_first else 2]
    paths, good = np.zeros((N, T), np.int32), np.ones(N, np.bool_)
    _hard_items(_energies(batch), batch.tokens, batch.frames, batch.frames_first, paths, good)
    return paths, good


def warm_up(dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from the cache, so that no later call has to."""
    one = np.ones(1, np.int64)
    for dtype in dtypes:
        batch = StepwiseBatch(np.zeros((1, 1, 1), dtype.storage), dtype, one, one)
        alpha = forward(batch)
        backward(batch, alpha, alpha)
        hard(batch)


def _scratch(rows: int, width: int, kind: type[np.floating]) -> FloatArray:
    """Rows that begin at cache lines, of at least this width."""
    line = CACHE_LINE // np.dtype(kind).itemsize
    pitch = -(-width // line) * line
    found: FloatArray = from_cache_line(rows * pitch, kind).reshape(rows, pitch)
    return found


def _share(work: Callable[[Int64Array], None], batch: StepwiseBatch, pool: WorkerPool | None) -> None:
    """Call `work` with a cursor over the items, on as many threads as they are worth."""
    cursor = np.zeros(1, np.int64)
    if pool is None or pool.threads == 1:
        work(cursor)
    else:
        pool.run_everywhere(lambda: work(cursor), batch.tokens * batch.frames * CELL_WORK)


def _energies(batch: StepwiseBatch) -> npt.NDArray[np.generic]:
    return kernel_values(batch.energies, batch.dtype)


def _initial(batch: StepwiseBatch) -> FloatArray:
    """[N, S], or [0, 0] for None, so that one compiled kernel serves both."""
    return np.empty((0, 0), batch.dtype.accumulator) if batch.initial is None else unlocked(batch.initial)


@kernel
def _forward_items(
    cursor, energies, tokens, frames, initial, keep, before, frames_first, blocks, alpha,
):  # fmt: skip
    """The items that `cursor` gives, on this thread."""
    while True:
        n = take_next(cursor)
        if n >= len(tokens):
            break
        S, T = tokens[n], frames[n] if tokens[n] > 0 else 0
        # Rows hold energies, then p, then alpha. Token −1 has no mass. The last row is the one before the block.
        rows, moves = blocks[0], blocks[1]
        rows[:, MARGIN - 1] = 0
        moves[:, MARGIN - 1] = 0
        _begin(rows[BLOCK, MARGIN : MARGIN + S], initial, n)
        reach = S if len(initial) else 1
        for t in range(0, T, BLOCK):
            count = min(BLOCK, T - t)
            _load(energies[n], frames_first, S, t, rows[:count], AHEAD)
            _chances(rows[:count], moves, S, keep)
            for k in range(count):
                row, last = rows[k], rows[k - 1 if k > 0 else BLOCK]
                if t + k == 0 and not before:
                    _copy(last[MARGIN : MARGIN + S], row[MARGIN : MARGIN + S])
                else:
                    _step(row, last, moves[k], S, reach)
                    reach = min(reach + 1, S)
            _copy(rows[count - 1, MARGIN : MARGIN + S], rows[BLOCK, MARGIN : MARGIN + S])
            _store(rows[:count], frames_first, S, t, alpha[n], AHEAD)
        _clear_beyond(alpha[n], frames_first, S, T)


@kernel
def _backward_items(
    cursor, energies, tokens, frames, initial, keep, before, frames_first, blocks, state, alpha, upstream, found,
    by_initial,
):  # fmt: skip
    """The items that `cursor` gives, on this thread."""
    while True:
        n = take_next(cursor)
        if n >= len(tokens):
            break
        S, T = tokens[n], frames[n] if tokens[n] > 0 else 0
        # Row k + 1 of G is the derivative by the alpha of frame t + k, as given, to which the way back adds; row 0 is
        # that of the frame before the block. Behind the last token it is 0: mass that has leaked is in no cell.
        rows, moves, earlier, G = blocks[0], blocks[1], blocks[2], blocks[3]
        G[:, MARGIN + S] = 0
        carried = state[0, :S]
        carried[:] = 0
        for t in range((T - 1) // BLOCK * BLOCK, -1, -BLOCK):
            count = min(BLOCK, T - t)
            _load(energies[n], frames_first, S, t, rows[:count], -AHEAD)
            _chances(rows[:count], moves, S, keep)
            _load(upstream[n], frames_first, S, t, G[1 : count + 1], -AHEAD)
            _add(carried, G[count, MARGIN : MARGIN + S])
            G[0, MARGIN : MARGIN + S] = 0
            if t == 0:
                _begin(earlier[0, MARGIN : MARGIN + S], initial, n)
                _load(alpha[n], frames_first, S, 0, earlier[1:count], -AHEAD)
            else:
                _load(alpha[n], frames_first, S, t - 1, earlier[:count], -AHEAD)
            for k in range(count - 1, -1, -1):
                reach = S if len(initial) else min(t + k + (1 if before else 0), S)
                if t + k == 0 and not before:  # no choice is made there: frame 0 is what the attention starts as
                    reach = 0
                    _copy(G[1, MARGIN : MARGIN + S], G[0, MARGIN : MARGIN + S])
                _step_back(rows[k], moves[k], earlier[k], G[k + 1], G[k], S, reach)
            _copy(G[0, MARGIN : MARGIN + S], carried)
            _store(rows[:count], frames_first, S, t, found[n], -AHEAD)
        _clear_beyond(found[n], frames_first, S, T)
        if len(initial):
            _copy(carried, by_initial[n, :S])


@kernel
def _hard_items(energies, tokens, frames, frames_first, paths, good):
    for n in range(len(tokens)):
        at, T = 0, frames[n] if tokens[n] > 0 else 0
        for t in range(1, T):
            if at == tokens[n] - 1:
                paths[n, t:T] = at
                break
            energy = widen(energies[n, t, at] if frames_first else energies[n, at, t])
            if np.isnan(energy):
                good[n] = False
            at += 0 if energy > 0 else 1
            paths[n, t] = at


@part
def _begin(alpha, initial, n):
    """What the attention starts as."""
    if len(initial):
        _copy(initial[n, : len(alpha)], alpha)
    else:
        alpha[:] = 0
        alpha[:1] = 1


@part
def _chances(rows, moves, S, keep):
    """The chance to stay in place of each energy of a block's rows, and that to move on."""
    one = rows.dtype.type(1)
    for k in range(len(rows)):
        row, move = rows[k, MARGIN : MARGIN + S], moves[k, MARGIN : MARGIN + S]
        for j in range(S):
            energy = row[j]
            z = exp_of_negative(-abs(energy))
            likelier = one / (one + z)
            other = likelier * z
            row[j] = likelier if energy > 0 else other
            move[j] = other if energy > 0 else likelier
        if keep:
            row[S - 1] = one
            move[S - 1] = 0


@part
def _step(row, last, moves, S, reach):
    """One frame: p, in `row`, gives way to alpha; `last` holds that of the frame before, of which only the first
    `reach` tokens have had mass. Loops run over arrays cut to what they need, at most four of them, here and below:
    LLVM vectorises no others."""
    end = MARGIN + reach
    _join(row[MARGIN:end], last[MARGIN:end], last[MARGIN - 1 : end - 1], moves[MARGIN - 1 : end - 1])
    row[end : MARGIN + S] = 0
    if reach < S:
        row[end] = last[end - 1] * moves[end - 1]


@part
def _join(row, last, left, moves):
    for j in range(len(row)):
        row[j] = last[j] * row[j] + left[j] * moves[j]


@part
def _step_back(row, moves, earlier, G, G_before, S, reach):
    """One frame of the way back: p, in `row`, gives way to the derivative by its energy; `earlier` is the alpha of the
    frame before, `G` the derivative by this frame's alpha. What that by the frame before's has of it is added, for the
    `reach` tokens that had mass there."""
    end = MARGIN + reach
    _spread(row[MARGIN:end], moves[MARGIN:end], earlier[MARGIN:end], G[MARGIN : end + 1], G_before[MARGIN:end])
    row[end : MARGIN + S] = 0


@part
def _spread(row, moves, earlier, G, G_before):
    for j in range(len(row)):
        p, q, stay, move = row[j], moves[j], G[j], G[j + 1]
        row[j] = earlier[j] * (stay - move) * (p * q)
        G_before[j] += p * stay + q * move


@part
def _add(what, to):
    for j in range(len(what)):
        to[j] += what[j]


@part
def _copy(what, to):
    for j in range(len(to)):
        to[j] = what[j]


@part
def _load(source, frames_first, S, t, rows, ahead):
    """Frames t … t + len(rows) − 1 of an item as rows over its tokens, widened."""
    if frames_first:
        for k in range(len(rows)):
            own, row = source[t + k, :S], rows[k, MARGIN : MARGIN + S]
            for s in range(S):
                row[s] = widen(own[s])
    else:
        to_tokens(source, S, t, rows, ahead)


@part
def _store(rows, frames_first, S, t, target, ahead):
    """The reverse of `_load`."""
    if frames_first:
        for k in range(len(rows)):
            _copy(rows[k, MARGIN : MARGIN + S], target[t + k, :S])
    else:
        to_frames(rows, S, t, target, ahead)


@part
def _clear_beyond(target, frames_first, S, T):
    first, second = (T, S) if frames_first else (S, T)
    target[:first, second:] = 0
    target[first:] = 0
