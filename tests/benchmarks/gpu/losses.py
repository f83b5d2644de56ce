"""Losses and layers, forward and backward, that the stage `functions` times; and what its rows are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import alignd_kernels as ak
from benchmarks import peers as cpu_peers
from benchmarks.cases_soft_mas import LossInputs, LossShape, by_ctc
from benchmarks.cases_stepwise import frame_loop_turned
from benchmarks.gpu.place import Place

Call = Callable[[], Sequence[Any]]
"""Gives tensors: what is compared."""


@dataclass(frozen=True, slots=True)
class Function:
    """One row: ours on the device, the same on the host, and a peer or why it is missing; empty where there is none."""

    name: str
    ours: Call
    on_host: Call
    peer_name: str
    peer: Call | str = ""


def with_gradient(function: Callable[..., Any], given: Any, *rest: Any) -> Sequence[Any]:
    """The value, and the gradient of its sum by `given`."""
    value = function(given, *rest)
    (gradient,) = cpu_peers.torch_module().autograd.grad(value.sum(), given)
    return value.detach(), gradient


def on_both(
    place: Place, function: Callable[..., Any], on: Callable[[str, Callable[..., Any]], Call]
) -> tuple[Call, Call]:
    """Ours on the device and on the host."""
    return on(place.device, function), on("cpu", function)


def within(place: Place, call: Call) -> Call:
    """With the device as the one that torch makes new tensors on."""

    def call_there() -> Sequence[Any]:
        with cpu_peers.torch_module().device(place.device):
            return call()

    return call_there


def ctc_loss(place: Place) -> Function:
    torch = cpu_peers.torch_module()
    T, B, V, L = (6, 1, 4, 2) if place.tiny else (1500, 16, 32, 300)
    log_probs = torch.randn(T, B, V).log_softmax(-1)
    rest = torch.randint(1, V, (B, L)), torch.full((B,), T), torch.full((B,), L)

    def on(device: str, loss: Callable[..., Any]) -> Call:
        given = log_probs.to(device).requires_grad_()
        there = [part.to(device) for part in rest]
        return lambda: with_gradient(lambda x: loss(x, *there, reduction="none"), given)

    torchs = on(place.device, torch.nn.functional.ctc_loss)
    return Function(
        f"ctc_loss, B={B}, T={T}, V={V}, L={L}", *on_both(place, ak.ctc_loss, on), "torch's ctc_loss", torchs
    )


def forward_sum(place: Place) -> Function:
    B, T, S = (1, 6, 2) if place.tiny else (16, 800, 160)
    inputs = LossInputs(LossShape(np.full(B, S, np.int64), np.full(B, T, np.int64)), 0)

    def on(device: str, loss: Callable[..., Any]) -> Call:
        given = inputs.scores.detach().to(device).requires_grad_()
        return lambda: with_gradient(loss, given, inputs.tokens.to(device), inputs.frames.to(device))

    there = inputs.scores.detach().to(place.device).requires_grad_()
    name, peer = f"forward_sum_loss, B={B}, T={T}, S={S}", "log_softmax and torch's ctc_loss, item by item"
    theirs = within(place, lambda: by_ctc(inputs, there))
    return Function(name, *on_both(place, ak.forward_sum_loss, on), peer, theirs)


def stepwise(place: Place) -> Function:
    torch = cpu_peers.torch_module()
    B, S, T = (1, 3, 6) if place.tiny else (32, 160, 800)
    energies = torch.randn(B, S, T)
    upstream = torch.randn(B, S, T)

    def on(device: str, function: Callable[..., Any]) -> Call:
        given, weights = energies.to(device).requires_grad_(), upstream.to(device)
        return lambda: with_gradient(lambda x: function(x) * weights, given)

    loop = within(place, on(place.device, frame_loop_turned))
    name = f"stepwise_expectation, B={B}, S={S}, T={T}"
    return Function(name, *on_both(place, ak.stepwise_expectation, on), "frame loop in torch", loop)
