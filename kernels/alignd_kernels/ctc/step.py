# mypy: disable-error-code="untyped-decorator"
"""One frame of the CTC lattice for N pairs of states in vector registers, and the look-up of its emissions.

Numba's own loops would need one pass for the blanks, one for the labels and one to pack the back-pointers; the vector
instructions of LLVM, which fit any processor, do all in one, and a comparison's mask is packed as it is.
"""

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from alignd_kernels.numba_helpers import lanes_of

SMALL: Final = 32
"""Columns of a table that fits into two vectors of registers."""


@intrinsic
def look_up(typing_context: Any, table: Any, labels: Any, x: Any, pair: Any) -> Any:
    """x[i] = table[labels[i]] for i = `pair` … `pair` + N − 1.

    Args:
        table: 1-D, `SMALL` values of the accumulator's type.
        labels: int32, each from 0 to `SMALL` − 1.
        x: of the accumulator's type.
    """
    if not all(isinstance(kind, types.Array) for kind in (table, labels, x)) or not isinstance(pair, types.Integer):
        return None
    N = lanes_of(table.dtype)
    signature = types.void(table, labels, x, types.int64)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(32)
        values, words = ir.VectorType(context.get_data_type(table.dtype), N), ir.VectorType(word, N)
        align = table.dtype.bitwidth // 8

        def address(which: int, index: Any, kind: Any) -> Any:
            data = context.make_array(signature.args[which])(context, builder, args[which]).data
            return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())

        def load(which: int, index: Any, kind: Any, align: int) -> Any:
            loaded = builder.load(address(which, index, kind))
            loaded.align = align
            return loaded

        indices = load(1, args[3], words, 4)
        if N == 16 and "+avx512f" in context.codegen()._get_host_cpu_features().split(","):
            # One instruction for 16 values out of 32, where loading them one by one takes 16.
            kind = ir.FunctionType(values, [values, words, values])
            permute = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.vpermi2var.ps.512")
            halves = [load(0, ir.Constant(ir.IntType(64), start), values, align) for start in (0, N)]
            found = builder.call(permute, [halves[0], indices, halves[1]])
        else:
            found = ir.Constant(values, ir.Undefined)
            for lane in range(N):
                at = ir.Constant(word, lane)
                index = builder.zext(builder.extract_element(indices, at), ir.IntType(64))
                found = builder.insert_element(found, builder.load(address(0, index, values.element)), at)
        builder.store(found, address(2, args[3], values)).align = align
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def advance_pairs(
    typing_context: Any,
    pair: Any,
    x_blank: Any,
    x: Any,
    penalties: Any,
    blanks: Any,
    labels: Any,
    reached_blanks: Any,
    reached_labels: Any,
    steps: Any,
    word: Any,
) -> Any:
    """One frame, in place, for pairs (blank i, label i), i = `pair` … `pair` + N − 1.

    The caller goes from the last pairs to the first, so that label i − 1 is still that of the frame before.

    V[2i] = x_blank + max(V[2i], V[2i-1]);  V[2i+1] = x[i] + max(V[2i+1], V[2i], V[2i-1] + penalties[i]).
    A tie, or NaN in V of the state itself, stays; next is the step by one.

    Args:
        x_blank, x, penalties, blanks, labels: of the accumulator's type; all but the first 1-D. Label i stands at
            labels[i + 1]. N elements from `pair` on are read, whatever they hold.
        reached_blanks, reached_labels: states of pairs from these on are out of reach and become -inf.
        steps: uint16; from `word` on three words, a bit for each pair: blank moved, label moved by one, label moved by
            two (which wins).
    """
    arrays, sizes = (x, penalties, blanks, labels, steps), (pair, reached_blanks, reached_labels, word)
    if not all(isinstance(kind, types.Array) for kind in arrays) or not all(
        isinstance(n, types.Integer) for n in sizes
    ):
        return None
    value, number = x.dtype, types.int64
    N = lanes_of(value)
    signature = types.void(number, value, x, penalties, blanks, labels, number, number, steps, number)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scalar = context.get_data_type(value)
        vector = ir.VectorType(scalar, N)
        wide = ir.VectorType(ir.IntType(64), N)
        pair, x_blank, _, _, _, _, reached_blanks, reached_labels, _, word = args

        def address(which: int, index: Any, kind: Any) -> Any:
            data = context.make_array(signature.args[which])(context, builder, args[which]).data
            return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())

        def load(which: int, index: Any) -> Any:
            loaded = builder.load(address(which, index, vector))
            loaded.align = value.bitwidth // 8
            return loaded

        def store(which: int, index: Any, stored: Any) -> None:
            builder.store(stored, address(which, index, vector)).align = value.bitwidth // 8

        def plus(index: Any, more: int) -> Any:
            return builder.add(index, ir.Constant(ir.IntType(64), more))

        def splat(one: Any, kind: Any) -> Any:
            first = builder.insert_element(ir.Constant(kind, ir.Undefined), one, ir.Constant(ir.IntType(32), 0))
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), N), [0] * N)
            return builder.shuffle_vector(first, first, zeros)

        def put(which: int, flags: Any) -> None:
            packed = builder.zext(builder.bitcast(flags, ir.IntType(N)), ir.IntType(16))
            builder.store(packed, address(8, plus(word, which), ir.IntType(16)))

        out_of_reach = ir.Constant(vector, [float("-inf")] * N)
        lane = ir.Constant(wide, list(range(N)))

        def reached(values: Any, end: Any) -> Any:
            inside = builder.icmp_signed("<", lane, splat(builder.sub(end, pair), wide))
            return builder.select(inside, values, out_of_reach)

        blank, label, before = load(4, pair), load(5, plus(pair, 1)), load(5, pair)
        from_label = builder.fcmp_ordered(">", before, blank)
        new_blank = builder.fadd(builder.select(from_label, before, blank), splat(x_blank, vector))
        from_blank = builder.fcmp_ordered(">", blank, label)
        best = builder.select(from_blank, blank, label)
        two = builder.fadd(before, load(3, pair))
        skipped = builder.fcmp_ordered(">", two, best)
        new_label = builder.fadd(builder.select(skipped, two, best), load(2, pair))
        for which, flags in enumerate((from_label, from_blank, skipped)):
            put(which, flags)
        store(4, pair, reached(new_blank, reached_blanks))
        store(5, plus(pair, 1), reached(new_label, reached_labels))
        return context.get_dummy_value()

    return signature, generate
