"""All cases, in the order in which they run."""

from collections.abc import Iterator

from benchmarks import cases_ctc, cases_doors, cases_gpu, cases_mas
from benchmarks.case import Case


def all_cases() -> Iterator[Case]:
    yield from cases_mas.cases()
    yield from cases_ctc.cases()
    yield from cases_doors.cases()
    yield from cases_gpu.cases()


def select(pattern: str = "", *, quick: bool = False) -> list[Case]:
    """Cases whose name contains one of the comma-separated parts of the pattern; with `quick` only the quick ones,
    unless a pattern names others."""
    parts = [part.strip() for part in pattern.split(",") if part.strip()]
    if parts:
        return [case for case in all_cases() if any(part in case.name for part in parts)]
    return [case for case in all_cases() if case.quick or not quick]


def named(name: str) -> Case:
    """Raises:
    KeyError: there is no such case.
    """
    for case in all_cases():
        if case.name == name:
            return case
    raise KeyError(name)
