"""Stepwise monotonic attention for models in torch: expectations with gradients, hard paths, the choice of heads."""

import math
from typing import Any, Literal

import numpy as np

from alignd_kernels.arrays import is_torch, lengths
from alignd_kernels.ragged import Int64Array
from alignd_kernels.status import InvalidItemsError, Status
from alignd_kernels.with_torch import torch_module

End = Literal["keep", "leak"]
Form = Literal["paper", "sma"]


def stepwise_expectation(
    energies: Any,
    token_lengths: Any = None,
    frame_lengths: Any = None,
    *,
    form: Form = "paper",
    end: End | None = None,
    initial: Any = None,
    noise_std: float = 0.0,
    generator: Any = None,
) -> Any:
    """The probability of each token in each frame under stepwise monotonic attention, differentiable.

    In each frame the attention stays on its token with probability σ(energy) or moves to the next one. He et al. 2019,
    "Robust Sequence-to-Sequence Acoustic Modeling with Stepwise Monotonic Attention for Neural TTS", equation 8.
    Computed in float32 (float64 for float64), where probabilities below 1e-38 (1e-308) lose digits and then are 0: with
    `end="leak"` late frames may become all 0. Energies beyond ±87 (±708) are certain choices. The gradient needs
    energies and result, and nothing else of their size.

    Args:
        energies: [S, T], [B, S, T] or [B, H, S, T] of S tokens and T frames: a torch tensor on the CPU or a CUDA
            device, float16, bfloat16, float32 or float64, only read; a transposed view of [..., T, S] is read where it
            lies, other strides from a copy. What stands beyond an item's lengths is ignored. A NaN makes NaN what its
            mass goes to and the gradients of its item, and no other item's (nor head's).
        token_lengths: integers [B], tokens of each item, 0 … S; None for S each. On the host, or on the energies'
            device; those on a GPU are not waited for: an item where one is out of range is all NaN, so are its
            gradients.
        frame_lengths: integers [B], frames of each item, 0 … T; None for T each. As token lengths.
        form: "paper": the attention is on token 0 in frame 0, whose energies go unused. "sma": as a published
            implementation has it, it is on token 0 before frame 0, and energies are first put through a softmax over
            the frames of their item.
        end: "keep": the last token keeps its mass, whatever its energies. "leak": it loses 1 − σ(energy) in each
            frame. None is "keep" for the paper's form, "leak" for the other one, as published.
        initial: [S], [B, S] or [B, H, S]: what the attention is in (form "sma": before) frame 0, instead of all on
            token 0; differentiable. What stands beyond token lengths is ignored.
        noise_std: standard deviation of normal noise that is added to what enters the sigmoid, as the paper does in
            training.
        generator: a `torch.Generator` of the energies' device that the noise is drawn from; None for torch's own.

    Returns:
        float32, or float64 for float64 energies, of their shape, on their device, 0 beyond lengths.

    Raises:
        TypeError: `energies` is no torch tensor of a floating-point type, or lengths are not integers.
        ValueError: wrong shapes, lengths on the host out of range, an unknown form or end, a standard deviation that is
            negative or not finite, arguments on several devices.
        NotImplementedError: for a tensor that is neither on the CPU nor on a CUDA device.
        MemoryError: the device's memory does not suffice; torch.OutOfMemoryError, if it is torch that asks for it.
        ImportError: torch, or on a CUDA device Triton, is not installed: the extra `alignd-kernels[gpu]` brings them.
    """
    torch = torch_module()
    _check_tensor(energies, "energies", 2, "[S, T], [B, S, T] or [B, H, S, T]")
    if form not in ("paper", "sma"):
        raise ValueError(f'form must be "paper" or "sma", not {form!r}')
    if end not in ("keep", "leak", None):
        raise ValueError(f'end must be "keep" or "leak", not {end!r}')
    if not (math.isfinite(noise_std) and noise_std >= 0):
        raise ValueError(f"noise_std must be finite and not negative, not {noise_std}")
    if initial is not None:
        _check_initial(initial, energies)
    tokens, frames = lengths_of_heads(energies, token_lengths, frame_lengths)
    if form == "sma":
        energies = _softmax_over_frames(torch, energies, None if frame_lengths is None else frames)
    keep = end == "keep" or (end is None and form == "paper")
    return expectation(energies, tokens, frames, initial, keep, form == "sma", noise_std, generator)


def expectation(
    energies: Any,
    tokens: Any,
    frames: Any,
    initial: Any,
    keep: bool,
    before: bool,
    noise_std: float,
    generator: Any,
) -> Any:
    """`stepwise_expectation` of what enters the sigmoid but for the noise; arguments as of `tensors.PaddedBatch`."""
    torch = torch_module()
    from alignd_kernels.stepwise.autograd import Expectation

    if noise_std > 0:
        kind = torch.float64 if energies.dtype == torch.float64 else torch.float32
        noise = torch.randn(energies.shape, generator=generator, dtype=kind, device=energies.device)
        energies = energies + noise * noise_std
    return Expectation.apply(energies, initial, tokens, frames, keep, before)


def stepwise_hard(energies: Any, token_lengths: Any = None, frame_lengths: Any = None, *, one_hot: bool = False) -> Any:
    """The token of each frame where stepwise monotonic attention makes every choice: its hard mode, for inference.

    It begins on token 0 in frame 0, stays where σ(energy) > 0.5, an energy above 0, else moves to the next token, and
    stays on the last one. It need not come to the last one: `path[..., frames - 1]` tells. He et al. 2019, section 3.3.

    Args:
        energies: as for `stepwise_expectation`; only those of the path are looked at.
        token_lengths: integers [B], 0 … S; None for S each. On the host, or on the energies' device.
        frame_lengths: integers [B], 0 … T; None for T each. As token lengths.
        one_hot: give the attention itself instead of the path.

    Returns:
        on the energies' device, int32 [..., T], 0 beyond lengths; with `one_hot` of the energies' type and shape: 1
        where the path is, 0 elsewhere, beyond lengths too.

    Raises:
        InvalidItemsError: an energy that decides is NaN, in the items listed; with heads they are counted through,
            b · H + h.
        ValueError: as `stepwise_expectation`; also for lengths on a GPU, for which it waits once, at the end.
        TypeError, NotImplementedError, MemoryError, ImportError: as `stepwise_expectation`.
    """
    torch = torch_module()
    _check_tensor(energies, "energies", 2, "[S, T], [B, S, T] or [B, H, S, T]")
    tokens, frames = lengths_of_heads(energies, token_lengths, frame_lengths)
    from alignd_kernels.stepwise.autograd import kernels
    from alignd_kernels.stepwise.tensors import batch_of

    path, found = kernels(energies).hard(batch_of(energies, tokens, frames))
    statuses = found.cpu().numpy()
    if (statuses == Status.INTERNAL).any():
        _lengths(energies, energies.dim() > 2, _on_host(token_lengths), _on_host(frame_lengths))  # raises
    bad = {index: Status(status) for index, status in enumerate(statuses.tolist()) if status != Status.OK}
    if bad:
        reasons = {Status.NOT_FINITE: "NaN in an energy that decides whether the attention stays"}
        reasons[Status.INTERNAL] = "more tokens or frames than kernels count"
        raise InvalidItemsError(bad, {index: reasons[status] for index, status in bad.items()})
    S, T = energies.shape[-2:]
    if not one_hot:
        return path.view(*energies.shape[:-2], T)
    tokens, frames = (torch.as_tensor(sizes)[:, None] for sizes in (tokens, frames))
    inside = (torch.arange(T, device=path.device) < frames) & (tokens > 0)
    attention = torch.zeros(len(tokens), S, T, dtype=energies.dtype, device=path.device)
    if S > 0:
        attention.scatter_(1, path.long()[:, None], inside.to(energies.dtype)[:, None])
    return attention.view(energies.shape)


def focus_rate(attention: Any, token_lengths: Any = None, frame_lengths: Any = None) -> Any:
    """How much each head attends to one token at a time: the mean over frames of the maximum over tokens.

    Ren et al. 2019, "FastSpeech: Fast, Robust and Controllable Text to Speech", section 3.3. Plain operations of torch,
    so on any device and differentiable.

    Args:
        attention: [H, S, T] or [B, H, S, T] of S tokens and T frames, a torch tensor of a floating-point type. What
            stands beyond an item's lengths is ignored; NaN within makes its own head's rate NaN.
        token_lengths: integers [B], 0 … S; None for S each. Those on a GPU are waited for.
        frame_lengths: integers [B], 0 … T; None for T each. As token lengths.

    Returns:
        [H] or [B, H], float32 (float64 for float64); 0 for an item without tokens or frames.

    Raises:
        TypeError: `attention` is no torch tensor of a floating-point type, or lengths are not integers.
        ValueError: wrong shapes, or lengths out of range.
        ImportError: torch is not installed: the extra `alignd-kernels[gpu]` brings it.
    """
    torch = torch_module()
    _check_tensor(attention, "attention", 3, "[H, S, T] or [B, H, S, T]")
    S, T = attention.shape[-2:]
    items = attention if attention.dim() == 4 else attention[None]
    kind = torch.float64 if attention.dtype == torch.float64 else torch.float32
    tokens, frames = (
        torch.from_numpy(found).to(attention.device, non_blocking=True)
        for found in _lengths(attention, attention.dim() == 4, _on_host(token_lengths), _on_host(frame_lengths))
    )
    if S == 0:
        return torch.zeros(attention.shape[:-2], dtype=kind, device=attention.device)
    if token_lengths is not None:
        within = torch.arange(S, device=attention.device) < tokens.view(-1, 1)
        items = items.masked_fill(~within[:, None, :, None], -math.inf)
    counted = (torch.arange(T, device=attention.device) < frames.view(-1, 1)) & (tokens > 0).view(-1, 1)
    # Before the maximum, whose gradient is NaN where it is.
    most = items.masked_fill(~counted[:, None, None], 0.0).amax(-2)
    rates = most.sum(-1, dtype=kind) / frames.clamp(min=1).view(-1, 1)
    return rates.view(attention.shape[:-2])


def choose_heads(
    attention: Any, token_lengths: Any = None, frame_lengths: Any = None, *, threshold: float | None = None
) -> tuple[Any, Any]:
    """The heads whose attention is the most focused, by `focus_rate`, whose arguments, errors and devices it shares.

    Args:
        attention: [H, S, T] or [B, H, S, T], of at least one head.
        token_lengths: as for `focus_rate`.
        frame_lengths: as for `focus_rate`.
        threshold: None for the best head of each item; else all heads whose rate is at or above it, which may be none.
            Liang et al. 2020, "Enhancing Monotonicity for Robust Autoregressive Transformer TTS".

    Returns:
        the choice and the focus rates, [H] or [B, H]. The choice is, without a threshold, the index of the best head,
        int64, of shape [] or [B], the first of equal ones, and one whose rate is NaN only if all are; with a threshold
        a bool mask of the rates' shape, False for NaN.
    """
    rates = focus_rate(attention, token_lengths, frame_lengths)
    if rates.shape[-1] == 0:
        raise ValueError("there are no heads to choose from")
    if threshold is not None:
        if math.isnan(threshold):
            raise ValueError("threshold must not be NaN")
        return rates >= threshold, rates
    return rates.nan_to_num(nan=-math.inf).argmax(-1), rates


def _check_tensor(tensor: Any, name: str, least_axes: int, shapes: str) -> None:
    if not is_torch(tensor):
        raise TypeError(f"{name} must be a torch tensor, not {type(tensor).__name__}")
    if str(tensor.dtype) not in ("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64"):
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, not {tensor.dtype}")
    if not least_axes <= tensor.dim() <= 4:
        raise ValueError(f"{name} must be {shapes}, not of shape {tuple(tensor.shape)}")


def _check_initial(initial: Any, energies: Any) -> None:
    _check_tensor(initial, "initial", 1, "[S], [B, S] or [B, H, S]")
    if initial.shape != energies.shape[:-1]:
        wanted = tuple(energies.shape[:-1])
        raise ValueError(
            f"initial must be of shape {wanted}, as the energies without frames, not {tuple(initial.shape)}"
        )
    if initial.device != energies.device:
        raise ValueError(f"initial is on {initial.device}, but the energies are on {energies.device}")


def _refuse_lengths_of_one_item(tensor: Any, batched: bool, token_lengths: Any, frame_lengths: Any) -> None:
    if not batched and (token_lengths is not None or frame_lengths is not None):
        raise ValueError(f"lengths are one for each item of a batch, but shape {tuple(tensor.shape)} is one item's")


def _lengths(tensor: Any, batched: bool, token_lengths: Any, frame_lengths: Any) -> tuple[Int64Array, Int64Array]:
    """Tokens and frames of every item, int64 [B] each; B = 1 where the tensor is one item."""
    _refuse_lengths_of_one_item(tensor, batched, token_lengths, frame_lengths)
    B = tensor.shape[0] if batched else 1
    S, T = tensor.shape[-2:]
    return lengths(token_lengths, "token_lengths", B, S), lengths(frame_lengths, "frame_lengths", B, T)


def lengths_of_heads(energies: Any, token_lengths: Any, frame_lengths: Any) -> tuple[Any, Any]:
    """The same of energies [..., S, T], where each head counts as an item, as the device's kernels take lengths: in
    host memory, or on a GPU, where those that lie there are not looked at.

    Raises:
        NotImplementedError: for a device that there are no kernels for.
    """
    from alignd_kernels.stepwise.autograd import kernels

    _refuse_lengths_of_one_item(energies, energies.dim() > 2, token_lengths, frame_lengths)
    B = energies.shape[0] if energies.dim() > 2 else 1
    heads = energies.shape[1] if energies.dim() == 4 else 1
    S, T = energies.shape[-2:]
    lengths_there = kernels(energies).lengths
    tokens = lengths_there(energies, token_lengths, "token_lengths", B, S)
    frames = lengths_there(energies, frame_lengths, "frame_lengths", B, T)
    if not is_torch(tokens):
        return np.repeat(tokens, heads), np.repeat(frames, heads)
    return tokens[:, None].expand(B, heads).reshape(-1), frames[:, None].expand(B, heads).reshape(-1)


def _on_host(given: Any) -> Any:
    return given.cpu() if is_torch(given) else given


def _softmax_over_frames(torch: Any, energies: Any, frames: Any) -> Any:
    """Of each item's own frames, if some are given, in the accumulator's type; what stands beyond them, NaN included,
    reaches nothing."""
    kind = torch.float64 if energies.dtype == torch.float64 else torch.float32
    if frames is not None and (is_torch(frames) or (frames < energies.shape[-1]).any()):
        own = torch.as_tensor(frames).view(*energies.shape[:-2], 1, 1)
        energies = energies.masked_fill(torch.arange(energies.shape[-1], device=own.device) >= own, -math.inf)
    return energies.softmax(-1, dtype=kind)
