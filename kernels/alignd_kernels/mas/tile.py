# mypy: disable-error-code="untyped-decorator"
"""Tiles of the monotonic lattice in vector registers.

The recurrence is parallel over tokens. Where frames are contiguous, N tokens × N frames are loaded row by row and
transposed in registers; where tokens are, rows are what is wanted. Then the tile is walked frame by frame with a vector
of N tokens, or with two, whose chains of dependent instructions overlap. Numba's own loops are not compiled to a
transposition in registers, hence vector instructions of LLVM, which fit any processor: N vectors of 64 bytes are half
of the register file of AVX-512, and narrower machines get them split.
"""

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from alignd_kernels.numba_helpers import lanes_of

STRIP_VECTORS: Final = 2
"""Vectors of N tokens in a strip, which is walked from its first frame to its last."""

_LLVM_NAMES: Final = {"float": "f32", "double": "f64", "i16": "i16"}


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


def _tile(vectors: int, mask_of: Any, frames_first: bool) -> Any:
    """An intrinsic that walks N frames of `vectors` · N tokens. See `advance_inner` and those below it."""

    @intrinsic
    def advance(
        typing_context: Any,
        model: Any,
        cells: Any,
        pitch: Any,
        V: Any,
        edges: Any,
        bits: Any,
        fetch: Any,
        enter: Any,
        leave: Any,
        tokens_left: Any,
        frames_left: Any,
    ) -> Any:
        if not isinstance(model, types.Array):
            return None
        signature = types.void(model, *[types.int64] * 10)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code = _TileCode(builder, context, model.dtype)
            _, cells, pitch, V, edges, bits, fetch, *bounds = args
            mask = mask_of(code, *bounds) if mask_of is not None else None
            frames = []
            for k in range(vectors):
                if frames_first:
                    rows = code.rows(code.plus(cells, k * code.N * code.stored_bytes), pitch, fetch, mask, turned=True)
                else:
                    rows = code.rows(code.plus(cells, code.times(pitch, k * code.N)), pitch, fetch, mask, turned=False)
                frames.append(rows if frames_first else code.transposed(rows))
            code.recurrence(frames, V, edges, bits, mask)
            return context.get_dummy_value()

        return signature, generate

    return advance


class _TileCode:
    """What the tiles are built of: addresses are int64, vectors have N lanes."""

    def __init__(self, builder: Any, context: Any, scores: Any) -> None:
        self.builder = builder
        self.scores = scores
        self.N = lanes_of(scores)
        self.stored = ir.VectorType(context.get_data_type(scores), self.N)
        self.stored_bytes = scores.bitwidth // 8
        self.float = ir.DoubleType() if scores == types.float64 else ir.FloatType()
        self.float_bytes = 8 if scores == types.float64 else 4
        self.vector = ir.VectorType(self.float, self.N)
        self.flags = ir.VectorType(ir.IntType(1), self.N)

    def number(self, value: int) -> Any:
        return ir.Constant(ir.IntType(64), value)

    def plus(self, address: Any, more: Any) -> Any:
        return self.builder.add(address, self.number(more) if isinstance(more, int) else more)

    def times(self, number: Any, factor: int) -> Any:
        return self.builder.mul(number, self.number(factor))

    def every(self, value: float) -> Any:
        return ir.Constant(self.vector, [value] * self.N)

    def splat(self, one: Any) -> Any:
        kind = ir.VectorType(one.type, self.N)
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), one, ir.Constant(ir.IntType(32), 0))
        return self.shuffled(first, first, [0] * self.N)

    def shuffled(self, one: Any, other: Any, lanes_taken: list[int]) -> Any:
        indices = ir.VectorType(ir.IntType(32), self.N)
        return self.builder.shuffle_vector(one, other, ir.Constant(indices, lanes_taken))

    def pointer(self, address: Any, kind: Any) -> Any:
        return self.builder.inttoptr(address, kind.as_pointer())

    def load(self, address: Any, kind: Any, align: int) -> Any:
        loaded = self.builder.load(self.pointer(address, kind))
        loaded.align = align
        return loaded

    def store(self, value: Any, address: Any, align: int) -> None:
        self.builder.store(value, self.pointer(address, value.type)).align = align

    def prefetch(self, address: Any) -> None:
        """Into the second-level cache. An address beyond the array does no harm."""
        pointer, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        prefetch = self.builder.module.declare_intrinsic(
            "llvm.prefetch", [pointer], ir.FunctionType(ir.VoidType(), [pointer, flag, flag, flag])
        )
        to_read, second_level, data_cache = (ir.Constant(flag, number) for number in (0, 2, 1))
        self.builder.call(prefetch, [self.pointer(address, ir.IntType(8)), to_read, second_level, data_cache])

    def rows(self, cells: Any, pitch: Any, fetch: Any, mask: "_Mask | None", turned: bool) -> list[Any]:
        """N rows of N scores in the accumulator's type; what is `fetch` bytes after each is fetched into the caches."""
        found = []
        for i in range(self.N):
            address = self.plus(cells, self.times(pitch, i))
            self.prefetch(self.plus(address, fetch))
            if mask is None:
                stored = self.load(address, self.stored, self.stored_bytes)
                found.append(_widened(self.builder, stored, self.scores))
            else:
                found.append(mask.row(cells, pitch, i, turned))
        return found

    def transposed(self, rows: list[Any]) -> list[Any]:
        """N vectors of N by log2 N stages of swaps between vectors at distances N/2 … 1."""
        N = self.N
        distance = N // 2
        while distance:
            swapped = list(rows)
            for i in range(N):
                if not i & distance:
                    one, other = rows[i], rows[i + distance]
                    low = [j if not j & distance else N + j - distance for j in range(N)]
                    high = [j + distance if not j & distance else N + j for j in range(N)]
                    swapped[i], swapped[i + distance] = self.shuffled(one, other, low), self.shuffled(one, other, high)
            rows = swapped
            distance //= 2
        return rows

    def recurrence(self, frames: list[list[Any]], V: Any, edges: Any, bits: Any, mask: "_Mask | None") -> None:
        """V[s, t] = x + max(V[s, t-1], V[s-1, t-1]), frame by frame; tokens of later vectors are to the right."""
        N, size = self.N, self.float_bytes
        shift = [N - 1, *range(N, 2 * N - 1)]
        stay = [self.load(self.plus(V, k * N * size), self.vector, size) for k in range(len(frames))]
        right = self.every(0.0)  # lane j: V of the last token at the frame before j
        for j in range(N):
            edge = self.load(self.plus(edges, j * size), self.float, size)
            before = self.splat(edge)
            right = self.shuffled(right, stay[-1], [lane if lane != j else 2 * N - 1 for lane in range(N)])
            moved_to = []
            for k in range(len(frames)):
                left = self.shuffled(before if k == 0 else stay[k - 1], stay[k], shift)
                moved = self.builder.fcmp_ordered(">", left, stay[k])
                if mask is not None:
                    moved = mask.real(moved, j)
                packed = self.builder.zext(self.builder.bitcast(moved, ir.IntType(N)), ir.IntType(16))
                self.store(packed, self.plus(bits, 2 * (STRIP_VECTORS * j + k)), 2)
                moved_to.append(self.builder.fadd(self.builder.select(moved, left, stay[k]), frames[k][j]))
            stay = moved_to
        for k, last in enumerate(stay):
            self.store(last, self.plus(V, k * N * size), size)
        self.store(right, edges, size)


class _Mask:
    """Which cells of a tile are in the band. With the tile's first token and frame as 0, token i is in it from frame
    i + `enter` to i + `leave`; there are `tokens_left` tokens and `frames_left` frames (any more never move)."""

    def __init__(self, code: _TileCode, enter: Any, leave: Any, tokens_left: Any, frames_left: Any) -> None:
        self.code = code
        self.enter, self.leave, self.tokens_left, self.frames_left = (
            self._clamped(bound) for bound in (enter, leave, tokens_left, frames_left)
        )
        self.lanes = ir.Constant(ir.VectorType(ir.IntType(32), code.N), list(range(code.N)))

    def _clamped(self, bound: Any) -> Any:
        """As int32: within a tile, what is farther than 64 is as far as 64."""
        builder, code = self.code.builder, self.code
        for limit, sign in ((-64, ">"), (64, "<")):
            bound = builder.select(builder.icmp_signed(sign, bound, code.number(limit)), bound, code.number(limit))
        return builder.trunc(bound, ir.IntType(32))

    def row(self, cells: Any, pitch: Any, i: int, turned: bool) -> Any:
        """Row i, of a token's frames, or `turned` of a frame's tokens. A cell that is out of reach, or beyond the
        tokens, is -inf, so that its V is -inf; one whose token is done with is 0, so that NaN and +inf stay visible in
        V until the strip is done. No other cell is read."""
        builder, code = self.code.builder, self.code
        word = ir.IntType(32)

        def compare(sign: str, one: Any, other: Any) -> Any:
            return builder.icmp_signed(sign, one, other)

        if turned:  # lane = token: lane + enter <= i <= lane + leave
            here = ir.Constant(word, i)
            reached = compare("<=", self.lanes, code.splat(builder.sub(here, self.enter)))
            reached = builder.and_(reached, compare("<", self.lanes, code.splat(self.tokens_left)))
            wanted = builder.and_(reached, compare(">=", self.lanes, code.splat(builder.sub(here, self.leave))))
        else:
            here = ir.Constant(word, i)
            start = builder.select(
                compare("<", here, self.tokens_left), builder.add(here, self.enter), ir.Constant(word, 64)
            )
            reached = compare(">=", self.lanes, code.splat(start))
            wanted = builder.and_(reached, compare("<=", self.lanes, code.splat(builder.add(here, self.leave))))
        stored = self._masked_load(code.plus(cells, code.times(pitch, i)), wanted)
        return builder.select(reached, _widened(builder, stored, code.scores), code.every(float("-inf")))

    def real(self, moved: Any, j: int) -> Any:
        """Which tokens moved at frame j, if it is one."""
        here = ir.Constant(ir.IntType(32), j)
        builder = self.code.builder
        return builder.and_(moved, self.code.splat(builder.icmp_signed("<", here, self.frames_left)))

    def _masked_load(self, address: Any, wanted: Any) -> Any:
        code = self.code
        name = f"llvm.masked.load.v{code.N}{_LLVM_NAMES[str(code.stored.element)]}.p0"
        pointer = code.pointer(address, code.stored)
        kind = ir.FunctionType(code.stored, [pointer.type, ir.IntType(32), code.flags, code.stored])
        zeros = ir.Constant(code.stored, [0] * code.N)
        function = cgutils.get_or_insert_function(code.builder.module, kind, name)
        return code.builder.call(function, [pointer, ir.Constant(ir.IntType(32), code.stored_bytes), wanted, zeros])


class _LastTokens(_Mask):
    """Of a tile of tokens' rows within the frames: rows that there are not repeat the last one, which nothing sees."""

    def row(self, cells: Any, pitch: Any, i: int, turned: bool) -> Any:
        assert not turned
        builder, code = self.code.builder, self.code
        last = builder.sub(builder.sext(self.tokens_left, ir.IntType(64)), code.number(1))
        own = builder.select(builder.icmp_signed("<", code.number(i), last), code.number(i), last)
        stored = code.load(code.plus(cells, builder.mul(pitch, own)), code.stored, code.stored_bytes)
        return _widened(builder, stored, code.scores)

    def real(self, moved: Any, j: int) -> Any:
        return moved


advance_inner = {turned: _tile(STRIP_VECTORS, None, frames_first=turned) for turned in (False, True)}
advance_last = _tile(1, _LastTokens, frames_first=False)
advance_border = {turned: _tile(1, _Mask, frames_first=turned) for turned in (False, True)}
