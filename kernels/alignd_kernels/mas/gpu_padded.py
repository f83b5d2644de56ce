"""`maximum_path` for tensors on a GPU: nothing is waited for but, if asked, the statuses at the end."""

import torch

from alignd_kernels.arrays import same_device
from alignd_kernels.mas import gpu
from alignd_kernels.mas.padded import raise_if_failed
from alignd_kernels.status import Status


def maximum_path_on_gpu(
    value: torch.Tensor, mask: torch.Tensor, dtype: torch.dtype | None, check: bool
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """See `maximum_path`; shapes have been checked.

    Raises:
        MemoryError: the batch's scratch does not fit; torch.OutOfMemoryError, if the path does not.
    """
    S, T = value.shape[1:]
    tokens, frames, wrong = rectangles(value, mask)
    scores = value.detach() if T <= 1 or value.stride(2) == 1 else value.detach().contiguous()
    # A length beyond the tensor is answered by INTERNAL.
    result = gpu.launch(scores, torch.where(wrong, S + 1, tokens), frames)
    path = dense_path(result, frames, S, torch.float32 if dtype is None else dtype)
    if not check:
        return path, result.statuses
    raise_for_items(result.statuses, wrong, tokens, frames)
    return path


def dense_path(result: gpu.DeviceResult, frames: torch.Tensor, S: int, dtype: torch.dtype) -> torch.Tensor:
    """Zeros, and a one in each frame of an aligned item, [B, S, T].

    Args:
        result: of a padded batch, from `gpu.launch`.
        frames: int64 [B].
        S: padded tokens.
        dtype: of the path.
    """
    B, T = result.paths.shape
    aligned = (result.statuses == Status.OK)[:, None] & (torch.arange(T, device=frames.device) < frames[:, None])
    path = torch.zeros((B, S, T), dtype=dtype, device=frames.device)
    if S:  # one number for each frame, into what was cleared
        path.scatter_(1, result.paths[:, None].long(), aligned[:, None].to(dtype))
    return path


def rectangles(value: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens and frames of each item, int64 [B], and whether its mask is no prefix rectangle, bool [B].

    Raises:
        ValueError: they are not on one device.
    """
    same_device([value, mask], ["value", "mask"])
    B, S, T = value.shape
    device = value.device
    inside = mask != 0
    none = torch.zeros(B, dtype=torch.int64, device=device)
    tokens = inside[:, :, 0].sum(1) if T else none
    frames = inside[:, 0].sum(1) if S else none
    token, frame = torch.arange(S, device=device), torch.arange(T, device=device)
    rectangle = (token[:, None] < tokens[:, None, None]) & (frame < frames[:, None, None])
    return tokens, frames, (inside != rectangle).flatten(1).any(1)


def raise_for_items(statuses: torch.Tensor, wrong: torch.Tensor, tokens: torch.Tensor, frames: torch.Tensor) -> None:
    """Wait for the statuses.

    Raises:
        ValueError: naming an item whose mask is `wrong`.
        InvalidItemsError: for the items that are not OK, if there are any.
    """
    found = torch.stack([statuses.long(), wrong.long(), tokens, frames]).cpu().numpy()
    if found[1].any():
        raise ValueError(
            f"the mask of item {int(found[1].argmax())} is not a prefix rectangle: it must cover the "
            "item's first tokens and first frames, and nothing else"
        )
    raise_if_failed(found[0].tolist(), found[2], found[3])
