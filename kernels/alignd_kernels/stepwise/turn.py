# mypy: allow-untyped-defs, disable-error-code="untyped-decorator"
"""Blocks of frames turned from rows over frames to rows over tokens and back: N × N elements at a time in vector
registers, N being 16 of float32 or 8 of float64, the rest one by one."""

from typing import Any, Final

from numba import types
from numba.extending import intrinsic

from alignd_kernels.compile_cache import part
from alignd_kernels.ctc.vectors import Vectors
from alignd_kernels.numba_helpers import lanes, lanes_of, widen

FETCH: Final = 32
"""Elements ahead that rows over frames are fetched into the second-level cache: so many rows no prefetcher follows."""


@part
def to_tokens(source, S, t, rows):
    """Frames t … t + len(rows) − 1 of the first S tokens of `source`, [tokens, frames], as rows over these, widened."""
    N, count = lanes(source), len(rows)
    pitch, width = source.shape[1], rows.shape[1]
    whole, wide = S // N * N, count // N * N
    for s in range(0, whole, N):
        for k in range(0, wide, N):
            _read_tile(source, s * pitch + t + k, pitch, rows, k * width + s, width)
    for s in range(S):
        own = source[s, t : t + count]
        for k in range(wide if s < whole else 0, count):
            rows[k, s] = widen(own[k])


@part
def to_frames(rows, S, t, target):
    """The reverse of `to_tokens`."""
    N, count = lanes(target), len(rows)
    pitch, width = target.shape[1], rows.shape[1]
    whole, wide = S // N * N, count // N * N
    for s in range(0, whole, N):
        for k in range(0, wide, N):
            _write_tile(rows, k * width + s, width, target, s * pitch + t + k, pitch)
    for s in range(S):
        own = target[s, t : t + count]
        for k in range(wide if s < whole else 0, count):
            own[k] = rows[k, s]


def _tile(fetch: bool) -> Any:
    """An intrinsic (source, at, pitch, target, to, target_pitch): N × N elements of `source`, its rows `pitch` apart
    from element `at` on, to columns of `target`, widened. With `fetch`, what comes `FETCH` later is fetched."""

    @intrinsic
    def turn(typing_context: Any, source: Any, at: Any, pitch: Any, target: Any, to: Any, target_pitch: Any) -> Any:
        if not isinstance(source, types.Array) or not isinstance(target, types.Array):
            return None
        N = lanes_of(source.dtype)
        signature = types.void(source, types.int64, types.int64, target, types.int64, types.int64)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code = Vectors(context, builder, signature, args)
            _, at, pitch, _, to, target_pitch = args
            rows = []
            for i in range(N):
                place = builder.add(at, code.times(pitch, i))
                if fetch:
                    code.fetch(0, code.plus(place, FETCH), 2)
                rows.append(code.widened(code.load(0, place, N), source.dtype))
            for i, column in enumerate(code.transposed(rows)):
                code.store(3, builder.add(to, code.times(target_pitch, i)), column)
            return context.get_dummy_value()

        return signature, generate

    return turn


_read_tile, _write_tile = _tile(True), _tile(False)
