"""A case from check to record: who is timed, who is told to be wrong or missing, and what stands in the table."""

import dataclasses
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

import alignd_kernels as ak
from benchmarks import report
from benchmarks.__main__ import measure_all
from benchmarks.case import Case, Contestant, Target
from benchmarks.cases_ctc import CtcInputs, CtcShape
from benchmarks.cases_ctc import case as ctc_case
from benchmarks.cases_mas import MasInputs, MasShape, durations_and_path, paths_end_to_end, uniform, utterances
from benchmarks.cases_mas import case as mas_case
from benchmarks.catalogue import all_cases, named, select
from benchmarks.measure import QUICK
from benchmarks.memory import measure
from benchmarks.run import WrongAnswerError, check, growth, run_case

SMALL = uniform(3, 40, 8)
OURS = "mas.align: durations, path"
MACHINE: dict[str, Any] = {
    "cpu": "a CPU",
    "cpus": 2,
    "threads": 2,
    "cache_bytes": 1 << 20,
    "load": [0.0],
    "gpu": "",
    "dirty": True,
    "revision": "0" * 40,
    "python": "3.11",
    "versions": {},
}


def answering(name: str, kind: Any, paths: list[Any]) -> Contestant:
    return Contestant(name, kind, lambda _: paths, lambda answer, _: answer)


def best_paths(inputs: MasInputs) -> list[Any]:
    return paths_end_to_end(durations_and_path(inputs.batch()), inputs)


def worse(path: Any) -> Any:
    """The first token for as long as it can be had: a legal path."""
    S, T = int(path[-1]) + 1, len(path)
    return np.maximum(0, np.arange(T) - (T - S))


def test_a_peer_that_finds_a_worse_path_is_told_to_disagree() -> None:
    inputs = MasInputs(SMALL, 0)
    best = best_paths(inputs)
    rows = [answering("ours", "ours", best), answering("peer", "peer", [worse(path) for path in best])]
    records, estimates = check(rows, inputs)
    assert "DISAGREES: 3 paths worse" in records[1]["agrees"]
    assert set(estimates) == {"ours", "peer"}


def test_a_peer_that_finds_a_better_path_fails_the_case() -> None:
    inputs = MasInputs(SMALL, 0)
    best = best_paths(inputs)
    rows = [answering("ours", "ours", [worse(path) for path in best]), answering("peer", "peer", best)]
    with pytest.raises(WrongAnswerError, match="peer found a better path"):
        check(rows, inputs)


def test_a_second_function_of_ours_must_be_as_good_as_the_first() -> None:
    inputs = MasInputs(SMALL, 0)
    best = best_paths(inputs)
    rows = [answering("one", "ours", best), answering("two", "ours", [worse(path) for path in best])]
    with pytest.raises(WrongAnswerError, match="two found a worse path"):
        check(rows, inputs)


def test_a_twin_must_find_the_very_paths() -> None:
    """Other paths of the same score will not do: ours give the same bits on all hardware."""
    inputs = MasInputs(SMALL, 0)
    inputs.value[...] = 0  # all paths are as good
    best = best_paths(inputs)
    records, _ = check([answering("ours", "ours", best), answering("twin", "twin", best)], inputs)
    assert records[1]["agrees"] == "same paths"
    others = [worse(path) for path in best]
    assert not all(np.array_equal(one, other) for one, other in zip(best, others))
    with pytest.raises(WrongAnswerError, match="twin does not find the same paths: equal scores, other paths"):
        check([answering("ours", "ours", best), answering("twin", "twin", others)], inputs)


def test_what_overwrites_its_input_gets_another_copy_each_time() -> None:
    def spoil(given: Any) -> Any:
        paths = best_paths(given)
        given.value[...] = np.nan
        return paths

    spoiler = Contestant("spoiler", "peer", spoil, lambda answer, _: answer, prepare=lambda _: MasInputs(SMALL, 0))
    inputs = MasInputs(SMALL, 0)
    records, estimates = check([answering("ours", "ours", best_paths(inputs)), spoiler], inputs)
    assert records[1]["agrees"] == "same paths"
    assert "spoiler" in estimates
    assert not np.isnan(inputs.value).any()


def test_a_case_that_raises_counts_as_failed_and_the_others_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_: int) -> Any:
        raise OSError("no such input")

    kept: list[int] = []
    cases = [
        mas_case("first", "first", uniform(2, 20, 4)),
        Case("broken", "", "MAS", broken, lambda *_: [], cells=1),
        mas_case("last", "last", uniform(2, 20, 4)),
    ]
    results, failures = measure_all(cases, QUICK, lambda so_far: kept.append(len(so_far["cases"])))
    assert failures == 1
    assert [case["name"] for case in results["cases"]] == ["first", "last"]
    assert kept == [1, 2]
    assert "OSError: no such input" in capsys.readouterr().out


def test_what_is_no_path_fails_ours_and_is_told_of_a_peer() -> None:
    inputs = MasInputs(SMALL, 0)
    best = best_paths(inputs)
    backwards = [path[::-1] for path in best]
    with pytest.raises(WrongAnswerError, match="not a monotonic path"):
        check([answering("ours", "ours", backwards)], inputs)
    records, _ = check([answering("ours", "ours", best), answering("peer", "peer", backwards)], inputs)
    assert records[1]["agrees"] == "DISAGREES: not a monotonic path from the first token to the last"


def test_a_peer_that_fails_or_is_missing_is_told_and_not_timed() -> None:
    def fail(_: Any) -> object:
        raise MemoryError("too large")

    inputs = MasInputs(SMALL, 0)
    rows = [
        answering("ours", "ours", best_paths(inputs)),
        Contestant("failing", "peer", fail),
        Contestant("absent", "peer", fail, skip="missing: not installed"),
    ]
    records, estimates = check(rows, inputs)
    assert [record["note"] for record in records] == ["", "fails: MemoryError: too large", "missing: not installed"]
    assert set(estimates) == {"ours"}
    with pytest.raises(WrongAnswerError, match="ours raises MemoryError"):
        check([Contestant("ours", "ours", fail)], inputs)


def test_a_loss_below_the_best_path_disagrees() -> None:
    inputs = MasInputs(SMALL, 0)
    best = best_paths(inputs)
    scores = np.array([inputs.judge(item, path).score for item, path in enumerate(best)])

    def loss(name: str, by: float) -> Contestant:
        return Contestant(name, "loss", lambda _: None, log_likelihoods=lambda _: scores + by)

    records, _ = check([answering("ours", "ours", best), loss("above", 5.0), loss("below", -5.0)], inputs)
    assert records[1]["agrees"] == "sum over all paths"
    assert "DISAGREES" in records[2]["agrees"]


@pytest.mark.parametrize("dtype", list(ak.DType))
def test_our_answers_to_a_mas_case_are_legal_in_every_type(dtype: ak.DType) -> None:
    record = run_case(mas_case("small", "small", uniform(3, 40, 8, dtype=dtype)), QUICK)
    mine = [row for row in record["contestants"] if row["kind"] == "ours"]
    assert [row["agrees"] for row in mine] == ["legal paths", "same paths"]
    for row in mine:
        assert 0 < row["least"] <= row["q1"] <= row["median"] <= row["q3"]
        assert row["rounds"] == len(row["samples"])
        assert row["floor"] > 0
        assert row["share_of_floor"] == pytest.approx(row["floor"] / row["median"])


def test_a_ragged_case_and_a_ctc_case_give_a_table() -> None:
    records = [
        run_case(mas_case("ragged", "eight utterances", utterances(8), growth="MAS"), QUICK),
        run_case(mas_case("even", "three items", SMALL, growth="MAS"), QUICK),
        run_case(ctc_case("ctc", "two items", CtcShape(2, 60, 8, 12)), QUICK),
    ]
    families = list(growth(records))
    times = families[0]["ns_per_cell"]
    assert families[0]["ratio"] == pytest.approx(max(times.values()) / min(times.values()))
    text = report.markdown({"machine": MACHINE, "cases": records, "growth": families})
    assert text.count("| eight utterances, ") == 2
    assert "no CUDA device" in text
    assert "largest over least" in text
    block = "\n".join(report.case_lines(records[2]))
    assert "ns/cell" in block
    assert "arithmetic" in block or "memory" in block or "chain" in block
    assert "BUSY" not in text
    assert "BUSY" in report.machine_line(MACHINE | {"load": [1.5]})
    row = records[2]["contestants"][0]
    row["q1"], row["q3"] = row["median"], 1.4 * row["median"]
    assert "NOISY" not in next(line for line in report.case_lines(records[2]) if row["name"] in line)
    row["q3"] = 1.6 * row["median"]
    assert "NOISY" in next(line for line in report.case_lines(records[2]) if row["name"] in line)


def test_a_target_is_told_in_the_row_that_it_is_for() -> None:
    """Of functions timed by one clock, and by several, which end their names."""
    mas = dataclasses.replace(mas_case("mas", "three items", SMALL), targets=(Target(OURS, 100.0),))
    one = run_case(mas, QUICK)
    rows = report.markdown({"machine": MACHINE, "cases": [one], "growth": []}).splitlines()
    told = [row.split(" | ")[-1] for row in rows if row.startswith("| three items, ")]
    assert told == ["≤ 100000 ms (100 s): met |", "– |"]
    row, target = one["contestants"][0], one["targets"][0]
    row |= {"name": f"{OURS}, two", "by": "two"}
    assert report._targets(one, row) == "–"
    target["by"] = "two"
    assert report._targets(one, row) == "≤ 100000 ms (100 s): met"


def test_the_judge_of_ctc_knows_labels_and_their_order() -> None:
    inputs = CtcInputs(CtcShape(1, 6, 5, 3), 0)
    inputs.targets[0] = [2, 2, 4]
    assert inputs.judge(0, np.array([2, 0, 2, 4, 4, 0])).flaw == ""
    for wrong in ([2, 2, 2, 4, 4, 0], [2, 0, 2, 0, 0, 0], [4, 0, 2, 0, 2, 0], [2, 0, 2, 4]):
        assert inputs.judge(0, np.array(wrong)).flaw


def test_reachable_cells_are_those_of_the_band() -> None:
    shape = MasShape(np.array([3], np.int64), np.array([7], np.int64))
    visited = {(s, t) for s in range(3) for t in range(7) if s <= t and 2 - s <= 6 - t}
    assert shape.cells == len(visited)


def test_names_are_unique_and_chosen_by_parts() -> None:
    names = [case.name for case in all_cases()]
    assert len(names) == len(set(names))
    assert [case.name for case in select("mas-tiny,ctc-tiny")] == ["mas-tiny", "ctc-tiny"]
    assert {case.name for case in select(quick=True)} < set(names)
    assert named("mas-tiny").name == "mas-tiny"
    with pytest.raises(KeyError):
        named("no such case")


def test_peak_memory_counts_what_a_call_allocates() -> None:
    def contestants(_: ExitStack, __: Any) -> list[Contestant]:
        return [Contestant("hungry", "ours", lambda _: np.ones(100 << 20, np.uint8).sum())]

    case = Case("hungry", "", "", lambda _: np.zeros(1), contestants, cells=1)
    assert (90 << 20) < measure(case, "hungry") < (160 << 20)


def test_durations_are_printed_with_a_unit_that_fits() -> None:
    assert [report.duration(seconds) for seconds in (12.3e-6, 4.56e-3, 7.891, 150e-3, 5e-9)] == [
        "12.3 µs", "4.56 ms", "7.89 s", "150 ms", "5 ns",
    ]  # fmt: skip
