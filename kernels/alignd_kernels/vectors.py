# mypy: disable-error-code="untyped-decorator"
"""Vectors of LLVM over the arrays that an intrinsic is given: what the tile and its emissions are written with."""

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, overload

PAIRS: Final = 32
"""Pairs of states in a tile: two vectors of float32 with AVX-512, whose chains of dependent instructions overlap. Other
machines and types get theirs in more parts."""

COLUMNS: Final = 32
"""Columns of a row of emissions that fits into two vectors of registers."""

LANES: Final = 16
"""float32 in a vector of AVX-512."""


def permutes(table: Any) -> bool:
    """Whether this processor looks up 16 values of this Numba type out of 32 by one instruction."""
    features = cpu_target.target_context.codegen()._get_host_cpu_features().split(",")
    return table.dtype == types.float32 and "+avx512f" in features


def looks_up(table: Any) -> bool:
    """`permutes`, as a constant of the compiled code."""
    raise NotImplementedError("compiled by Numba only")


@overload(looks_up)
def _looks_up(table):  # type: ignore[no-untyped-def]
    answer = permutes(table)
    return lambda table: answer


@intrinsic
def out_of_line(typing_context: Any) -> Any:
    """Keeps the function that calls this from being copied into its callers, each of which would compile it anew."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


def indices(lanes: Any) -> Any:
    """A constant vector of int32: what a shuffle takes."""
    wanted = list(lanes)
    return ir.Constant(ir.VectorType(ir.IntType(32), len(wanted)), wanted)


class Vectors:
    """Loads and stores of vectors of `PAIRS` elements, unless told otherwise, in the arrays among the arguments."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self._context, self._builder, self._kinds, self._args = context, builder, signature.args, args

    def kind(self, which: int, count: int = PAIRS) -> Any:
        return ir.VectorType(self._context.get_data_type(self._kinds[which].dtype), count)

    def address(self, which: int, index: Any, kind: Any) -> Any:
        data = self._context.make_array(self._kinds[which])(self._context, self._builder, self._args[which]).data
        return self._builder.bitcast(self._builder.gep(data, [index]), kind.as_pointer())

    def load(self, which: int, index: Any, count: int = PAIRS) -> Any:
        loaded = self._builder.load(self.address(which, index, self.kind(which, count)))
        loaded.align = self._kinds[which].dtype.bitwidth // 8
        return loaded

    def load_where(self, which: int, index: Any, wanted: Any) -> Any:
        """Elements from `index` on where the mask `wanted` says so, of which nothing else is read; 0 elsewhere."""
        address = self.address(which, index, self.kind(which, wanted.type.count))
        loaded, align = address.type.pointee, self._kinds[which].dtype.bitwidth // 8
        kind = ir.FunctionType(loaded, [address.type, ir.IntType(32), wanted.type, loaded])
        name = f"llvm.masked.load.v{loaded.count}{loaded.element.intrinsic_name}.p0"
        masked = cgutils.get_or_insert_function(self._builder.module, kind, name)
        nothing = ir.Constant(loaded, None)
        return self._builder.call(masked, [address, ir.Constant(ir.IntType(32), align), wanted, nothing])

    def fetch(self, which: int, index: Any, level: int) -> None:
        """Bring a cache line into the cache of this level, 1 or 2. An address beyond the array does no harm."""
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        prefetch = self._builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        options = [ir.Constant(flag, number) for number in (0, 4 - level, 1)]  # to read, how near, data
        self._builder.call(prefetch, [self.address(which, index, ir.IntType(8)), *options])

    def store(self, which: int, index: Any, value: Any) -> None:
        stored = self._builder.store(value, self.address(which, index, value.type))
        stored.align = self._kinds[which].dtype.bitwidth // 8

    def splat(self, number: Any, count: int = PAIRS) -> Any:
        kind = ir.VectorType(number.type, count)
        first = self._builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
        return self._builder.shuffle_vector(first, first, indices([0] * count))

    def plus(self, index: Any, more: int) -> Any:
        return self._builder.add(index, ir.Constant(ir.IntType(64), more))

    def times(self, index: Any, factor: int) -> Any:
        return self._builder.mul(index, ir.Constant(ir.IntType(64), factor))

    def looked_up(self, table: int, row: Any, columns: Any) -> Any:
        """Elements `columns` (a vector) of a row of `COLUMNS` float32."""
        halves, words = self.kind(table, LANES), ir.VectorType(ir.IntType(32), LANES)
        kind = ir.FunctionType(halves, [halves, words, halves])
        permute = cgutils.get_or_insert_function(self._builder.module, kind, "llvm.x86.avx512.vpermi2var.ps.512")
        start = self.times(row, COLUMNS)
        low, high = self.load(table, start, LANES), self.load(table, self.plus(start, LANES), LANES)
        found = [
            self._builder.call(permute, [low, self._builder.shuffle_vector(columns, columns, part), high])
            for part in (indices(range(LANES)), indices(range(LANES, PAIRS)))
        ]
        return self._builder.shuffle_vector(*found, indices(range(PAIRS)))

    def transposed(self, rows: list[Any]) -> list[Any]:
        """N vectors of N by log2 N stages of swaps between vectors at distances N/2 … 1."""
        N = len(rows)
        distance = N // 2
        while distance:
            swapped = list(rows)
            upper = indices(j if not j & distance else N + j - distance for j in range(N))
            lower = indices(j + distance if not j & distance else N + j for j in range(N))
            for i in range(N):
                if not i & distance:
                    one, other = rows[i], rows[i + distance]
                    swapped[i] = self._builder.shuffle_vector(one, other, upper)
                    swapped[i + distance] = self._builder.shuffle_vector(one, other, lower)
            rows = swapped
            distance //= 2
        return rows

    def widened(self, rows: Any, stored: Any) -> Any:
        """A vector of stored scores in the accumulator's type, as `numba_helpers.widen`."""
        if isinstance(stored, types.Float):
            return rows
        builder, words = self._builder, ir.VectorType(ir.IntType(32), rows.type.count)
        floats = ir.VectorType(ir.FloatType(), rows.type.count)

        def every(number: int) -> Any:
            return ir.Constant(words, [number] * rows.type.count)

        bits = builder.zext(rows, words)
        if stored == types.int16:  # bfloat16
            return builder.bitcast(builder.shl(bits, every(16)), floats)
        magnitude = builder.shl(builder.and_(bits, every(0x7FFF)), every(13))
        sign = builder.shl(builder.and_(bits, every(0x8000)), every(16))
        exponent = builder.and_(magnitude, every(0x0F800000))
        normal = builder.add(magnitude, every(112 << 23))
        special = builder.icmp_unsigned("==", exponent, every(0x0F800000))
        normal = builder.select(special, builder.add(normal, every(112 << 23)), normal)
        smallest = ir.Constant(floats, [2.0**-14] * rows.type.count)
        tiny = builder.fsub(builder.bitcast(builder.add(magnitude, every(113 << 23)), floats), smallest)
        subnormal = builder.icmp_unsigned("==", exponent, every(0))
        whole = builder.select(subnormal, builder.bitcast(tiny, words), normal)
        return builder.bitcast(builder.or_(whole, sign), floats)
