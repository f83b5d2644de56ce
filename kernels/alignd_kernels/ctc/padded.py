"""CTC forced alignment on padded batches, with torchaudio's arguments and results."""

from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from alignd_kernels.arrays import host, host_scores, is_torch, lengths, of_lists, on_gpu
from alignd_kernels.ctc.batch import STAR_MAX, CtcBatch
from alignd_kernels.dtypes import DType
from alignd_kernels.padded import check_blank, int32_labels, like, raise_if_failed, where_it_lies
from alignd_kernels.status import Status


def forced_align(
    log_probs: Any,
    targets: Any,
    input_lengths: Any = None,
    target_lengths: Any = None,
    blank: int = 0,
    *,
    star_score: float | Literal["max"] = 0.0,
    check: bool = True,
) -> Any:
    """The best CTC path of each item's targets: torchaudio's function of this name, for any batch size.

    The score of a path is the optimum, ties included; among equals the path stays rather than moves, and ends on the
    last label. Graves et al. 2006; Kürzinger et al. 2020, "CTC-Segmentation".

    Args:
        log_probs: [B, T, V], float16, bfloat16, float32 or float64, NumPy or torch, on the CPU or a CUDA device. Rows
            need not be normalised: they are taken as they are.
        targets: integers [B, L], without blanks; `STAR` (-1) is a wildcard: a label of at least one frame that matches
            anything.
        input_lengths: integers [B], frames of each item; default T.
        target_lengths: integers [B], targets of each item; default L.
        blank: its column.
        star_score: log-prob of a wildcard's frames, or "max" for the frame's largest non-blank one.
        check: False leaves out the error for failed items and returns the statuses as well; on a CUDA device nothing
            is waited for then.

    Returns:
        paths [B, T] in the targets' dtype: the label of each frame, blank among them, `STAR` in a wildcard's frames,
        blank in the padding; scores [B, T] in the dtype of `log_probs`: the log-prob of each frame on the path, 0 in
        the padding. Both are of the caller's kind and on the caller's device. With `check=False` also the `Status` of
        each item, int32 [B].

    Raises:
        InvalidItemsError: listing every item that has no path: empty, a target that is blank, out of range or a second
            wildcard in a row, too few frames, NaN or +inf in a log-prob that a path can visit, no path of finite score.
        ValueError: for wrong shapes, lengths or blank; and for a blank that the targets' dtype, and so the paths',
            cannot hold.
        TypeError: for dtypes that do not fit.
    """
    targets = of_lists(targets, "targets")
    T = check_shapes(log_probs, targets, blank)[1]
    star = star_of(star_score)
    if on_gpu(log_probs):
        from alignd_kernels.ctc.gpu_padded import forced_align_on_gpu

        return forced_align_on_gpu(log_probs, targets, input_lengths, target_lengths, blank, star, check)
    from alignd_kernels.ctc import cpu
    from alignd_kernels.ctc.dense import dense
    from alignd_kernels.threads import default_pool

    label_type = host(targets).dtype
    batch = padded_batch(log_probs, targets, input_lengths, target_lengths, blank, star)
    check_blank_fits(blank, np.iinfo(label_type).max, label_type)
    result = cpu.align(batch, default_pool())
    if check:
        raise_if_failed(result.statuses.tolist(), partial(reason_of, batch))
    paths, scores = dense(batch, result, T, default_pool())
    found = _as_callers(log_probs, targets, label_type, batch.dtype, paths, scores)
    if check:
        return found
    return (*found, like(log_probs, result.statuses))


def star_of(star_score: float | Literal["max"]) -> float:
    """`CtcBatch.star_scores` of an argument.

    Raises:
        ValueError: it is NaN.
    """
    if star_score == "max":
        return STAR_MAX
    if isinstance(star_score, str):
        raise ValueError(f'star_score must be a number or "max", not {star_score!r}')
    found = float(star_score)
    if np.isnan(found):
        raise ValueError('star_score must be a number or "max", not NaN')
    return found


def padded_batch(
    log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any, blank: int, star: float
) -> CtcBatch:
    """The arguments of `forced_align` in host memory, read where they lie.

    Raises:
        ValueError: for wrong shapes, lengths or blank.
        TypeError: for dtypes that do not fit.
    """
    B, T, V, L = check_shapes(log_probs, targets, blank)
    storage, dtype = host_scores(log_probs, strided=True)
    flat, (item, pitch, _) = where_it_lies(storage)
    return CtcBatch(
        flat,
        dtype,
        np.arange(B, dtype=np.int64) * item,
        lengths(input_lengths, "input_lengths", B, T),
        np.full(B, V, np.int64),
        np.full(B, pitch, np.int64),
        int32_labels(targets, "targets").reshape(-1),
        np.arange(B, dtype=np.int64) * L,
        lengths(target_lengths, "target_lengths", B, L),
        np.full(B, blank, np.int32),
        np.full(B, star, np.float32),
    )


def reason_of(batch: CtcBatch, index: int, status: Status) -> str:
    """`ctc.reason` of an item of a batch."""
    from alignd_kernels.ctc import reason

    first = int(batch.target_offsets[index])
    targets = batch.targets[first : first + int(batch.target_lengths[index])]
    return reason(status, int(batch.frames[index]), targets, int(batch.vocabulary[index]), int(batch.blanks[index]))


def check_blank_fits(blank: int, largest: int, dtype: object) -> None:
    """Raises `ValueError` for a blank that paths, which are of the targets' dtype, cannot hold."""
    if blank > largest:
        raise ValueError(f"blank is {blank}, which the targets' dtype {dtype}, and so the paths', cannot hold")


def check_shapes(log_probs: Any, targets: Any, blank: int) -> tuple[int, int, int, int]:
    """B, T, V and L.

    Raises:
        ValueError: for wrong shapes, or a blank out of range.
    """
    shape, target_shape = tuple(np.shape(log_probs)), tuple(np.shape(targets))
    if len(shape) != 3:
        raise ValueError(f"log_probs must be [batch, frames, vocabulary], not of shape {shape}")
    if len(target_shape) != 2:
        raise ValueError(f"targets must be [batch, labels], not of shape {target_shape}")
    if shape[0] != target_shape[0]:
        raise ValueError(f"log_probs has {shape[0]} items, but targets {target_shape[0]}")
    check_blank(blank)
    if not 0 <= blank < shape[2]:
        raise ValueError(f"blank is {blank}; it must be within [0, {shape[2]}), the columns of log_probs")
    return shape[0], shape[1], shape[2], target_shape[1]


def _as_callers(
    log_probs: Any,
    targets: Any,
    label_type: np.dtype[Any],
    dtype: DType,
    paths: npt.NDArray[np.int64],
    scores: npt.NDArray[np.floating],
) -> tuple[Any, Any]:
    """Results in the caller's dtypes; each of the kind of the argument that gave it its dtype."""
    labels = like(targets, paths.astype(label_type, copy=False))
    if is_torch(log_probs):
        import torch

        return labels, torch.from_numpy(scores).to(log_probs.dtype)
    return labels, scores.astype(np.asarray(log_probs).dtype, copy=False)
