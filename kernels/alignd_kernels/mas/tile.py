# mypy: disable-error-code="untyped-decorator"
"""A square tile of the monotonic lattice in vector registers.

Scores lie [tokens, frames] with frames contiguous, but the recurrence is parallel over tokens. So a tile of N tokens ×
N frames is loaded row by row, transposed in registers, and walked frame by frame with one vector of tokens. Numba's own
loops are not compiled to a transposition in registers, hence vector instructions of LLVM, which fit any processor: N
vectors of 64 bytes are half of the register file of AVX-512, and narrower machines get them split.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from alignd_kernels.numba_helpers import lanes_of


def _widened(builder: Any, rows: Any, scores: Any) -> Any:
    """Vectors of stored scores in the accumulator's type, as `numba_helpers.widen`."""
    if isinstance(scores, types.Float):
        return rows
    words = ir.VectorType(ir.IntType(32), rows.type.count)
    floats = ir.VectorType(ir.FloatType(), rows.type.count)

    def every(number: int) -> Any:
        return ir.Constant(words, [number] * rows.type.count)

    bits = builder.zext(rows, words)
    if scores == types.int16:  # bfloat16
        return builder.bitcast(builder.shl(bits, every(16)), floats)
    magnitude = builder.shl(builder.and_(bits, every(0x7FFF)), every(13))
    sign = builder.shl(builder.and_(bits, every(0x8000)), every(16))
    exponent = builder.and_(magnitude, every(0x0F800000))
    rebias = every(112 << 23)
    normal = builder.add(magnitude, rebias)
    special = builder.icmp_unsigned("==", exponent, every(0x0F800000))
    normal = builder.select(special, builder.add(normal, rebias), normal)
    smallest = ir.Constant(floats, [2.0**-14] * rows.type.count)
    tiny = builder.fsub(builder.bitcast(builder.add(magnitude, every(113 << 23)), floats), smallest)
    subnormal = builder.icmp_unsigned("==", exponent, every(0))
    whole = builder.select(subnormal, builder.bitcast(tiny, words), normal)
    return builder.bitcast(builder.or_(whole, sign), floats)


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """N vectors of N by log2 N stages of swaps between vectors at distances N/2 … 1."""
    N = len(rows)

    def mixed(one: Any, other: Any, lanes_taken: list[int]) -> Any:
        indices = ir.VectorType(ir.IntType(32), N)
        return builder.shuffle_vector(one, other, ir.Constant(indices, lanes_taken))

    distance = N // 2
    while distance:
        swapped = list(rows)
        for i in range(N):
            if not i & distance:
                one, other = rows[i], rows[i + distance]
                swapped[i] = mixed(one, other, [j if not j & distance else N + j - distance for j in range(N)])
                swapped[i + distance] = mixed(
                    one, other, [j + distance if not j & distance else N + j for j in range(N)]
                )
        rows = swapped
        distance //= 2
    return rows


@intrinsic
def advance_tile(
    typing_context: Any,
    scores: Any,
    start: Any,
    pitch: Any,
    V: Any,
    token: Any,
    edge: Any,
    bits: Any,
    word: Any,
    word_pitch: Any,
) -> Any:
    """N frames of V[s, t] = x + max(V[s, t-1], V[s-1, t-1]) for N tokens. A tie, or NaN in V[s, t-1], stays.

    Args:
        scores: 1-D; the tile's rows of N frames begin at `start` + i · `pitch`. All N × N cells are read.
        V: 1-D, of the accumulator's type; V[token : token + N] is that of the frame before the tile, then of its last.
        edge: N vectors of N: V of the tile to the left at the frame before each of this tile's; then the same of this
            tile, for its neighbour to the right. Only the last lane of a vector is looked at.
        bits: uint16; frame j's word, one bit for each token that was moved to, is put at `word` + j · `word_pitch`.
    """
    arrays = (scores, V, edge, bits)
    sizes = (start, pitch, token, word, word_pitch)
    if not all(isinstance(kind, types.Array) for kind in arrays) or not all(
        isinstance(n, types.Integer) for n in sizes
    ):
        return None
    N = lanes_of(scores.dtype)
    number = types.int64
    signature = types.void(scores, number, number, V, number, edge, bits, number, number)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def address(which: int, index: Any, vector: Any) -> Any:
            data = context.make_array(signature.args[which])(context, builder, args[which]).data
            return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())

        def vector_of(which: int) -> Any:
            return ir.VectorType(context.get_data_type(signature.args[which].dtype), N)

        def load(which: int, index: Any) -> Any:
            loaded = builder.load(address(which, index, vector_of(which)))
            loaded.align = signature.args[which].dtype.bitwidth // 8
            return loaded

        def store(which: int, index: Any, value: Any) -> None:
            stored = builder.store(value, address(which, index, value.type))
            stored.align = signature.args[which].dtype.bitwidth // 8

        def plus(index: Any, more: int, times: Any = None) -> Any:
            step = ir.Constant(ir.IntType(64), more)
            return builder.add(index, step if times is None else builder.mul(step, times))

        byte_pointer = ir.IntType(8).as_pointer()
        flag = ir.IntType(32)
        prefetch = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte_pointer], ir.FunctionType(ir.VoidType(), [byte_pointer, flag, flag, flag])
        )
        to_read, keep, data_cache = (ir.Constant(flag, number) for number in (0, 3, 1))
        _, start, pitch, _, token, _, _, word, word_pitch = args
        rows = []
        for i in range(N):
            row = plus(start, i, pitch)
            rows.append(_widened(builder, load(0, row), signature.args[0].dtype))
            # Rows are far apart, which hardware does not foresee. An address beyond the array does no harm.
            soon = builder.bitcast(address(0, plus(row, 2 * N), vector_of(0)), byte_pointer)
            builder.call(prefetch, [soon, to_read, keep, data_cache])
        frames = _transposed(builder, rows)
        stay = load(3, token)
        shift = ir.Constant(ir.VectorType(ir.IntType(32), N), [N - 1, *range(N, 2 * N - 1)])
        for j in range(N):
            left_tile = load(5, ir.Constant(ir.IntType(64), j * N))
            left = builder.shuffle_vector(left_tile, stay, shift)
            store(5, ir.Constant(ir.IntType(64), j * N), stay)
            moved = builder.fcmp_ordered(">", left, stay)
            store(6, plus(word, j, word_pitch), builder.zext(builder.bitcast(moved, ir.IntType(N)), ir.IntType(16)))
            stay = builder.fadd(builder.select(moved, left, stay), frames[j])
        store(3, token, stay)
        return context.get_dummy_value()

    return signature, generate
