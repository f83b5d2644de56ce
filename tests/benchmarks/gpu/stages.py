"""Commands one after another, each with a time limit and its output in a file; a failure does not stop the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

SKIPPED = 77
"""Exit status by which a stage says that it cannot be done here; its last line says why."""

State = Literal["passed", "failed", "timed out", "skipped"]
GRACE_S = 5.0
LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Stage:
    """A command.

    Attributes:
        name: its output is NAME.txt.
        command: program and arguments.
        limit_s: seconds after which it is ended.
        environment: variables on top of this process's.
        skip: why it is not run; empty if it is.
    """

    name: str
    command: Sequence[str]
    limit_s: float
    environment: Mapping[str, str] = field(default_factory=dict)
    skip: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a stage; `note` is its last line, or why it was not run."""

    name: str
    state: State
    seconds: float
    note: str

    @property
    def good(self) -> bool:
        return self.state in ("passed", "skipped")


def run_all(stages: Iterable[Stage], out: Path, total_s: float) -> Iterator[Outcome]:
    """The stages' outcomes, as they come. Each ends with its own limit, or when `total_s` seconds are over in all."""
    end = time.monotonic() + total_s
    for stage in stages:
        print(f"\n==== {stage.name} ====", flush=True)
        left = end - time.monotonic()
        if stage.skip:
            outcome = Outcome(stage.name, "skipped", 0.0, stage.skip)
        elif left <= 0:
            outcome = Outcome(stage.name, "timed out", 0.0, f"not run: the {total_s:.0f} s of all stages are over")
        else:
            outcome = run(stage, out, min(stage.limit_s, left))
        print(f"---- {stage.name}: {outcome.state} after {outcome.seconds:.1f} s", flush=True)
        yield outcome


def run(stage: Stage, out: Path, limit_s: float) -> Outcome:
    """Run one stage; what it writes goes to this process's output as well, as it comes."""
    path = out / f"{stage.name}.txt"
    begun = time.monotonic()
    with path.open("wb") as log, path.open(errors="replace") as copied:
        process = subprocess.Popen(
            stage.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # faulthandler: a stage that is ended says where it was
            env={**os.environ, "PYTHONFAULTHANDLER": "1", **stage.environment},
            start_new_session=True,
        )
        try:
            ended = _follow(process, copied, begun + limit_s)
        finally:
            _end(process)
        _copy(copied)
    seconds = time.monotonic() - begun
    if not ended:
        return Outcome(stage.name, "timed out", seconds, f"ended after its limit of {limit_s:.0f} s")
    states: dict[int, State] = {0: "passed", SKIPPED: "skipped"}
    state = states.get(process.returncode, "failed")
    status = "" if state != "failed" else f"exit status {process.returncode}: "
    return Outcome(stage.name, state, seconds, status + last_line(path))


def last_line(path: Path) -> str:
    """Of what was written, without the frame that pytest draws around it."""
    lines = [line.strip(" =") for line in path.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")


def _follow(process: subprocess.Popen[bytes], copied: IO[str], end: float) -> bool:
    """Whether it has ended before `end`."""
    while time.monotonic() < end:
        try:
            process.wait(LOOK_S)
            return True
        except subprocess.TimeoutExpired:
            _copy(copied)
    return False


def _copy(copied: IO[str]) -> None:
    sys.stdout.write(copied.read())
    sys.stdout.flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End all that the stage has started and that is still there."""
    for number, patience in ((signal.SIGABRT, GRACE_S), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
