"""The CTC loss, with torch's arguments and values."""

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from alignd_kernels.arrays import check_known_device, host, is_torch, lengths, of_lists, on_gpu, same_device
from alignd_kernels.padded import check_blank, int32_labels
from alignd_kernels.ragged import Int64Array, offsets_of
from alignd_kernels.with_torch import torch_module


class Targets(NamedTuple):
    """Labels of a batch: int32, flat; int64 [B], where each item's begin in them, and how many they are."""

    labels: npt.NDArray[np.int32]
    offsets: Int64Array
    lengths: Int64Array


def ctc_loss(
    log_probs: Any,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: Literal["none", "mean", "sum"] = "mean",
    zero_infinity: bool = False,
) -> Any:
    """Minus the log of the sum over all CTC paths of the targets, differentiable: `torch.nn.functional.ctc_loss`, with
    checked arguments.

    Graves et al. 2006, "Connectionist Temporal Classification". Computed in float32 (float64 for float64), in numbers
    with an exponent, so that errors do not grow with the logarithms; in float32 a cost above 5.8 million is +inf.

    The gradient is the derivative by the log-probs as they are given: minus the probability that a path emits the
    column in the frame. torch's adds exp(log_probs), as if a log-softmax were part of the loss. By what is before a
    log-softmax both are the same; before anything else only this one is right.

    Args:
        log_probs: [T, B, V], or [T, V] for one item; a torch tensor on the CPU or a CUDA device, float16, bfloat16,
            float32 or float64, of any strides, only read. Rows need not be normalised. What no path of an item's
            targets can take, and what stands beyond its lengths, is not looked at, NaN included.
        targets: integers [B, L], or the items' targets end to end, [sum of target_lengths]; for one item also [L]. They
            and the lengths may lie on the host or where the log-probs do.
        input_lengths: integers [B], a tensor or any sequence, 0 … T; for one item also a number.
        target_lengths: the same, 0 … L.
        blank: its column.
        reduction: "mean": each item's cost divided by its targets (by 1 if it has none), then the mean over the batch;
            "sum"; "none" for costs [B], of one item without the batch's axis [].
        zero_infinity: costs of +inf, those of items that no path of finite score fits, count as 0.

    Returns:
        float32, or float64 for float64 log-probs, on the device of the log-probs. On a CUDA device the work is queued
        on the current stream, after those targets and lengths that lie there have come to the host to be checked, which
        is waited for; nothing else is. The gradient of an item whose cost is +inf is 0, with and without
        `zero_infinity` (torch's is NaN without). NaN or +inf in a log-prob that a path can take make an item's cost and
        its gradient NaN.

    Raises:
        TypeError: `log_probs` is no torch tensor of a floating-point type; targets or lengths are not integers.
        ValueError: wrong shapes; lengths, blank or targets out of range, a target that is blank; an unknown reduction;
            a mean of no items; arguments on several devices.
        NotImplementedError: for a tensor that is neither on the CPU nor on a CUDA device.
        RuntimeError: a second derivative is asked for; there is none.
        MemoryError: what is needed beside the arguments cannot be had.
        ImportError: torch is not installed: the extra `alignd-kernels[gpu]` brings it.
    """
    torch = torch_module()
    if not is_torch(log_probs):
        raise TypeError(f"log_probs must be a torch tensor, not {type(log_probs).__name__}")
    if not log_probs.is_floating_point():
        raise TypeError(f"log_probs must be floating-point, not {log_probs.dtype}")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f'reduction must be "none", "mean" or "sum", not {reduction!r}')
    single = log_probs.dim() == 2
    if not single and log_probs.dim() != 3:
        raise ValueError(f"log_probs must be [T, B, V] or [T, V], not of shape {tuple(log_probs.shape)}")
    check_known_device(log_probs, "ctc_loss")
    scores = log_probs[:, None] if single else log_probs
    T, B, V = scores.shape
    check_blank(blank)
    if not 0 <= blank < V:
        raise ValueError(f"blank is {blank}; it must be within [0, {V}), the columns of log_probs")
    if B == 0 and reduction == "mean":
        raise ValueError("a mean of no items: the batch is empty")
    targets, input_lengths, target_lengths = (
        _brought(of_lists(argument, name), log_probs, name)
        for argument, name in (
            (targets, "targets"),
            (input_lengths, "input_lengths"),
            (target_lengths, "target_lengths"),
        )
    )
    given = _targets(targets, target_lengths, B, single)
    _check_labels(given, targets, V, blank)
    frames = lengths(_as_array(input_lengths, single), "input_lengths", B, T)

    from alignd_kernels.ctc.loss_autograd import CtcLoss

    wanted = scores.requires_grad and torch.is_grad_enabled()
    costs = CtcLoss.apply(scores, given, frames, blank, wanted)
    if zero_infinity:
        costs = torch.where(costs == math.inf, 0.0, costs)
    if reduction == "sum":
        return costs.sum()
    if reduction == "mean":
        counts = torch.from_numpy(np.maximum(given.lengths, 1))
        return (costs / counts.to(costs.device, costs.dtype, non_blocking=True)).mean()
    return costs[0] if single else costs


def _brought(argument: Any, log_probs: Any, name: str) -> Any:
    """An argument that lies where the log-probs do, on the host.

    Raises:
        ValueError: it lies on another device.
    """
    if not on_gpu(argument):
        return argument
    same_device([log_probs, argument], ["log_probs", name])
    return argument.cpu()


def _as_array(given: Any, single: bool) -> Any:
    """Lengths as a tensor or an array; of one item also a number or a tensor of no axes."""
    if not is_torch(given):
        given = np.asarray(given, None if np.size(given) else np.int64)
    return given.reshape(1) if single and given.ndim == 0 else given


def _targets(targets: Any, target_lengths: Any, items: int, single: bool) -> Targets:
    """Where each item's targets lie.

    Raises:
        TypeError, ValueError: as told by `ctc_loss`.
    """
    shape = tuple(np.shape(targets))
    labels = int32_labels(targets, "targets").reshape(-1)
    counts = _as_array(target_lengths, single)
    if len(shape) == 2:
        if shape[0] != items:
            raise ValueError(f"log_probs has {items} items, but targets {shape[0]}")
        return Targets(labels, np.arange(items, dtype=np.int64) * shape[1], lengths(counts, "target_lengths", *shape))
    if len(shape) != 1:
        raise ValueError(f"targets must be [B, L] or the items' end to end, not of shape {shape}")
    found = lengths(counts, "target_lengths", items, len(labels))
    starts = offsets_of(found)
    if not single and starts[-1] != len(labels):
        raise ValueError(f"targets has {len(labels)} elements, but target_lengths sum to {starts[-1]}")
    return Targets(labels, starts[:-1], found)


def _check_labels(given: Targets, targets: Any, vocabulary: int, blank: int) -> None:
    """Raises:
    ValueError: naming the first target that is no column, or blank. There are no wildcards here: a −1 that was meant as
        padding must not become one.
    """
    starts = offsets_of(given.lengths)
    places = np.arange(starts[-1]) + np.repeat(given.offsets - starts[:-1], given.lengths)
    values: npt.NDArray[Any] = given.labels[places]
    bad = np.flatnonzero((values < 0) | (values >= vocabulary) | (values == blank))
    if bad.size:
        item = int(np.searchsorted(starts, bad[0], side="right")) - 1
        value, position = host(targets).reshape(-1)[places[bad[0]]], int(bad[0] - starts[item])
        problem = "the blank" if value == blank else f"not a column of log_probs, from 0 to {vocabulary - 1}"
        raise ValueError(f"target {position} of item {item} is {value}, which is {problem}")
