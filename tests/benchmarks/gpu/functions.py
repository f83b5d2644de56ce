"""The stage that times what has no table of its own: `python -m benchmarks.gpu.functions OUT [--rehearse]` writes
OUT/functions.json.

`losses`, forward and backward, and `alignments`, by their public functions on tensors of the device, on the device's
clock, beside what torch and others have for it. Then each answer is compared with the CPU's kernels, which are compiled
for it: of a stage that is ended before, the times are there. A rehearsal calls the same functions on tensors in host
memory: `small_cases` is what interprets the kernels.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import alignments, losses
from benchmarks.gpu.losses import Call, Function
from benchmarks.gpu.place import Place, place_of

STEM = "functions"
ROUNDS = 7
SECONDS, SECONDS_WITH_CHECKS = 18.0, 48.0
"""What all may take, and the comparisons too; what is left then is told as not run, or not compared. A rehearsal may
take what its stage may."""

RTOL, ATOL = 1e-3, 1e-4
"""Of the comparison, relative to the largest value: float32 sums over thousands of frames, stated in the kernels."""


class WrongAnswerError(Exception):
    """A function's answer is not the CPU kernels'."""


def functions(place: Place) -> Iterator[Function]:
    for make in (losses.ctc_loss, losses.forward_sum, losses.stepwise):
        yield make(place)
    yield from alignments.alignments(place)


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


def timed(place: Place, function: Function) -> dict[str, Any]:
    """The record of one function, not compared yet."""
    record: dict[str, Any] = {"name": function.name, "seconds": seconds(place, function.ours)}
    record |= {"peer": function.peer_name, "peer_seconds": None, "note": "", "compared": False}
    if isinstance(function.peer, str):
        record["note"] = function.peer
        return record
    try:
        record["peer_seconds"] = seconds(place, function.peer)
    except Exception as error:  # a peer's, whatever it is
        record["note"] = f"the peer fails: {(str(error) or repr(error)).splitlines()[0][:80]}"
    return record


def measure(place: Place, keep: Callable[[list[dict[str, Any]]], None]) -> list[dict[str, Any]]:
    """A record for each function, told to `keep` whenever there is more.

    Raises:
        WrongAnswerError: ours differ from the CPU's.
    """
    begun = math.inf if place.tiny else time.monotonic()
    found: list[dict[str, Any]] = []
    measured: list[Function] = []
    for function in functions(place):
        late = time.monotonic() > begun + SECONDS
        found.append({"name": function.name, "note": "not run: no time was left"} if late else timed(place, function))
        measured.append(function)
        print(line(found[-1]), flush=True)
        keep(found)
    for record, function in zip(found, measured):
        if "seconds" in record and time.monotonic() <= begun + SECONDS_WITH_CHECKS:
            check(function)
            record["compared"] = True
            keep(found)
    return found


def line(record: dict[str, Any]) -> str:
    """One record, to be read."""
    if "seconds" not in record:
        return f"{record['name']}: {record['note']}"
    text = f"{record['name']}: {record['seconds'] * 1e3:.3f} ms"
    if record["peer_seconds"] is None:
        return f"{text}; {record['peer']}: {record['note']}" if record["note"] else text
    ratio = record["peer_seconds"] / record["seconds"]
    return f"{text}; {record['peer']} {record['peer_seconds'] * 1e3:.3f} ms, {ratio:.3g} ×"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    chosen = parser.parse_args(arguments)
    path = chosen.out / f"{STEM}.json"

    def keep(records: list[dict[str, Any]]) -> None:
        path.write_text(json.dumps({"functions": records}, indent=1) + "\n")

    records = measure(place_of(chosen.rehearse), keep)
    times, right = (sum(bool(record.get(key)) for record in records) for key in ("seconds", "compared"))
    print(f"{times} of {len(records)} functions timed, {right} compared with the CPU's kernels and right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
