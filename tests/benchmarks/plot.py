"""Times of all cases on one logarithmic scale: ours, the peers', and the floor under them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter

from benchmarks.report import duration

OURS, FLOOR = "#0b6e4f", "#222222"
PEER_STYLES = {
    "monotonic-alignment-search": ("o", "#d1495b"),
    "monotonic-align": ("s", "#d1495b"),
    "ddtw, hard minimum's gradient": ("^", "#edae49"),
    "ctc-forced-aligner's core": ("o", "#8d5a97"),
    "torchaudio.forced_align": ("s", "#8d5a97"),
    "super-monotonic-align": ("o", "#d1495b"),
    "torch ctc_loss, forward": ("v", "#5b84b1"),
    "ddtw CTC, forward": ("^", "#edae49"),
}
OTHER_STYLE = ("D", "#999999")
ROW_INCHES = 0.42


def rows_of(results: dict[str, Any]) -> list[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """Label, our row and the peers' rows of every case, in the order of the table, which has our other functions for
    the same job too; doors are left out."""
    rows = []
    for record in results["cases"]:
        if record["baseline"]:
            continue
        timed = [row for row in record["contestants"] if "median" in row]
        mine = [row for row in timed if row["kind"] == "ours"]
        for row in mine[:1]:
            others = [other for other in timed if other["kind"] in ("peer", "loss") and other["by"] == row["by"]]
            title = f"{record['group']}: {record['title']}"
            by = f", {row['by']}" if row["by"] else ""
            rows.append((f"{title} – {row['name'].split(':')[0].removesuffix(by)}{by}", row, others))
    return rows


def draw(results: dict[str, Any], stem: Path) -> None:
    """Write STEM.png and STEM.svg; nothing if no case was timed."""
    rows = rows_of(results)
    if not rows:
        return
    figure, axes = plt.subplots(figsize=(11, 1.9 + ROW_INCHES * len(rows)), layout="constrained")
    labelled: set[str] = set()

    def label(name: str) -> str | None:
        return None if name in labelled or labelled.add(name) else name  # type: ignore[func-returns-value]

    for line, (_, mine, others) in enumerate(rows):
        if "floor" in mine:
            axes.barh(line, mine["median"] - mine["floor"], left=mine["floor"], height=0.16, color=OURS, alpha=0.25)
            axes.plot(mine["floor"], line, "|", color=FLOOR, ms=13, mew=2.2, label=label("floor"), zorder=3)
        axes.plot(mine["median"], line, "D", color=OURS, ms=8, label=label("alignd"), zorder=5)
        for other in others:
            name = other["name"].removesuffix(f", {other['by']}")
            marker, colour = PEER_STYLES.get(name, OTHER_STYLE)
            hollow = {"mfc": "white"} if other["kind"] == "loss" else {}
            name += " (sums over paths)" if other["kind"] == "loss" else ""
            axes.plot(
                other["median"], line, marker, color=colour, ms=7.5, alpha=0.8, label=label(name), zorder=4, **hollow
            )
        alike = [other["median"] for other in others if other["kind"] == "peer"]
        alike = alike or [other["median"] for other in others]  # losses, beside losses
        if alike:
            ratio = f"{min(alike) / mine['median']:.3g} ×"
            axes.annotate(ratio, (1.01, line), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.annotate("fastest\npeer", (1.01, 1.0), xycoords="axes fraction", va="bottom", fontsize=8)
    shown = [mine.get("floor", mine["median"]) for _, mine, _ in rows]
    shown += [row["median"] for _, mine, others in rows for row in (mine, *others)]
    axes.set_xlim(min(shown) / 1.5, max(shown) * 1.5)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [text for text, _, _ in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: duration(seconds)))
    axes.grid(axis="x", which="major", color="#dddddd")
    axes.grid(axis="y", color="#f2f2f2")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("time of one call, median (logarithmic)")
    machine = results["machine"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads"
    figure.suptitle(f"Alignment kernels and their peers – {where}", fontsize=11)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(f"{stem}.png", dpi=130)
    figure.savefig(f"{stem}.svg")
    plt.close(figure)
