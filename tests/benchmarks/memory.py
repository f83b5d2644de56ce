"""What one call needs beyond its input: the growth of resident memory at its peak, in a process of its own."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import alignd_kernels as ak
from benchmarks.case import Case
from benchmarks.catalogue import named

LIMIT_S = 300.0


def peaks(case: Case, record: dict[str, Any]) -> dict[str, str]:
    """For each of our functions in the record, what it needed in words."""
    return {row["name"]: describe(case.name, row["name"]) for row in record["contestants"] if row["kind"] == "ours"}


def describe(case: str, contestant: str) -> str:
    try:
        needed = in_own_process(case, contestant)
    except (subprocess.SubprocessError, ValueError) as error:
        return f"peak memory not measured: {error}"
    return f"needs {needed / 1e6:.0f} MB beyond its input at its peak, its result included"


def in_own_process(case: str, contestant: str) -> int:
    """Bytes beyond the input.

    Raises:
        subprocess.SubprocessError: the process failed, or took longer than `LIMIT_S`.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", case, contestant],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    return int(json.loads(done.stdout.splitlines()[-1]))


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status: VmRSS now, VmHWM at the peak."""
    found = re.search(rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"the system does not tell {field}")
    return int(found.group(1)) * 1024


def measure(case: Case, contestant: str) -> int:
    """Peak resident bytes of one call beyond those before it; the kernels are compiled before."""
    ak.warm_up()
    sets = [case.make(0)]
    with ExitStack() as stack:
        row = next(row for row in case.contestants(stack, sets) if row.name == contestant)
        given = row.prepared(sets[0])
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that is kept would hide what the call needs
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = resident("VmRSS")
        answer = row.call(given)
        peak = resident("VmHWM")
        del answer
    return peak - before


if __name__ == "__main__":
    print(json.dumps(measure(named(sys.argv[1]), sys.argv[2])))
