"""Stepwise monotonic multi-head attention as a layer. Imports torch."""

import math
from typing import Any, Literal

import numpy as np

from alignd_kernels.arrays import lengths
from alignd_kernels.stepwise.functions import (
    End,
    Form,
    expectation,
    focus_rate,
    lengths_of_heads,
    stepwise_hard,
)
from alignd_kernels.with_torch import torch_module

torch: Any = torch_module()


class StepwiseMonotonicMultiheadAttention(torch.nn.Module):  # type: ignore[misc]
    """Multi-head attention from S tokens to T frames, which can be made to go through the tokens step by step.

    Arguments and results are those of the published package of this name, and so are its numbers with `form="sma"`, the
    default: energies are put through a softmax before they become probabilities to stay, which then lie between 0.5 and
    0.73, the last token leaks, tokens beyond an item's own get mass, and what is returned as attention is the soft one
    of the most focused head. `form="paper"` is stepwise monotonic attention as its paper has it, over the lengths
    of both sides; the other keywords are additions, too. He et al. 2019, "Robust Sequence-to-Sequence Acoustic Modeling
    with Stepwise Monotonic Attention for Neural TTS"; Liang et al. 2020, "Enhancing Monotonicity for Robust
    Autoregressive Transformer TTS".

    Names of the parameters are this layer's own: `query`, `key`, `value`, `output`, `layer_norm`.

    Args:
        d_model: size of queries, keys, values and results.
        d_k: size of a head's queries and keys.
        d_v: size of a head's values.
        noise_std: standard deviation of the noise that is added to what enters the sigmoid, in training alone.
        n_head: heads.
        dropout: of the result, before it is normalised.
        is_tunable: whether the attention is stepwise monotonic; else it is soft. An attribute, so that it may be
            switched on for the last steps of a training.
        form: "sma" or "paper", as for `stepwise_expectation`.
        end: "keep" or "leak", as for `stepwise_expectation`.
        threshold: None makes all heads stepwise, as published; a number only those of an item whose focus rate is at or
            above it, as Liang et al. do. The others stay soft.
        hard: make every choice outside training (form "paper" alone, no gradients through it).
        attention: what is returned of the chosen head: "soft" as published, or "monotonic".

    Raises:
        ValueError: an argument that is none of these, or `hard` with form "sma", where every token would be stayed on.
        ImportError: torch is not installed: the extra `alignd-kernels[gpu]` brings it.
    """

    def __init__(
        self,
        d_model: int,
        d_k: int,
        d_v: int,
        noise_std: float = 1.0,
        n_head: int = 4,
        dropout: float = 0.1,
        is_tunable: bool = False,
        *,
        form: Form = "sma",
        end: End | None = None,
        threshold: float | None = None,
        hard: bool = False,
        attention: Literal["soft", "monotonic"] = "soft",
    ) -> None:
        super().__init__()
        _check(form=form, end=end, hard=hard, attention=attention, noise_std=noise_std)
        self.n_head, self.d_k, self.d_v = n_head, d_k, d_v
        self.noise_std, self.is_tunable = noise_std, is_tunable
        self.form, self.end, self.threshold, self.hard, self.attention = form, end, threshold, hard, attention
        self.query = torch.nn.Linear(d_model, n_head * d_k)
        self.key = torch.nn.Linear(d_model, n_head * d_k)
        self.value = torch.nn.Linear(d_model, n_head * d_v)
        self.output = torch.nn.Linear(n_head * d_v, d_model)
        self.dropout = torch.nn.Dropout(dropout)
        self.layer_norm = torch.nn.LayerNorm(d_model)

    def forward(
        self,
        q: Any,
        k: Any,
        v: Any,
        mel_len: Any,
        mask: Any = None,
        query_mask: Any = None,
        aw_prev: Any = None,
        *,
        generator: Any = None,
    ) -> tuple[Any, Any, float]:
        """Attend.

        Args:
            q: [B, S, d_model], of the text.
            k: [B, T, d_model], of the speech.
            v: [B, T, d_model].
            mel_len: integers [B], frames of each item, 1 … T.
            mask: [B, S, T], true (or not 0) where a token must not attend to a frame.
            query_mask: [B, S, 1], true (or not 0) for tokens beyond an item's own: they attend to nothing.
            aw_prev: [B, S, 1], what the stepwise attention starts as, instead of all on token 0.
            generator: a `torch.Generator` of the layer's device that the noise is drawn from; None for torch's own.

        Returns:
            the context [B, S, d_model]; the attention of each item's most focused head [B, S, T]; and the mean over the
            batch of their focus rates. On a GPU that mean is waited for; and before it `mel_len` and, with form
            "paper", `query_mask`, where they lie there, and hard choices, since NaN among them must be told.

        Raises:
            TypeError: lengths are not integers.
            ValueError: wrong shapes, lengths out of range, a query mask whose tokens are not the last ones (form
                "paper"), or none at all.
            InvalidItemsError: hard choices that NaN decides.
            NotImplementedError: stepwise attention on a device that is neither the CPU nor a CUDA device.
            MemoryError: the device's memory does not suffice; torch.OutOfMemoryError, if it is torch that asks for it.
        """
        B, S, T = _sizes(q, k, v, mask, query_mask, aw_prev)
        frames = lengths(_on_host(mel_len), "mel_len", B, T)
        if frames.size and frames.min() < 1:
            raise ValueError(f"mel_len[{int(frames.argmin())}] is 0: an item has at least one frame")
        energies = self._energies(q, k)
        if mask is not None:
            energies = energies.masked_fill((mask != 0)[:, None], torch.finfo(energies.dtype).min)
        soft = energies.softmax(-1)
        if query_mask is not None:
            soft = soft.masked_fill((query_mask != 0)[:, None], 0.0)
        rates = self._focus_rates(soft.detach(), frames)
        attending = soft
        if self.is_tunable:
            attending = self._stepwise(energies, soft, frames, query_mask, aw_prev, generator).to(soft.dtype)
            if self.threshold is not None:
                attending = torch.where((rates >= self.threshold)[..., None, None], attending, soft)
        values = self.value(v).view(B, T, self.n_head, self.d_v).transpose(1, 2)
        context = (attending @ values.to(attending.dtype)).transpose(1, 2).reshape(B, S, self.n_head * self.d_v)
        context = self.layer_norm(self.dropout(self.output(context)))
        best = rates.argmax(-1)
        shown = soft if self.attention == "soft" else attending
        mean = float(rates.amax(-1).mean()) if B else math.nan
        return context, shown[torch.arange(B, device=best.device), best], mean

    def _energies(self, q: Any, k: Any) -> Any:
        """[B, H, S, T]."""
        queries = self.query(q).unflatten(-1, (self.n_head, self.d_k)).transpose(1, 2)
        keys = self.key(k).unflatten(-1, (self.n_head, self.d_k)).transpose(1, 2)
        return queries @ keys.transpose(-1, -2) / math.sqrt(self.d_k)

    def _focus_rates(self, soft: Any, frames: Any) -> Any:
        """[B, H]. As published, frames that no mask hides count although an item has fewer."""
        if self.form == "paper":
            return focus_rate(soft, frame_lengths=frames)
        return (
            soft.amax(-2).sum(-1, dtype=torch.float32)
            / torch.from_numpy(frames).to(soft.device, non_blocking=True)[:, None]
        )

    def _stepwise(self, energies: Any, soft: Any, frames: Any, query_mask: Any, aw_prev: Any, generator: Any) -> Any:
        """Attention [B, H, S, T] that is stepwise monotonic in every head."""
        B, H, S, _ = energies.shape
        if S == 0:
            raise ValueError("there are no tokens to attend from")
        initial = None if aw_prev is None else aw_prev[..., 0][:, None].expand(B, H, S)
        noise = self.noise_std if self.training else 0.0
        if self.form == "sma":
            all_tokens, all_frames = lengths_of_heads(energies, None, None)
            return expectation(soft, all_tokens, all_frames, initial, self.end == "keep", True, noise, generator)
        tokens = _tokens(query_mask, B, S)
        if self.hard and not self.training:
            return stepwise_hard(energies, tokens, frames, one_hot=True)
        tokens, frames = lengths_of_heads(energies, tokens, frames)
        return expectation(energies, tokens, frames, initial, self.end != "leak", False, noise, generator)


def _check(*, form: Any, end: Any, hard: bool, attention: Any, noise_std: float) -> None:
    allowed = {"form": (form, ("sma", "paper")), "end": (end, ("keep", "leak", None))}
    allowed["attention"] = (attention, ("soft", "monotonic"))
    for name, (value, values) in allowed.items():
        if value not in values:
            raise ValueError(f"{name} must be one of {values}, not {value!r}")
    if hard and form == "sma":
        raise ValueError('hard choices need form="paper": after a softmax, every energy is above 0 and says stay')
    if not (math.isfinite(noise_std) and noise_std >= 0):
        raise ValueError(f"noise_std must be finite and not negative, not {noise_std}")


def _sizes(q: Any, k: Any, v: Any, mask: Any, query_mask: Any, aw_prev: Any) -> tuple[int, int, int]:
    """B, S and T."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() != 3:
            raise ValueError(f"{name} must have 3 dimensions, not be of shape {tuple(tensor.shape)}")
    B, S, T = q.shape[0], q.shape[1], k.shape[1]
    wanted = {"k": (k, (B, T)), "v": (v, (B, T)), "mask": (mask, (B, S, T))}
    wanted |= {"query_mask": (query_mask, (B, S, 1)), "aw_prev": (aw_prev, (B, S, 1))}
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tuple(tensor.shape[: len(shape)]) != shape:
            raise ValueError(f"{name} must be of shape {shape}, as the others say, not {tuple(tensor.shape)}")
    return B, S, T


def _tokens(query_mask: Any, B: int, S: int) -> Any:
    """Tokens of each item, int64 [B].

    Raises:
        ValueError: those that are masked out are not the last ones.
    """
    if query_mask is None:
        return np.full(B, S, np.int64)
    kept = (query_mask[..., 0] == 0).cpu().numpy()
    counts = kept.sum(1)
    if not (kept == (np.arange(S) < counts[:, None])).all():
        raise ValueError('query_mask must mask the last tokens of an item, or none, with form="paper"')
    return counts.astype(np.int64)


def _on_host(found: Any) -> Any:
    return found.cpu() if isinstance(found, torch.Tensor) else found
