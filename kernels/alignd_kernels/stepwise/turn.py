# mypy: allow-untyped-defs, disable-error-code="untyped-decorator"
"""Blocks of frames turned from rows over frames to rows over tokens and back: N × N elements at a time in vector
registers, N being 16 of float32 or 8 of float64, the rest one by one."""

from typing import Any, Final

from numba import types
from numba.extending import intrinsic

from alignd_kernels.compile_cache import part
from alignd_kernels.numba_helpers import lanes, lanes_of, widen
from alignd_kernels.vectors import Vectors

MARGIN: Final = 16
"""Elements of a row over tokens that come before token 0: a cache line of float32, so that a row can be read one token
to the left."""

AHEAD: Final = 32
"""Frames ahead that rows over frames are fetched into the second-level cache, also where they are to be written: no
prefetcher follows so many."""


@part
def to_tokens(source, S, t, rows, ahead):
    """Frames t … t + len(rows) − 1 of the first S tokens of `source`, [tokens, frames], as rows over these, widened.
    Those `ahead` are fetched: `AHEAD`, or minus that where frames are gone through backwards."""
    N, count = lanes(source), len(rows)
    pitch, width = source.shape[1], rows.shape[1]
    whole, wide = S // N * N, count // N * N
    for s in range(0, whole, N):
        for k in range(0, wide, N):
            _read_tile(source, s * pitch + t + k, pitch, rows, k * width + MARGIN + s, width, ahead)
    for s in range(S):
        own = source[s, t : t + count]
        for k in range(wide if s < whole else 0, count):
            rows[k, MARGIN + s] = widen(own[k])


@part
def to_frames(rows, S, t, target, ahead):
    """The reverse of `to_tokens`."""
    N, count = lanes(target), len(rows)
    pitch, width = target.shape[1], rows.shape[1]
    whole, wide = S // N * N, count // N * N
    for s in range(0, whole, N):
        for k in range(0, wide, N):
            _write_tile(rows, k * width + MARGIN + s, width, target, s * pitch + t + k, pitch, ahead)
    for s in range(S):
        own = target[s, t : t + count]
        for k in range(wide if s < whole else 0, count):
            own[k] = rows[k, MARGIN + s]


def _tile(fetched: int) -> Any:
    """An intrinsic (source, at, pitch, target, to, target_pitch, ahead): N × N elements of `source`, its rows `pitch`
    apart from element `at` on, to columns of `target`, widened. In the rows of argument `fetched`, 0 or 3, what is
    `ahead` elements on is fetched."""

    @intrinsic
    def turn(
        typing_context: Any,
        source: Any,
        at: Any,
        pitch: Any,
        target: Any,
        to: Any,
        target_pitch: Any,
        ahead: Any,
    ) -> Any:
        if not isinstance(source, types.Array) or not isinstance(target, types.Array):
            return None
        N, index = lanes_of(source.dtype), types.int64
        signature = types.void(source, index, index, target, index, index, index)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code = Vectors(context, builder, signature, args)
            for i in range(N):
                place = builder.add(args[fetched + 1], code.times(args[fetched + 2], i))
                code.fetch(fetched, builder.add(place, args[6]), 2)
            rows = [code.load(0, builder.add(args[1], code.times(args[2], i)), N) for i in range(N)]
            for i, column in enumerate(code.transposed([code.widened(row, source.dtype) for row in rows])):
                code.store(3, builder.add(args[4], code.times(args[5], i)), column)
            return context.get_dummy_value()

        return signature, generate

    return turn


_read_tile, _write_tile = _tile(0), _tile(3)
