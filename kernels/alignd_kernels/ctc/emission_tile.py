# mypy: disable-error-code="untyped-decorator"
"""The emissions of a tile in vector registers: looked up, or transposed from columns, and masked where out of reach."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from alignd_kernels.ctc.tile import FRAMES
from alignd_kernels.ctc.vectors import PAIRS, Vectors, permutes


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
def fetch(typing_context: Any, values: Any, index: Any) -> Any:
    """Bring a cache line near: rows that are far apart, as in [T, B, V], no hardware foresees. An address beyond the
    array does no harm."""
    signature = types.void(values, types.int64)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        address = Vectors(context, builder, signature, args).address(0, args[1], ir.IntType(8))
        builder.call(prefetch, [address, *(ir.Constant(flag, number) for number in (0, 3, 1))])  # to read, keep, data
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def turn_columns(typing_context: Any, values: Any, start: Any, pitch: Any, frames: Any, cache: Any, at: Any) -> Any:
    """Widen and transpose `FRAMES` columns: cache[at + FRAMES · c + f] = values[start + pitch · f + c].

    Rows from `frames` on are not read; in the cache they repeat the last one.
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
            stored = v.load(0, builder.add(start, builder.mul(frame, pitch)), FRAMES)
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
