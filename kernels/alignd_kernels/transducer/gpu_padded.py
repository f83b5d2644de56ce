"""`transducer_align` for tensors on a GPU: nothing is waited for but, if asked, the statuses at the end."""

from typing import Any

import torch

from alignd_kernels import arrays
from alignd_kernels.gpu_common import lengths_on
from alignd_kernels.padded import LARGEST, raise_if_failed
from alignd_kernels.ragged import Int64Array
from alignd_kernels.status import Status
from alignd_kernels.transducer import gpu, reason
from alignd_kernels.transducer.padded import check_shapes


def transducer_align_on_gpu(
    log_probs: torch.Tensor,
    targets: torch.Tensor | None,
    input_lengths: Any,
    target_lengths: Any,
    blank: int,
    *,
    modified: bool,
    check: bool,
) -> tuple[torch.Tensor, ...]:
    """See `transducer_align`. Of packed items the lengths are waited for if they lie on the device: the results' shape
    depends on them.

    Raises:
        MemoryError: the batch's scratch does not fit.
    """
    shape, device = tuple(log_probs.shape), log_probs.device
    check_shapes(shape, None if targets is None else tuple(targets.shape), blank)
    if targets is not None:
        arrays.same_device([log_probs, targets], ["log_probs", "targets"])
        if targets.is_floating_point() or targets.dtype == torch.bool:
            raise TypeError(f"targets must be integers, not {targets.dtype}")
    if len(shape) == 2:
        items, rows, most = _packed_sizes(shape, input_lengths, target_lengths)
        input_lengths, target_lengths = rows
    else:
        items, most = shape[0], (shape[1], shape[2] - 1)
    frames = lengths_on(device, input_lengths, "input_lengths", items, most[0])
    labels = lengths_on(device, target_lengths, "target_lengths", items, most[1])
    if targets is None:  # the second column
        size = (items, most[1]) if len(shape) == 4 else (int(target_lengths.sum()),)
        targets = torch.ones(size, dtype=torch.int32, device=device)
    elif len(shape) == 2 and len(targets) != target_lengths.sum():
        count = int(target_lengths.sum())
        raise ValueError(f"targets must be the items' end to end, {count} by target_lengths, not {len(targets)}")
    scores = log_probs.detach()
    if (shape[-1] > 1 and scores.stride(-1) != 1) or len(shape) == 2:
        scores = scores.contiguous()
    result = gpu.launch(scores, targets, frames, labels, blank, modified, most)
    real = torch.arange(most[1], device=device) < labels[:, None]
    starts = result.emission_frames
    if len(shape) == 2:
        starts = starts.new_zeros((items, most[1])).masked_scatter_(real, starts)
    durations = _durations(starts, frames, labels, real & (result.statuses == Status.OK)[:, None])
    if not check:
        return starts, durations, result.scores, result.statuses
    found = torch.stack([result.statuses.long(), frames, labels]).cpu().numpy()
    arrays.lengths(found[1], "input_lengths", items, most[0])
    arrays.lengths(found[2], "target_lengths", items, most[1])
    own = targets if len(shape) == 4 else targets.new_zeros(real.shape).masked_scatter_(real, targets)

    def reason_of(index: int, status: Status) -> str:
        T, U = int(found[1, index]), int(found[2, index])
        return reason(status, T, own[index, :U].cpu().numpy(), shape[-1], blank, modified)

    raise_if_failed(found[0].tolist(), reason_of)
    return starts, durations, result.scores


def _packed_sizes(
    shape: tuple[int, ...], input_lengths: Any, target_lengths: Any
) -> tuple[int, tuple[Any, Any], tuple[int, int]]:
    """Items, their frames and labels in host memory, and the most of each."""
    rows: list[Int64Array] = []
    for given, name in ((input_lengths, "input_lengths"), (target_lengths, "target_lengths")):
        if given is None:
            raise ValueError(f"packed log_probs, of shape {shape}, need {name}")
        given = given.cpu() if arrays.is_torch(given) else given
        items = len(rows[0]) if rows else len(given)
        rows.append(arrays.lengths(given, name, items, LARGEST))
    frames, labels = rows
    nodes = sum(T * (U + 1) for T, U in zip(frames.tolist(), labels.tolist()))  # Python's integers: no overflow
    if nodes != shape[0]:
        raise ValueError(f"packed log_probs must have {nodes} rows, T · (U + 1) of each item, not {shape[0]}")
    return len(frames), (frames, labels), (int(frames.max(initial=0)), int(labels.max(initial=0)))


def _durations(starts: torch.Tensor, frames: torch.Tensor, labels: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Frames until the next label's, of the last one until the end; 0 where there is none. int32 [B, U]."""
    U = starts.shape[1]
    is_last = torch.arange(1, U + 1, device=starts.device) == labels[:, None]
    following = torch.cat([starts[:, 1:], starts.new_zeros(len(starts), min(U, 1))], 1)
    ends = torch.where(is_last, frames[:, None], following)
    return torch.where(real, ends - starts, 0).to(torch.int32)
