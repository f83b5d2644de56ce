"""The results as a table, for a terminal and as Markdown."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

Record = dict[str, Any]


NOISY = 1.5
"""Third quartile over first, past which the median of one run says little."""

BUSY = 0.5
"""Load per processor, before the run, past which the ratios themselves are not to be trusted."""


def machine_line(machine: Record) -> str:
    versions = " ".join(f"{name} {version}" for name, version in machine["versions"].items())
    load = " ".join(f"{value:.2f}" for value in machine["load"])
    state = "with changes" if machine["dirty"] else "clean"
    revision = f"{machine['revision'][:12]} ({state})" if machine["revision"] else "unknown"
    return (
        f"{machine['cpu']}, {machine['threads']} threads of {machine['cpus']} CPUs, "
        f"{machine['cache_bytes'] >> 20} MiB last-level cache, load {load}; "
        f"{'GPU ' + machine['gpu'] if machine['gpu'] else 'no CUDA device'}\n"
        f"revision {revision}; Python {machine['python']}, {versions}{_warning(machine)}"
    )


def device_line(device: Record) -> str:
    """Of the device of the GPU's cases."""
    pinned = device["pinned_bytes_per_s"]
    return (
        f"{device['name']}: a copy on the device moves {device['copy_bytes_per_s'] / 1e9:.0f} GB/s, read and written; "
        f"pinned memory to it {pinned['to_device'] / 1e9:.1f} GB/s, from it {pinned['to_host'] / 1e9:.1f} GB/s; "
        f"highest clock {device['cycles_per_s'] / 1e6:.0f} MHz"
    )


def _warning(machine: Record) -> str:
    if machine["load"][0] <= BUSY * machine["cpus"]:
        return ""
    return "\nBUSY with something else: ratios may favour whoever was less disturbed; better run it again"


def duration(seconds: float) -> str:
    """With a unit that keeps it readable: 12.3 µs, 4.56 ms, 7.89 s."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 100 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def ours(record: Record) -> list[Record]:
    return [row for row in record["contestants"] if row["kind"] == "ours" and "median" in row]


def others(record: Record, by: str | None = None) -> list[Record]:
    """The peers; only those timed by this clock if one is named."""
    rows = [row for row in record["contestants"] if row["kind"] != "ours"]
    return rows if by is None else [row for row in rows if row["by"] == by]


def case_lines(record: Record) -> Iterator[str]:
    """The block of one case on a terminal."""
    head = f"{record['name']}: {record['title']}"
    if record.get("read_once"):
        head += f"; all values read once: {duration(record['read_once'])} ({record['bytes_per_s'] / 1e9:.1f} GB/s)"
    yield head
    firsts = {row["by"]: row for row in reversed(ours(record))}
    base = next((row for row in record["contestants"] if row["name"] == record["baseline"]), None)
    for row in record["contestants"]:
        name = row["name"] if row["kind"] == "ours" else f"{row['kind']}: {row['name']}"
        if "median" not in row:
            yield f"  {name:50} {row['note']}"
            continue
        yield f"  {name:50} {_times(row)}  {_remarks(row, firsts.get(row['by']), base)}".rstrip()
    for function, memory in record.get("memory", {}).items():
        yield f"  {function:50} {memory}"
    for target in record["targets"]:
        yield f"  target: {_aimed_at(target)}, {_verdict(target)}"
    yield from (f"  {note}" for note in record["notes"])


def target_line(cases: Sequence[Record]) -> str:
    """How many targets of all cases were met."""
    counts = Counter(target["verdict"] for record in cases for target in record["targets"])
    return "targets: " + (", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())) or "none")


def _aimed_at(target: Record) -> str:
    """Name of the row that the target is for; one of a single clock has no clock in its name."""
    return ", ".join(filter(None, (target["what"], target["by"])))


def _verdict(target: Record) -> str:
    limit = f" ({duration(target['limit'])})" if target["limit"] is not None else ""
    return f"{target['target']}{limit}: {target['verdict']}"


def _times(row: Record) -> str:
    spread = f"({duration(row['q1'])} … {duration(row['q3'])}, {row['rounds']} rounds)"
    return f"{duration(row['median']):>8} {spread:36}"


def _remarks(row: Record, first: Record | None, base: Record | None) -> str:
    remarks = []
    if base is not None:
        remarks.append(f"{row['items_per_s']:,.0f} items/s")
        if row is not base:
            remarks.append(f"{base['median'] / row['median']:.0%} of {base['name']}")
            items = row["items_per_s"] * row["median"]
            remarks.append(f"{duration(max(0.0, row['median'] - base['median']) / items)} an item on top")
    elif row["kind"] == "ours":
        if "ns_per_cell" in row:
            remarks.append(f"{row['ns_per_cell']:.3f} ns/cell")
        if "floor" in row:
            floor = f"{duration(row['floor'])}, {row['bound_by']}"
            remarks.append(f"floor {floor}: {row['share_of_floor']:.0%}")
    elif first is not None:
        remarks.append(f"{row['median'] / first['median']:.3g} × ours")
    if row["q3"] > NOISY * row["q1"]:
        remarks.append("NOISY")
    if row.get("agrees") and (row["kind"] != "ours" or "DISAGREES" in row["agrees"]):
        remarks.append(row["agrees"])
    return "; ".join(remarks)


def growth_lines(families: Sequence[Record]) -> Iterator[str]:
    for family in families:
        cells = ", ".join(f"{name} {time:.3f}" for name, time in family["ns_per_cell"].items() if time is not None)
        yield f"growth, {family['family']}: ns/cell {cells}; largest over least {family['ratio']:.2f}"


def markdown(results: Record) -> str:
    """A table of all cases that have a floor or peers, and one of the doors; each row is one of our functions."""
    lines = [machine_line(results["machine"]).replace("\n", "  \n"), ""]
    if "device" in results:
        lines[1:1] = ["", device_line(results["device"])]
    for group, members in itertools.groupby(results["cases"], key=lambda record: str(record["group"])):
        records = list(members)
        doors = bool(records[0]["baseline"])
        lines += ["", *(_door_table(group, records) if doors else _kernel_table(group, records))]
    lines += ["", *growth_lines(results["growth"])]
    return "\n".join(lines) + "\n"


def _kernel_table(group: str, records: Sequence[Record]) -> Iterator[str]:
    aimed = any(record["targets"] for record in records)
    yield f"| {group} | ours | ns/cell | floor (what binds it) | share | peers: time, and how many times ours |" + (
        " targets |" if aimed else ""
    )
    yield "|---|---|---|---|---|---|" + ("---|" if aimed else "")
    for record in records:
        for row in ours(record):
            floor = f"{duration(row['floor'])} ({row['bound_by']})" if "floor" in row else "–"
            share = f"{row['share_of_floor']:.0%}" if "floor" in row else "–"
            cells = f"{row['ns_per_cell']:.3f}" if "ns_per_cell" in row else "–"
            peers = "; ".join(_peer(peer, row) for peer in others(record, row["by"])) or "–"
            title = f"{record['title']}, {row['name']}"
            targets = f" {_targets(record, row)} |" if aimed else ""
            yield f"| {title} | {duration(row['median'])} | {cells} | {floor} | {share} | {peers} |{targets}"


def _targets(record: Record, row: Record) -> str:
    mine = (target for target in record["targets"] if _aimed_at(target) == row["name"])
    return "; ".join(map(_verdict, mine)) or "–"


def _peer(peer: Record, row: Record) -> str:
    name = peer["name"].removesuffix(f", {peer['by']}")
    if "median" not in peer:
        return f"{name}: {peer['note']}"
    return f"{name} {duration(peer['median'])}, {peer['median'] / row['median']:.3g} ×"


def _door_table(group: str, records: Sequence[Record]) -> Iterator[str]:
    names = [row["name"] for row in records[0]["contestants"]]
    yield f"| {group}, items a second | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for record in records:
        base = next(row for row in record["contestants"] if row["name"] == record["baseline"])
        cells = [
            f"{row['items_per_s']:,.0f}" + ("" if row is base else f" ({base['median'] / row['median']:.0%})")
            for row in ours(record)
        ]
        yield f"| {record['title']} | " + " | ".join(cells) + " |"
