"""The transducer loss, with warp_rnnt's arguments and results."""

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from alignd_kernels.arrays import is_torch, same_device
from alignd_kernels.padded import check_blank
from alignd_kernels.ragged import Int64Array, offsets_of
from alignd_kernels.with_torch import torch_module

FLOATS = ("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64")
INTEGERS = ("torch.int32", "torch.int64")


class Sizes(NamedTuple):
    """What is known of a batch in host memory.

    Attributes:
        frames, labels: int64 [N], T and U of each item.
        targets: int32, the labels as they were given, flat; ones where the log-probs were gathered already.
        target_offsets: int64 [N], of each item's first one.
        blank: its column.
    """

    frames: Int64Array
    labels: Int64Array
    targets: npt.NDArray[np.int32]
    target_offsets: Int64Array
    blank: int


def rnnt_loss(
    log_probs: Any,
    labels: Any,
    frames_lengths: Any,
    labels_lengths: Any,
    average_frames: bool = False,
    reduction: Literal["none", "mean", "sum"] | None = "none",
    blank: int = 0,
    gather: bool = False,
    fastemit_lambda: float = 0.0,
    compact: bool = False,
    modified: bool = False,
) -> Any:
    """Negative log-likelihood of labels under a transducer, differentiable: warp_rnnt's function of this name, on the
    CPU too.

    Graves 2012, "Sequence Transduction with Recurrent Neural Networks"; FastEmit: Yu et al. 2021; one symbol a frame:
    Tripathi et al. 2019. Computed in float32 (float64 for float64). Beyond the arguments and the gradient that autograd
    needs, memory is O(T · U): of the V columns of a node two are read, blank and next label. An item's cost is +inf,
    its gradient 0, where no path has a finite score; both are NaN where a log-prob that a path can take is NaN or +inf.
    What stands beyond an item's lengths is not looked at, NaN included. Rows need not be normalised.

    Autograd demands a gradient of the very shape of `log_probs`, all V columns with `compact` too; log-probs that are
    reduced to blank and next label (`blank=-1`) avoid any gradient of size V here.

    Args:
        log_probs: [N, T, U, V], U one more than the most labels, a torch tensor of float16, bfloat16, float32 or
            float64; with `compact` [Σ Tᵢ · Uᵢ, V], the items' nodes end to end, Uᵢ = labels_lengths + 1.
        labels: int32 or int64 [N, U − 1]; with `compact` [Σ (Uᵢ − 1)], the items' labels end to end.
        frames_lengths: int32 or int64 [N], 1 … T.
        labels_lengths: int32 or int64 [N], 0 … U − 1.
        average_frames: divide each cost by its item's frames.
        reduction: "none" or None for costs [N]; "mean" over the items; "sum".
        blank: its column. −1, with V = 2: the log-probs are those of blank and of the next label already, and the
            labels' values do not matter.
        gather: as without it. warp_rnnt needs less memory with it; here that is always so.
        fastemit_lambda: gradients of labels are multiplied by 1 + this; costs stay.
        compact: the layout without padding.
        modified: one symbol a frame: a label, too, goes on to the next frame; at most T labels.

    Returns:
        costs, or their mean or sum: float32, or float64 for float64 log-probs, on the device of the log-probs. On a
        CUDA device the work is queued on the current stream, after lengths and labels have come to the host to be
        checked.

    Raises:
        TypeError: an argument is no tensor of a type named above.
        ValueError: wrong shapes; lengths, labels or blank out of range, a label that is blank, more labels than frames
            in the modified topology, an unknown reduction, a negative `fastemit_lambda`; arguments on several devices.
        RuntimeError: a second derivative is asked for; there is none.
        MemoryError: what is needed beside the arguments cannot be had.
        ImportError: torch is not installed: the extra `alignd-kernels[gpu]` brings it.
    """
    torch = torch_module()
    flags = {"average_frames": average_frames, "gather": gather, "compact": compact, "modified": modified}
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, not {flag!r} (the order of arguments is warp_rnnt's)")
    names = ("log_probs", "labels", "frames_lengths", "labels_lengths")
    arguments = (log_probs, labels, frames_lengths, labels_lengths)
    _check_types(arguments, names)
    same_device(arguments, names)
    if reduction not in (None, "none", "mean", "sum"):
        raise ValueError(f'reduction must be "none", "mean", "sum" or None, not {reduction!r}')
    if not (np.isfinite(fastemit_lambda) and fastemit_lambda >= 0):
        raise ValueError(f"fastemit_lambda must be finite and at least 0, not {fastemit_lambda}")
    _check_shapes([tuple(argument.shape) for argument in arguments], blank, compact)
    sizes = _checked(*arguments, blank, compact, modified)

    from alignd_kernels.transducer.loss_autograd import TransducerLoss

    wanted = log_probs.requires_grad and torch.is_grad_enabled()
    costs = TransducerLoss.apply(log_probs, labels, sizes, modified, float(fastemit_lambda), wanted)
    if average_frames:
        costs = costs / frames_lengths.to(costs.dtype)
    if reduction == "mean":
        return costs.mean()
    return costs.sum() if reduction == "sum" else costs


def _check_types(arguments: tuple[Any, ...], names: tuple[str, ...]) -> None:
    for argument, name in zip(arguments, names):
        if not is_torch(argument):
            raise TypeError(f"{name} must be a torch tensor, not {type(argument).__name__}")
        allowed = FLOATS if name == "log_probs" else INTEGERS
        if str(argument.dtype) not in allowed:
            raise TypeError(
                f"{name} must be {' or '.join(kind[6:] for kind in allowed)}, not {str(argument.dtype)[6:]}"
            )


def _check_shapes(shapes: list[tuple[int, ...]], blank: int, compact: bool) -> None:
    log_probs, labels, frames, lengths = shapes
    layout, label_layout = ("[ΣTU, V]", "[ΣU]") if compact else ("[N, T, U, V]", "[N, U - 1]")
    if len(log_probs) != (2 if compact else 4):
        raise ValueError(f"log_probs must be {layout}, not of shape {log_probs}")
    if compact and len(labels) != 1:
        raise ValueError(f"labels must be {label_layout}, not of shape {labels}")
    if len(frames) != 1 or lengths != frames:
        raise ValueError(
            f"frames_lengths and labels_lengths must be [N], one for each item, not of shapes {frames} and {lengths}"
        )
    if not compact:
        N, _, U, _ = log_probs
        if labels != (N, U - 1):
            raise ValueError(f"labels must be {label_layout}, {(N, U - 1)} for log_probs {log_probs}, not {labels}")
        if frames != (N,):
            raise ValueError(f"frames_lengths must be of shape ({N},), one for each item, not {frames}")
    check_blank(blank)
    V = log_probs[-1]
    if blank == -1 and V != 2:
        raise ValueError(f"blank is -1, for log_probs of blank and label only, which are 2 columns, not {V}")
    if not -1 <= blank < V:
        raise ValueError(f"blank is {blank}; it must be a column of log_probs, from 0 to {V - 1}")


def _checked(
    log_probs: Any, labels: Any, frames: Any, lengths: Any, blank: int, compact: bool, modified: bool
) -> Sizes:
    """Raises:
    ValueError: naming the first item whose lengths or labels do not fit.
    """
    import torch

    # At once, since each copy from a device waits for it.
    given = torch.cat([frames.long(), lengths.long(), labels.long().reshape(-1)]).cpu().numpy()
    N = len(frames)
    T, U, found = given[:N], given[N : 2 * N], given[2 * N :]
    most_frames, most_labels = (len(log_probs), len(found)) if compact else (log_probs.shape[1], log_probs.shape[2] - 1)
    _check_lengths(T, "frames_lengths", 1, most_frames)
    _check_lengths(U, "labels_lengths", 0, most_labels)
    if modified and (U > T).any():
        index = int(np.argmax(U > T))
        raise ValueError(
            f"labels_lengths[{index}] is {U[index]}, but the modified topology emits at most one label in each of its "
            f"{T[index]} frames"
        )
    if compact:
        nodes, count = sum(int(t) * (int(u) + 1) for t, u in zip(T, U)), int(U.sum())
        if nodes != len(log_probs):
            raise ValueError(f"log_probs has {len(log_probs)} rows, but the lengths make {nodes}: the sum of T * U")
        if count != len(found):
            raise ValueError(f"labels has {len(found)} elements, but labels_lengths sum to {count}")
    first = offsets_of(U)[:-1] if compact else np.arange(N, dtype=np.int64) * most_labels
    if blank == -1:
        return Sizes(T, U, np.ones(len(found), np.int32), first, 0)
    _check_labels(found, first, U, log_probs.shape[-1], blank)
    targets = np.clip(found, -1, 2**31 - 1).astype(np.int32)  # the padding's may be anything
    return Sizes(T, U, targets, first, blank)


def _check_lengths(lengths: Int64Array, name: str, least: int, most: int) -> None:
    outside = np.flatnonzero((lengths < least) | (lengths > most))
    if outside.size:
        index = int(outside[0])
        raise ValueError(f"{name}[{index}] is {lengths[index]}; it must be from {least} to {most}")


def _check_labels(labels: Int64Array, first: Int64Array, lengths: Int64Array, V: int, blank: int) -> None:
    # The indices of all items' labels, end to end.
    starts = offsets_of(lengths)
    places = np.arange(starts[-1]) + np.repeat(first - starts[:-1], lengths)
    values = labels[places]
    bad = np.flatnonzero((values < 0) | (values >= V) | (values == blank))
    if bad.size:
        item = int(np.searchsorted(starts, bad[0], side="right")) - 1
        value, position = values[bad[0]], int(bad[0] - starts[item])
        problem = "the blank" if value == blank else f"not a column of log_probs, from 0 to {V - 1}"
        raise ValueError(f"label {position} of item {item} is {value}, which is {problem}")
