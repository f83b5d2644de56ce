"""The beta-binomial prior of attention: text is read at an even pace, more surely so at both ends."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from alignd_kernels.arrays import host, integers, is_torch

Form = Literal["radtts", "fastpitch"]


def beta_binomial_prior(
    tokens: Any, frames: Any, scaling_factor: float = 1.0, *, log: bool = False, form: Form = "radtts"
) -> Any:
    """The prior over tokens in each frame: a beta-binomial distribution with α = w · i and β = w · (T − i + 1) in frame
    i = 1 … T, where w is the scaling factor.

    Badlani et al. 2022, "One TTS Alignment To Rule Them All", section 2.2; Shih et al. 2021, "RAD-TTS".

    Args:
        tokens: S, at least 1; or integers [B], NumPy or torch.
        frames: T, at least 1; or integers [B].
        scaling_factor: w, above 0. The smaller, the wider; RAD-TTS's own code takes 0.05 if it is told nothing else.
        log: give logarithms.
        form: "radtts" is the distribution on the tokens 0 … S − 1; "fastpitch" that on 0 … S without its last value, so
            that a frame's values sum to less than 1, as its published code computes it.

    Returns:
        float64 [T, S]; for lengths [B] padded [B, max T, max S], a torch tensor if `tokens` is one, on its device (but
        made on the host: lengths that lie on another device are waited for). Beyond an item's lengths it is 0; as a
        logarithm −inf beyond its tokens, but 0 in frames beyond its frames, so that a softmax over tokens, and its
        gradient, stay finite in every frame.

    Raises:
        TypeError: lengths that are not integers.
        ValueError: lengths below 1 or of different shapes, or a scaling factor that is not a positive number.
    """
    if not (np.isfinite(scaling_factor) and scaling_factor > 0):
        raise ValueError(f"scaling_factor must be a positive number, not {scaling_factor}")
    if form not in ("radtts", "fastpitch"):
        raise ValueError(f'form must be "radtts" or "fastpitch", not {form!r}')
    S, T = _lengths(tokens, "tokens"), _lengths(frames, "frames")
    if S.shape != T.shape or S.ndim > 1:
        raise ValueError(f"tokens and frames must both be numbers or both of shape [B], not {S.shape} and {T.shape}")
    padded = np.full((S.size, T.max(initial=0), S.max(initial=0)), -np.inf)
    known: dict[tuple[int, int], npt.NDArray[np.float64]] = {}
    for b, (s, t) in enumerate(zip(S.reshape(-1).tolist(), T.reshape(-1).tolist())):
        if (s, t) not in known:
            known[s, t] = _log_prior(s, t, scaling_factor, s if form == "fastpitch" else s - 1)
        padded[b, :t, :s] = known[s, t]
    if log:
        padded[np.arange(padded.shape[1]) >= T.reshape(-1, 1)] = 0
    found = padded if log else np.exp(padded)
    found = found if S.ndim else found[0]
    if not is_torch(tokens):
        return found
    import torch

    return torch.from_numpy(found).to(tokens.device, non_blocking=True)


def _lengths(given: Any, name: str) -> npt.NDArray[np.int64]:
    found = host(given.cpu() if is_torch(given) else given)
    found = integers(found if found.size else found.astype(np.int64), name)
    if found.size and found.min() < 1:
        raise ValueError(f"{name} must be at least 1, not {found.min()}")
    return found.astype(np.int64)


def _log_prior(tokens: int, frames: int, w: float, trials: int) -> npt.NDArray[np.float64]:
    """float64 [frames, tokens]: C(n, k) · B(k + α, n − k + β) / B(α, β), where each ratio of gamma functions is a
    product of consecutive factors."""
    steps = np.arange(trials)
    alpha = w * np.arange(1, frames + 1)
    rising = np.zeros((frames, trials + 1))  # log of α (α + 1) … (α + k − 1); β of frame i is α of frame T − i + 1
    np.cumsum(np.log(alpha[:, None] + steps), axis=1, out=rising[:, 1:])
    logs = np.zeros(trials + 1)
    np.cumsum(np.log(steps + 1), out=logs[1:])
    choices = logs[-1] - logs - logs[::-1]
    everything = np.log(w * (frames + 1) + steps).sum()
    found: npt.NDArray[np.float64] = (choices + rising + rising[::-1, ::-1] - everything)[:, :tokens]
    return found
