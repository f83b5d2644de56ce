"""Whether times that a case is meant to reach were reached, in the run that measured what they are multiples of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.case import CHAIN, READ_ONCE, Case, Contestant, Target
from benchmarks.rates import Rates

MET, NOT_MET, UNKNOWN = "met", "not met", "not known"


def verdicts(
    case: Case, rows: Sequence[Contestant], records: Sequence[dict[str, Any]], rates: Rates, read_once: float
) -> Iterator[dict[str, Any]]:
    """For each target and each clock that its contestant was timed by: the seconds allowed (None where what they are a
    multiple of was not measured), and the verdict.

    Raises:
        KeyError: a target is of a contestant that the case does not have.
    """
    medians = {(row.what, row.by): record.get("median") for row, record in zip(rows, records)}
    for target in case.targets:
        clocks = [by for what, by in medians if what == target.what]
        if not clocks:
            raise KeyError(f"{case.name} has a target of {target.what}, which is no contestant")
        for by in clocks:
            basis = _basis(target, by, medians, rates, read_once, rows)
            limit, median = target.most * basis if basis else None, medians[target.what, by]
            verdict = UNKNOWN if limit is None or median is None else MET if median <= limit else NOT_MET
            yield {
                "what": target.what,
                "by": by,
                "target": str(target),
                "limit": limit,
                "median": median,
                "verdict": verdict,
            }


def _basis(
    target: Target,
    by: str,
    medians: dict[tuple[str, str], float | None],
    rates: Rates,
    read_once: float,
    rows: Sequence[Contestant],
) -> float | None:
    """Seconds that the target is a multiple of; None or 0 where they are not known."""
    if not target.of:
        return 1.0
    if target.of == READ_ONCE:
        return read_once
    if target.of == CHAIN:
        row = next(row for row in rows if row.what == target.what and row.by == by)
        return row.work.chain_steps * rates.chain_step if row.work else None
    return medians[target.of, by]
