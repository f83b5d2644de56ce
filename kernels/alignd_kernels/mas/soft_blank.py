# mypy: allow-untyped-defs
"""Sums over all paths of monotonic alignment search with a blank before, between and after the tokens (Numba).

This is CTC's lattice of the targets 1 … S, in which no label repeats, and whose blank has one score throughout. Scores
are taken relative to a level of each frame, so that no sum grows with what all of a frame have in common. In each
frame, junction k (blank k, or the step from token k − 1 to token k) gathers blank k and token k − 1 of the frame
before, and token k gathers itself and junction k.
Columns, shares and the way back are those of `cpu_sum`, and its numbers hold with 6 · T ulp and 12 · T ulp, since a
frame has two sums.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.compile_cache import kernel, part
from alignd_kernels.dtypes import DType
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.mas.cpu_sum import add, end_token, first_token, split
from alignd_kernels.numba_helpers import addresses_of, array_at, model_of, take_next, widen
from alignd_kernels.ragged import Int64Array
from alignd_kernels.sums import BLOCK, normalise, summed
from alignd_kernels.threads import WorkerPool
from alignd_kernels.vector_math import exp_parts, power_of_two

CELL_WORK: Final = 16
"""What a cell, with its junction, costs in cells of the search for the best path."""


def sums(
    batch: MasBatch,
    blank: float,
    levels: npt.NDArray[np.floating],
    starts: Int64Array,
    out: npt.NDArray[np.floating],
    rows: tuple[Int64Array, Int64Array],
    factor: int,
    pool: WorkerPool | None,
) -> npt.NDArray[np.float64]:
    """Log-likelihood of each item less its frames' levels, float64 [B], and its tokens' posteriors times a factor
    written to `out`.

    It is −inf where there is no path of finite score. NaN and +inf in scores are the caller's to find.

    Args:
        batch: the items, `frames_first`.
        blank: score of the blank; −inf for none.
        levels: of the accumulator's type [starts[-1]], finite: what is taken off a frame's scores, the blank's too.
        starts: int64 [B + 1], where an item's frames begin in it.
        out: of the accumulator's type, 1-D and zero.
        rows: int64 [B] each, where in `out` an item's first row begins, and how far it is to the next.
        factor: what posteriors are multiplied by; 0 leaves `out` alone.
        pool: shares the items among threads.
    """
    kept, addresses = addresses_of(batch.values, batch.dtype, batch.sources, batch.offsets)
    items = np.empty((7, len(batch)), np.int64)
    for field, given in enumerate((addresses, batch.tokens, batch.frames, batch.pitches, *rows, starts[:-1])):
        items[field] = given
    totals = np.full(len(batch), -np.inf)
    cells = items[1] * items[2] * ((items[1] > 0) & (items[1] <= items[2]))
    S = int(items[1].max(initial=0))
    words = int((cells + items[2]).max(initial=0)) if factor else 0
    cursor = np.zeros(1, np.int64)

    def work() -> None:
        kind = batch.dtype.accumulator
        columns, back = np.empty((4, S + 1), kind), np.empty((3, S + 1), kind)
        junctions, unused = np.empty(max(words, S + 1), kind), np.empty(S, kind)
        _sum_items(
            model_of(batch.dtype), items, kind(blank), levels, kind(factor), cursor, columns, back, junctions, unused,
            out, totals,
        )  # fmt: skip

    if pool is None or pool.threads == 1:
        work()
    else:
        pool.run_everywhere(work, cells * CELL_WORK)
    del kept
    return totals


def warm_up(dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernels for these types, or load them from the cache, so that no later call has to."""
    one = np.ones(1, np.int64)
    for dtype in dtypes:
        batch = MasBatch(np.zeros(1, dtype.storage), dtype, one - 1, one, one, one, frames_first=True)
        levels = np.zeros(1, dtype.accumulator)
        sums(batch, -1.0, levels, np.arange(2), levels.copy(), (one - 1, one), 1, None)


@kernel
def _sum_items(model, items, blank, levels, factor, cursor, columns, back, junctions, unused, out, totals):
    """The items that `cursor` gives, on this thread. See `sums`."""
    while True:
        b = take_next(cursor)
        if b >= items.shape[1]:
            break
        S, T = items[1, b], items[2, b]
        own = levels[items[6, b] : items[6, b] + max(T, 0)]
        if S <= 0 or S > T:
            if S == 0 and T >= 0:
                totals[b] = _of_blanks(blank, own)
            continue
        tokens, place = (out, (items[4, b], items[5, b])) if factor else (unused, (0, 0))
        apart = S + 1 if factor else 0
        cells = (items[0, b], S, T, items[3, b])
        found, last = _forward(cells, model, blank, own, columns, tokens, place, junctions, apart)
        if np.isfinite(found):
            totals[b] = found
            if factor:
                _backward(S, T, last, back, tokens, place, junctions, factor)
        elif factor:
            for t in range(T):
                out[place[0] + t * place[1] : place[0] + t * place[1] + S] = 0


@part
def _of_blanks(blank, levels):
    """The one path of an item without tokens."""
    total = 0.0
    for t in range(len(levels)):
        total += np.float64(blank) - np.float64(levels[t])
    return total


@part
def _forward(cells, model, blank, levels, columns, tokens, place, junctions, apart):
    """Log-likelihood less the levels, and the share of it that ends in the last token; the shares of all cells."""
    address, S, T, pitch = cells
    columns[0] = 1
    columns[1] = -np.inf
    columns[2] = 1
    columns[3] = -np.inf
    columns[3, 0] = 0  # the virtual blank before frame 0
    for t in range(T):
        begin, end, over = first_token(t, S, T), end_token(t, S), min(S, t) + 1
        # Token s stands at s + 1, so that at s stands what junction s gathers.
        before = columns[0, begin:over], columns[1, begin:over]
        own = columns[0, begin + 1 : end + 1], columns[1, begin + 1 : end + 1]
        blanks = columns[2, begin:over], columns[3, begin:over]
        shares = junctions[t * apart + begin : t * apart + over]
        _copy(before[0], shares)
        _merge(blanks[0], blanks[1], shares, before[1])
        shares = tokens[place[0] + t * place[1] + begin : place[0] + t * place[1] + end]
        _copy(blanks[0][: end - begin], shares)
        _merge(own[0], own[1], shares, blanks[1])
        row = array_at(address + (t * pitch + begin) * model.itemsize, end - begin, model)
        _emit(own[0], own[1], row, levels[t])
        f, n = exp_parts(blank - levels[t])
        _weigh(blanks[0], blanks[1], f, n)
        if t % BLOCK == BLOCK - 1:
            normalise(own[0], own[1])
            normalise(blanks[0], blanks[1])
    in_token, in_blank = _logarithm(columns[0, S], columns[1, S]), _logarithm(columns[2, S], columns[3, S])
    top = max(in_token, in_blank)
    if not np.isfinite(top):
        return top, 0.0
    found = summed(top + np.log(np.exp(in_token - top) + np.exp(in_blank - top)), columns)
    if not np.isfinite(found):
        return found, 0.0
    return found, np.exp(in_token - found)


@part
def _logarithm(m, e):
    return np.log(np.float64(m)) + np.float64(e) * np.log(2.0)


@part
def _copy(source, to):
    for k in range(len(to)):
        to[k] = source[k]


@part
def _merge(M, E, others, E_others):
    """Add to M · 2^E what has the mantissas `others`, in whose place is put which share of the sum was there before.

    One array less than with the shares beside the mantissas: LLVM vectorises no loop over five of them.
    """
    for k in range(len(M)):
        top = E[k] if E[k] > E_others[k] else E_others[k]
        stay = M[k] * power_of_two(E[k] - top)
        both = stay + others[k] * power_of_two(E_others[k] - top)
        others[k] = stay / both if both > 0 else both
        M[k] = both
        E[k] = top


@part
def _emit(M, E, row, level):
    for k in range(len(M)):
        f, n = exp_parts(widen(row[k]) - level)
        M[k] *= f
        E[k] += n


@part
def _weigh(M, E, f, n):
    for k in range(len(M)):
        M[k] *= f
        E[k] += n


@part
def _backward(S, T, last, back, tokens, place, junctions, factor):
    """Put each token's posterior times the factor in place of its share; `last` is how likely the last token ends."""
    in_tokens, in_blanks, moving = back[0, : S + 1], back[1, : S + 1], back[2, : S + 1]
    in_tokens[:] = 0
    in_blanks[:] = 0
    in_tokens[S - 1] = last
    in_blanks[S] = 1 - last
    for t in range(T - 1, -1, -1):
        begin, end, over = first_token(t, S, T), end_token(t, S), min(S, t) + 1
        shares = tokens[place[0] + t * place[1] + begin : place[0] + t * place[1] + end]
        split(shares, in_tokens[begin:end], moving[begin:end], factor)
        add(in_blanks[begin:end], moving[begin:end])  # by way of the junctions
        shares = junctions[t * (S + 1) + begin : t * (S + 1) + over]
        split(shares, in_blanks[begin:over], moving[begin:over], factor)
        first = max(begin, 1)
        add(in_tokens[first - 1 : over - 1], moving[first:over])
