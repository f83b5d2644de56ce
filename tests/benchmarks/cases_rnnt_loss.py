"""The transducer loss with its gradient, beside torchaudio's on the CPU: from log-probs, and from logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

import alignd_kernels as ak
from benchmarks import peers
from benchmarks.case import Case, Contestant, IntArray, Target, Verdict, Work
from benchmarks.run import WrongAnswerError

GROUP = "transducer loss"
LINE_BYTES = 64
PAGE_BYTES = 4096
DENSE, PEER = "rnnt_loss, backward", "torchaudio, backward"
FUSED, FUSED_PEER = "log_softmax, rnnt_loss, backward", "torchaudio fused, backward"


@dataclasses.dataclass(frozen=True)
class LossShape:
    """N items of T frames, U nodes a frame (labels + 1) and V columns (blank is 0), all of the same size."""

    N: int
    T: int
    U: int
    V: int

    @property
    def cells(self) -> int:
        """Nodes of all lattices."""
        return self.N * self.T * self.U

    def work(self) -> Work:
        """The cache lines that hold blank and label of each node are read, and the pages of the gradient that do are
        written: what a system hands out is zero, and whole pages."""
        row = 4 * self.V
        read, written = min(row, 2 * LINE_BYTES), min(row, 2 * PAGE_BYTES)
        return Work(self.cells * read, self.cells * written, self.T + self.U, self.cells)


class LossInputs:
    """Logits and log-probs [N, T, U, V] of one batch, labels and lengths, as torch sees them."""

    def __init__(self, shape: LossShape, seed: int) -> None:
        torch = peers.torch_module()
        rng = np.random.default_rng(seed)
        size = shape.N, shape.T, shape.U, shape.V
        self.logits = torch.from_numpy(rng.standard_normal(size, dtype=np.float32)).requires_grad_()
        self.log_probs = self.logits.detach().log_softmax(-1).requires_grad_()
        self.compact = self.log_probs.detach().view(-1, shape.V).requires_grad_()
        self.labels = torch.from_numpy(rng.integers(1, shape.V, (shape.N, shape.U - 1)).astype(np.int32))
        self.frames = torch.full((shape.N,), shape.T, dtype=torch.int32)
        self.label_lengths = torch.full((shape.N,), shape.U - 1, dtype=torch.int32)

    @property
    def buffers(self) -> list[npt.NDArray[Any]]:
        return [self.log_probs.detach().numpy()]

    def judge(self, item: int, path: IntArray) -> Verdict:
        raise NotImplementedError("a loss has no path")


def with_gradient(costs: Any, by: Any) -> tuple[Any, Any]:
    """Costs, and the derivative of their sum."""
    return costs.detach(), peers.torch_module().autograd.grad(costs.sum(), by)[0]


def dense(inputs: LossInputs) -> tuple[Any, Any]:
    costs = ak.rnnt_loss(inputs.log_probs, inputs.labels, inputs.frames, inputs.label_lengths)
    return with_gradient(costs, inputs.log_probs)


def compact(inputs: LossInputs) -> tuple[Any, Any]:
    lengths = inputs.frames, inputs.label_lengths
    costs = ak.rnnt_loss(inputs.compact, inputs.labels.view(-1), *lengths, compact=True)
    return with_gradient(costs, inputs.compact)


def from_logits(inputs: LossInputs) -> tuple[Any, Any]:
    log_probs = inputs.logits.log_softmax(-1)
    costs = ak.rnnt_loss(log_probs, inputs.labels, inputs.frames, inputs.label_lengths)
    return with_gradient(costs, inputs.logits)


def costs_alone(inputs: LossInputs) -> Any:
    return ak.rnnt_loss(inputs.log_probs.detach(), inputs.labels, inputs.frames, inputs.label_lengths)


def by_torchaudio(loss: Callable[..., Any], fused: bool, inputs: LossInputs) -> tuple[Any, Any]:
    given = inputs.logits if fused else inputs.log_probs
    lengths = inputs.frames, inputs.label_lengths
    costs = loss(given, inputs.labels, *lengths, blank=0, reduction="none", fused_log_softmax=fused)
    return with_gradient(costs, given)


def contestants(shape: LossShape, stack: ExitStack, sets: list[LossInputs]) -> list[Contestant]:
    del stack
    N, work = shape.N, shape.work()
    rows = [
        Contestant(DENSE, "ours", dense, work=work, items=N),
        Contestant("rnnt_loss compact, backward", "ours", compact, work=work, items=N),
        Contestant(FUSED, "ours", from_logits, items=N),
        Contestant("rnnt_loss, costs alone", "ours", costs_alone, items=N),
    ]
    try:
        loss = peers.torchaudio_rnnt_loss()
    except peers.Missing as missing:
        skip = f"missing: {missing}"
        return [*rows, *(Contestant(name, "loss", lambda _: None, skip=skip) for name in (PEER, FUSED_PEER))]
    agree(shape, sets[0], by_torchaudio(loss, False, sets[0]))
    return [
        *rows,
        Contestant(PEER, "loss", partial(by_torchaudio, loss, False), items=N),
        Contestant(FUSED_PEER, "loss", partial(by_torchaudio, loss, True), items=N),
    ]


def agree(shape: LossShape, inputs: LossInputs, theirs: tuple[Any, Any]) -> None:
    """Raises:
    WrongAnswerError: ours are not those of float64 within the stated error; or the peer's not within that of sums of
        logarithms in float32, each rounded by half an ulp of the cost.
    """
    exact = inputs.log_probs.detach().double().requires_grad_()
    lengths = inputs.frames, inputs.label_lengths
    costs, gradient = with_gradient(ak.rnnt_loss(exact, inputs.labels, *lengths), exact)
    steps, largest = shape.T + shape.U, float(costs.max())
    for name, found, error in (("ours", dense(inputs), 16.0), ("the peer's", theirs, largest)):
        bounds = 2.0**-24 * (largest + steps * error), 2.0**-24 * steps * error
        for mine, other, bound in zip(found, (costs, gradient), bounds):
            difference = float((mine.double() - other).abs().max())
            if not difference <= bound:
                raise WrongAnswerError(f"{name} costs or gradients are off by {difference:.3g}")


def case(name: str, title: str, shape: LossShape, **options: Any) -> Case:
    targets = Target(DENSE, 1 / 3, PEER), Target(FUSED, 1 / 3, FUSED_PEER)
    return Case(
        name,
        title,
        GROUP,
        partial(LossInputs, shape),
        partial(contestants, shape),
        cells=shape.cells,
        targets=targets,
        **options,
    )


def cases() -> Iterator[Case]:
    """The sizes of warp-rnnt's published table."""
    yield case("rnnt-loss-150x40x28", "N=16, T=150, U=40, V=28", LossShape(16, 150, 40, 28), quick=True)
    yield case("rnnt-loss-150x20x5000", "N=4, T=150, U=20, V=5,000", LossShape(4, 150, 20, 5000))
    yield case("rnnt-loss-1500x300x50", "N=1, T=1,500, U=300, V=50", LossShape(1, 1500, 300, 50))
