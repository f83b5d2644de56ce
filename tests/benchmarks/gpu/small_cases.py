"""Small batches of odd sizes in every type against the reference: what a memory checker runs, many times slower.

`python -m benchmarks.gpu.small_cases [--rehearse] [--together]`
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import alignd_kernels as ak
from alignd_kernels.dtypes import DType
from benchmarks.gpu.place import Place, place_of

FAMILIES = ("mas", "ctc", "transducer", "mas_sum", "ctc_sum", "attention", "stepwise", "latents")
"""Modules of `benchmarks.gpu.small`."""

ALL, FEW = 10, 2
"""Shapes of each; in a rehearsal."""


def check(place: Place, family: str, dtype: DType) -> None:
    """Raises:
    WrongAnswerError: a kernel gives something else than the reference.
    """
    cases = importlib.import_module(f"benchmarks.gpu.small.{family}")
    if not place.tiny:  # compiled here, and found in Triton's cache by all that comes later
        for kernels in cases.KERNELS:
            kernels.warm_up(place.device, [dtype])
    cases.check(place, dtype, FEW if place.tiny else ALL)
    seconds = ak.compile_seconds()
    print(f"{family}, {dtype.value}: right; {seconds:.1f} s spent compiling or loading so far", flush=True)


def types_of(family: str, rehearse: bool) -> list[DType]:
    """All; in a rehearsal one, another for the next family: the interpreter takes its time."""
    types = list(DType)
    return [types[FAMILIES.index(family) % len(types)]] if rehearse else types


def shares(rehearse: bool) -> list[list[str]]:
    """What a process each checks, in arguments: a family and a type, since compiling takes a processor for each. In a
    rehearsal there is less to do than to import, and as many processes as processors share the families."""
    if rehearse:
        count = min(os.cpu_count() or 1, len(FAMILIES))
        return [["--family", *FAMILIES[first::count]] for first in range(count)]
    return [[dtype.value, "--family", family] for family in FAMILIES for dtype in types_of(family, rehearse)]


def in_processes(rehearse: bool) -> int:
    """As many processes at once as there are processors."""
    program = [sys.executable, "-m", "benchmarks.gpu.small_cases", *(["--rehearse"] if rehearse else [])]
    commands = [[*program, *share] for share in shares(rehearse)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        failed = sum(code != 0 for code in threads.map(lambda command: subprocess.run(command).returncode, commands))
    print(f"{len(FAMILIES)} families: {len(commands) - failed} of {len(commands)} processes found all right")
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--together", action="store_true", help="all in this process")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, help="only these, in this process")
    parser.add_argument("dtypes", nargs="*", type=DType, metavar="DTYPE", help="only these, in this process")
    chosen = parser.parse_args(arguments)
    if not (chosen.together or chosen.family or chosen.dtypes):
        return in_processes(chosen.rehearse)
    place = place_of(chosen.rehearse)
    for family in chosen.family or FAMILIES:
        for dtype in chosen.dtypes or types_of(family, place.tiny):
            check(place, family, dtype)
    return 0


if __name__ == "__main__":
    sys.exit(main())
