"""The stage that lets compute-sanitizer watch every access of the kernels: `python -m benchmarks.gpu.memcheck`.

Its racecheck would see shared memory only; what passes between programs through global memory is proved by repeats.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.gpu.stages import SKIPPED

TOOL = "compute-sanitizer"
FOUND_ERRORS = 86
"""The tool's exit status when it has found something; the program's own is none of it."""

REFUSALS = "Device not supported", "Unable to find injection library"
"""What the tool says where it cannot work at all, as in some virtual machines."""


def command(tool: str | None, rehearse: bool) -> list[str]:
    program = [sys.executable, "-m", "benchmarks.gpu.small_cases", "--together", *(["--rehearse"] if rehearse else [])]
    if rehearse or tool is None:
        return program
    return [tool, "--tool", "memcheck", "--error-exitcode", str(FOUND_ERRORS), "--print-limit", "20", *program]


def main(arguments: Sequence[str]) -> int:
    rehearse = "--rehearse" in arguments
    tool = shutil.which(TOOL) or shutil.which(TOOL, path="/usr/local/cuda/bin")
    if tool is None and not rehearse:
        print(f"{TOOL} is not on this machine")
        return SKIPPED
    # Else torch hands out parts of large blocks, and an access beyond a tensor is within its block.
    variables = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(
        command(tool, rehearse), env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(done.stdout, end="")
    if done.returncode == 0:
        print(f"{TOOL}: nothing found" if tool and not rehearse else "a plain run: a rehearsal")
        return 0
    refusal = next((text for text in REFUSALS if text in done.stdout), "")
    if refusal and done.returncode != FOUND_ERRORS:
        print(f"{TOOL} does not work here: {refusal}")
        return SKIPPED
    print(f"{TOOL} found errors" if done.returncode == FOUND_ERRORS else "the small cases failed")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
