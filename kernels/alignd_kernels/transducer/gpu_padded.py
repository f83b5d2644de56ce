"""`transducer_align` for tensors on a GPU: nothing is waited for but, if asked, the statuses at the end. What
`transducer_posteriors` has in common with it there."""

from dataclasses import dataclass
from typing import Any

import torch

from alignd_kernels import arrays
from alignd_kernels.gpu_common import lengths_on
from alignd_kernels.padded import raise_if_failed
from alignd_kernels.status import Status
from alignd_kernels.transducer import gpu, reason
from alignd_kernels.transducer.padded import check_shapes, packed_lengths


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
    given = given_there(log_probs, targets, input_lengths, target_lengths, blank, modified)
    result = gpu.launch(given.log_probs, given.targets, given.frames, given.labels, blank, modified, given.most)
    real, starts = given.real(), result.emission_frames
    if given.packed:
        starts = starts.new_zeros(real.shape).masked_scatter_(real, starts)
    durations = _durations(starts, given.frames, given.labels, real & (result.statuses == Status.OK)[:, None])
    if not check:
        return starts, durations, result.scores, result.statuses
    given.raise_if_failed(result.statuses)
    return starts, durations, result.scores


@dataclass(frozen=True, slots=True)
class Given:
    """A caller's batch, on its device.

    Attributes:
        log_probs: [B, T, U + 1, V], columns contiguous; or packed, [N, V], contiguous. Without gradients.
        targets: integers [B, U], or the items' labels end to end; ones where the log-probs are reduced.
        frames, labels: int64 [B]; of a padded batch they may be out of range still.
        most: frames and labels: no item may have more.
        blank, modified: as they were given.
    """

    log_probs: torch.Tensor
    targets: torch.Tensor
    frames: torch.Tensor
    labels: torch.Tensor
    most: tuple[int, int]
    blank: int
    modified: bool

    @property
    def packed(self) -> bool:
        """Whether the items lie end to end."""
        return len(self.log_probs.shape) == 2

    def real(self) -> torch.Tensor:
        """Which labels there are, bool [B, most labels]."""
        return torch.arange(self.most[1], device=self.labels.device) < self.labels[:, None]

    def raise_if_failed(self, statuses: torch.Tensor) -> None:
        """Waits for the statuses.

        Raises:
            InvalidItemsError: for the items that are not OK.
            ValueError: a length is out of range.
        """
        found = torch.stack([statuses.long(), self.frames, self.labels]).cpu().numpy()
        arrays.lengths(found[1], "input_lengths", len(statuses), self.most[0])
        arrays.lengths(found[2], "target_lengths", len(statuses), self.most[1])
        own, real = self.targets, self.real()
        if self.packed:
            own = own.new_zeros(real.shape).masked_scatter_(real, own)

        def reason_of(index: int, status: Status) -> str:
            T, U = int(found[1, index]), int(found[2, index])
            labels = own[index, :U].cpu().numpy()
            return reason(status, T, labels, self.log_probs.shape[-1], self.blank, self.modified)

        raise_if_failed(found[0].tolist(), reason_of)


def given_there(
    log_probs: torch.Tensor,
    targets: torch.Tensor | None,
    input_lengths: Any,
    target_lengths: Any,
    blank: int,
    modified: bool,
) -> Given:
    """The arguments of `transducer_align`, checked as far as nothing on the device has to be waited for.

    Raises:
        ValueError: for wrong shapes, lengths or blank, or arguments on several devices.
        TypeError: for dtypes that do not fit.
    """
    shape, device = tuple(log_probs.shape), log_probs.device
    check_shapes(shape, None if targets is None else tuple(targets.shape), blank)
    if targets is not None:
        arrays.same_device([log_probs, targets], ["log_probs", "targets"])
        if targets.is_floating_point() or targets.dtype == torch.bool:
            raise TypeError(f"targets must be integers, not {targets.dtype}")
    if len(shape) == 2:
        on_host = (given.cpu() if arrays.is_torch(given) else given for given in (input_lengths, target_lengths))
        input_lengths, target_lengths = packed_lengths(shape, *on_host)
        items, most = len(input_lengths), (int(input_lengths.max(initial=0)), int(target_lengths.max(initial=0)))
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
    return Given(scores, targets, frames, labels, most, blank, modified)


def _durations(starts: torch.Tensor, frames: torch.Tensor, labels: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Frames until the next label's, of the last one until the end; 0 where there is none. int32 [B, U]."""
    U = starts.shape[1]
    is_last = torch.arange(1, U + 1, device=starts.device) == labels[:, None]
    following = torch.cat([starts[:, 1:], starts.new_zeros(len(starts), min(U, 1))], 1)
    ends = torch.where(is_last, frames[:, None], following)
    return torch.where(real, ends - starts, 0).to(torch.int32)
