"""The lines of gpu.sh that a rehearsal leaves to a GPU, run without one: the sizes that only a device gets, Cuda's own
doors, and what is said where a peer, a tool or the time is missing."""

import dataclasses
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import alignd_kernels as ak
from benchmarks import __main__ as bench
from benchmarks import machine, report
from benchmarks import peers as cpu_peers
from benchmarks.gpu import (
    alignments,
    cases,
    engine,
    functions,
    losses,
    peers,
    place,
    plan,
    rnnt,
    small_cases,
    suites,
    summary,
)
from benchmarks.gpu.small import judge
from benchmarks.gpu.stages import SKIPPED
from benchmarks.measure import Plan, wall_clock
from benchmarks.run import WrongAnswerError

torch = pytest.importorskip("torch")
pytest.importorskip("triton")


class Host(place.Cuda):
    """The device's sizes and its calls of our public functions, on tensors in host memory."""

    device = "cpu"
    engine = "cpu"

    def synchronize(self) -> None:
        return

    def on_device(self, call: Callable[[], object]) -> float:
        return wall_clock(call)

    def cycles_per_s(self) -> float:
        return 1e9


@pytest.fixture
def no_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(peers.FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def test_the_devices_doors_are_our_public_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    host, full = Host(), torch.ones(1, 2, 3)
    path = host.maximum_path(torch.tensor([[[1.0, 1, 0], [0, 0, 1]]]), full, True)
    assert path.tolist() == [[[1, 1, 0], [0, 0, 1]]]
    found, _ = host.forced_align(torch.zeros(1, 3, 2).log_softmax(-1), torch.ones(1, 2, dtype=torch.int32), True)
    assert found.shape == (1, 3)
    log_probs, labels, frames, lengths = rnnt.inputs(host, 3, 3, 3, 1, False)
    assert host.rnnt_loss(log_probs, labels, frames, lengths, False).shape == (1,)
    monkeypatch.setattr(place, "FLUSH_BYTES", 16)
    host.flush()
    assert not place._buffer(16, "cpu").any()


def test_the_losss_table_with_peers_missing_and_failing(
    no_peers: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = Host()
    rnnt.check(host)  # at the device's size
    assert list(rnnt.sizes(host))[-1] == (1500, 300, 50, 128)
    monkeypatch.setattr(rnnt, "TABLE", ((2, 2, 2),))
    monkeypatch.setattr(rnnt, "BATCHES", (1, 2))
    records = rnnt.measure(host, lambda records: None)
    assert [record["N"] for record in records] == [1, 2]
    for record in records:
        assert record[rnnt.DENSE] > 0
        assert record[rnnt.COMPACT] > 0
        assert record[rnnt.WARP_RNNT] == f"missing: no warp_rnnt in {no_peers}"
        assert " as fast as " not in rnnt.line(record)

    def failing(error: BaseException) -> Any:
        def loss(*given: Any) -> Any:
            raise error

        return rnnt.cell(host, loss, False, (2, 2, 2, 1))

    assert failing(MemoryError()) == failing(torch.cuda.OutOfMemoryError("CUDA out of memory")) == "out of memory"
    assert failing(RuntimeError("illegal access\nmore")) == "fails: illegal access"
    assert failing(RuntimeError()) == "fails: RuntimeError()"
    monkeypatch.setattr(rnnt, "SECONDS", -1.0)
    assert rnnt.measure(host, lambda records: None)[0][rnnt.DENSE] == "not run: no time was left"
    answers = iter((1.0, 2.0))
    monkeypatch.setattr(ak, "rnnt_loss", lambda given, *rest, compact: given.sum() * next(answers))
    with pytest.raises(rnnt.WrongAnswerError, match="alignd, dense: costs are not the CPU's"):
        rnnt.check(host)


def test_a_loss_that_fails_or_is_not_there_is_told_by_the_stage(
    tmp_path: Path, no_peers: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rnnt, "place_of", lambda rehearse: Host())
    monkeypatch.setattr(rnnt, "check", lambda host: None)
    monkeypatch.setattr(rnnt, "TABLE", ((2, 2, 2),))
    monkeypatch.setattr(rnnt, "BATCHES", (1,))
    monkeypatch.setattr(Host, "rnnt_loss", lambda *given: torch.zeros(2) + torch.zeros(3))
    assert rnnt.main([str(tmp_path)]) == 1
    assert "0 of 1 cells run dense; 2 of ours failed; no warp-rnnt to compare with" in capsys.readouterr().out
    assert json.loads((tmp_path / "rnnt.json").read_text())["cells"][0][rnnt.DENSE].startswith("fails: ")
    monkeypatch.delattr(ak, "rnnt_loss")
    assert rnnt.main([str(tmp_path)]) == SKIPPED


def test_functions_at_the_devices_sizes(no_peers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "seconds", lambda host, call: host.on_device(call))
    monkeypatch.setattr(functions, "SECONDS", 600.0)
    monkeypatch.setattr(functions, "SECONDS_WITH_CHECKS", 600.0)
    kept: list[int] = []
    records = functions.measure(Host(), lambda so_far: kept.append(len(so_far)))
    assert [record["name"].split(",")[0] for record in records] == [
        "ctc_loss", "forward_sum_loss", "stepwise_expectation", "align_attention", "align_attention",
        "align_attention", "align_attention", "stepwise_hard", "maximum_path_from_latents", "transducer_align",
        "mas_posteriors", "ctc_posteriors", "transducer posteriors from host memory",
    ]  # fmt: skip
    assert kept == [*range(1, 14), *[13] * 13]
    assert all(record["seconds"] > 0 and record["compared"] for record in records)
    alone = [record for record in records if record["peer_seconds"] is None]
    assert [record["note"] for record in alone] == [f"missing: no whisper in {no_peers}"] * 2 + [""] * 5
    assert [record["peer"] for record in alone][2:] == [alignments.NONE] * 5


def test_peers_of_best_paths_find_ours() -> None:
    """Where there is one answer, at the device's sizes."""
    for make in (alignments.stepwise_hard, alignments.latents):
        function = make(Host())
        assert not isinstance(function.peer, str)
        (ours,), (theirs,) = function.ours(), function.peer()
        assert torch.equal(ours.long(), theirs.long())


def test_functions_whose_peer_fails_and_that_no_time_is_left_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept: list[Any] = []

    def table(record: dict[str, Any]) -> str:
        return list(summary.function_table({"functions": [record]}))[-1]

    def broken() -> Any:
        raise ValueError("no kernel image\nmore")

    answer = (torch.tensor([1.0]), torch.tensor([1]))
    one = losses.Function("one", lambda: answer, lambda: answer, "peer", broken)
    monkeypatch.setattr(functions, "functions", lambda host: iter((one,)))
    records = functions.measure(Host(), kept.append)
    assert functions.line(records[0]).endswith("; peer: the peer fails: no kernel image")
    assert table(records[0]).endswith("| yes | peer | the peer fails: no kernel image | – |")
    monkeypatch.setattr(functions, "SECONDS_WITH_CHECKS", -1.0)
    (record,) = functions.measure(Host(), kept.append)
    assert "| not compared | peer |" in table(record)
    monkeypatch.setattr(functions, "SECONDS", -1.0)
    (record,) = functions.measure(Host(), kept.append)
    assert functions.line(record) == "one: not run: no time was left"
    assert table(record) == "| one | not run: no time was left | – | – | not run: no time was left | – |"


def test_the_cases_have_the_devices_sizes() -> None:
    found = {case.name: case for case in cases.cases(Host())}
    assert found["cuda-mas-2048x512"].cells == 16 * 512 * (2048 - 512 + 1)
    assert found["cuda-ctc-50000x25000"].title == "CTC, B=1, T=50000, V=32, L=25000"
    assert found["cuda-mas-real"].title == "MAS, B=64, T=200 … 1600, S=T/6"


def test_a_case_without_super_monotonic_align_says_so(no_peers: Path) -> None:
    row = cases.super_row(None, [], None)  # type: ignore[arg-type]
    assert row.skip == f"missing: no super_monotonic_align in {no_peers}"


def test_a_torchaudio_without_the_loss_is_told(no_peers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_module", lambda name: SimpleNamespace())
    with pytest.raises(cpu_peers.Missing, match="this torchaudio has no rnnt_loss"):
        peers.torchaudio_rnnt_loss()


def test_the_engines_batches_have_the_devices_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = engine.questions(Host())
    assert [(one.items, one.name) for one in found] == [
        (64, "MAS, 64 items of many lengths"),
        (64, "CTC, 64 items of many lengths"),
        (1, "MAS, one short item"),
        (1, "CTC, one short item"),
    ]
    client, own = engine.started(Host(), found)
    with client:
        assert [len(list(one.ask(client))) for one in found] == [64, 64, 1, 1]
        assert "AlignAttention" in own.info().operations
        check_batches_at_once(found[2], own, monkeypatch)


def check_batches_at_once(question: engine.Question, own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight requests are eight launches, though any engine would merge such small ones."""
    from alignd_server.operations.mas import MasOperation

    run, launches = MasOperation.run, []

    def noting(operation: Any, requests: Any, device: Any, *, alone: bool) -> Any:
        launches.append((len(requests), alone))
        time.sleep(0.002)
        return run(operation, requests, device, alone=alone)

    monkeypatch.setattr(MasOperation, "run", noting)
    monkeypatch.setattr(engine, "ROUNDS", 2)
    times = engine.at_once(Host(), question, own)
    assert launches == [(1, False)] * (8 + 2 * (1 + 8))
    assert times["batches"] == 8
    assert times["each"] > 0.002
    assert times["alone"] > 0.002


@dataclasses.dataclass
class Aligned:
    kernel_ns: int
    durations: Any


def test_a_batchs_record_at_the_devices_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """All clocks, warmed up first; of the profile only what the device did, here nothing."""
    asked: list[str] = []

    def align(device: str) -> Aligned:
        asked.append(device)
        return Aligned(1000, torch.ones(3, device=device).add(1).numpy())

    class Engine:
        def submit(self, rpc: str, request: Any) -> Any:
            return SimpleNamespace(result=lambda: None)

    monkeypatch.setattr(engine, "ROUNDS", 2)
    monkeypatch.setattr(engine, "at_once", lambda *given: {"batches": 8, "alone": 2.0, "each": 1.0})
    question = engine.Question("q", 1, np.zeros(4, np.float32), align, "Op", None, lambda client: [])
    record = engine.measure(Host(), question, Engine(), None)
    assert record["medians"]["kernels"] == pytest.approx(1e-6)
    assert record["activity"] == {}
    table = summary.engine_table({"start_s": 1.0, "compile_s": 0.5, "batches": [record]})
    assert table[-1].endswith(" | 1 s of 8, 0.50 × one alone (2 s) |")
    assert len(asked) == 1 + 2 * (1 + 2) + 1  # its answers; kernels and align, warm-up and rounds; the profile


def test_a_package_whose_parent_is_missing_is_missing() -> None:
    assert not engine.installed("nowhere.inside")


def test_small_cases_are_compiled_first_on_a_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[Any] = []
    family = SimpleNamespace(
        KERNELS=(SimpleNamespace(warm_up=lambda device, dtypes: done.append((device, dtypes))),),
        check=lambda where, dtype, count: done.append(count),
    )
    monkeypatch.setattr("importlib.import_module", lambda name: family)
    dtype = small_cases.types_of("mas", rehearse=False)[0]
    small_cases.check(Host(), "mas", dtype)
    assert done == [("cpu", [dtype]), small_cases.ALL]


def test_small_cases_are_shared_out_to_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each family in each type once on a device; in a rehearsal each family once."""
    checked: list[tuple[str, str]] = []
    monkeypatch.setattr(small_cases, "place_of", lambda rehearse: place.Interpreter() if rehearse else Host())
    monkeypatch.setattr(small_cases, "check", lambda where, family, dtype: checked.append((family, dtype.value)))
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    shares = small_cases.shares(rehearse=False)
    assert all(small_cases.main(share) == 0 for share in shares)
    assert len(shares) == len(checked)
    assert sorted(checked) == sorted((family, dtype.value) for family in small_cases.FAMILIES for dtype in ak.DType)
    checked.clear()
    shares = small_cases.shares(rehearse=True)
    assert all(small_cases.main(["--rehearse", *share]) == 0 for share in shares)
    assert len(shares) == 3
    assert sorted(family for family, _ in checked) == sorted(small_cases.FAMILIES)


def test_numbers_that_are_not_near_are_wrong() -> None:
    with pytest.raises(judge.WrongAnswerError, match=r"sum: 2\.0, not 1\.0"):
        judge.near("sum", 2.0, 1.0)


def test_suites_do_without_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert suites.lacking("kernels").startswith("the tests of the kernels lack hypothesis, numba, pytest here: ")
    found = suites.options("kernels", tmp_path, rehearse=False)
    assert "-n" not in found
    assert not any(option.startswith("--timeout") for option in found)


def test_a_wrong_answer_fails_the_timings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def wrong(case: Any, plan: Any) -> Any:
        raise WrongAnswerError("row: no path")

    monkeypatch.setattr(bench, "run_case", wrong)
    results, failures = bench.measure_all([next(cases.cases(place.Interpreter()))], Plan())
    assert (results["cases"], failures) == ([], 1)
    assert "cuda-mas-2048x512: WRONG ANSWER: row: no path" in capsys.readouterr().out


def test_a_machine_without_git_has_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "revision unknown" in report.machine_line(machine.describe())


def test_gpu_sh_says_how_to_name_a_python_with_torch(tmp_path: Path) -> None:
    script = machine.ROOT / "tests/benchmarks/gpu.sh"
    poor = subprocess.run([script], env={"PATH": "/usr/bin:/bin", "PYTHON": "false"}, capture_output=True, text=True)
    assert (poor.returncode, poor.stderr) == (2, "gpu.sh needs torch and triton: PYTHON=/path/to/python\n")


def test_results_go_to_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu.__main__ import parse

    monkeypatch.setenv("OUT", str(tmp_path))
    assert parse([]).out == tmp_path
    monkeypatch.setenv("OUT", "")
    assert parse([]).out == machine.ROOT / "build" / "gpu"
    assert plan.environment(plan.Request(tmp_path))["TRITON_INTERPRET"] == "0"
