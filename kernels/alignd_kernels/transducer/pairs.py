# mypy: allow-untyped-defs, disable-error-code="untyped-decorator"
"""The arcs of reduced log-probs, whose nodes are pairs of blank and label, gathered in vector registers.

`skew.gather` takes one log-prob at a time, since columns may be anywhere, and puts each into a row of its own. Pairs
that follow each other fill vectors: `SIDE` frames of `SIDE` nodes are slanted by rotating the columns of a square, node
l by l rows, in log2 `SIDE` steps that each move every other group of columns.
"""

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from alignd_kernels.compile_cache import part
from alignd_kernels.prefetch import emit_prefetch
from alignd_kernels.vectors import Vectors, indices

SIDE: Final = 8
"""Rows and nodes of a tile: pairs of float32 that fill a vector of AVX-512."""

FETCH_FRAMES: Final = 32
"""How far ahead of a tile its nodes in later frames are fetched: processors foresee no such strides. Measured: 16 is
too late, 64 no better."""

FAR: Final = 64
"""Bounds beyond a tile are clamped to this, either way, so that they fit narrow lanes."""


class _Tile:
    """A tile's code. A vector of nodes holds both of each one's log-probs, as they are stored."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any, slanted: bool, masked: bool) -> None:
        self.v = Vectors(context, builder, signature, args)
        self.builder = builder
        self.slanted = slanted
        self.stored = signature.args[0].dtype
        self.nodes = self.v.kind(0, 2 * SIDE)
        self.cells, self.pitch = args[1], args[2]
        self.bounds = [self._clamped(bound) for bound in args[3:8]] if masked else None

    def _clamped(self, bound: Any) -> Any:
        builder = self.builder
        for limit, sign in ((-FAR, ">"), (FAR, "<")):
            number = ir.Constant(ir.IntType(64), limit)
            bound = builder.select(builder.icmp_signed(sign, bound, number), bound, number)
        return builder.trunc(bound, ir.IntType(32))

    def _compare(self, one: Any, sign: str, other: Any) -> Any:
        return self.builder.icmp_signed(sign, one, other)

    def _both(self, *conditions: Any) -> Any:
        found = conditions[0]
        for condition in conditions[1:]:
            found = self.builder.and_(found, condition)
        return found

    def _load(self, frame: int) -> Any:
        """The nodes of a frame, counted from the first row's; 0 where there is none."""
        builder, v = self.builder, self.v
        address = builder.add(self.cells, v.times(self.pitch, frame))
        pointer, align = builder.inttoptr(address, self.nodes.as_pointer()), self.stored.bitwidth // 8
        if frame >= 0:
            emit_prefetch(builder, builder.add(address, v.times(self.pitch, FETCH_FRAMES)))
        if self.bounds is None:
            loaded = builder.load(pointer)
            loaded.align = align
            return loaded
        before, after, nodes = (v.splat(bound, 2 * SIDE) for bound in self.bounds[:3])
        here, lane = indices([frame] * (2 * SIDE)), indices(k // 2 for k in range(2 * SIDE))
        wanted = self._both(
            self._compare(here, ">=", before), self._compare(here, "<", after), self._compare(lane, "<=", nodes)
        )
        kind = ir.FunctionType(self.nodes, [pointer.type, ir.IntType(32), wanted.type, self.nodes])
        name = f"llvm.masked.load.v{2 * SIDE}{self.nodes.element.intrinsic_name}.p0"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        nothing = ir.Constant(self.nodes, None)
        return builder.call(function, [pointer, ir.Constant(ir.IntType(32), align), wanted, nothing])

    def rows(self) -> list[Any]:
        """The tile's nodes row by row."""
        if not self.slanted:
            return [self._load(i) for i in range(SIDE)]
        found = []
        for i in range(SIDE):  # of the frames i and i − SIDE, one comes into the tile in each lane
            row = self._load(i)
            if i > 0:
                row = self._blend(self._load(i - SIDE), row, [i + lane < SIDE for lane in range(SIDE)])
            found.append(row)
        distance = 1
        while distance < SIDE:
            stays = [not lane & distance for lane in range(SIDE)]
            found = [self._blend(found[i - distance], found[i], stays) for i in range(SIDE)]
            distance *= 2
        return found

    def _blend(self, one: Any, other: Any, takes_other: list[bool]) -> Any:
        """Node by node from one of two vectors."""
        taken = indices(k + 2 * SIDE * takes_other[k // 2] for k in range(2 * SIDE))
        return self.builder.shuffle_vector(one, other, taken)

    def arcs(self, nodes: Any) -> tuple[Any, Any]:
        """Blanks and labels, in the accumulator's type."""
        blanks, labels = (self.builder.shuffle_vector(nodes, nodes, indices(range(k, 2 * SIDE, 2))) for k in (0, 1))
        return self.v.widened(blanks, self.stored), self.v.widened(labels, self.stored)

    def legal(self, row: int) -> tuple[Any, Any]:
        """In which lanes of a row a path can take the blank arc, and the label's: see `skew.legal_blanks`."""
        assert self.bounds is not None
        builder = self.builder
        before, after, nodes, lag, spare = (self.v.splat(bound, SIDE) for bound in self.bounds)
        lane = indices(range(SIDE))
        frame = indices(row - k * self.slanted for k in range(SIDE))
        there = self._both(self._compare(frame, ">=", before), self._compare(frame, "<", after))
        label = self._both(there, self._compare(lane, "<", nodes))
        blank = self._both(there, self._compare(lane, "<=", nodes))
        if self.slanted:
            not_last = self._compare(builder.add(frame, indices([1] * SIDE)), "<", after)
            return self._both(blank, builder.or_(not_last, self._compare(lane, "==", nodes))), label
        into = indices(k - row for k in range(SIDE))  # u − t, but for the first row's and lane's
        reached = self._compare(into, "<=", lag)
        left = builder.add(into, spare)  # frames less nodes that are left
        zero = indices([0] * SIDE)
        return self._both(blank, reached, self._compare(left, ">", zero)), self._both(
            label, reached, self._compare(left, ">=", zero)
        )


def _tile(slanted: bool, masked: bool) -> Any:
    """An intrinsic that gathers one tile."""

    @intrinsic
    def gather_tile(
        typing_context: Any,
        model: Any,
        cells: Any,
        pitch: Any,
        before: Any,
        after: Any,
        nodes: Any,
        lag: Any,
        spare: Any,
        blanks: Any,
        labels: Any,
        index: Any,
        width: Any,
    ) -> Any:
        """`SIDE` rows of `SIDE` nodes.

        Args:
            cells: address of the first row's node in the first lane, which need not be one.
            pitch: bytes from a frame to the next.
            before, after, nodes, lag, spare: of that node (t, u): −t, T − t, U − u, t − u, (T − t) − (U − u). Looked
                at if `masked` only.
            blanks, labels: of the accumulator's type, [rows, width], where the arcs go.
            index: of the tile's first element in them.
            width: of their rows.
        """
        number = types.int64
        signature = types.void(model, *[number] * 7, blanks, labels, number, number)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            tile = _Tile(context, builder, signature, args, slanted, masked)
            index, width = args[10], args[11]
            nothing = ir.Constant(tile.v.kind(8, SIDE), [float("-inf")] * SIDE)
            for i, nodes in enumerate(tile.rows()):
                blank, label = tile.arcs(nodes)
                if masked:
                    blank, label = (
                        builder.select(legal, arcs, nothing) for legal, arcs in zip(tile.legal(i), (blank, label))
                    )
                at = builder.add(index, tile.v.times(width, i))
                tile.v.store(8, at, blank)
                tile.v.store(9, at, label)
            return context.get_dummy_value()

        return signature, generate

    return gather_tile


_slanted, _slanted_masked = _tile(slanted=True, masked=False), _tile(slanted=True, masked=True)
_straight, _straight_masked = _tile(slanted=False, masked=False), _tile(slanted=False, masked=True)


@part
def gather_pairs(item, model, row, label, rows, blanks, labels):
    """As `skew.gather`, of an item with columns blank and label, in that order, right behind each other.

    Args:
        rows: how many are wanted; up to a multiple of `SIDE` there is room in `blanks` and `labels`, and they are
            filled. Their width is a multiple of `SIDE` too.
    """
    size, width = model.itemsize, blanks.shape[1]
    pitch = item.frame_pitch * size
    for r in range(0, rows, SIDE):
        for j in range(0, width, SIDE):
            u = label + j
            t = row + r - item.slant * u
            cells = item.address + t * pitch + u * 2 * size
            index = r * width + j
            after, nodes, lag = item.T - t, item.U - u, t - u
            spare = after - nodes
            if nodes < 0:
                for i in range(r, r + SIDE):
                    for k in range(j, j + SIDE):
                        blanks[i, k] = -np.inf
                        labels[i, k] = -np.inf
            elif item.slant != 0:
                if t >= SIDE - 1 and after > SIDE and nodes >= SIDE:
                    _slanted(model, cells, pitch, -t, after, nodes, lag, spare, blanks, labels, index, width)
                else:
                    _slanted_masked(model, cells, pitch, -t, after, nodes, lag, spare, blanks, labels, index, width)
            elif t >= 0 and after >= SIDE and nodes >= SIDE and lag >= SIDE - 1 and spare >= SIDE:
                _straight(model, cells, pitch, -t, after, nodes, lag, spare, blanks, labels, index, width)
            else:
                _straight_masked(model, cells, pitch, -t, after, nodes, lag, spare, blanks, labels, index, width)
