# mypy: allow-untyped-defs
"""Dynamic time warping of one map: forward strip by strip of tokens, and back (Numba).

A strip of `LANES` tokens is walked over all its diagonals before the next one is, which needs of it the last token's
score at each frame. Two bits a cell say where its best path comes from. Values are gathered `ROWS` diagonals at a time,
so that they are still in the nearest cache when they are used.
"""

from typing import Final

import numpy as np

from alignd_kernels.attention.dtw_tile import LANES, advance, gather_border, gather_inner
from alignd_kernels.compile_cache import part
from alignd_kernels.numba_helpers import array_at, lanes, widen

ROWS: Final = 64
"""Diagonals that are gathered at a time: 8 KiB of float32."""

STATE: Final = 2 * LANES
EDGES: Final = 2 * LANES
"""Of `edges`, what is beyond the frames: before the first one, and of the lanes that are behind."""

LANES_BITS: Final = LANES.bit_length() - 1


@part(inline=True)
def strip_diagonals(T):
    """Diagonals of a strip, whose last lane is `LANES` − 1 behind the first."""
    return T + LANES - 1


@part(inline=True)
def path_words(S, T):
    """Words of an item's back-pointers."""
    return (S + LANES - 1) // LANES * strip_diagonals(T) * 2


@part
def _gather(address, pitch, S, T, model, token, diagonal, rows, room):
    """The next `rows` diagonals of a strip that begins with `token`; −inf where there is no cell."""
    N, size = lanes(model), model.itemsize
    for r in range(0, rows, N):
        for lane in range(0, LANES, N):
            frame = diagonal + r - lane
            cells = address + ((token + lane) * pitch + frame) * size
            skew = (pitch - 1) * size
            left = S - token - lane
            if frame >= N - 1 and frame + N <= T and left >= N:
                gather_inner(model, cells, skew, 0, 0, 0, room, r * LANES + lane)
            else:
                gather_border(model, cells, skew, -frame, T - frame, left, room, r * LANES + lane)


@part
def forward(address, pitch, S, T, model, room, state, edges, steps):
    """Scores of the best paths.

    Args:
        address: of cell (0, 0).
        pitch: elements from a token's row to the next.
        model: array of the values' type.
        room: scratch of the accumulator's type, [ROWS, LANES].
        state: scratch, [STATE].
        edges: scratch, [T + EDGES].
        steps: uint32, [strips, strip_diagonals, 2], filled.

    Returns:
        the score of the last cell.
    """
    stride = strip_diagonals(T)
    edges[: T + EDGES] = -np.inf
    edges[LANES - 1] = 0.0  # a path begins as if it came by the diagonal into (0, 0)
    last = (S - 1) & (LANES - 1)
    for strip in range((S + LANES - 1) // LANES):
        token = strip * LANES
        state[:] = -np.inf
        state[LANES] = edges[LANES - 1]
        stop = stride if token + LANES < S else T + last
        for diagonal in range(0, stop, ROWS):
            rows = min(ROWS, stop - diagonal)
            _gather(address, pitch, S, T, model, token, diagonal, rows, room)
            advance(room, rows, state, edges, LANES + diagonal, steps, 2 * (strip * stride + diagonal))
    return state[last]


@part
def backward(address, pitch, S, T, model, steps, path_scores, starts, ends):
    """Follow the back-pointers from the last cell to the first.

    Args:
        path_scores: scratch of the accumulator's type, [S + T].
        starts: int32 [S], filled.
        ends: int32 [S], filled.

    Returns:
        the path's sum in its own order, in float64.
    """
    stride = strip_diagonals(T)
    i, j = S - 1, T - 1
    cells = 0
    ends[i] = T
    while True:
        starts[i] = j
        path_scores[cells] = widen(array_at(address + (i * pitch + j) * model.itemsize, 1, model)[0])
        cells += 1
        if i == 0 and j == 0:
            break
        lane = i & (LANES - 1)
        word = 2 * ((i >> LANES_BITS) * stride + j + lane)
        above = np.int64((steps[word] >> np.uint32(lane)) & np.uint32(1))
        slanted = np.int64((steps[word + 1] >> np.uint32(lane)) & np.uint32(1))
        i -= above | slanted
        j -= 1 - above
        ends[i] = max(ends[i], j + 1)
    total = 0.0
    for k in range(cells - 1, -1, -1):
        total += np.float64(path_scores[k])
    return total
