"""The stage that says what the machine is, and whether there is a GPU.

`python -m benchmarks.gpu.about OUT [--rehearse]` writes OUT/machine.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine, peers, report
from benchmarks.gpu.place import place_of


def main(arguments: Sequence[str]) -> int:
    rehearse = "--rehearse" in arguments
    if not rehearse and not peers.torch_module().cuda.is_available():
        print("torch finds no CUDA device; --rehearse does without one")
        return 1
    place = place_of(rehearse)
    about = machine.describe()
    (Path(arguments[0]) / "machine.json").write_text(json.dumps(about | {"device": place.describe()}, indent=1) + "\n")
    print(report.machine_line(about))
    print(place.describe()["name"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
