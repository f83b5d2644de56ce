"""The stages of `gpu.sh`, and of its rehearsal."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.peers import FOLDER_VARIABLE
from benchmarks.gpu.stages import Stage

TOTAL_S, REHEARSAL_S = 475.0, 1200.0
"""Of the 8 minutes that the whole may take; the limits of the stages add up to no more. A rehearsal has the time that
its limits need: it runs on a machine without a GPU, and that may be a slow one."""

REST = math.inf
"""The limit of the last stage: what is left."""

LEAST_REST_S = 75.0
"""What is left if all others take as long as they may."""

SITE = "site"
"""Folder for what --wheels installs."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for.

    Attributes:
        out: folder of all results.
        rehearse: no GPU: the interpreter in its place, tiny shapes, and a peer that stands in for the others.
        peers: folder with checkouts of peers; None for none.
        wheels: folder with wheels of missing packages; None for none.
        cases: parts of the names of cases to time, by commas; all if empty.
    """

    out: Path
    rehearse: bool = False
    peers: Path | None = None
    wheels: Path | None = None
    cases: str = ""


def environment(request: Request) -> dict[str, str]:
    """Variables of every stage."""
    root = [str(Path(__file__).parents[3] / name) for name in ("proto", "kernels", "server", "client", "tests")]
    return {
        "PYTHONPATH": os.pathsep.join([*root, str((request.out / SITE).resolve())]),
        "PYTHONUNBUFFERED": "1",
        "TRITON_INTERPRET": "1" if request.rehearse else "0",
        FOLDER_VARIABLE: str(request.peers.resolve()) if request.peers else "",
    }


def total_s(request: Request) -> float:
    """Seconds for all stages."""
    return REHEARSAL_S if request.rehearse else TOTAL_S


def stages(request: Request) -> list[Stage]:
    """In this order: the small cases, which are right or wrong in every type, and the times beside peers, before what
    takes longer the poorer a machine is. The small cases also leave the compiled kernels in Triton's cache, one process
    a type, before many processes want them all. The kernels' suite is last, and has all that the others have left: it
    takes minutes without xdist. The first limit is for a disk that has not been read yet: torch is several gigabytes.
    """
    variables = environment(request)
    mode = ["--rehearse"] if request.rehearse else []
    out = str(request.out.resolve())

    def python(name: str, limit_s: float, module: str, *arguments: str) -> Stage:
        return Stage(name, [sys.executable, "-m", module, *arguments], limit_s, variables)

    return [
        wheels(request, variables),
        python("machine", 30, "benchmarks.gpu.about", out, *mode),
        python("small-cases", 150 if request.rehearse else 60, "benchmarks.gpu.small_cases", *mode),
        python("timings", 80, "benchmarks.gpu.timings", out, "--cases", request.cases, *mode),
        python("rnnt", 90 if request.rehearse else 30, "benchmarks.gpu.rnnt", out, *mode),
        python("functions", 90 if request.rehearse else 60, "benchmarks.gpu.functions", out, *mode),
        python("engine", 120 if request.rehearse else 40, "benchmarks.gpu.engine", out, *mode),
        python("memcheck", 150 if request.rehearse else 45, "benchmarks.gpu.memcheck", *mode),
        python("tests-engine", 150 if request.rehearse else 40, "benchmarks.gpu.suites", "engine", out, *mode),
        python("tests-kernels", REST, "benchmarks.gpu.suites", "kernels", out, *mode),
    ]


def wheels(request: Request, variables: dict[str, str]) -> Stage:
    """Installs what a bare machine lacks; nothing is fetched."""
    if request.wheels is None:
        return Stage("wheels", [], 0, skip="no --wheels DIR was given")
    files = sorted(str(path.resolve()) for path in request.wheels.glob("*.whl"))
    if not files:
        return Stage("wheels", [sys.executable, "-c", f"raise SystemExit('no wheels in {request.wheels}')"], 20)
    options = ["--no-index", "--no-deps", "--no-compile", "--upgrade", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(request.out / SITE), *files]
    return Stage("wheels", command, 15, variables)
