"""The stages that run tests: `python -m benchmarks.gpu.suites kernels|engine OUT [--rehearse]`.

Not with the project's pytest settings: plugins that they name may be missing on a GPU machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.engine import installed, missing_packages
from benchmarks.gpu.stages import SKIPPED
from benchmarks.machine import ROOT

SUITES = {
    "kernels": ["tests/kernels"],
    "engine": ["tests/server/test_cuda_engine.py", "tests/client/test_device_tensors.py"],
}
REHEARSED = {"kernels": ["tests/kernels/test_gpu_repeats.py"], "engine": SUITES["engine"]}
"""The others run in the interpreter with `make test`, and take longer than a rehearsal may."""

NEEDED = {"kernels": ("hypothesis", "numba", "pytest"), "engine": ("pytest",)}
"""What the tests import besides ours, NumPy, torch and Triton."""

WORKERS = 8
"""Each holds half a gigabyte of the GPU's memory before its first test, and compiles what others compile too."""

ONE_TEST_S = 100
"""One test that hangs should not keep the others from being told."""


def options(suite: str, out: Path, rehearse: bool) -> list[str]:
    """Arguments for pytest."""
    found = ["-c", os.devnull, f"--rootdir={ROOT}", "--import-mode=importlib", "-p", "no:cacheprovider", "-q", "-ra"]
    found += ["-W", "ignore::pytest.PytestUnknownMarkWarning", "--durations=10"]
    found += ["-m", "interpreter" if rehearse else "gpu", f"--junitxml={out / suite}-tests.xml"]
    if suite == "kernels" and not rehearse and importlib.util.find_spec("xdist"):
        found += ["-n", os.environ.get("WORKERS") or str(min(WORKERS, os.cpu_count() or 1))]
    if importlib.util.find_spec("pytest_timeout"):
        found += [f"--timeout={ONE_TEST_S}"]
    return found + (REHEARSED if rehearse else SUITES)[suite]


def lacking(suite: str) -> str:
    """What the suite needs and this Python has not, as a sentence; empty if nothing."""
    if suite == "engine" and (missing := missing_packages()):
        return missing
    names = [name for name in NEEDED[suite] if not installed(name)]
    return f"the tests of the {suite} lack {', '.join(names)} here: --wheels DIR brings packages" if names else ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=sorted(SUITES))
    parser.add_argument("out", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    chosen = parser.parse_args(arguments)
    if missing := lacking(chosen.suite):
        print(missing)
        return SKIPPED
    import pytest

    os.chdir(ROOT)
    return int(pytest.main(options(chosen.suite, chosen.out, chosen.rehearse)))


if __name__ == "__main__":
    sys.exit(main())
