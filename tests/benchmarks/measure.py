"""Interleaved timing: every round asks all contestants in turn, each another input set than the one before."""

import contextlib
import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

Timed = Callable[[Any], float]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much time a case may take.

    Attributes:
        budget_s: for each contestant, as far as its least number of rounds allows.
        most_rounds: of anything.
        least_rounds: of whatever takes at most `slow_s` a call.
        slow_s: what takes longer is asked only once or twice.
    """

    budget_s: float = 1.0
    most_rounds: int = 41
    least_rounds: int = 5
    slow_s: float = 1.0


QUICK = Plan(budget_s=0.2, most_rounds=15, least_rounds=3, slow_s=0.7)


@dataclass(frozen=True, slots=True)
class Summary:
    """Seconds of one contestant's calls."""

    median: float
    q1: float
    q3: float
    least: float
    rounds: int


def summarize(seconds: Sequence[float]) -> Summary:
    """Median and quartiles; those of a single sample are that sample."""
    if not seconds:
        raise ValueError("no samples to summarize")
    q1, median, q3 = quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 3
    return Summary(median, q1, q3, min(seconds), len(seconds))


def wall_clock(call: Callable[[], object]) -> float:
    """Seconds of one call; what it returns is freed after the clock has stopped."""
    begun = time.perf_counter()
    answer = call()
    taken = time.perf_counter() - begun
    del answer
    return taken


def rounds_of(estimates: Mapping[str, float], plan: Plan) -> dict[str, int]:
    """Rounds in which each contestant takes part, from what one call of it takes."""
    rounds = {}
    for name, seconds in estimates.items():
        least = plan.least_rounds if seconds <= plan.slow_s else (2 if seconds <= 2 * plan.slow_s else 1)
        rounds[name] = min(plan.most_rounds, max(least, int(plan.budget_s / max(seconds, 1e-9))))
    return rounds


def schedule(rounds: Mapping[str, int]) -> Iterator[str]:
    """Whose turn it is: round by round, those with fewer rounds spread evenly over all of them."""
    total = max(rounds.values(), default=0)
    for turn in range(total):
        for name, count in rounds.items():
            if math.floor((turn + 1) * count / total) > math.floor(turn * count / total):
                yield name


def interleave(timed: Mapping[str, Timed], sets: Sequence[Any], rounds: Mapping[str, int]) -> dict[str, list[float]]:
    """Seconds of every call, by contestant.

    Consecutive calls get different input sets, so what one has read is not in the cache for the next.
    """
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    rotation = itertools.cycle(sets)
    with _no_collection():
        for name in schedule(rounds):
            seconds[name].append(timed[name](next(rotation)))
    return seconds


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
