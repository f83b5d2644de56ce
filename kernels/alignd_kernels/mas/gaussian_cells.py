# mypy: allow-untyped-defs
"""Lattices of Gaussian log-likelihoods, strip by strip (Numba).

A strip is as many tokens as the search's. Its Gaussians are turned into weights that stay in the caches while the
frames at which legal paths can visit it pass; no other cells are computed, but for those in tiles of the search at the
band's border, which it reads.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.compile_cache import kernel, part
from alignd_kernels.dtypes import DType
from alignd_kernels.mas.gaussian_tile import block_frames, block_vectors, fill_one, fill_two
from alignd_kernels.mas.tile import STRIP_VECTORS
from alignd_kernels.numba_helpers import array_at, lane_count, lanes, model_of, take_next, widen
from alignd_kernels.ragged import Int64Array
from alignd_kernels.scratch import from_cache_line
from alignd_kernels.vector_math import exp

FIELDS: Final = 14
"""Of an item: address and steps in bytes (row, channel) of z, of mean, of log_sigma (address 0: none); S, T, C; address
and pitch in bytes of its cells."""

Z, MEAN, LOG_SIGMA, TOKENS, FRAMES, CHANNELS, CELLS, PITCH = 0, 3, 6, 9, 10, 11, 12, 13

HALF_LOG_2_PI: Final = 0.5 * np.log(2 * np.pi)


def fill(dtype: DType, items: Int64Array, tasks: Int64Array, cursor: Int64Array) -> None:
    """The cells of the strips that `cursor` gives, on this thread.

    Args:
        dtype: of means and log_sigmas; z is of the accumulator's.
        items: int64 [FIELDS, B].
        tasks: int64 [2, n], item and strip.
        cursor: int64 [1], shared by the threads.
    """
    accumulator, width = dtype.accumulator, STRIP_VECTORS * lane_count(dtype)
    C = int(items[CHANNELS, tasks[0]].max(initial=0))
    weights, constants = from_cache_line(2 * C * width, accumulator), from_cache_line(width, accumulator)
    model = model_of(DType(np.dtype(accumulator).name))
    _fill(model_of(dtype), model, items, tasks, cursor, weights, constants, np.empty(width, np.float64))


def widened(dtype: DType, items: Int64Array, cursor: Int64Array, out: npt.NDArray[Any], starts: Int64Array) -> None:
    """The latents of the items that `cursor` gives in the accumulator's type, on this thread: into `out`, an item's
    from its start on, row-major."""
    _widened(model_of(dtype), items, cursor, out, starts)


@kernel
def _widened(stored, items, cursor, out, starts):
    size = stored.itemsize
    while True:
        b = take_next(cursor)
        if b >= items.shape[1]:
            break
        z, row, step, C = items[Z, b], items[Z + 1, b], items[Z + 2, b], items[CHANNELS, b]
        for t in range((starts[b + 1] - starts[b]) // max(C, 1)):
            own = out[starts[b] + t * C : starts[b] + (t + 1) * C]
            if step == size:
                values = array_at(z + t * row, C, stored)
                for c in range(C):
                    own[c] = widen(values[c])
            else:
                for c in range(C):
                    own[c] = widen(array_at(z + t * row + c * step, 1, stored)[0])


@kernel
def _fill(stored, model, items, tasks, cursor, weights, constants, totals):
    N = lanes(model)
    while True:
        task = take_next(cursor)
        if task >= tasks.shape[1]:
            break
        b, token = tasks[0, task], tasks[1, task] * STRIP_VECTORS * N
        S, T = items[TOKENS, b], items[FRAMES, b]
        # Whole tiles of the search, which lie on a grid of N frames.
        begin, end = token // N * N, min(T, (T - S + token + STRIP_VECTORS * N + N - 1) // N * N)
        for vector in range(0, STRIP_VECTORS, block_vectors(model)):
            first = token + vector * N
            if first >= S:
                break
            vectors = min(block_vectors(model), (S - first + N - 1) // N)
            _weigh(stored, items[:, b], first, vectors * N, weights, constants, totals)
            _fill_frames(model, items[:, b], first, vectors, begin, end, weights, constants)


@part
def _weigh(stored, item, first, width, weights, constants, totals):
    """Weights [C, 2, width] and constants [width] of the tokens from `first` on; the last one's again for those beyond.

    Rows are turned as they are, then channels, which are contiguous by then, computed: loops of the second kind become
    vectors.
    """
    last, C, given = item[TOKENS] - 1, item[CHANNELS], item[LOG_SIGMA] != 0
    for i in range(width):
        s = min(first + i, last)
        mean, log_sigma = item[MEAN] + s * item[MEAN + 1], item[LOG_SIGMA] + s * item[LOG_SIGMA + 1]
        for c in range(C):
            weights[(2 * c + 1) * width + i] = widen(array_at(mean + c * item[MEAN + 2], 1, stored)[0])
        if given:
            for c in range(C):
                weights[2 * c * width + i] = widen(array_at(log_sigma + c * item[LOG_SIGMA + 2], 1, stored)[0])
    totals[:width] = C * HALF_LOG_2_PI
    for c in range(C):
        inverse = weights[2 * c * width : (2 * c + 1) * width]
        shift = weights[(2 * c + 1) * width : (2 * c + 2) * width]
        if given:
            for i in range(width):
                totals[i] += np.float64(inverse[i])
            for i in range(width):
                inverse[i] = exp(-inverse[i])
            for i in range(width):
                shift[i] = -shift[i] * inverse[i]
        else:
            inverse[:] = 1
            for i in range(width):
                shift[i] = -shift[i]
    for i in range(width):
        constants[i] = -totals[i]


@part
def _fill_frames(model, item, first, vectors, begin, end, weights, constants):
    """The cells of `vectors` · N tokens at frames begin … end − 1."""
    z, frame_step, channel_step, C = item[Z], item[Z + 1], item[Z + 2], item[CHANNELS]
    cells, pitch, last = item[CELLS] + first * model.itemsize, item[PITCH], end - 1
    own_weights, own_constants = weights.ctypes.data, constants.ctypes.data
    for frame in range(begin, end, block_frames(model)):
        if vectors == 2:
            fill_two(model, z, frame_step, channel_step, C, own_weights, own_constants, cells, pitch, frame, last)
        else:
            fill_one(model, z, frame_step, channel_step, C, own_weights, own_constants, cells, pitch, frame, last)
