# mypy: allow-untyped-defs
"""Labels and log-probs of each frame as padded arrays (Numba)."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from alignd_kernels.compile_cache import kernel
from alignd_kernels.ctc.batch import STAR, CtcBatch, CtcResult
from alignd_kernels.ctc.emissions import star_value
from alignd_kernels.dtypes import DType
from alignd_kernels.numba_helpers import addresses_of, array_at, model_of, take_next, widen
from alignd_kernels.ragged import offsets_of
from alignd_kernels.status import Status
from alignd_kernels.threads import WorkerPool

OK = int(Status.OK)


def dense(
    batch: CtcBatch, result: CtcResult, T: int, pool: WorkerPool | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.floating]]:
    """Labels, int64, and log-probs, of the accumulator's type, of each frame: [B, T] each, blank and 0 in the padding
    and in failed items.

    Args:
        batch: items of up to T frames.
        result: of that batch.
        T: frames of the padded arrays.
        pool: shares a large batch among threads.
    """
    B = len(batch)
    # One block, as the result's: see `cpu`.
    cells, itemsize = B * T, np.dtype(batch.dtype.accumulator).itemsize
    block = np.empty(cells * (8 + itemsize), np.uint8)
    labels = block[: 8 * cells].view(np.int64).reshape(B, T)
    scores = block[8 * cells :].view(batch.dtype.accumulator).reshape(B, T)
    kept, addresses = addresses_of(batch.log_probs, batch.dtype, batch.sources, batch.offsets)
    fields = (batch.frames, batch.vocabulary, batch.pitches, batch.target_offsets, batch.target_lengths)
    items = np.stack([addresses, *fields, batch.blanks.astype(np.int64), offsets_of(batch.frames)[:-1]])
    cursor = np.zeros(1, np.int64)
    star_scores, targets = np.array(batch.star_scores, np.float32), np.array(batch.targets, np.int32)

    # The result's log-probs are float32, too coarse for float64.
    exact = batch.dtype is DType.FLOAT64

    def work() -> None:
        _fill(
            cursor, model_of(batch.dtype), exact, items, star_scores, targets,
            result.paths, result.frame_scores, result.statuses, labels, scores,
        )  # fmt: skip

    if pool is None:
        work()
    else:
        pool.run_everywhere(work, batch.frames * 4)  # a frame costs as much as four cells of the lattice
    del kept
    return labels, scores


def warm_up(dtypes: Iterable[DType]) -> None:
    """Compile the kernel for these types, or load it from the cache."""
    nothing, none = np.zeros(0, np.int32), np.zeros((8, 0), np.int64)
    for dtype in dtypes:
        _fill(
            np.zeros(1, np.int64), model_of(dtype), False, none, np.zeros(0, np.float32), nothing,
            nothing, np.zeros(0, np.float32), nothing, np.zeros((0, 0), np.int64),
            np.zeros((0, 0), dtype.accumulator),
        )  # fmt: skip


@kernel
def _fill(cursor, model, exact, items, star_scores, targets, paths, frame_scores, statuses, labels, scores):
    while True:
        b = take_next(cursor)
        if b >= len(statuses):
            break
        address, T, V, pitch, first_target, L, blank, first_frame = items[:, b]
        if statuses[b] != OK:
            T = 0
        for t in range(T):
            state = np.int64(paths[first_frame + t])
            # Read in any case: which states are labels cannot be foreseen.
            label = np.int64(targets[first_target + min(state >> 1, L - 1)])
            y = label if state & 1 else blank
            labels[b, t] = y
            scores[b, t] = frame_scores[first_frame + t]
            if exact:
                row = array_at(address + t * pitch * model.itemsize, V, model)
                scores[b, t] = star_value(row, blank, star_scores[b]) if y == STAR else np.float64(widen(row[y]))
        for t in range(T, labels.shape[1]):
            labels[b, t] = blank
            scores[b, t] = 0.0
