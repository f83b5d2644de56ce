"""`make bench`: run the cases and print, store and draw what came out."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import alignd_kernels as ak
from benchmarks import machine, report
from benchmarks.case import Case
from benchmarks.catalogue import select
from benchmarks.measure import QUICK, Plan
from benchmarks.run import WrongAnswerError, growth, run_case

REFERENCES = Path(__file__).parent / "results"
BUILD = machine.ROOT / "build" / "bench"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("-k", dest="pattern", default="", help="only cases whose name contains one of these, by commas")
    parser.add_argument("--quick", action="store_true", help="few cases and rounds: about a minute, all take eight")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--compare", metavar="REV", help="time the kernels of this git revision in turn with these")
    parser.add_argument("--threshold", type=float, default=0.10, help="slow-down that --compare accepts (default 0.10)")
    parser.add_argument("--store", metavar="NAME", help=f"keep the results as {REFERENCES.name}/NAME.* for a commit")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parse(arguments)
    cases = select(chosen.pattern, quick=chosen.quick)
    if not cases:
        print(f"no case matches {chosen.pattern!r}", file=sys.stderr)
        return 2
    if chosen.list:
        print("\n".join(f"{case.name:28} {case.group}: {case.title}" for case in cases))
        return 0
    plan = QUICK if chosen.quick else Plan()
    if chosen.compare:
        from benchmarks.compare import compare

        return compare(chosen.compare, cases, chosen.threshold)
    results, failures = measure_all(cases, plan)
    folder, stem = (REFERENCES, chosen.store) if chosen.store else (BUILD, time.strftime("%Y%m%d-%H%M%S"))
    store(results, folder, stem)
    return 1 if failures else 0


def measure_all(
    cases: Iterable[Case], plan: Plan, keep: Callable[[dict[str, Any]], None] = lambda results: None
) -> tuple[dict[str, Any], int]:
    """Results of all cases, printed as they come, and how many gave a wrong answer or none.

    Args:
        keep: told of all results so far after every case, for a run that may be ended before its last one.
    """
    cases = list(cases)
    about = machine.describe()
    print(report.machine_line(about), flush=True)
    if any(case.device == "cpu" for case in cases):
        ak.warm_up()
        print(f"kernels compiled or loaded in {ak.compile_seconds():.1f} s", flush=True)
    records: list[dict[str, Any]] = []
    failures = 0
    group = ""
    for case in cases:
        if case.group != group:
            group = case.group
            print(f"\n== {group} ==", flush=True)
        try:
            record = run_case(case, plan)
        except WrongAnswerError as error:
            failures += 1
            print(f"{case.name}: WRONG ANSWER: {error}", flush=True)
            continue
        except Exception:
            failures += 1
            print(f"{case.name}: FAILED\n{traceback.format_exc()}", flush=True)
            continue
        if case.memory:
            from benchmarks.memory import peaks

            record["memory"] = peaks(case, record)
        records.append(record)
        print("\n".join(report.case_lines(record)), flush=True)
        keep({"machine": about, "cases": records, "growth": []})
    families = list(growth(records))
    print("\n" + "\n".join(report.growth_lines(families)))
    return {"machine": about, "cases": records, "growth": families}, failures


def store(results: dict[str, Any], folder: Path, stem: str) -> None:
    """Write STEM.json, .md, .png and .svg into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / f"{stem}.md").write_text(report.markdown(results))
    print(f"\nwrote {folder / stem}.json, .md", end="")
    try:
        from benchmarks.plot import draw
    except ModuleNotFoundError as error:
        print(f"; no plot ({error})")
        return
    draw(results, folder / stem)
    print(", .png, .svg")


if __name__ == "__main__":
    sys.exit(main())
