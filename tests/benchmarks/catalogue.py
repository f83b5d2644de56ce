"""All cases, in the order in which they run."""

from collections.abc import Iterable, Iterator

from benchmarks import (
    cases_attention,
    cases_ctc,
    cases_doors,
    cases_latents,
    cases_mas,
    cases_rnnt_loss,
    cases_soft_mas,
    cases_stepwise,
    cases_transducer,
    peers,
)
from benchmarks.case import Case


def all_cases() -> Iterator[Case]:
    yield from cases_mas.cases()
    yield from cases_soft_mas.cases()
    yield from cases_latents.cases()
    yield from cases_ctc.cases()
    yield from cases_transducer.cases()
    yield from cases_rnnt_loss.cases()
    yield from cases_stepwise.cases()
    yield from cases_attention.cases()
    yield from cases_doors.cases()
    yield from _gpu_cases()


def _gpu_cases() -> Iterator[Case]:
    """None without a CUDA device."""
    try:
        if not peers.torch_module().cuda.is_available():
            return
    except peers.Missing:
        return
    from benchmarks.gpu import cases  # imports Triton
    from benchmarks.gpu.place import Cuda

    yield from cases.cases(Cuda())


def select(pattern: str = "", *, quick: bool = False) -> list[Case]:
    """Cases whose name contains one of the comma-separated parts of the pattern; with `quick` only the quick ones,
    unless a pattern names others."""
    chosen = pattern.strip(" ,")
    return [case for case in matching(all_cases(), pattern) if chosen or case.quick or not quick]


def matching(cases: Iterable[Case], pattern: str) -> Iterator[Case]:
    """The cases whose name contains one of the comma-separated parts of the pattern; all if there is none."""
    parts = [part.strip() for part in pattern.split(",") if part.strip()]
    return (case for case in cases if not parts or any(part in case.name for part in parts))


def named(name: str) -> Case:
    """Raises:
    KeyError: there is no such case.
    """
    for case in all_cases():
        if case.name == name:
            return case
    raise KeyError(name)
