# mypy: allow-untyped-defs
"""Stepwise monotonic attention on the CPU (Numba): expectations, their gradients, and hard paths.

A frame is a loop over tokens, sixteen frames a block, which is turned on its way in and out where frames are
contiguous. The gradient's way back reads the energies anew: a sigmoid costs less than memory for its result would.

Numbers, with ulp = 2⁻²³ (2⁻⁵² for float64): all that is summed is positive, and a step multiplies each term by at most
1 + 6 ulp (p is within 2.1 ulp, 1 − p within 4.8, of what they are; a product, a sum), so expectations are off by at
most 6 · T ulp, relative, after T frames. The smaller of p and 1 − p counts as 0 below 2⁻¹⁰⁰ (2⁻¹⁰⁰⁰): where energies
are beyond 69 (693). A probability that falls below the type's smallest normal number loses digits and then is 0.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.compile_cache import kernel, part
from alignd_kernels.dtypes import DType
from alignd_kernels.numba_helpers import kernel_values, take_next, unlocked, widen
from alignd_kernels.ragged import Int64Array
from alignd_kernels.stepwise.turn import to_frames, to_tokens
from alignd_kernels.threads import WorkerPool
from alignd_kernels.vector_math import exp_parts, power_of_two

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
    energies, initial, alpha = _energies(batch), _initial(batch), np.empty(batch.energies.shape, kind)

    def work(cursor: Int64Array) -> None:
        rows, state = np.empty((BLOCK, S), kind), np.empty((2, S + 1), kind)
        _forward_items(
            cursor, energies, batch.tokens, batch.frames, initial, batch.keep, batch.before, batch.frames_first,
            rows, state, alpha,
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
    energies, initial, found = _energies(batch), _initial(batch), np.empty(batch.energies.shape, kind)
    by_initial = np.zeros_like(initial)
    past, given = unlocked(alpha), unlocked(upstream)

    def work(cursor: Int64Array) -> None:
        blocks, state = np.empty((3, BLOCK, S), kind), np.empty(S + 1, kind)
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
    cursor, energies, tokens, frames, initial, keep, before, frames_first, rows, state, alpha,
):  # fmt: skip
    """The items that `cursor` gives, on this thread."""
    while True:
        n = take_next(cursor)
        if n >= len(tokens):
            break
        S, T = tokens[n], frames[n]
        last, moving = state[0, :S], state[1, : S + 1]
        _begin(last, initial, n)
        reach = S if len(initial) else min(1, S)
        for t in range(0, T, BLOCK):
            count = min(BLOCK, T - t)
            _load(energies[n], frames_first, S, t, rows[:count])
            for k in range(count):
                if t + k == 0 and not before:
                    _copy(last, rows[0, :S])
                else:
                    _step(rows[k, :S], last, moving, reach, keep)
                    reach = min(reach + 1, S)
            _store(rows[:count], frames_first, S, t, alpha[n])
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
        S, T = tokens[n], frames[n]
        rows, given, earlier = blocks[0], blocks[1], blocks[2]
        G = state[: S + 1]
        G[:] = 0
        for t in range((T - 1) // BLOCK * BLOCK, -1, -BLOCK):
            count = min(BLOCK, T - t)
            _load(energies[n], frames_first, S, t, rows[:count])
            _load(upstream[n], frames_first, S, t, given[:count])
            if t == 0:
                _begin(earlier[0, :S], initial, n)
                _load(alpha[n], frames_first, S, 0, earlier[1:count])
            else:
                _load(alpha[n], frames_first, S, t - 1, earlier[:count])
            for k in range(count - 1, -1, -1):
                _add(given[k, :S], G)
                reach = S if len(initial) else min(t + k + (1 if before else 0), S)
                if t + k == 0 and not before:
                    reach = 0
                _step_back(rows[k, :S], earlier[k, :S], G, reach, keep)
            _store(rows[:count], frames_first, S, t, found[n])
        _clear_beyond(found[n], frames_first, S, T)
        if len(initial):
            _copy(G[:S], by_initial[n, :S])


@kernel
def _hard_items(energies, tokens, frames, frames_first, paths, good):
    for n in range(len(tokens)):
        at = 0
        for t in range(1, frames[n]):
            if at == tokens[n] - 1:
                paths[n, t : frames[n]] = at
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
def _step(row, last, moving, reach, keep):
    """One frame: `row` holds its energies, and then its alpha, as `last` does then, in place of the frame before's.

    Only the first `reach` tokens have had mass. Loops run over arrays cut to what they need, at most four of them, here
    and below: LLVM vectorises no others.
    """
    S = len(row)
    moving[0] = 0
    _part(row[:reach], last[:reach], moving[1 : reach + 1])
    if keep and reach == S and S > 0:
        row[S - 1] = last[S - 1]
    row[reach:] = 0
    _gather(row[: reach + 1], moving, last)


@part
def _part(row, last, moving):
    """What stays of each token's mass, in place of its energy, and what moves on."""
    one = row.dtype.type(1)
    for j in range(len(row)):
        energy = row[j]
        f, n = exp_parts(-abs(energy))
        z = f * power_of_two(n)
        large = one / (one + (z if energy == energy else energy))
        small = z * large
        stays = energy > 0
        row[j] = last[j] * (large if stays else small)
        moving[j] = last[j] * (small if stays else large)


@part
def _gather(row, moving, last):
    for j in range(len(row)):
        alpha = row[j] + moving[j]
        row[j] = alpha
        last[j] = alpha


@part
def _step_back(row, earlier, G, reach, keep):
    """One frame of the way back: `row` holds its energies, and then the derivative by them; `earlier` the alpha of the
    frame before; G the derivative by this frame's alpha, one 0 behind it, and then that by the frame before's, of those
    `reach` tokens that had mass there."""
    S = len(row)
    held = G[S - 1] if S > 0 else G[S]
    _part_back(row[:reach], earlier[:reach], G)
    row[reach:] = 0
    if keep and reach == S and S > 0:
        row[S - 1] = 0
        G[S - 1] = held


@part
def _part_back(row, earlier, G):
    one = row.dtype.type(1)
    for j in range(len(row)):
        energy = row[j]
        f, n = exp_parts(-abs(energy))
        z = f * power_of_two(n)
        large = one / (one + (z if energy == energy else energy))
        small = z * large
        stays = energy > 0
        stay, move = G[j], G[j + 1]
        row[j] = earlier[j] * (stay - move) * (large * small)
        G[j] = (large if stays else small) * stay + (small if stays else large) * move


@part
def _add(what, to):
    for j in range(len(what)):
        to[j] += what[j]


@part
def _copy(what, to):
    for j in range(len(to)):
        to[j] = what[j]


@part
def _load(source, frames_first, S, t, rows):
    """Frames t … t + len(rows) − 1 of an item as rows over its tokens, widened."""
    if frames_first:
        for k in range(len(rows)):
            own, row = source[t + k, :S], rows[k, :S]
            for s in range(S):
                row[s] = widen(own[s])
    else:
        to_tokens(source, S, t, rows)


@part
def _store(rows, frames_first, S, t, target):
    """The reverse of `_load`."""
    if frames_first:
        for k in range(len(rows)):
            _copy(rows[k, :S], target[t + k, :S])
    else:
        to_frames(rows, S, t, target)


@part
def _clear_beyond(target, frames_first, S, T):
    first, second = (T, S) if frames_first else (S, T)
    target[:first, second:] = 0
    target[first:] = 0
