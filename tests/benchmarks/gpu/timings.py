"""The stage that times the kernels: `python -m benchmarks.gpu.timings OUT [--rehearse]` writes OUT/timings.*"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import alignd_kernels as ak
from benchmarks import report
from benchmarks.__main__ import measure_all, store
from benchmarks.catalogue import matching
from benchmarks.gpu.cases import cases
from benchmarks.gpu.place import Place, copy_rate, pinned_rates, place_of, rates
from benchmarks.measure import Plan

STEM = "timings"
PLAN = Plan(budget_s=0.5)
ONCE = Plan(budget_s=0.0, most_rounds=1, least_rounds=1)
"""For a rehearsal."""


def describe(place: Place) -> dict[str, Any]:
    """The device and what was measured of it, in bytes and seconds."""
    about = place.describe() | {
        "copy_bytes_per_s": copy_rate(place),
        "cycles_per_s": place.cycles_per_s(),
        "chain_step_s": rates(place).chain_step,
        "pinned_bytes_per_s": pinned_rates(place),
    }
    print(report.device_line(about), flush=True)
    return about


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--cases", default="", help="only those whose name contains one of these, by commas")
    chosen = parser.parse_args(arguments)
    place = place_of(chosen.rehearse)
    device = describe(place)
    path = chosen.out / f"{STEM}.json"

    def keep(results: dict[str, Any]) -> None:
        path.write_text(json.dumps(results | {"device": device}, indent=1) + "\n")

    results, failures = measure_all(matching(cases(place), chosen.cases), ONCE if place.tiny else PLAN, keep)
    device["compile_s"] = ak.compile_seconds()
    store(results | {"device": device}, chosen.out, STEM)
    print(f"kernels compiled or loaded in {device['compile_s']:.1f} s")
    print(f"{failures} cases failed; {report.target_line(results['cases'])}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
