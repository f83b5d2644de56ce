"""`--compare REV`: the kernels of another revision in turn with the present tree's, in one run.

A stored result says nothing on a machine that others use too, so both trees are measured now: two processes take turns,
and what counts is the ratio of neighbouring calls. A case is slower when its median ratio is, beyond the threshold and
beyond what the spread of the ratios explains, in two pairs of fresh processes: memory lies differently in each.
"""

from __future__ import annotations

import contextlib
import io
import math
import statistics
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.case import Case
from benchmarks.report import duration
from benchmarks.worker import DISTRIBUTIONS, Refused, Worker

CONFIDENCE = 0.95
BUDGET_S = 4.0
LEAST_ROUNDS, MOST_ROUNDS = 9, 61


@dataclass(frozen=True, slots=True)
class Decision:
    """How the present tree compares on one contestant.

    Attributes:
        ratio: median of present over old time.
        low: of the confidence interval of that median.
        high: of the same.
        slower: the whole interval lies above 1 + threshold.
    """

    ratio: float
    low: float
    high: float
    slower: bool


def decide(old: Sequence[float], new: Sequence[float], threshold: float) -> Decision:
    """From paired seconds, neighbours in time.

    The interval of the median ratio is that of the sign test, which assumes nothing of how times are distributed.

    Raises:
        ValueError: the samples are not pairs, or too few for the confidence.
    """
    if len(old) != len(new):
        raise ValueError(f"{len(old)} and {len(new)} samples are not pairs")
    ratios = sorted(after / before for before, after in zip(old, new))
    outside = _ranks_outside(len(ratios))
    low, high = ratios[outside - 1], ratios[-outside]
    return Decision(statistics.median(ratios), low, high, low > 1 + threshold)


def _ranks_outside(n: int) -> int:
    """Largest k for which the k-th of n sorted values lies below their median with the confidence, two-sided."""
    tail, k = 0.0, 0
    while True:
        tail += math.comb(n, k) * 0.5**n
        if tail > (1 - CONFIDENCE) / 2:
            break
        k += 1
    if k == 0:
        raise ValueError(f"{n} pairs of samples are too few for a confidence of {CONFIDENCE:.0%}")
    return k


@contextlib.contextmanager
def tree_of(revision: str) -> Iterator[Path]:
    """The distributions of a revision in a temporary folder; the repository is only read.

    Raises:
        SystemExit: git does not know the revision.
    """
    command = ["git", "archive", "--format=tar", revision, *DISTRIBUTIONS]
    packed = subprocess.run(command, cwd=machine.ROOT, capture_output=True, check=False)
    if packed.returncode:
        raise SystemExit(f"--compare {revision}: {packed.stderr.decode().strip()}")
    with tempfile.TemporaryDirectory(prefix="alignd-bench-") as folder:
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


def compare(revision: str, cases: Sequence[Case], threshold: float, present: Path = machine.ROOT) -> int:
    """Print how the tree in `present` compares on every case; 1 if any is slower or gives other paths, else 0."""
    failures = []
    with tree_of(revision) as old:
        print(f"time of the present tree over that of {revision}; slower: above 1 + {threshold:.2f} with its interval")
        for case in cases:
            try:
                lines, failed = compare_case(case, old, present, threshold)
            except Refused as refusal:
                lines, failed = [f"{case.name}: not comparable: {refusal}"], False
            print("\n".join(lines), flush=True)
            failures += [case.name] if failed else []
    print(f"\nfailed: {', '.join(failures)}" if failures else "\nno case is slower")
    return 1 if failures else 0


def compare_case(case: Case, old: Path, present: Path, threshold: float) -> tuple[list[str], bool]:
    """Lines for the terminal, and whether the case failed.

    Raises:
        Refused: one of the trees cannot run it.
    """
    first, differing = sample(case.name, old, present)
    decisions = {name: decide(*pair, threshold) for name, pair in first.items()}
    suspects = {name for name, decision in decisions.items() if decision.slower}
    if suspects:
        again, _ = sample(case.name, old, present)
        suspects &= {name for name, pair in again.items() if decide(*pair, threshold).slower}
    lines = []
    for name, decision in decisions.items():
        verdict = "SLOWER" if name in suspects else "slower once, not confirmed" if decision.slower else ""
        if name in differing:
            verdict = f"{verdict} OTHER PATHS".strip()
        times = " → ".join(duration(statistics.median(seconds)) for seconds in first[name])
        interval = f"{decision.ratio:.3f} ({decision.low:.3f} … {decision.high:.3f})"
        lines.append(f"{case.name:26} {name:38} {times:22} {interval}  {verdict}".rstrip())
    return lines, bool(suspects or differing)


def sample(case: str, old: Path, present: Path) -> tuple[dict[str, tuple[list[float], list[float]]], set[str]]:
    """Paired seconds (old, present) of each contestant that both trees have, from fresh processes; and the names of
    those whose paths differ."""
    with Worker(old) as before, Worker(present) as after:
        known_before, known_after = before.prepare(case), after.prepare(case)
        common = [name for name in known_before if name in known_after]
        if not common:
            raise Refused("the trees have no function in common")
        seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in common}
        turn = 0
        for name in common:
            one = known_before[name]["seconds"] + known_after[name]["seconds"]
            rounds = min(MOST_ROUNDS, max(LEAST_ROUNDS, int(BUDGET_S / one)))
            for index in range(rounds):
                # Who goes first alternates, so that neither always finds what the other left.
                sides = ((0, before), (1, after)) if index % 2 == 0 else ((1, after), (0, before))
                for side, worker in sides:
                    seconds[name][side].append(worker.time(name, turn))
                turn += 1
    differing = {name for name in common if known_before[name]["digest"] != known_after[name]["digest"]}
    return seconds, differing
