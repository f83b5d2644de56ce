# mypy: disable-error-code="untyped-decorator"
"""A tile of the CTC lattice: `FRAMES` frames of `PAIRS` pairs of states, whose scores stay in vector registers.

Numba's own loops would load and store the scores in every frame, and need one pass for the blanks, one for the labels
and one to pack the back-pointers; the vector instructions of LLVM, which fit any processor, do all in one, and a
comparison's mask is packed as it is. What a tile needs of its left neighbour, the last label's score in each frame, is
handed over through a small array.
"""

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from alignd_kernels.vectors import LANES, PAIRS, Vectors, indices, permutes

FRAMES: Final = 16
"""Frames of a tile: enough to make loading and storing the scores cheap, few enough that processors overlap tiles."""

WORDS: Final = 3
"""Back-pointers of a frame, uint32, a bit for each pair: blank moved, label moved by one, by two. The last wins, but
counts only where a label differs from the one before: who follows the path knows, and the tile need not say."""


def _advance(look_up: bool, keep: bool) -> Any:
    """The variant of the tile that looks emissions up in a table, or loads them; that keeps back-pointers, or not."""

    @intrinsic
    def advance(
        typing_context: Any,
        x: Any,
        x_blank: Any,
        columns: Any,
        blanks: Any,
        labels: Any,
        pair: Any,
        edge: Any,
        frames: Any,
        steps: Any,
        word: Any,
    ) -> Any:
        """Up to `FRAMES` frames, in place, of pairs (blank i, label i), i = `pair` … `pair` + `PAIRS` − 1.

        V[2i] = x_blank + max(V[2i], V[2i-1]);  V[2i+1] = x + max(V[2i+1], V[2i], and V[2i-1] where labels differ).
        A tie, or NaN in V of the state itself, stays; next is the step by one.

        Args:
            x: emissions of the labels, [FRAMES, PAIRS]; or to be looked up, a table [FRAMES, COLUMNS].
            x_blank: emissions of the blanks, [FRAMES, PAIRS].
            columns: int32; label i's stands at i + 1. Equal neighbours are labels that need a blank between them.
            blanks, labels: V of the frame before; then of the last one.
            edge: [FRAMES, LANES], of which the last of each row counts: the last label's V of the tile to the left at
                the frame before each of this tile's; then the same of this tile.
            frames: how many.
            steps: uint32; frame f's back-pointers are put at `word` + WORDS · f.

        Returns:
            bits of the pairs whose label (from bit 0), whose blank (from bit 32) ended as NaN or +inf.
        """
        number = types.int64
        signature = number(x, x_blank, columns, blanks, labels, number, edge, number, steps, number)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            v = Vectors(context, builder, signature, args)
            pair, frames, word = args[5], args[7], args[9]
            column = v.load(2, v.plus(pair, 1))
            differs = builder.icmp_signed("!=", column, v.load(2, pair))
            blank_slot = cgutils.alloca_once_value(builder, v.load(3, pair))
            label_slot = cgutils.alloca_once_value(builder, v.load(4, pair))
            with cgutils.for_range(builder, frames) as loop:
                blank, label = builder.load(blank_slot), builder.load(label_slot)
                at, at_edge = v.times(loop.index, PAIRS), v.times(loop.index, LANES)
                left = v.load(6, at_edge, LANES)
                left = builder.shuffle_vector(left, left, indices([LANES - 1] * PAIRS))
                before = builder.shuffle_vector(left, label, indices(range(PAIRS - 1, 2 * PAIRS - 1)))
                v.store(6, at_edge, builder.shuffle_vector(label, label, indices(range(PAIRS - LANES, PAIRS))))
                from_label = builder.fcmp_ordered(">", before, blank)
                from_blank = builder.fcmp_ordered(">", blank, label)
                best = builder.select(from_blank, blank, label)
                from_before = builder.fcmp_ordered(">", before, best)
                best = builder.select(differs, builder.select(from_before, before, best), best)
                if keep:
                    first = builder.add(word, v.times(loop.index, WORDS))
                    for which, flags in enumerate((from_label, from_blank, from_before)):
                        v.store(8, v.plus(first, which), builder.bitcast(flags, ir.IntType(PAIRS)))
                emission = v.looked_up(0, loop.index, column) if look_up else v.load(0, at)
                builder.store(builder.fadd(builder.select(from_label, before, blank), v.load(1, at)), blank_slot)
                builder.store(builder.fadd(best, emission), label_slot)
            blank, label = builder.load(blank_slot), builder.load(label_slot)
            v.store(3, pair, blank)
            v.store(4, pair, label)
            infinite = ir.Constant(blank.type, [float("inf")] * PAIRS)
            bad_label, bad_blank = (
                builder.zext(
                    builder.bitcast(builder.fcmp_unordered(">=", scores, infinite), ir.IntType(PAIRS)), ir.IntType(64)
                )
                for scores in (label, blank)
            )
            return builder.or_(bad_label, builder.shl(bad_blank, ir.Constant(ir.IntType(64), 32)))

        def without(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return ir.Constant(ir.IntType(64), 0)  # never called: see `looks_up`

        return signature, without if look_up and not permutes(x) else generate

    return advance


advance_kept_looked_up = _advance(look_up=True, keep=True)
advance_looked_up = _advance(look_up=True, keep=False)
advance_kept = _advance(look_up=False, keep=True)
advance = _advance(look_up=False, keep=False)
