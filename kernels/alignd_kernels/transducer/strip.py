# mypy: disable-error-code="untyped-decorator"
"""A strip of the transducer lattice: some rows of `LANES` neighbouring nodes, whose scores stay in vector registers.

Numba's own loops would load and store the scores in every row, the shifted ones across two vectors that have just been
stored, and would not pack the back-pointers; the vector instructions of LLVM, which fit any processor, do it in one go.
"""

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from alignd_kernels.vectors import Vectors, indices

LANES: Final = 32
"""Nodes of a row in a strip: two vectors of float32 with AVX-512, whose chains of dependent instructions overlap."""


@intrinsic
def advance(
    typing_context: Any, blanks: Any, labels: Any, rows: Any, V: Any, edges: Any, row: Any, steps: Any, word: Any
) -> Any:
    """Rows `row` … `row` + `rows` − 1, in place.

    V[j] = max(V[j] + blanks[j], V[j-1] + labels[j-1]), of the row before on the right-hand side. A tie, or NaN in
    either, comes by blank.

    Args:
        blanks, labels: [rows, LANES], arcs of the nodes of the rows before each.
        rows: how many.
        V: [LANES], scores of the row before; then of the last one.
        edges: what comes by a label into lane 0 of each row from the left; then what leaves the last lane to the right.
        row: the first one's index in `edges`.
        steps: uint32; row r's back-pointers are put at `word` + r, a bit for each lane that comes by a label.
        word: the first one's.

    Returns:
        uint32, the lanes in which NaN has been met.
    """
    number = types.int64
    signature = types.uint32(blanks, labels, number, V, edges, number, steps, number)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(context, builder, signature, args)
        rows, row, word = args[2], args[5], args[7]
        bits = ir.IntType(LANES)
        last = ir.Constant(ir.IntType(32), LANES - 1)
        score_slot = cgutils.alloca_once_value(builder, v.load(3, v.times(row, 0), LANES))
        nan_slot = cgutils.alloca_once_value(builder, ir.Constant(bits, 0))
        with cgutils.for_range(builder, rows) as loop:
            at, at_edge = v.times(loop.index, LANES), builder.add(row, loop.index)
            score = builder.load(score_slot)
            stays = builder.fadd(score, v.load(0, at, LANES))
            leaves = builder.fadd(score, v.load(1, at, LANES))
            edge = v.address(4, at_edge, leaves.type.element)
            enters = builder.shuffle_vector(leaves, leaves, indices([LANES - 1, *range(LANES - 1)]))
            enters = builder.insert_element(enters, builder.load(edge), ir.Constant(ir.IntType(32), 0))
            builder.store(builder.extract_element(leaves, last), edge)
            moved = builder.fcmp_ordered(">", enters, stays)
            builder.store(builder.select(moved, enters, stays), score_slot)
            builder.store(builder.bitcast(moved, bits), v.address(6, builder.add(word, loop.index), bits))
            nan = builder.bitcast(builder.fcmp_unordered("uno", enters, stays), bits)
            builder.store(builder.or_(builder.load(nan_slot), nan), nan_slot)
        v.store(3, v.times(row, 0), builder.load(score_slot))
        return builder.load(nan_slot)

    return signature, generate
