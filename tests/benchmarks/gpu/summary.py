"""What came out of all stages, as one JSON file and one table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.gpu.stages import Outcome

STEM = "summary"
RESULTS = ("machine", "timings", "engine", "rnnt", "functions")
"""Files of JSON that stages leave."""

PARTS = ("staging", "copy in", "kernels", "copy out", "rest of align", "engine on top", "client on top")


def collect(out: Path, outcomes: Sequence[Outcome], rehearsed: bool) -> dict[str, Any]:
    """Everything that the stages left in `out`; None for what they did not get to."""
    found = {name: _load(out / f"{name}.json") for name in RESULTS}
    return {"rehearsal": rehearsed, "stages": [asdict(outcome) for outcome in outcomes], **found}


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write(summary: dict[str, Any], out: Path) -> str:
    """Write summary.json and summary.md; returns what the latter says."""
    text = "\n".join(markdown(summary)) + "\n"
    (out / f"{STEM}.json").write_text(json.dumps(summary, indent=1) + "\n")
    (out / f"{STEM}.md").write_text(text)
    return text


def markdown(summary: dict[str, Any]) -> Iterator[str]:
    """Stages, targets and tables."""
    machine, timed, engine_times, losses, functions = (summary[name] for name in RESULTS)
    name = machine["device"]["name"] if machine else "unknown device"
    yield f"# alignd on {name}"
    yield ""
    if summary["rehearsal"]:
        yield "**A rehearsal: the times say nothing, and what stands under the peers' names are our own kernels.**"
        yield ""
    yield from stage_table(summary["stages"])
    if timed:
        yield from ["", report.target_line(timed["cases"]), "", report.markdown(timed).rstrip()]
    elif machine:
        yield from ["", report.machine_line(machine).replace("\n", "  \n"), "", "No timings."]
    if engine_times:
        yield from ["", *engine_table(engine_times)]
    if losses:
        yield from ["", *rnnt_table(losses)]
    if functions:
        yield from ["", *function_table(functions)]


def stage_table(stages: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| stage | outcome | seconds | last word |"
    yield "|---|---|---|---|"
    for stage in stages:
        note = stage["note"].replace("|", "\\|")
        yield f"| {stage['name']} | {stage['state']} | {stage['seconds']:.1f} | {note} |"


def engine_table(results: dict[str, Any]) -> list[str]:
    """Markdown: where a call's time goes, a batch a row."""
    lines = [
        f"engine ready after {results['start_s']:.1f} s, of compiling or loading kernels {results['compile_s']:.1f} s",
        "",
        "| one batch at a time | " + " | ".join(PARTS) + " | whole, in process | items/s | each of several at once |",
        "|---" * (len(PARTS) + 4) + "|",
    ]
    for record in results["batches"]:
        cells = [_signed(record["parts"][part]) for part in PARTS]
        whole, rate = report.duration(record["medians"]["client"]), f"{record['items_per_s']:,.0f}"
        name = f"{record['name']} ({record['bytes'] / 1e6:.3g} MB)"
        lines.append(f"| {name} | {' | '.join(cells)} | {whole} | {rate} | {_overlap(record['at_once'])} |")
    return lines


def _overlap(times: dict[str, Any]) -> str:
    each, alone = times["each"], times["alone"]
    return f"{report.duration(each)} of {times['batches']}, {each / alone:.2f} × one alone ({report.duration(alone)})"


def rnnt_table(results: dict[str, Any]) -> list[str]:
    """Markdown: the transducer loss, a cell of warp-rnnt's table a row."""
    unique = list(dict.fromkeys(name for cell in results["cells"] for name in cell))
    lines = [
        f"rnnt_loss, forward and backward; the target is {results['target']} times as fast as warp-rnnt",
        "",
        "| " + " | ".join(unique) + " |",
        "|---" * len(unique) + "|",
    ]
    for cell in results["cells"]:
        lines.append("| " + " | ".join(_shown(name, cell.get(name, "")) for name in unique) + " |")
    return lines


def function_table(results: dict[str, Any]) -> Iterator[str]:
    """Markdown: what has no table of its own, a function a row."""
    yield "| function, on the device | ours | as on the CPU | peer | its time | times ours |"
    yield "|---" * 6 + "|"
    for record in results["functions"]:
        own, other = record.get("seconds"), record.get("peer_seconds")
        cells = [report.duration(own) if own else record["note"]]
        cells += ["yes" if record.get("compared") else "not compared" if own else "–", record.get("peer", "–")]
        cells += [report.duration(other), f"{other / own:.3g}"] if own and other else [record["note"] or "–", "–"]
        yield f"| {record['name']} | {' | '.join(cells)} |"


def _shown(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2f}" if " as fast as " in name else report.duration(value)


def _signed(seconds: float) -> str:
    """A difference of medians may lie below zero."""
    return f"−{report.duration(-seconds)}" if seconds < 0 else report.duration(seconds)
