"""What a benchmark consists of: a case, its contestants, and the least work that any of them must do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from benchmarks.rates import Rates

IntArray = npt.NDArray[np.integer[Any]]
Clock = Callable[[Callable[[], object]], float]
Kind = Literal["ours", "twin", "peer", "loss", "yardstick"]


@dataclass(frozen=True, slots=True)
class Work:
    """The least that a contestant must do for one input set; `floor.py` turns it into seconds.

    Attributes:
        read_bytes: input that its answer depends on.
        write_bytes: output that it promises.
        chain_steps: additions that each wait for the one before, with a maximum between: frames of the longest item.
        cells: lattice cells that a legal path can visit: a maximum and an addition each.
    """

    read_bytes: int
    write_bytes: int
    chain_steps: int
    cells: int


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to answer a case.

    Attributes:
        name: as the table prints it.
        kind: "loss" is a peer that sums over all paths instead of choosing one: a yardstick, not the same answer. A
            "twin" is ours on other hardware, which must find the very paths. A "yardstick" answers another question.
        call: answers one input set; this is what is timed.
        paths: from the raw answer and its input set to the row or label of each frame, one array an item; None for
            what has no path.
        log_likelihoods: for a loss, from the raw answer to float64 [B].
        work: the least work of one call; None where no floor is stated.
        items: items in one call, for rates.
        skip: why it is not run on this case; empty if it is.
        clock: seconds of one call.
        by: which clock that is, where a case has several: contestants with the same one are compared. It ends the name.
        prepare: makes what `call` gets from the input set, outside the clock: for what overwrites its input.
    """

    name: str
    kind: Kind
    call: Callable[[Any], object]
    paths: Callable[[Any, Any], list[IntArray]] | None = None
    log_likelihoods: Callable[[Any], npt.NDArray[np.float64]] | None = None
    work: Work | None = None
    items: int = 1
    skip: str = ""
    clock: Clock | None = None
    by: str = ""
    prepare: Callable[[Any], Any] | None = None

    @property
    def what(self) -> str:
        """Its name without the clock."""
        return self.name.removesuffix(f", {self.by}")

    def prepared(self, inputs: Any) -> Any:
        return self.prepare(inputs) if self.prepare else inputs


READ_ONCE = "read once"
CHAIN = "the chain floor"


@dataclass(frozen=True, slots=True)
class Target:
    """A time that one of ours should not exceed: `most` × `of`, whichever clock both are timed by.

    Attributes:
        what: the contestant, without its clock.
        most: factor; below 1 for "so many times as fast as a peer".
        of: another contestant without its clock, `READ_ONCE` (all scores, at the measured rate), `CHAIN` (frames of the
            longest item, one dependent step each) or empty for seconds.
    """

    what: str
    most: float
    of: str = ""

    def __str__(self) -> str:
        if not self.of:
            return f"≤ {self.most * 1e3:g} ms"
        return f"≤ {self.most:g} × {self.of}" if self.most >= 1 else f"≥ {1 / self.most:g} × as fast as {self.of}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How good a path is.

    Attributes:
        score: its sum in float64.
        slack: by how much rounding in the accumulator can have misled the search on this path: half an ulp of each
            partial sum.
        flaw: why it is no legal path; empty if it is one.
    """

    score: float
    slack: float
    flaw: str = ""


class Inputs(Protocol):
    """One input set, which knows how to judge an answer to it."""

    @property
    def buffers(self) -> Sequence[npt.NDArray[Any]]: ...

    def judge(self, item: int, path: IntArray) -> Verdict: ...


@dataclass(frozen=True, slots=True)
class Case:
    """A question that all contestants answer.

    Attributes:
        name: for `-k`, the plot and `--compare`.
        title: for people.
        group: heading under which it is printed.
        make: an input set from a seed.
        contestants: those of the case; what they open is closed by the stack.
        growth: family of cases whose time per cell is compared; empty for none.
        cells: lattice cells that legal paths can visit, over the whole batch.
        device: "cpu" or "cuda".
        memory: measure what ours need beyond the input, each in a process of its own.
        quick: it is part of `--quick`.
        baseline: name of the contestant that others are shares of (doors); empty for none.
        rates: what the device can do at best, for a case that does not run on this machine's processors.
        targets: times to reach.
    """

    name: str
    title: str
    group: str
    make: Callable[[int], Any]
    contestants: Callable[[ExitStack, Any], list[Contestant]]
    cells: int
    growth: str = ""
    device: Literal["cpu", "cuda"] = "cpu"
    memory: bool = False
    quick: bool = False
    baseline: str = ""
    notes: tuple[str, ...] = field(default=())
    rates: Callable[[], Rates] | None = None
    targets: tuple[Target, ...] = ()


def rounding_slack(terms: npt.NDArray[np.float64], significand_bits: int = 24) -> float:
    """Bound on the error of summing `terms` in order with this many bits: half an ulp of each partial sum.

    It is doubled, because a search compares two such sums, its own and the one it passed over.
    """
    return 2 * float(np.abs(np.cumsum(terms)).sum()) * 2.0**-significand_bits


def sets_needed(set_bytes: int, cache_bytes: int) -> int:
    """Input sets to rotate, so that between two uses of one more than twice the last-level cache passes."""
    return min(32, max(2, 1 + math.ceil(2 * cache_bytes / max(set_bytes, 1))))
