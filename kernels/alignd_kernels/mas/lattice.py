# mypy: allow-untyped-defs
"""The monotonic lattice of one item, block by block (Numba).

A strip of 2N tokens needs of the one to its left V of that one's last token at each frame, which is left in `edges`.
Where frames are contiguous, a strip is walked over all frames at which legal paths can visit it before the next strip
is; where tokens are, all strips are walked over N frames before the next frames are: rows are read from end to end.
One bit per cell says whether the best path comes from the token before.

Frames are cut into tiles of N on a grid: frame t is at t + ahead, with `ahead` such that tiles begin where cache lines
do. An item is described by a tuple (address, S, T, pitch, ahead, tiles, later): pitch in elements, tiles per strip at
most, `later` the address of the item that is walked after it.
"""

import numpy as np
from numba import njit
from numba.extending import register_jitable

from alignd_kernels.mas.tile import STRIP_VECTORS, advance_border, advance_inner, advance_last
from alignd_kernels.numba_helpers import array_at, lanes, widen

_inner, _inner_turned = advance_inner[False], advance_inner[True]
_border, _border_turned = advance_border[False], advance_border[True]

FETCH_BYTES = 512
"""How far ahead of a row's tile its later ones are fetched. Measured: 128 is too late, 1024 no better."""


@register_jitable
def strip_count(S, N):
    """Strips of S tokens."""
    return (S + STRIP_VECTORS * N - 1) // (STRIP_VECTORS * N)


@register_jitable
def strip_tiles(S, T, N):
    """Tiles that a strip's frames, T − S + 2N of them, touch at most, wherever the grid begins."""
    return (T - S + STRIP_VECTORS * N + 2 * N - 2) // N


@register_jitable
def item_words(S, T, N):
    """Words of an item's back-pointers."""
    return strip_count(S, N) * strip_tiles(S, T, N) * (STRIP_VECTORS * N)


@njit(nogil=True)
def begin(item, V, edges):
    """Before the first frame: a path starts left of token 0."""
    S, T, ahead = item[1], item[2], item[4]
    N = lanes(V)
    V[: S + STRIP_VECTORS * N] = -np.inf
    edges[: T + 2 * N] = -np.inf
    edges[ahead] = 0.0


@njit(nogil=True)
def forward(item, frames_first, exact, model, first_strip, end_strip, first_tile, end_tile, V, edges, bits):
    """Walk the band's tiles in the given strips and tiles of the grid.

    Args:
        exact: leave out cells beyond the band. Else those in tiles at its borders are read too: they change no V inside
            unless one is NaN or +inf, which the result tells.
        V: of each token at the frame before the block; then at its last one.
        edges: accumulators, at t + ahead: V of the token left of the block at frame t − 1; then of the block's last.
        bits: uint16, [strips, tiles, N, 2], filled where the band is.

    Returns:
        whether V of a strip was NaN or +inf when it left the band (both stay in a token's row once they are there, and
        besides such scores only overflow brings them there).
    """
    address, _, _, pitch, _, _, later = item
    size = model.itemsize
    N = lanes(V)
    row = pitch * size
    suspect = False
    if frames_first:
        # All tokens of N frames, then of the next ones: rows are read from end to end here too.
        stop = _tiles_of(item, end_strip - 1, N)[1]
        for tile in range(first_tile, min(end_tile, stop)):
            fetch = N * row if tile + 1 < stop else later - address - tile * N * row
            for strip in range(first_strip, end_strip):
                first, end = _tiles_of(item, strip, N)
                if first <= tile < end:
                    _advance(item, True, exact, model, strip, tile, tile - first, fetch, V, edges, bits)
                    if tile + 1 == end:
                        suspect |= _leave(item, strip, end, V, edges)
        return suspect
    for strip in range(first_strip, end_strip):
        first, end = _tiles_of(item, strip, N)
        begin, stop = max(first, first_tile), min(end, end_tile)
        # Rows are far apart, which hardware does not foresee. After them come the next strip's, or the next item's.
        near = max(begin, stop - FETCH_BYTES // (N * size))
        if strip + 1 < end_strip:
            after = STRIP_VECTORS * N * row + (max(_tiles_of(item, strip + 1, N)[0], first_tile) - near) * N * size
        else:
            after = later - address - strip * STRIP_VECTORS * N * row - near * N * size
        for tile in range(begin, stop):
            fetch = FETCH_BYTES if tile < near else after
            _advance(item, False, exact, model, strip, tile, tile - first, fetch, V, edges, bits)
        if first_tile < end <= end_tile:
            suspect |= _leave(item, strip, end, V, edges)
    return suspect


@register_jitable
def _tiles_of(item, strip, N):
    """The first of a strip's tiles in the grid, and the one after its last."""
    _, S, T, _, ahead, _, _ = item
    token = strip * STRIP_VECTORS * N
    return (token + ahead) // N, (min(T, T - S + token + STRIP_VECTORS * N) - 1 + ahead) // N + 1


@register_jitable
def _leave(item, strip, end, V, edges):
    """After a strip's last tile."""
    N = lanes(V)
    P = STRIP_VECTORS * N
    token = strip * P
    edges[end * N] = V[token + P - 1]  # what the next strip may need in the tile after
    suspect = False
    for i in range(P):
        suspect |= not V[token + i] < np.inf
    return suspect


@njit(nogil=True, inline="always")  # called for each tile: 1.2 times as long
def _advance(item, frames_first, exact, model, strip, tile, nth, fetch, V, edges, bits):
    """Walk a tile of the grid, the `nth` of its strip; what is `fetch` bytes after its rows is wanted soon."""
    address, S, T, pitch, ahead, tiles, _ = item
    N = lanes(V)
    P = STRIP_VECTORS * N
    size, V_size = model.itemsize, V.itemsize
    token, frame, spare = strip * P, tile * N - ahead, T - S
    cells = address + (token + frame * pitch if frames_first else token * pitch + frame) * size
    V_here, edges_here = V.ctypes.data + token * V_size, edges.ctypes.data + tile * N * V_size
    bits_here = bits.ctypes.data + 2 * P * (strip * tiles + nth)
    inside = frame >= token + P - 1 and frame + N - 1 <= spare + token if exact else 0 <= frame <= T - N
    if inside and token + P <= S:
        if frames_first:
            _inner_turned(model, cells, pitch * size, V_here, edges_here, bits_here, fetch, 0, 0, 0, 0)
        else:
            _inner(model, cells, pitch * size, V_here, edges_here, bits_here, fetch, 0, 0, 0, 0)
        return
    for k in range(STRIP_VECTORS):
        own = token + k * N
        if own >= S:
            break
        enter, leave = own - frame, spare + own - frame
        to_own = k * N * size * (1 if frames_first else pitch)
        own_cells, own_V, own_bits, row = cells + to_own, V_here + k * N * V_size, bits_here + 2 * k, pitch * size
        if inside and not exact and not frames_first:
            advance_last(model, own_cells, row, own_V, edges_here, own_bits, fetch, 0, 0, S - own, 0)
        elif frames_first:
            _border_turned(model, own_cells, row, own_V, edges_here, own_bits, fetch, enter, leave, S - own, T - frame)
        else:
            _border(model, own_cells, row, own_V, edges_here, own_bits, fetch, enter, leave, S - own, T - frame)


@njit(nogil=True)
def backward(item, frames_first, model, bits, durations, path, scores):
    """Follow the back-pointers from the last cell to the first, token by token.

    Args:
        durations: [S], filled.
        path: [T], filled with the token of each frame; or [0].
        scores: accumulators [T], filled with the path's scores.
    """
    address, S, T, pitch, ahead, tiles, _ = item
    N = lanes(scores)
    P = STRIP_VECTORS * N
    along = (pitch if frames_first else 1) * model.itemsize
    across = (1 if frames_first else pitch) * model.itemsize
    t = T - 1
    for s in range(S - 1, -1, -1):
        # A strip's words follow each other frame by frame, so that only a token's first look-up has to be worked out.
        strip = s // P
        before = STRIP_VECTORS * N * (strip * tiles - (strip * P + ahead) // N) + s % P // N
        lane = s % N
        row = address + s * across
        last = t
        moved = False
        while t >= 0 and not moved:
            # Score and token are written here, frame by frame: loops of their own end at the unforeseen again.
            scores[t] = widen(array_at(row + t * along, 1, model)[0])
            if len(path):
                path[t] = s
            moved = s > 0 and (bits[before + STRIP_VECTORS * (t + ahead)] >> lane) & 1 != 0
            t -= 1
        durations[s] = last - t


@njit(nogil=True)
def visited_not_finite(item, frames_first, model):
    """Whether NaN or +inf stands in a cell that a legal path can visit."""
    address, S, T, pitch, _, _, _ = item
    for row in range(T if frames_first else S):
        if frames_first:
            start, stop = max(0, S - T + row), min(S, row + 1)
        else:
            start, stop = row, T - S + row + 1
        cells = array_at(address + (row * pitch + start) * model.itemsize, stop - start, model)
        found = 0
        for i in range(len(cells)):  # never left early, so that it is compiled to vectors
            found |= not widen(cells[i]) < np.inf
        if found:
            return True
    return False
