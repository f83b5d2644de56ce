"""`transducer_posteriors` for tensors on a GPU: nothing is waited for but, if asked, the statuses at the end."""

from typing import Any

import torch

from alignd_kernels.transducer import gpu_sum
from alignd_kernels.transducer.gpu_padded import given_there


def transducer_posteriors_on_gpu(
    log_probs: torch.Tensor,
    targets: torch.Tensor | None,
    input_lengths: Any,
    target_lengths: Any,
    blank: int,
    *,
    modified: bool,
    check: bool,
) -> tuple[torch.Tensor, ...]:
    """See `transducer_posteriors`. Of packed items the lengths are waited for if they lie on the device: they must make
    the rows that are there.

    Raises:
        MemoryError: the batch's scratch does not fit.
    """
    given = given_there(log_probs, targets, input_lengths, target_lengths, blank, modified)
    sums = gpu_sum.posteriors_on_gpu(
        given.log_probs, given.targets, given.frames, given.labels, blank, modified=modified, largest=given.most
    )
    assert sums.found is not None
    if not check:
        return sums.found, sums.scores, sums.statuses
    given.raise_if_failed(sums.statuses)
    return sums.found, sums.scores
