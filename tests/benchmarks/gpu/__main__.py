"""`tests/benchmarks/gpu.sh`: the GPU's tests and timings, stage by stage; exit status 1 if one of them failed."""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu import summary
from benchmarks.gpu.plan import SITE, Request, stages, total_s
from benchmarks.gpu.rehearsal import write_peers
from benchmarks.gpu.stages import Outcome, Stage, run_all
from benchmarks.machine import ROOT

MACHINE = "machine"
NEEDED = "wheels", MACHINE


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/benchmarks/gpu.sh", description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="without a GPU: the interpreter, and tiny shapes")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="checkouts of peers, such as super-monotonic-align")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="wheels of packages that this Python lacks")
    out = Path(os.environ.get("OUT") or ROOT / "build" / "gpu")
    parser.add_argument(
        "--out", type=Path, default=out, metavar="DIR", help="folder for results ($OUT, else build/gpu)"
    )
    parser.add_argument("--only", default="", metavar="STAGES", help="names of stages, by commas")
    parser.add_argument("--cases", default="", help="of what is timed, only cases whose name contains one of these")
    chosen = parser.parse_args(arguments)
    for folder in (chosen.peers, chosen.wheels):
        if folder and not folder.is_dir():
            parser.error(f"{folder} is no folder")
    return chosen


def chosen_stages(all_stages: Sequence[Stage], only: str) -> list[Stage]:
    """The stages of these names, and those that all others need.

    Raises:
        ValueError: there is no stage of a name.
    """
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = sorted(set(names) - {stage.name for stage in all_stages})
    if unknown:
        raise ValueError(f"no stage is called {', '.join(unknown)}: {', '.join(stage.name for stage in all_stages)}")
    return [stage for stage in all_stages if not names or stage.name in (*NEEDED, *names)]


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parse(arguments)
    out: Path = chosen.out
    out.mkdir(parents=True, exist_ok=True)
    for stem in summary.RESULTS:  # of an earlier run, which this one may not get to
        (out / f"{stem}.json").unlink(missing_ok=True)
    peers = write_peers(out / "peers") if chosen.rehearse and not chosen.peers else chosen.peers
    request = Request(out, chosen.rehearse, peers, chosen.wheels, chosen.cases)
    try:
        wanted = chosen_stages(stages(request), chosen.only)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    # A stage that is ended says where it was; what was in its memory is of no use.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    outcomes: list[Outcome] = []
    for outcome in run_all(wanted, out, total_s(request)):
        outcomes.append(outcome)
        if outcome.name == MACHINE and not outcome.good:
            break  # nothing that follows could say more
    shutil.rmtree(out / SITE, ignore_errors=True)  # no result
    print(f"\n{summary.write(summary.collect(out, outcomes, chosen.rehearse), out)}")
    failed = [outcome.name for outcome in outcomes if not outcome.good]
    print(f"{'failed: ' + ', '.join(failed) if failed else 'all stages passed'}; results in {out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
