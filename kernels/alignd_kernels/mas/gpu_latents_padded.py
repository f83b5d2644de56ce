"""`maximum_path_from_latents` for tensors on a GPU: nothing is waited for but, if asked, the statuses at the end."""

from typing import Any

import torch

from alignd_kernels import arrays
from alignd_kernels.gpu_common import DTYPES, accumulator_of, current, lengths_on
from alignd_kernels.mas import gpu
from alignd_kernels.mas.gpu_latents import fill, precise, weighed
from alignd_kernels.mas.gpu_padded import dense_path
from alignd_kernels.mas.latents import reason
from alignd_kernels.padded import raise_if_failed


def maximum_path_from_latents_on_gpu(
    z: torch.Tensor,
    mean: torch.Tensor,
    log_sigma: torch.Tensor | None,
    frame_lengths: Any,
    token_lengths: Any,
    check: bool,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """See `maximum_path_from_latents`; shapes have been checked. All is queued on the current stream.

    Raises:
        MemoryError: the lattices or their search do not fit.
    """
    arrays.same_device([z, mean, log_sigma], ["z", "mean", "log_sigma"])
    if z.dtype not in DTYPES:
        raise TypeError(f"z must be float16, bfloat16, float32 or float64, not {z.dtype}")
    (B, T, C), S, device = z.shape, mean.shape[1], z.device
    frames = lengths_on(device, frame_lengths, "frame_lengths", B, T)
    tokens = lengths_on(device, token_lengths, "token_lengths", B, S)
    accumulator = accumulator_of(DTYPES[z.dtype])
    with current(device):
        lattices = torch.empty((B, S, T), dtype=accumulator, device=device)
        with precise(device):
            wide_z, wide_mean = z.detach().to(accumulator), mean.detach().to(accumulator)
            average = _average(wide_mean, tokens)
            wide_sigma = None if log_sigma is None else log_sigma.detach().to(accumulator)
            fill(weighed(wide_z - average, wide_mean - average, wide_sigma), lattices)
        # An item without channels is an empty one.
        result = gpu.launch(lattices, tokens if C else torch.zeros_like(tokens), frames)
        path = dense_path(result, frames, S, torch.float32)
    if not check:
        return path, result.statuses
    found = torch.stack([result.statuses.long(), tokens, frames]).cpu().numpy()
    arrays.lengths(found[1], "token_lengths", B, S)
    arrays.lengths(found[2], "frame_lengths", B, T)
    raise_if_failed(found[0].tolist(), lambda b, status: reason(status, int(found[1, b]), int(found[2, b]), C))
    return path


def _average(mean: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Of each item's means, [B, 1, C]; whatever stands beyond its tokens."""
    own = torch.arange(mean.shape[1], device=mean.device) < tokens[:, None]
    total = torch.where(own[:, :, None], mean, 0).sum(1, keepdim=True)
    return total / tokens.clamp(min=1)[:, None, None]
