# mypy: allow-untyped-defs
"""Gradients by arcs brought to where the log-probs are that the arcs were read from, on the CPU (Numba)."""

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.compile_cache import kernel
from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import Int64Array, offsets_of
from alignd_kernels.threads import WorkerPool

CELLS_A_NODE: Final = 200
"""A node takes as long as so many of the cells that a pool counts, since it often touches a fresh page of memory."""

NODES_A_PIECE: Final = 4096
"""Of an item, which threads share in pieces: about 0.5 ms."""


def place(
    arcs: npt.NDArray[np.generic],
    factors: npt.NDArray[np.generic],
    gradients: npt.NDArray[np.generic],
    offsets: Int64Array,
    frames: Int64Array,
    labels: Int64Array,
    pitches: tuple[int, int],
    targets: npt.NDArray[np.int32],
    target_offsets: Int64Array,
    blank: int,
    pool: WorkerPool,
) -> None:
    """Write the arcs' gradients, times each item's factor, into `gradients`, which is zero elsewhere.

    Args:
        arcs: [nodes · 2], of the items end to end, [T, U + 1, 2] each: by blank and by label.
        factors: of the same type, [B].
        gradients: of the same type, 1-D, written.
        offsets: int64 [B], index of each item's element (0, 0, 0).
        frames, labels: int64 [B], T and U of each item.
        pitches: elements from node (0, 0) to (1, 0) for U labels is pitches[0], or (U + 1) · pitches[1] if that is 0;
            pitches[1] to (0, 1).
        targets: int32, labels.
        target_offsets: int64 [B], of each item's first one.
        blank: its column.
        pool: shares the nodes among threads.
    """
    rows = np.maximum(NODES_A_PIECE // (labels + 1), 1)
    counts = -(-frames // rows)
    items = np.repeat(np.arange(len(frames)), counts)
    first = (np.arange(len(items)) - np.repeat(offsets_of(counts)[:-1], counts)) * rows[items]
    pieces = np.stack([items, first, np.minimum(first + rows[items], frames[items])])
    starts = offsets_of(frames * (labels + 1))

    def work(begin: int, end: int) -> None:
        _place(
            pieces[:, begin:end].copy(), arcs, factors, gradients, offsets, labels, starts, *pitches, targets,
            target_offsets, blank,
        )  # fmt: skip

    pool.run(work, (pieces[2] - pieces[1]) * (labels[items] + 1) * CELLS_A_NODE)


@kernel
def _place(
    pieces, arcs, factors, gradients, offsets, labels, starts, frame_pitch, node_pitch, targets, target_offsets, blank
):
    for piece in range(pieces.shape[1]):
        b, begin, end = pieces[:, piece]
        U, first, factor = labels[b], target_offsets[b], factors[b]
        pitch = frame_pitch if frame_pitch else (U + 1) * node_pitch
        for t in range(begin, end):
            at, node = offsets[b] + t * pitch, 2 * (starts[b] + t * (U + 1))
            for u in range(U):
                gradients[at + blank] = arcs[node] * factor
                gradients[at + targets[first + u]] = arcs[node + 1] * factor
                at += node_pitch
                node += 2
            gradients[at + blank] = arcs[node] * factor


def warm_up(dtypes: Iterable[DType] = tuple(DType)) -> None:
    """Compile the kernel for these types, or load it from the cache, so that no later call has to."""
    one, zero = np.ones(1, np.int64), np.zeros(1, np.int64)
    pool = WorkerPool(1)
    for kind in {np.dtype(np.int16) if dtype.storage == np.uint16 else dtype.storage for dtype in dtypes}:
        place(
            np.zeros(2, kind), np.ones(1, kind), np.zeros(1, kind), zero, one, zero, (1, 1), np.zeros(0, np.int32),
            zero, 0, pool,
        )  # fmt: skip
