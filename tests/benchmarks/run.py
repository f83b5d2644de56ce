"""Run one case: check the answers, time all contestants interleaved, and say what came out as plain data."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.case import READ_ONCE, Case, Contestant, Inputs, Verdict, sets_needed
from benchmarks.measure import Plan, Timed, interleave, rounds_of, summarize, wall_clock
from benchmarks.rates import Rates
from benchmarks.targets import verdicts

WRITE_ONCE = "write once"
SAME = "same paths"
Verdicts = list[Verdict]


class WrongAnswerError(Exception):
    """Ours fails, is no legal path, or a peer found a better one."""


def input_sets(case: Case) -> list[Any]:
    """Input sets of the case, as many as keep caches from flattering."""
    first = case.make(0)
    count = sets_needed(sum(buffer.nbytes for buffer in first.buffers), machine.last_level_cache())
    return [first, *(case.make(seed) for seed in range(1, count))]


def run_case(case: Case, plan: Plan) -> dict[str, Any]:
    """The case's record: sizes, floors, and for each contestant its times and whether it agrees.

    Raises:
        WrongAnswerError: nothing is timed then.
    """
    sets = input_sets(case)
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what peers say of themselves does not belong in the table
        rows = case.contestants(stack, sets)
        records, estimates = check(rows, sets[0], again=plan.most_rounds > 1)
        running = {row.name: row for row in rows if row.name in estimates}
        timed: dict[str, Timed] = {name: _timed(row) for name, row in running.items()}
        if case.rates is None:
            estimates |= _probe_estimates(sets[0])
            timed |= _probes(sets[0])
        seconds = interleave(timed, sets, rounds_of(estimates, plan))
    summaries = {name: summarize(taken) for name, taken in seconds.items()}
    rates = case.rates() if case.rates else _rates(sets[0], summaries)
    input_bytes = sum(buffer.nbytes for buffer in sets[0].buffers)
    read_once = summaries[READ_ONCE].median if READ_ONCE in summaries else input_bytes / rates.read
    for record in records:
        if record["name"] not in running:
            continue
        row, summary = running[record["name"]], summaries[record["name"]]
        record |= asdict(summary) | {"items_per_s": row.items / summary.median, "samples": seconds[row.name]}
        if row.kind == "ours" and row.work is not None and case.cells:
            record["ns_per_cell"] = summary.median * 1e9 / case.cells
        if row.work is not None:
            least = rates.floor(row.work)
            share = least.seconds / summary.median
            record |= {"floor": least.seconds, "bound_by": least.bound_by, "share_of_floor": share}
    return {
        "name": case.name,
        "title": case.title,
        "group": case.group,
        "growth": case.growth,
        "device": case.device,
        "cells": case.cells,
        "baseline": case.baseline,
        "notes": list(case.notes),
        "input_sets": len(sets),
        "input_bytes": input_bytes,
        "read_once": read_once,
        "bytes_per_s": rates.read,
        "contestants": records,
        "targets": list(verdicts(case, rows, records, rates, read_once)),
    }


def check(
    rows: Sequence[Contestant], inputs: Inputs, again: bool = True
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Ask everyone once; returns a record for each and, for those that answered, the seconds of a call.

    Args:
        again: ask for the time twice, since the first call may have compiled.

    Raises:
        WrongAnswerError: ours raises or is no legal path, a twin's is another one, or a peer's is better by more than
            rounding explains.
    """
    records: list[dict[str, Any]] = []
    estimates: dict[str, float] = {}
    ours: tuple[list[Any], Verdicts] | None = None
    for row in rows:
        record: dict[str, Any] = {"name": row.name, "kind": row.kind, "by": row.by, "note": row.skip}
        records.append(record)
        if row.skip:
            continue
        begun = time.perf_counter()
        try:
            answer = row.call(row.prepared(inputs))
        except Exception as error:
            if row.kind == "ours":
                raise WrongAnswerError(f"{row.name} raises {type(error).__name__}: {error}") from error
            record["note"] = f"fails: {type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"
            continue
        estimate = time.perf_counter() - begun
        if row.paths is not None:
            found = row.paths(answer, inputs)
            verdicts = [inputs.judge(item, path) for item, path in enumerate(found)]
            if row.kind == "ours":
                _no_flaw(row.name, verdicts)
            record["agrees"] = compare_paths(ours, (found, verdicts), mine=row.kind == "ours", name=row.name)
            if row.kind == "twin" and record["agrees"] != SAME:
                raise WrongAnswerError(f"{row.name} does not find the same paths: {record['agrees']}")
            ours = ours or (found, verdicts)
        elif row.log_likelihoods is not None and ours is not None:
            record["agrees"] = compare_likelihoods(row.log_likelihoods(answer), ours[1])
        del answer
        if again and estimate < 2.0:
            estimate = min(estimate, clock(row, inputs))
        estimates[row.name] = estimate
    return records, estimates


def compare_paths(
    ours: tuple[list[Any], Verdicts] | None, theirs: tuple[list[Any], Verdicts], *, mine: bool, name: str
) -> str:
    """How an answer relates to our first one, in words.

    Raises:
        WrongAnswerError: it has a legal path that is better than ours by more than rounding explains.
    """
    if ours is None:
        return "legal paths"
    if all(np.array_equal(a, b) for a, b in zip(ours[0], theirs[0])):
        return SAME
    flaw = next((verdict.flaw for verdict in theirs[1] if verdict.flaw), "")
    if flaw:
        return f"DISAGREES: {flaw}"
    gains = [(t.score - o.score, o.slack + t.slack) for o, t in zip(ours[1], theirs[1])]
    if any(gain > slack for gain, slack in gains):
        raise WrongAnswerError(f"{name} found a better path than ours, by {max(gains)[0]:.3g}")
    worse = [gain for gain, slack in gains if gain < -slack]
    if worse and mine:
        raise WrongAnswerError(f"{name} found a worse path than our other function, by {-min(worse):.3g}")
    return f"DISAGREES: {len(worse)} paths worse by up to {-min(worse):.3g}" if worse else "equal scores, other paths"


def compare_likelihoods(totals: Any, ours: Verdicts) -> str:
    """A sum over all paths cannot be less than the best of them; float32 sums of exponentials get a relative 1e-4."""
    for total, best in zip(totals, ours):
        if total < best.score - best.slack - 1e-4 * abs(best.score):
            return "DISAGREES: its sum over all paths is below our best path"
    return "sum over all paths"


def _no_flaw(name: str, verdicts: Verdicts) -> None:
    for item, verdict in enumerate(verdicts):
        if verdict.flaw:
            raise WrongAnswerError(f"{name}, item {item}: {verdict.flaw}")


def clock(row: Contestant, inputs: Any) -> float:
    """Seconds of one call on these inputs, by the contestant's own clock if it has one."""
    measured = row.clock or wall_clock
    given = row.prepared(inputs)
    return measured(lambda: row.call(given))


def _timed(row: Contestant) -> Timed:
    return lambda inputs: clock(row, inputs)


def _probes(first: Inputs) -> dict[str, Timed]:
    """Reading an input set once, and overwriting as many bytes: both in turn with the contestants."""
    from benchmarks import floor  # needs Numba, which cases on a GPU do without

    target = [np.zeros(min(sum(b.nbytes for b in first.buffers), 256 << 20) // 8, np.int64)]
    return {READ_ONCE: lambda inputs: floor.read_once(inputs.buffers), WRITE_ONCE: lambda _: floor.write_once(target)}


def _probe_estimates(first: Inputs) -> dict[str, float]:
    return {name: min(timed(first) for _ in range(2)) for name, timed in _probes(first).items()}


def _rates(first: Inputs, summaries: dict[str, Any]) -> Rates:
    from benchmarks import floor

    size = sum(buffer.nbytes for buffer in first.buffers)
    return Rates(
        read=size / summaries[READ_ONCE].median,
        write=min(size, 256 << 20) / summaries[WRITE_ONCE].median,
        chain_step=floor.chain_step(),
        cell=floor.cell_seconds(),
    )


def growth(records: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """For each family of growing cases its times per cell, of its first contestant, and largest over least."""
    growing = sorted((record for record in records if record["growth"]), key=lambda record: str(record["growth"]))
    for family, members in itertools.groupby(growing, key=lambda record: str(record["growth"])):
        times = {m["name"]: m["contestants"][0].get("ns_per_cell") for m in members}
        known = [time for time in times.values() if time is not None]
        if len(known) > 1:
            yield {"family": family, "ns_per_cell": times, "ratio": max(known) / min(known)}
