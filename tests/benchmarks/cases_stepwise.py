"""Stepwise monotonic attention: the expectation with its gradient, beside loops over frames in torch."""

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

GROUP = "Stepwise attention"
OURS = "stepwise_expectation, backward"
LOOP, TURNED = "frame loop in torch, backward", "frame loop in torch, frames first, backward"


@dataclasses.dataclass(frozen=True)
class StepwiseShape:
    """B items of S tokens and T frames, all of the same size."""

    B: int
    S: int
    T: int

    @property
    def cells(self) -> int:
        return self.B * self.S * self.T

    def work(self) -> Work:
        """Forward: energies read, alpha written. Backward: energies, alpha and the derivative by alpha read, that by
        the energies written. No cells: their sigmoid costs more than the arithmetic that the floor knows."""
        return Work(4 * 4 * self.cells, 2 * 4 * self.cells, self.T, 0)


class StepwiseInputs:
    """Energies [B, S, T], and the derivative of a loss by the expectation."""

    def __init__(self, shape: StepwiseShape, seed: int) -> None:
        torch = peers.torch_module()
        rng = np.random.default_rng(seed)
        self.stored = [rng.standard_normal((shape.B, shape.S, shape.T), dtype=np.float32) for _ in range(2)]
        self.energies = torch.from_numpy(self.stored[0]).requires_grad_()
        self.upstream = torch.from_numpy(self.stored[1])

    @property
    def buffers(self) -> list[npt.NDArray[Any]]:
        return self.stored

    def judge(self, item: int, path: IntArray) -> Verdict:
        raise NotImplementedError("an expectation has no path")


def with_gradient(function: Any, inputs: StepwiseInputs) -> tuple[Any, Any]:
    """Expectation and gradient."""
    alpha = function(inputs.energies)
    return alpha.detach(), peers.torch_module().autograd.grad(alpha, inputs.energies, inputs.upstream)[0]


def frame_loop(energies: Any) -> Any:
    """As one writes the recurrence down: a few operations a frame."""
    torch = peers.torch_module()
    B, S, T = energies.shape
    stay = energies.sigmoid()
    stay = torch.cat([stay[:, :-1], torch.ones(B, 1, T)], 1)
    alpha = torch.zeros(B, S)
    alpha[:, 0] = 1
    found = [alpha]
    for t in range(1, T):
        p = stay[:, :, t]
        moved = (alpha * (1 - p))[:, :-1]
        alpha = alpha * p + torch.cat([torch.zeros(B, 1), moved], 1)
        found.append(alpha)
    return torch.stack(found, 2)


def frame_loop_turned(energies: Any) -> Any:
    """The same with all that can be done before the loop done there, and with frames contiguous in it."""
    torch = peers.torch_module()
    B, S, T = energies.shape
    stay = energies.permute(2, 0, 1).sigmoid().contiguous()
    stays = torch.cat([stay[..., :-1], torch.ones(T, B, 1)], 2).unbind(0)
    moves = (1 - stay[..., :-1]).unbind(0)
    alpha = torch.zeros(B, S)
    alpha[:, 0] = 1
    found = [alpha]
    for t in range(1, T):
        alpha = alpha * stays[t] + torch.nn.functional.pad(alpha[:, :-1] * moves[t], (1, 0))
        found.append(alpha)
    return torch.stack(found, 2)


def contestants(shape: StepwiseShape, stack: ExitStack, sets: list[StepwiseInputs]) -> list[Contestant]:
    del stack
    agree(sets[0])
    turned = {id(inputs): frames_first(inputs) for inputs in sets}
    return [
        Contestant(OURS, "ours", partial(with_gradient, ak.stepwise_expectation), work=shape.work(), items=shape.B),
        Contestant(
            "stepwise_expectation of [B, T, S] in memory, backward",
            "ours",
            lambda inputs: with_gradient(ak.stepwise_expectation, turned[id(inputs)]),
            work=shape.work(),
            items=shape.B,
        ),
        Contestant(LOOP, "loss", partial(with_gradient, frame_loop), items=shape.B),
        Contestant(TURNED, "loss", partial(with_gradient, frame_loop_turned), items=shape.B),
    ]


def frames_first(inputs: StepwiseInputs) -> StepwiseInputs:
    """The same values, in memory as [B, T, S]."""
    found = object.__new__(StepwiseInputs)
    found.energies, found.upstream = (
        tensor.detach().transpose(1, 2).contiguous().transpose(1, 2) for tensor in (inputs.energies, inputs.upstream)
    )
    found.energies.requires_grad_()
    return found


def agree(inputs: StepwiseInputs) -> None:
    """Raises:
    WrongAnswerError: expectations or gradients differ by more than float32 explains.
    """
    torch = peers.torch_module()
    mine = with_gradient(ak.stepwise_expectation, inputs)
    for loop in (frame_loop, frame_loop_turned):
        for one, other in zip(mine, with_gradient(loop, inputs)):
            if not torch.allclose(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max())):
                raise WrongAnswerError(f"expectation or gradient differ by {float((one - other).abs().max()):.3g}")


def case(name: str, title: str, shape: StepwiseShape, **options: Any) -> Case:
    return Case(
        name, title, GROUP, partial(StepwiseInputs, shape), partial(contestants, shape), cells=shape.cells, **options
    )


def cases() -> Iterator[Case]:
    target = (Target(OURS, 1 / 20, LOOP), Target(OURS, 1 / 20, TURNED))
    yield case("stepwise-160x800", "B=32, S=160, T=800", StepwiseShape(32, 160, 800), quick=True, targets=target)
    yield case("stepwise-80x400", "B=16, S=80, T=400", StepwiseShape(16, 80, 400), targets=target)
    yield case("stepwise-200x2000", "B=8, S=200, T=2000", StepwiseShape(8, 200, 2000), targets=target)
