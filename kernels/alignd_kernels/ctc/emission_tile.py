# mypy: disable-error-code="untyped-decorator"
"""The emissions of a tile in vector registers: looked up, or transposed from columns, and masked where out of reach."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from alignd_kernels.ctc.tile import FRAMES
from alignd_kernels.vectors import COLUMNS, PAIRS, Vectors, indices, permutes


@intrinsic
def look_up(typing_context: Any, table: Any, columns: Any, pair: Any, frames: Any, x: Any) -> Any:
    """x [FRAMES, PAIRS]: for each frame, the elements columns[pair + 1 …] of its row of the table [FRAMES, COLUMNS]."""
    signature = types.void(table, columns, types.int64, types.int64, x)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(context, builder, signature, args)
        column = v.load(1, v.plus(args[2], 1))
        with cgutils.for_range(builder, args[3]) as loop:
            v.store(4, v.times(loop.index, PAIRS), v.looked_up(0, loop.index, column))
        return context.get_dummy_value()

    def without(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_dummy_value()  # never called: see `looks_up`

    return signature, generate if permutes(table) else without


@intrinsic
def take_rows(typing_context: Any, values: Any, start: Any, pitch: Any, V: Any, frames: Any, table: Any) -> Any:
    """Widen rows of V ≤ `COLUMNS` elements: table[COLUMNS · f + v] = values[start + pitch · f + v], 0 behind them.

    Those of the next block are fetched: rows that are far apart, as in [T, B, V], no hardware foresees.
    """
    number = types.int64
    signature = types.void(values, number, number, number, number, table)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(context, builder, signature, args)
        _, start, pitch, V, frames, _ = args
        inside = builder.icmp_signed("<", indices(range(COLUMNS)), v.splat(builder.trunc(V, ir.IntType(32)), COLUMNS))
        with cgutils.for_range(builder, frames) as loop:
            row = builder.add(start, builder.mul(loop.index, pitch))
            stored = v.load_where(0, row, inside)
            ahead = builder.add(row, v.times(pitch, FRAMES))
            v.fetch(0, ahead, 1)
            v.fetch(0, v.plus(ahead, COLUMNS // 2), 1)
            v.store(5, v.times(loop.index, COLUMNS), v.widened(stored, signature.args[0].dtype))
        return context.get_dummy_value()

    def without(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_dummy_value()  # never called: see `looks_up`

    return signature, generate if permutes(table) else without


@intrinsic
def spread(typing_context: Any, values: Any, start: Any, pitch: Any, frames: Any, x: Any) -> Any:
    """One column, widened, for every pair: x[PAIRS · f + i] = values[start + pitch · f]."""
    number = types.int64
    signature = types.void(values, number, number, number, x)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(context, builder, signature, args)
        _, start, pitch, frames, _ = args
        with cgutils.for_range(builder, frames) as loop:
            one = v.load(0, builder.add(start, builder.mul(loop.index, pitch)), 1)
            every = builder.shuffle_vector(one, one, indices([0] * PAIRS))
            v.store(4, v.times(loop.index, PAIRS), v.widened(every, signature.args[0].dtype))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def turn_columns(typing_context: Any, values: Any, start: Any, pitch: Any, frames: Any, cache: Any, at: Any) -> Any:
    """Widen and transpose `FRAMES` columns: cache[at + FRAMES · c + f] = values[start + pitch · f + c].

    Rows from `frames` on are not read; in the cache they repeat the last one. Those of the next block are fetched as
    in `take_rows`, but not into the first-level cache, which they would fill.
    """
    number = types.int64
    signature = types.void(values, number, number, number, cache, number)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(context, builder, signature, args)
        _, start, pitch, frames, _, at = args
        last = v.plus(frames, -1)
        rows = []
        for f in range(FRAMES):
            frame = ir.Constant(ir.IntType(64), f)
            frame = builder.select(builder.icmp_signed("<", frame, last), frame, last)
            row = builder.add(start, builder.mul(frame, pitch))
            stored = v.load(0, row, FRAMES)
            v.fetch(0, builder.add(row, v.times(pitch, FRAMES)), 2)
            rows.append(v.widened(stored, signature.args[0].dtype))
        for c, column in enumerate(v.transposed(rows)):
            v.store(4, v.plus(at, FRAMES * c), column)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def collect(typing_context: Any, cache: Any, columns: Any, pair: Any, x: Any) -> Any:
    """x [FRAMES, PAIRS] from columns that lie in `cache` [columns, FRAMES]; label i's column is columns[i + 1]."""
    signature = types.void(cache, columns, types.int64, x)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(context, builder, signature, args)
        with cgutils.for_range(builder, ir.Constant(ir.IntType(64), PAIRS // FRAMES)) as loop:
            part = v.times(loop.index, FRAMES)
            column = v.load(1, v.plus(builder.add(args[2], part), 1), FRAMES)
            found = []
            for lane in range(FRAMES):
                one = builder.extract_element(column, ir.Constant(ir.IntType(32), lane))
                found.append(v.load(0, v.times(builder.sext(one, ir.IntType(64)), FRAMES), FRAMES))
            for f, emissions in enumerate(v.transposed(found)):
                v.store(3, v.plus(part, PAIRS * f), emissions)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def mask_unreached(
    typing_context: Any, x: Any, x_blank: Any, reached: Any, pair: Any, t: Any, frames: Any, masked_blank: Any
) -> Any:
    """Emissions of states that no path has reached become -inf, in x itself, for blanks in a copy; all are
    [FRAMES, PAIRS]. So their V is -inf, whatever stands in their cells.

    Args:
        reached: int32; the frame at which label i can first be visited stands at i + 1.
        t: int32, the tile's first frame.
    """
    number = types.int64
    signature = types.void(x, x_blank, reached, number, types.int32, number, masked_blank)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(context, builder, signature, args)
        _, _, _, pair, t, frames, _ = args
        label_from, blank_after = v.load(2, v.plus(pair, 1)), v.load(2, pair)
        never = ir.Constant(v.kind(0), [float("-inf")] * PAIRS)
        with cgutils.for_range(builder, frames) as loop:
            at = v.times(loop.index, PAIRS)
            now = v.splat(builder.add(t, builder.trunc(loop.index, ir.IntType(32))))
            on_label = builder.icmp_signed("<=", label_from, now)
            on_blank = builder.icmp_signed("<", blank_after, now)
            v.store(0, at, builder.select(on_label, v.load(0, at), never))
            v.store(6, at, builder.select(on_blank, v.load(1, at), never))
        return context.get_dummy_value()

    return signature, generate
