# mypy: disable-error-code="untyped-decorator"
"""Anti-diagonals of the DTW lattice in vector registers.

A cell needs its left neighbour in the same row and its upper one in the same column; what is independent are cells of
equal n = i + j. `LANES` tokens are walked diagonal by diagonal, lane l at frame n − l. A token's frames are contiguous,
so that rows which begin a frame earlier with every token, turned into columns, are such diagonals: a transposition in
registers of rows that are one element less apart than they are in memory.
"""

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from alignd_kernels.numba_helpers import lanes_of
from alignd_kernels.vectors import Vectors, indices

LANES: Final = 32
"""Tokens of a strip: two vectors of float32 with AVX-512, whose instructions overlap."""

FETCH_BYTES: Final = 512
"""How far ahead of a tile its rows are fetched: processors foresee few of so many."""

FAR: Final = 64
"""Bounds beyond a tile are clamped to this, either way, so that they fit narrow lanes."""


class _Tile:
    """N diagonals of N tokens, N lanes a vector."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any, masked: bool) -> None:
        self.v = Vectors(context, builder, signature, args)
        self.builder = builder
        self.stored = signature.args[0].dtype
        self.N = lanes_of(self.stored)
        self.cells, self.pitch = args[1], args[2]
        self.bounds = [self._clamped(bound) for bound in args[3:6]] if masked else None

    def _clamped(self, bound: Any) -> Any:
        builder = self.builder
        for limit, sign in ((-FAR, ">"), (FAR, "<")):
            number = ir.Constant(ir.IntType(64), limit)
            bound = builder.select(builder.icmp_signed(sign, bound, number), bound, number)
        return builder.trunc(bound, ir.IntType(32))

    def row(self, i: int) -> Any:
        """Token i: its frames from −i on, counted from the first token's."""
        builder, v = self.builder, self.v
        kind = v.kind(0, self.N)
        address = builder.add(self.cells, v.times(self.pitch, i))
        pointer, align = builder.inttoptr(address, kind.as_pointer()), self.stored.bitwidth // 8
        if self.bounds is None:
            self._fetch(v.plus(address, FETCH_BYTES))
            loaded = builder.load(pointer)
            loaded.align = align
            return v.widened(loaded, self.stored)
        before, after, tokens = self.bounds
        word = ir.IntType(32)
        here = ir.Constant(word, i)
        first = builder.add(before, here)
        none = ir.Constant(word, self.N)
        first = v.splat(builder.select(builder.icmp_signed("<", here, tokens), first, none), self.N)
        stop = v.splat(builder.add(after, here), self.N)
        lane = indices(range(self.N))
        wanted = builder.and_(builder.icmp_signed(">=", lane, first), builder.icmp_signed("<", lane, stop))
        function_type = ir.FunctionType(kind, [pointer.type, word, wanted.type, kind])
        name = f"llvm.masked.load.v{self.N}{kind.element.intrinsic_name}.p0"
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        zeros = ir.Constant(kind, None)
        loaded = v.widened(builder.call(function, [pointer, ir.Constant(word, align), wanted, zeros]), self.stored)
        return builder.select(wanted, loaded, ir.Constant(loaded.type, [float("-inf")] * self.N))

    def _fetch(self, address: Any) -> None:
        """Into the second-level cache. An address beyond the array does no harm."""
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        prefetch = self.builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        options = [ir.Constant(flag, number) for number in (0, 2, 1)]  # to read, how near, data
        self.builder.call(prefetch, [self.builder.inttoptr(address, byte), *options])


def _tile(masked: bool) -> Any:
    @intrinsic
    def gather_tile(
        typing_context: Any,
        model: Any,
        cells: Any,
        pitch: Any,
        before: Any,
        after: Any,
        tokens: Any,
        room: Any,
        index: Any,
    ) -> Any:
        """N diagonals of N tokens.

        Args:
            model: empty array of the values' type.
            cells: address of the first token's cell in the first diagonal, which need not be one.
            pitch: bytes from a token's row to the next, less one element.
            before, after: the first frame, and the one after the last, counted from that cell's. What is outside, as
                what is beyond `tokens`, is −inf and is not read. Looked at in the masked tile only.
            tokens: how many there are from the first on.
            room: of the accumulator's type, [diagonals, LANES], where they go.
            index: of the tile's first element in it.
        """
        number = types.int64
        signature = types.void(model, number, number, number, number, number, room, number)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            tile = _Tile(context, builder, signature, args, masked)
            columns = tile.v.transposed([tile.row(i) for i in range(tile.N)])
            for n, column in enumerate(columns):
                tile.v.store(6, tile.v.plus(args[7], n * LANES), column)
            return context.get_dummy_value()

        return signature, generate

    return gather_tile


gather_inner, gather_border = _tile(masked=False), _tile(masked=True)


@intrinsic
def advance(typing_context: Any, room: Any, rows: Any, state: Any, edges: Any, edge: Any, steps: Any, word: Any) -> Any:
    """`rows` diagonals of a strip.

    D = x + max(left, diagonal, up), of which `left` is D of the diagonal before, `up` the same a lane to the right, and
    `diagonal` what `up` was one diagonal before. Comparisons are made in the order of the ties' rule.

    Args:
        room: of the accumulator's type, [rows, LANES], the diagonals' values.
        rows: how many.
        state: of the accumulator's type, [2 · LANES]: D of the diagonal before, and its `up`; then of the last one.
        edges: D of the token left of the strip, by frame; overwritten by that of the strip's last token, which is
            `LANES` − 1 frames behind.
        edge: index in `edges` of the frame of the first diagonal's lane 0; at least `LANES` − 1.
        steps: uint32, pairs: the lanes that come from above, and those that come by the diagonal unless from above.
        word: index of the first pair's first.
    """
    number = types.int64
    signature = types.void(room, number, state, edges, number, steps, number)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(context, builder, signature, args)
        rows, edge, word = args[1], args[4], args[6]
        bits = ir.IntType(LANES)
        lane_0, last = (ir.Constant(ir.IntType(32), lane) for lane in (0, LANES - 1))
        zero = ir.Constant(ir.IntType(64), 0)
        score_slot = cgutils.alloca_once_value(builder, v.load(2, zero, LANES))
        up_slot = cgutils.alloca_once_value(builder, v.load(2, v.plus(zero, LANES), LANES))
        with cgutils.for_range(builder, rows) as loop:
            at_edge = builder.add(edge, loop.index)
            left, diagonal = builder.load(score_slot), builder.load(up_slot)
            up = builder.shuffle_vector(left, left, indices([LANES - 1, *range(LANES - 1)]))
            entering = v.address(3, at_edge, left.type.element)
            up = builder.insert_element(up, builder.load(entering), lane_0)
            slanted = builder.fcmp_ordered(">", diagonal, left)
            best = builder.select(slanted, diagonal, left)
            above = builder.fcmp_ordered(">", up, best)
            best = builder.select(above, up, best)
            score = builder.fadd(best, v.load(0, v.times(loop.index, LANES), LANES))
            builder.store(score, score_slot)
            builder.store(up, up_slot)
            leaving = v.address(3, v.plus(at_edge, 1 - LANES), left.type.element)
            builder.store(builder.extract_element(score, last), leaving)
            pair = builder.add(word, v.times(loop.index, 2))
            builder.store(builder.bitcast(above, bits), v.address(5, pair, bits))
            builder.store(builder.bitcast(slanted, bits), v.address(5, v.plus(pair, 1), bits))
        v.store(2, zero, builder.load(score_slot))
        v.store(2, v.plus(zero, LANES), builder.load(up_slot))
        return context.get_dummy_value()

    return signature, generate
