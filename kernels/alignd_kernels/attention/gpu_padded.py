"""`align_attention` for tensors on a GPU: nothing is waited for but, if asked, the statuses at the end."""

from typing import Any

import torch

from alignd_kernels import arrays
from alignd_kernels.attention import gpu, reason
from alignd_kernels.attention.batch import Mode
from alignd_kernels.gpu_common import DTYPES, lengths_on
from alignd_kernels.padded import raise_if_failed
from alignd_kernels.status import Status


def align_attention_on_gpu(
    attention: torch.Tensor, token_lengths: Any, frame_lengths: Any, mode: Mode, *, log: bool, check: bool
) -> tuple[torch.Tensor | None, ...]:
    """The fields of `AttentionAlignments`, of attention [B, H, S, T]; see `align_attention`.

    Raises:
        MemoryError: the batch's scratch does not fit.
    """
    if attention.dtype not in DTYPES:
        raise TypeError(f"attention must be float16, bfloat16, float32 or float64, not {attention.dtype}")
    B, H, S, T = attention.shape
    device = attention.device
    tokens = lengths_on(device, token_lengths, "token_lengths", B, S)
    frames = lengths_on(device, frame_lengths, "frame_lengths", B, T)
    maps = attention.detach()
    if T > 1 and maps.stride(3) != 1:
        maps = maps.contiguous()
    found = gpu.launch(maps, tokens, frames, mode, log)
    path = None if mode == "dtw" else _path(found, tokens, frames, T)
    if check:
        host = torch.stack([found.statuses.long(), tokens, frames]).cpu().numpy()
        arrays.lengths(host[1], "token_lengths", B, S)
        arrays.lengths(host[2], "frame_lengths", B, T)

        def reason_of(index: int, status: Status) -> str:
            return reason(status, H, int(host[1, index]), int(host[2, index]), mode)

        raise_if_failed(host[0].tolist(), reason_of)
    durations = found.ends - found.starts
    return (
        found.heads,
        found.focus_rates,
        durations,
        found.starts,
        found.ends,
        path,
        found.scores,
        found.statuses,
    )


def _path(found: gpu.DeviceResult, tokens: torch.Tensor, frames: torch.Tensor, T: int) -> torch.Tensor:
    """The token of each frame, int32 [B, T]: as many as have ended by then; 0 in the padding and of failed items."""
    B, S = found.ends.shape
    frame = torch.arange(T, dtype=torch.int32, device=tokens.device)
    if S == 0:
        return torch.zeros((B, T), dtype=torch.int32, device=tokens.device)
    there = torch.arange(S, device=tokens.device) < tokens[:, None]
    ends = torch.where(there, found.ends, T)
    path = torch.searchsorted(ends, frame.expand(B, T).contiguous(), right=True, out_int32=True)
    aligned = (frame < frames[:, None]) & (found.statuses == Status.OK)[:, None]
    return torch.where(aligned, path, 0)
