"""Posteriors of CTC lattices on padded batches."""

from functools import partial
from typing import Any, Final, Literal

import numpy as np

from alignd_kernels.arrays import check_known_device, of_lists, on_gpu
from alignd_kernels.ctc.batch import CtcBatch
from alignd_kernels.ctc.padded import check_shapes, padded_batch, reason_of, star_of
from alignd_kernels.padded import like, raise_if_failed
from alignd_kernels.status import Status

NO_FRAMES: Final = "empty item: it needs a frame, though not a target"


def ctc_posteriors(
    log_probs: Any,
    targets: Any,
    input_lengths: Any = None,
    target_lengths: Any = None,
    blank: int = 0,
    *,
    star_score: float | Literal["max"] = 0.0,
    check: bool = True,
) -> tuple[Any, ...]:
    """The probability that a path is in a state in a frame, over all CTC paths of each item's targets.

    A path's weight is the exponential of the sum of its log-probs. Graves et al. 2006, "Connectionist Temporal
    Classification", section 4.1. Computed in float32 (float64 for float64).

    Args:
        log_probs: [B, T, V], float16, bfloat16, float32 or float64, NumPy or torch, on the CPU or a CUDA device; only
            read, where it lies if columns are contiguous. Rows need not be normalised. What no path can take is
            ignored, NaN included.
        targets: integers [B, L], without blanks; `STAR` (-1) is a wildcard: a label of at least one frame that matches
            anything.
        input_lengths: integers [B], frames of each item; default T.
        target_lengths: integers [B], targets of each item, 0 included; default L.
        blank: its column.
        star_score: log-prob of a wildcard's frames, or "max" for the frame's largest non-blank one.
        check: False leaves out the error for failed items and returns the statuses as well; on a CUDA device nothing
            is waited for then, and lengths there that are out of range give `Status.INTERNAL`.

    Returns:
        posteriors [B, T, 2L + 1], float32 (float64 for float64), of the caller's kind and device: state 2i is the blank
        before label i (or after the last one), state 2i + 1 label i. Those of a frame sum to 1; 0 in the padding.
        Log-likelihoods, float64 [B]: the log of the sum over all paths. With `check=False` also the `Status` of each
        item, int32 [B]; a failed item has posteriors of 0 and a log-likelihood of NaN.

    Raises:
        InvalidItemsError: listing every item that has no path: no frames, a target that is blank, out of range or a
            second wildcard in a row, too few frames, NaN or +inf in a log-prob that a path can visit, no path of finite
            score.
        ValueError: for wrong shapes, lengths or blank.
        TypeError: for dtypes that do not fit.
        NotImplementedError: for tensors that are neither on the CPU nor on a CUDA device.
        MemoryError: what is needed beside the arguments cannot be had.
    """
    targets = of_lists(targets, "targets")
    B, T, _, L = check_shapes(log_probs, targets, blank)
    star = star_of(star_score)
    check_known_device(log_probs, "ctc_posteriors")
    if on_gpu(log_probs):
        from alignd_kernels.ctc.gpu_sum_padded import ctc_posteriors_on_gpu

        return ctc_posteriors_on_gpu(log_probs, targets, input_lengths, target_lengths, blank, star, check)
    from alignd_kernels.ctc import cpu_sum
    from alignd_kernels.threads import default_pool

    batch = padded_batch(log_probs, targets, input_lengths, target_lengths, blank, star)
    states = 2 * L + 1
    flat = np.zeros(B * T * states, batch.dtype.accumulator)
    rows = np.arange(B, dtype=np.int64) * (T * states), np.full(B, states, np.int64)
    scores, statuses = cpu_sum.sums(batch, cpu_sum.STATES, flat, rows, default_pool())
    if check:
        raise_if_failed(statuses.tolist(), partial(_reason_of, batch))
    found = flat.reshape(B, T, states), scores, statuses
    return tuple(like(log_probs, array) for array in found[: 2 if check else 3])


def _reason_of(batch: CtcBatch, index: int, status: Status) -> str:
    if status is Status.EMPTY:
        return NO_FRAMES
    return reason_of(batch, index, status)
