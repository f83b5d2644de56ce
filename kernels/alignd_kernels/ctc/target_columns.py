"""Emissions of an item's own labels only: [T, L + 1] in place of [T, V], for large vocabularies.

Nothing that aligns or sums needs to know of them: they are emissions of a vocabulary of the item's own, blank first,
and targets that name its columns. All that must be seen to is that equal labels name one column, since a path must pass
a blank between them.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from alignd_kernels.arrays import integers, is_torch, lengths, on_gpu
from alignd_kernels.ctc.batch import STAR
from alignd_kernels.padded import like
from alignd_kernels.ragged import Int64Array


def ctc_column_targets(targets: Any, target_lengths: Any = None) -> Any:
    """Targets for emissions that a model gives as [T, L + 1]: blank's column 0, and column i + 1 for target i.

    A label that comes again names the column of its first; its own column, which is the same, is not read.

    Args:
        targets: integers [L], or [B, L] of several items; NumPy or torch, on any device: they are looked at on the
            host. `STAR` stays what it is.
        target_lengths: integers [B], targets of each item; default L.

    Returns:
        int32, of the shape, kind and device of `targets`, for `forced_align`, `ctc_posteriors` and `ctc.align` with
        these emissions and blank 0; −1 in the padding. `ctc_loss`, too, where the emissions are differentiable: a
        label's gradient is then all at its first column, as it belongs to the label.

    Raises:
        ValueError: wrong shapes or lengths.
        TypeError: targets or lengths are not integers.
    """
    items, counts, single = _items(targets, target_lengths)
    found = np.full(items.shape, STAR, np.int32)
    for b, L in enumerate(counts.tolist()):
        own = items[b, :L]
        _, first, which = np.unique(own, return_index=True, return_inverse=True)
        found[b, :L] = np.where(own == STAR, STAR, first[which] + 1)
    return _like(targets, found[0] if single else found)


def ctc_target_columns(
    log_probs: Any, targets: Any, target_lengths: Any = None, blank: int = 0
) -> tuple[Any, Any, Any]:
    """The columns of full log-probs that an item's paths can take, and the targets that name them: what is worth making
    before emissions are kept, sent or aligned several times.

    A wildcard stays one, and so does its score, unless that is "max": the largest of these columns is not the largest
    of the vocabulary.

    Args:
        log_probs: [T, V], or [B, T, V] of several items; NumPy or torch, on any device.
        targets: integers [L] or [B, L], on any device: they are looked at on the host. `STAR` stays what it is.
        target_lengths: integers [B], targets of each item; default L.
        blank: its column.

    Returns:
        emissions [T, D + 1] or [B, T, D + 1], of the kind and dtype of `log_probs`, D being the most labels that an
        item has without repetition: column 0 is blank; of an item with fewer labels, the last columns are blank's once
        more. Differentiable where torch is. Targets int32, of the shape, kind and device of `targets`: columns of these
        emissions, −1 in the padding. And the columns of `log_probs`, int64 [D + 1] or [B, D + 1]: what paths and
        targets name now is at that index.

    Raises:
        ValueError: wrong shapes or lengths; blank or a target out of range, a target that is blank.
        TypeError: targets or lengths are not integers.
    """
    items, counts, single = _items(targets, target_lengths)
    shape = tuple(np.shape(log_probs))
    if len(shape) != (2 if single else 3) or (not single and shape[0] != len(items)):
        raise ValueError(
            f"log_probs {shape} and targets {tuple(np.shape(targets))} must be [T, V] and [L], or of B items"
        )
    V = shape[-1]
    if not 0 <= blank < V:
        raise ValueError(f"blank is {blank}; it must be within [0, {V}), the columns of log_probs")
    found, labels = np.full(items.shape, STAR, np.int32), []
    for b, L in enumerate(counts.tolist()):
        own = items[b, :L]
        wrong = np.flatnonzero(((own != STAR) & ((own < 0) | (own >= V))) | (own == blank))
        if wrong.size:
            raise ValueError(f"target {wrong[0]} of item {b} is {own[wrong[0]]}: blank, or no column of log_probs")
        distinct, which = np.unique(own[own != STAR], return_inverse=True)
        labels.append(distinct)
        found[b, :L][own != STAR] = which + 1
    columns = np.full((len(items), 1 + max((len(own) for own in labels), default=0)), blank, np.int64)
    for b, distinct in enumerate(labels):
        columns[b, 1 : 1 + len(distinct)] = distinct
    if single:
        return _taken(log_probs, columns[0][None]), _like(targets, found[0]), _like(targets, columns[0])
    return _taken(log_probs, columns[:, None]), _like(targets, found), _like(targets, columns)


def _items(targets: Any, target_lengths: Any) -> tuple[npt.NDArray[np.integer], Int64Array, bool]:
    """Targets [B, L], how many of each item are its own, and whether one item was given."""
    found = integers(targets.cpu() if on_gpu(targets) else targets, "targets")
    if on_gpu(target_lengths):
        target_lengths = target_lengths.cpu()
    if found.ndim not in (1, 2):
        raise ValueError(f"targets must be [L] or [B, L], not of shape {found.shape}")
    single = found.ndim == 1
    items = found[None] if single else found
    if single and target_lengths is not None:
        raise ValueError("target_lengths are for several items: of one, give its own targets alone")
    return items, lengths(target_lengths, "target_lengths", *items.shape), single


def _like(targets: Any, array: npt.NDArray[Any]) -> Any:
    """The array, of the targets' kind and on their device."""
    found = like(targets, array)
    return found.to(targets.device) if on_gpu(targets) else found


def _taken(log_probs: Any, columns: Int64Array) -> Any:
    if not is_torch(log_probs):
        return np.take_along_axis(np.asarray(log_probs), columns, -1)
    import torch

    index = torch.from_numpy(columns).to(log_probs.device)
    return log_probs.gather(-1, index.expand(*log_probs.shape[:-1], columns.shape[-1]))
