"""The stage that times what has no table of its own: `python -m benchmarks.gpu.functions OUT [--rehearse]` writes
OUT/functions.json.

Losses and layers forward and backward, and dynamic time warping, by their public functions on tensors of the device,
on the device's clock, beside what torch and Whisper have for it. Before that each answer is compared with the CPU's
kernels. A rehearsal calls the same functions on tensors in host memory: `small_cases` is what interprets the kernels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import alignd_kernels as ak
from benchmarks import peers as cpu_peers
from benchmarks.cases_soft_mas import LossInputs, LossShape, by_ctc
from benchmarks.cases_stepwise import frame_loop_turned
from benchmarks.gpu import peers
from benchmarks.gpu.place import Place, place_of

STEM = "functions"
ROUNDS = 7
SECONDS = 18.0
"""What all may take; what is left then is told as not run."""

RTOL, ATOL = 1e-3, 1e-4
"""Of the comparison, relative to the largest value: float32 sums over thousands of frames, stated in the kernels."""

Call = Callable[[], Sequence[Any]]
"""Gives tensors: what is compared."""


class WrongAnswerError(Exception):
    """A function's answer is not the CPU kernels'."""


@dataclass(frozen=True, slots=True)
class Function:
    """One row: ours on the device, the same on the host, and a peer or why there is none."""

    name: str
    ours: Call
    on_host: Call
    peer_name: str
    peer: Call | str


def with_gradient(function: Callable[..., Any], given: Any, *rest: Any) -> Sequence[Any]:
    """The value, and the gradient of its sum by `given`."""
    value = function(given, *rest)
    (gradient,) = cpu_peers.torch_module().autograd.grad(value.sum(), given)
    return value.detach(), gradient


def _both(
    place: Place, function: Callable[..., Any], on: Callable[[str, Callable[..., Any]], Call]
) -> tuple[Call, Call]:
    return on(place.device, function), on("cpu", function)


def _within(place: Place, call: Call) -> Call:
    """With the device as the one that torch makes new tensors on."""

    def within() -> Sequence[Any]:
        with cpu_peers.torch_module().device(place.device):
            return call()

    return within


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
    return Function(f"ctc_loss, B={B}, T={T}, V={V}, L={L}", *_both(place, ak.ctc_loss, on), "torch's ctc_loss", torchs)


def forward_sum(place: Place) -> Function:
    import numpy as np

    B, T, S = (1, 6, 2) if place.tiny else (16, 800, 160)
    inputs = LossInputs(LossShape(np.full(B, S, np.int64), np.full(B, T, np.int64)), 0)

    def on(device: str, loss: Callable[..., Any]) -> Call:
        given = inputs.scores.detach().to(device).requires_grad_()
        return lambda: with_gradient(loss, given, inputs.tokens.to(device), inputs.frames.to(device))

    there = inputs.scores.detach().to(place.device).requires_grad_()
    name, peer = f"forward_sum_loss, B={B}, T={T}, S={S}", "log_softmax and torch's ctc_loss, item by item"
    theirs = _within(place, lambda: by_ctc(inputs, there))
    return Function(name, *_both(place, ak.forward_sum_loss, on), peer, theirs)


def stepwise(place: Place) -> Function:
    torch = cpu_peers.torch_module()
    B, S, T = (1, 3, 6) if place.tiny else (32, 160, 800)
    energies = torch.randn(B, S, T)
    upstream = torch.randn(B, S, T)

    def on(device: str, function: Callable[..., Any]) -> Call:
        given, weights = energies.to(device).requires_grad_(), upstream.to(device)
        return lambda: with_gradient(lambda x: function(x) * weights, given)

    loop = _within(place, on(place.device, frame_loop_turned))
    name = f"stepwise_expectation, B={B}, S={S}, T={T}"
    return Function(name, *_both(place, ak.stepwise_expectation, on), "frame loop in torch", loop)


def warping(place: Place, B: int, S: int, T: int) -> Function:
    torch = cpu_peers.torch_module()
    maps = torch.randn(B, 1, S, T)

    def on(device: str, align: Callable[..., Any]) -> Call:
        given = maps.to(device)

        def call() -> Sequence[Any]:
            found = align(given, mode="dtw")
            return found.starts, found.ends, found.scores

        return call

    costs = -maps[:, 0].to(place.device)
    theirs: Call | str
    try:
        warp = peers.whisper_dtw()
        theirs = lambda: [warp(item) for item in costs]  # noqa: E731
    except cpu_peers.Missing as missing:
        theirs = f"missing: {missing}"
    name = f"align_attention, DTW, {B} × S={S}, T={T}"
    return Function(name, *_both(place, ak.align_attention, on), "whisper's dtw_cuda", theirs)


def functions(place: Place) -> Iterator[Function]:
    yield ctc_loss(place)
    yield forward_sum(place)
    yield stepwise(place)
    for B, S, T in ((1, 3, 5),) if place.tiny else ((1, 448, 1500), (32, 100, 500)):
        yield warping(place, B, S, T)


def check(function: Function) -> None:
    """Raises:
    WrongAnswerError: ours differ from the CPU's.
    """
    for found, expected in zip(function.ours(), function.on_host(), strict=True):
        found = found.cpu()
        if found.is_floating_point():
            scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
            right = bool(((found - expected).abs() <= ATOL * scale + RTOL * expected.abs()).all())
        else:
            right = bool((found == expected).all())
        if not right:
            raise WrongAnswerError(f"{function.name}: not what the CPU's kernels give")


def seconds(place: Place, call: Call) -> float:
    """The median of a few; in a rehearsal, one."""
    if not place.tiny:
        call()
    return statistics.median(place.on_device(call) for _ in range(1 if place.tiny else ROUNDS))


def measure(place: Place) -> list[dict[str, Any]]:
    """A record for each function."""
    end = time.monotonic() + SECONDS
    found = []
    for function in functions(place):
        if time.monotonic() > end:
            found.append({"name": function.name, "note": "not run: no time was left"})
            continue
        check(function)
        record: dict[str, Any] = {"name": function.name, "seconds": seconds(place, function.ours)}
        record |= {"peer": function.peer_name, "peer_seconds": None, "note": ""}
        if isinstance(function.peer, str):
            record["note"] = function.peer
        else:
            try:
                record["peer_seconds"] = seconds(place, function.peer)
            except Exception as error:  # a peer's, whatever it is
                record["note"] = f"the peer fails: {(str(error) or repr(error)).splitlines()[0][:80]}"
        print(line(record), flush=True)
        found.append(record)
    return found


def line(record: dict[str, Any]) -> str:
    """One record, to be read."""
    if "seconds" not in record:
        return f"{record['name']}: {record['note']}"
    text = f"{record['name']}: {record['seconds'] * 1e3:.3f} ms"
    if record["peer_seconds"] is None:
        return f"{text}; {record['peer']}: {record['note']}"
    ratio = record["peer_seconds"] / record["seconds"]
    return f"{text}; {record['peer']} {record['peer_seconds'] * 1e3:.3f} ms, {ratio:.3g} ×"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    chosen = parser.parse_args(arguments)
    records = measure(place_of(chosen.rehearse))
    (chosen.out / f"{STEM}.json").write_text(json.dumps({"functions": records}, indent=1) + "\n")
    print(f"{sum('seconds' in record for record in records)} of {len(records)} functions right and timed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
