"""The stage that times the transducer loss: `python -m benchmarks.gpu.rnnt OUT [--rehearse]` writes OUT/rnnt.json.

warp-rnnt's own table, (T, U, V) and batches of N, forward and backward, beside warp-rnnt and torchaudio where they are:
log-probs that need a gradient, of full lengths, on the device's clock. What does not fit into the device's memory says
so. Before that, costs and gradients are compared with the CPU's kernels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import alignd_kernels as ak
from benchmarks import peers as cpu_peers
from benchmarks.gpu import peers
from benchmarks.gpu.place import Place, place_of
from benchmarks.gpu.stages import SKIPPED

TABLE = ((150, 40, 28), (150, 20, 5000), (1500, 300, 50))
"""Frames, labels + 1, columns."""

BATCHES = (1, 16, 32, 64, 128)
STEM = "rnnt"
DENSE, COMPACT = "alignd, dense", "alignd, compact"
WARP_RNNT, WARP_COMPACT, TORCHAUDIO = "warp-rnnt", "warp-rnnt, compact", "torchaudio"
TARGET = 1.5
"""So many times as fast as warp-rnnt."""

ROUNDS = 7
SECONDS = 22.0
"""What all cells may take; those that are left then are told as not run."""

RTOL, ATOL = 1e-4, 1e-5
"""Of the comparison: a thousand times what `gpu_sum` promises at these sizes, a thousandth of what a slip would do."""

Loss = Callable[[Any, Any, Any, Any], Any]
"""(log_probs, labels, frames, label lengths) → costs [N]."""


class WrongAnswerError(Exception):
    """A loss or a gradient is not the CPU kernels'."""


def inputs(place: Place, T: int, U: int, V: int, N: int, compact: bool) -> tuple[Any, ...]:
    """Made on the device, in place: the largest take a quarter of its memory."""
    torch = cpu_peers.torch_module()
    shape = (N * T * U, V) if compact else (N, T, U, V)
    log_probs = torch.randn(shape, device=place.device)
    for part in log_probs.chunk(N):
        part.sub_(part.logsumexp(-1, keepdim=True))
    labels = torch.randint(1, V, (N * (U - 1),) if compact else (N, U - 1), device=place.device, dtype=torch.int32)
    lengths = (torch.full((N,), size, device=place.device, dtype=torch.int32) for size in (T, U - 1))
    return log_probs.requires_grad_(), labels, *lengths


def contestants(place: Place) -> Iterator[tuple[str, bool, Loss | str]]:
    """Name, whether it takes items end to end, and its function or why there is none."""
    for name, compact in ((DENSE, False), (COMPACT, True)):

        def ours(log_probs: Any, labels: Any, frames: Any, lengths: Any, compact: bool = compact) -> Any:
            return place.rnnt_loss(log_probs, labels, frames, lengths, compact)

        yield name, compact, ours
    # Of these, warp-rnnt's is built on the machine: its wheel goes into the folder of --wheels.
    for name, compact, find in (
        (WARP_RNNT, False, peers.warp_rnnt_loss),
        (WARP_COMPACT, True, peers.warp_rnnt_compact_loss),
        (TORCHAUDIO, False, peers.torchaudio_rnnt_loss),
    ):
        try:
            yield name, compact, find()
        except cpu_peers.Missing as missing:
            yield name, compact, f"missing: {missing}"


def forward_backward(loss: Loss, given: tuple[Any, ...]) -> tuple[Any, Any]:
    """Costs, and the gradient of their sum by the log-probs, which are left without."""
    costs = loss(*given)
    (gradient,) = cpu_peers.torch_module().autograd.grad(costs.sum(), given[0])
    return costs.detach(), gradient


def check(place: Place) -> None:
    """Raises:
    WrongAnswerError: ours differ from the CPU's.
    """
    torch = cpu_peers.torch_module()
    T, U, V, N = (2, 2, 3, 1) if place.tiny else (150, 40, 28, 3)
    for name, compact, loss in contestants(place):
        if not name.startswith("alignd") or isinstance(loss, str):
            continue
        there = inputs(place, T, U, V, N, compact)
        here = tuple(part.detach().cpu() for part in there)
        here[0].requires_grad_()

        def on_cpu(log_probs: Any, labels: Any, frames: Any, lengths: Any, compact: bool = compact) -> Any:
            return ak.rnnt_loss(log_probs, labels, frames, lengths, compact=compact)

        pairs = zip(forward_backward(loss, there), forward_backward(on_cpu, here))
        for what, (found, expected) in zip(("costs", "gradients"), pairs):
            if not torch.allclose(found.cpu(), expected, rtol=RTOL, atol=ATOL):
                raise WrongAnswerError(f"{name}: {what} are not the CPU's")


def seconds(place: Place, loss: Loss, given: tuple[Any, ...]) -> float:
    """The median of a few forward and backward passes; in a rehearsal, one."""
    if not place.tiny:
        forward_backward(loss, given)
    rounds = 1 if place.tiny else ROUNDS
    return statistics.median(place.on_device(lambda: forward_backward(loss, given)) for _ in range(rounds))


def cell(place: Place, loss: Loss | str, compact: bool, size: tuple[int, int, int, int]) -> float | str:
    """Seconds, or why there are none."""
    torch = cpu_peers.torch_module()
    if isinstance(loss, str):
        return loss
    try:
        return seconds(place, loss, inputs(place, *size, compact))
    except (MemoryError, torch.cuda.OutOfMemoryError):
        return "out of memory"
    except RuntimeError as error:  # a peer's
        return f"fails: {(str(error) or repr(error)).splitlines()[0][:80]}"
    finally:
        if not place.tiny:
            torch.cuda.empty_cache()


def sizes(place: Place) -> Iterator[tuple[int, int, int, int]]:
    """T, U + 1, V and N of each cell."""
    if place.tiny:
        yield 1, 2, 2, 1
        return
    for T, U, V in TABLE:
        for N in BATCHES:
            yield T, U, V, N


def measure(place: Place, keep: Callable[[list[dict[str, Any]]], None]) -> list[dict[str, Any]]:
    """A record for each cell of the table. Ours come first: a peer that fails may take the device with it."""
    end = time.monotonic() + SECONDS
    every = list(sizes(place))
    found: list[dict[str, Any]] = [dict(zip(("T", "U", "V", "N"), size)) for size in every]
    for name, compact, loss in contestants(place):
        for record, size in zip(found, every):
            late = time.monotonic() > end
            record[name] = "not run: no time was left" if late else cell(place, loss, compact, size)
        keep(found)
    for record in found:
        for own, peer in ((DENSE, WARP_RNNT), (COMPACT, WARP_COMPACT)):
            if isinstance(record[own], float) and isinstance(record[peer], float):
                record[f"{own}: times as fast as {peer}"] = record[peer] / record[own]
        print(line(record), flush=True)
    keep(found)
    return found


def line(record: dict[str, Any]) -> str:
    """One cell, to be read."""
    shown = [f"{name} {value}" for name, value in list(record.items())[:4]]
    for name, value in list(record.items())[4:]:
        times = " as fast as " in name
        text = value if isinstance(value, str) else f"{value:.2f}" if times else f"{value * 1e3:.3f} ms"
        shown.append(f"{name}: {text}")
    return "; ".join(shown)


def write(path: Path, cells: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps({"target": TARGET, "cells": cells}, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    chosen = parser.parse_args(arguments)
    if not hasattr(ak, "rnnt_loss"):
        print("this revision has no rnnt_loss")
        return SKIPPED
    place = place_of(chosen.rehearse)
    check(place)
    path = chosen.out / f"{STEM}.json"
    records = measure(place, lambda cells: write(path, cells))
    ratios = [value for record in records for name, value in record.items() if " as fast as " in name]
    done = sum(isinstance(record[DENSE], float) for record in records)
    least = f"{min(ratios):.2f} × warp-rnnt at least (target {TARGET})" if ratios else "no warp-rnnt to compare with"
    failed = [name for record in records for name in (DENSE, COMPACT) if str(record[name]).startswith("fails")]
    print(f"{done} of {len(records)} cells run dense; {len(failed)} of ours failed; {least}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
