"""Soft MAS: the forward-sum loss with its gradient, beside CTC loss of torch, item by item as the papers call it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

import alignd_kernels as ak
from benchmarks import peers
from benchmarks.case import Case, Contestant, IntArray, Target, Verdict, Work
from benchmarks.run import WrongAnswerError

GROUP = "Soft MAS"
OURS, PEER = "forward_sum_loss, backward", "ctc_loss item by item, backward"


@dataclasses.dataclass(frozen=True)
class LossShape:
    """Sizes of one case: tokens and frames of each item, int64 [B], padded to the largest."""

    tokens: npt.NDArray[np.int64]
    frames: npt.NDArray[np.int64]

    @property
    def size(self) -> tuple[int, int, int]:
        return len(self.tokens), int(self.frames.max()), int(self.tokens.max())

    @property
    def cells(self) -> int:
        """Cells that a legal path can visit: each token lies in a window of T − S + 1 frames."""
        return int((self.tokens * (self.frames - self.tokens + 1)).sum())

    def work(self) -> Work:
        """All scores read, and all of the gradient written: the softmax reaches every cell."""
        B, T, S = self.size
        return Work(4 * int((self.tokens * self.frames).sum()), 4 * B * T * S, int(self.frames.max()), self.cells)


class LossInputs:
    """Scores [B, 1, T, S] of one batch, and the lengths, as torch sees them."""

    def __init__(self, shape: LossShape, seed: int) -> None:
        torch = peers.torch_module()
        B, T, S = shape.size
        self.stored = np.random.default_rng(seed).standard_normal((B, 1, T, S), dtype=np.float32)
        self.scores = torch.from_numpy(self.stored).requires_grad_()
        self.tokens, self.frames = torch.from_numpy(shape.tokens), torch.from_numpy(shape.frames)

    @property
    def buffers(self) -> list[npt.NDArray[Any]]:
        return [self.stored]

    def judge(self, item: int, path: IntArray) -> Verdict:
        raise NotImplementedError("a loss has no path")


def ours(inputs: LossInputs) -> tuple[Any, Any]:
    """Loss and gradient."""
    value = ak.forward_sum_loss(inputs.scores, inputs.tokens, inputs.frames)
    return value, peers.torch_module().autograd.grad(value, inputs.scores)[0]


def without_blank(inputs: LossInputs) -> tuple[Any, Any]:
    value = ak.forward_sum_loss(inputs.scores, inputs.tokens, inputs.frames, blank_logprob=None)
    return value, peers.torch_module().autograd.grad(value, inputs.scores)[0]


def by_ctc(inputs: LossInputs, scores: Any = None) -> tuple[Any, Any]:
    """The same by log_softmax and ctc_loss, an item at a time, as each has columns of its own.

    Args:
        scores: instead of the inputs' own.
    """
    torch = peers.torch_module()
    functional = torch.nn.functional
    scores = inputs.scores if scores is None else scores
    padded = functional.pad(scores, (1, 0), value=-1.0)
    total = 0.0
    for item, S, T in zip(padded, inputs.tokens.tolist(), inputs.frames.tolist()):
        log_probs = item[:, :T, : S + 1].permute(1, 0, 2).log_softmax(2)
        lengths = torch.tensor([T]), torch.tensor([S])
        total = total + functional.ctc_loss(log_probs, torch.arange(1, S + 1)[None], *lengths, zero_infinity=True)
    value = total / len(padded)
    return value, torch.autograd.grad(value, scores)[0]


def contestants(shape: LossShape, stack: ExitStack, sets: list[LossInputs]) -> list[Contestant]:
    del stack
    agree(sets[0])
    B, work = len(shape.tokens), shape.work()
    return [
        Contestant(OURS, "ours", ours, work=work, items=B),
        Contestant("forward_sum_loss without a blank, backward", "ours", without_blank, work=work, items=B),
        Contestant(PEER, "loss", by_ctc, items=B),
    ]


def agree(inputs: LossInputs) -> None:
    """Raises:
    WrongAnswerError: our loss or gradient is not the peer's of float64 scores, to a part in 10⁴ of the largest. In
        float32 the peer's own gradient is off by a hundred times that.
    """
    torch = peers.torch_module()
    exact = inputs.scores.detach().double().requires_grad_()
    for mine, theirs in zip(ours(inputs), by_ctc(inputs, exact)):
        if not torch.allclose(mine.double(), theirs, rtol=0, atol=1e-4 * float(theirs.abs().max())):
            raise WrongAnswerError(f"the losses or gradients differ by {float((mine - theirs).abs().max()):.3g}")


def case(name: str, title: str, shape: LossShape, **options: Any) -> Case:
    return Case(
        name, title, GROUP, partial(LossInputs, shape), partial(contestants, shape), cells=shape.cells, **options
    )


def cases() -> Iterator[Case]:
    """One batch of equal lengths, and one as read speech has them."""
    target = (Target(OURS, 1 / 3, PEER),)
    full = LossShape(np.full(16, 160, np.int64), np.full(16, 800, np.int64))
    yield case("forward-sum-800x160", "B=16, T=800, S=160", full, quick=True, targets=target)
    rng = np.random.default_rng(7)
    frames = rng.integers(150, 1200, 32)
    ragged = LossShape((frames / rng.uniform(4.5, 6.5, 32)).astype(np.int64), frames)
    yield case("forward-sum-ragged", "32 utterances of 150 … 1,200 frames", ragged, targets=target)
