"""gpu.sh without a GPU: its stages, their limits, what is said of what is missing, and the arithmetic of its tables."""

import dataclasses
import json
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from benchmarks import peers as cpu_peers
from benchmarks import report, targets
from benchmarks.case import CHAIN, READ_ONCE, Case, Contestant, Target, Work
from benchmarks.cases_ctc import CtcShape
from benchmarks.gpu import engine, memcheck, peers, place, plan, suites, summary
from benchmarks.gpu.__main__ import chosen_stages, main, parse
from benchmarks.gpu.stages import SKIPPED, Outcome, Stage, last_line, run, run_all
from benchmarks.machine import ROOT
from benchmarks.rates import Rates


def python(name: str, program: str, limit_s: float = 20, **options: Any) -> Stage:
    return Stage(name, [sys.executable, "-c", program], limit_s, **options)


def test_a_stage_that_fails_or_is_skipped_does_not_stop_the_next(tmp_path: Path) -> None:
    stages = [
        python("bad", "print('words'); raise SystemExit(3)"),
        python("cannot", f"print('no such tool'); raise SystemExit({SKIPPED})"),
        python("left out", "", skip="nothing to do"),
        python("good", "import os; print('==== ' + os.environ['WORD'] + ' ====')", environment={"WORD": "well"}),
    ]
    outcomes = list(run_all(stages, tmp_path, 60))
    assert [(outcome.state, outcome.note) for outcome in outcomes] == [
        ("failed", "exit status 3: words"),
        ("skipped", "no such tool"),
        ("skipped", "nothing to do"),
        ("passed", "well"),
    ]
    assert [outcome.good for outcome in outcomes] == [False, True, True, True]
    assert (tmp_path / "bad.txt").read_text() == "words\n"


def test_a_stage_over_its_limit_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """It ignores the first signal, and so does its child."""
    program = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGABRT, signal.SIG_IGN)\n"
        "child = 'import signal, time; signal.signal(signal.SIGABRT, signal.SIG_IGN); time.sleep(600)'\n"
        "print(subprocess.Popen([sys.executable, '-c', child]).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    begun = time.monotonic()
    with mock.patch("benchmarks.gpu.stages.GRACE_S", 0.5):
        outcome = run(python("slow", program), tmp_path, 3.0)
    assert outcome.state == "timed out"
    assert outcome.note == "ended after its limit of 3 s"
    assert time.monotonic() - begun < 30
    child = int((tmp_path / "slow.txt").read_text().split()[0])
    assert ended(child)


def ended(pid: int) -> bool:
    """Whether a process is gone, or waits only to be reaped."""
    for _ in range(100):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_stage_that_is_ended_says_where_it_was(tmp_path: Path) -> None:
    program = "import time\ndef in_here(): time.sleep(600)\nin_here()"
    assert run(python("stuck", program), tmp_path, 2.0).state == "timed out"
    assert "in in_here" in (tmp_path / "stuck.txt").read_text()


def test_when_no_time_is_left_stages_are_named_and_not_run(tmp_path: Path) -> None:
    outcomes = list(run_all([python("first", "import time; time.sleep(60)"), python("second", "")], tmp_path, 1.0))
    assert [outcome.state for outcome in outcomes] == ["timed out", "timed out"]
    assert outcomes[1].note == "not run: the 1 s of all stages are over"
    assert not (tmp_path / "second.txt").exists()


@pytest.mark.parametrize("rehearse", [False, True])
def test_the_limits_fit_into_eight_minutes(tmp_path: Path, rehearse: bool) -> None:
    """A rehearsal's into what a rehearsal has. The kernels' suite comes last, and has what is left."""
    (tmp_path / "some-1-py3-none-any.whl").touch()
    request = plan.Request(tmp_path, rehearse, wheels=tmp_path)
    *others, last = plan.stages(request)
    assert (last.name, last.limit_s) == ("tests-kernels", plan.REST)
    assert sum(stage.limit_s for stage in others) + plan.LEAST_REST_S <= plan.total_s(request)
    assert (plan.total_s(request) < 480) is not rehearse
    names = [stage.name for stage in others]
    assert names.index("machine") < names.index("small-cases") < names.index("timings") < names.index("tests-engine")


def test_the_last_stage_has_what_the_others_leave(tmp_path: Path) -> None:
    (outcome,) = run_all([python("suite", "import time; time.sleep(60)", plan.REST)], tmp_path, 1.0)
    assert (outcome.state, outcome.note) == ("timed out", "ended after its limit of 1 s")


def test_stages_are_chosen_by_name(tmp_path: Path) -> None:
    stages = plan.stages(plan.Request(tmp_path, rehearse=True))
    assert all("--rehearse" in stage.command for stage in stages if not stage.skip)
    assert [stage.name for stage in chosen_stages(stages, "timings, engine")] == [
        "wheels", "machine", "timings", "engine",
    ]  # fmt: skip
    assert chosen_stages(stages, "") == stages
    with pytest.raises(ValueError, match="no stage is called timing: wheels, machine, "):
        chosen_stages(stages, "timing")
    assert main(["--out", str(tmp_path), "--only", "timing"]) == 2


def test_a_folder_that_is_none_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--peers", str(tmp_path / "nowhere")])
    assert "nowhere is no folder" in capsys.readouterr().err


def test_without_a_device_it_ends_at_once(tmp_path: Path) -> None:
    """As on any machine without a GPU; where there is one, it is hidden."""
    with mock.patch.dict("os.environ", {"CUDA_VISIBLE_DEVICES": ""}):
        assert main(["--out", str(tmp_path)]) == 1
    stages = json.loads((tmp_path / "summary.json").read_text())["stages"]
    assert [(stage["name"], stage["state"]) for stage in stages] == [("wheels", "skipped"), ("machine", "failed")]
    assert "torch finds no CUDA device; --rehearse does without one" in stages[1]["note"]


def wheel(folder: Path) -> None:
    """A package `carried` of one module."""
    with zipfile.ZipFile(folder / "carried-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("carried.py", "WORD = 'here'\n")
        about = "carried-1.0.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", f"carried.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")


def test_wheels_are_installed_where_later_stages_find_them(tmp_path: Path) -> None:
    wheel(tmp_path)
    request = plan.Request(tmp_path / "out", wheels=tmp_path)
    request.out.mkdir()
    stage = plan.wheels(request, plan.environment(request))
    assert run(stage, request.out, 60).note == "Successfully installed carried-1.0"
    use = python("use", "import carried; print(carried.WORD)", environment=plan.environment(request))
    assert run(use, request.out, 20).note == "here"


def test_a_folder_without_wheels_fails_and_none_is_skipped(tmp_path: Path) -> None:
    stage = plan.wheels(plan.Request(tmp_path, wheels=tmp_path), {})
    outcome = run(stage, tmp_path, 20)
    assert (outcome.state, "no wheels in" in outcome.note) == ("failed", True)
    assert plan.wheels(plan.Request(tmp_path), {}).skip == "no --wheels DIR was given"


def test_all_packages_that_a_stage_lacks_are_named() -> None:
    engine_lacks, tests_lack = "the engine lacks psutil, structlog", "the tests of the {} lack"
    for hidden, call, said in (
        ("structlog psutil", "engine.main(['/nowhere'])", engine_lacks),
        ("structlog psutil", "suites.main(['engine', '/nowhere'])", engine_lacks),
        ("pytest", "suites.main(['engine', '/nowhere'])", f"{tests_lack.format('engine')} pytest"),
        (
            "pytest hypothesis",
            "suites.main(['kernels', '/nowhere'])",
            f"{tests_lack.format('kernels')} hypothesis, pytest",
        ),
    ):
        program = f"import sys; sys.modules |= dict.fromkeys({hidden!r}.split()); "
        done = subprocess.run(
            [sys.executable, "-c", f"{program} from benchmarks.gpu import engine, suites; sys.exit({call})"],
            env=plan.environment(plan.Request(Path("/nowhere"))),
            capture_output=True,
            text=True,
        )
        assert done.returncode == SKIPPED, done.stderr
        assert done.stdout == f"{said} here: --wheels DIR brings packages\n"


def test_suites_run_in_parallel_on_a_gpu_and_not_in_a_rehearsal(tmp_path: Path) -> None:
    real, rehearsed = (suites.options("kernels", tmp_path, rehearse) for rehearse in (False, True))
    assert "-n" in real
    assert "-n" not in rehearsed
    assert real[real.index("-m") + 1] == "gpu"
    assert rehearsed[rehearsed.index("-m") + 1] == "interpreter"
    assert all((ROOT / path).exists() for paths in suites.SUITES.values() for path in paths)
    assert all((ROOT / path).exists() for paths in suites.REHEARSED.values() for path in paths)


@pytest.fixture
def sanitizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a tool of that name first on the PATH: a shell script of these lines."""

    def install(lines: str) -> None:
        tool = tmp_path / memcheck.TOOL
        tool.write_text(f"#!/bin/sh\n{lines}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return install


@pytest.mark.parametrize(
    ("lines", "status", "word"),
    [
        ('echo "$@"; echo "caching: $PYTORCH_NO_CUDA_MEMORY_CACHING"', 0, "nothing found"),
        (f"exit {memcheck.FOUND_ERRORS}", 1, "found errors"),
        (f"echo 'Device not supported'; exit {memcheck.FOUND_ERRORS}", 1, "found errors"),
        ("echo 'Device not supported. Please refer to the documentation.'; exit 1", SKIPPED, "does not work here"),
        ("echo wrong answer; exit 1", 1, "the small cases failed"),
    ],
)
def test_the_memory_checkers_verdict_counts(
    sanitizer: Any, capsys: pytest.CaptureFixture[str], lines: str, status: int, word: str
) -> None:
    sanitizer(lines)
    assert memcheck.main([]) == status
    said = capsys.readouterr().out
    assert word in said
    if status == 0:
        assert "--tool memcheck" in said
        assert "benchmarks.gpu.small_cases --together" in said
        assert "caching: 1" in said


def test_without_a_memory_checker_the_stage_is_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    assert memcheck.main([]) == SKIPPED
    assert "compute-sanitizer is not on this machine" in capsys.readouterr().out


def test_a_rehearsal_runs_the_small_cases_without_the_memory_checker() -> None:
    program = memcheck.command("/usr/bin/tool", rehearse=True)
    assert program == [sys.executable, "-m", "benchmarks.gpu.small_cases", "--together", "--rehearse"]


def checkout(folder: Path, package: str, text: str) -> None:
    path = folder / package
    path.mkdir(parents=True)
    (path / "__init__.py").write_text(text)


@pytest.fixture
def handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(peers.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if name.startswith(peers.PACKAGES):
            del sys.modules[name]


def test_peers_are_found_in_checkouts_of_any_name(handed_over: Path) -> None:
    (handed_over / "file").touch()
    (handed_over / "empty").mkdir()
    checkout(handed_over / "cloned", "super_monotonic_align", "def maximum_path(value, mask):\n    return 'a path'\n")
    assert peers.search(handed_over) == [handed_over / "cloned"]
    assert peers.search(handed_over / "cloned") == [handed_over / "cloned"]
    assert peers.super_monotonic_align()(None, None) == "a path"


def test_a_peer_that_is_missing_or_does_not_load_says_so(handed_over: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(cpu_peers.Missing, match="no super_monotonic_align in "):
        peers.super_monotonic_align()
    checkout(handed_over / "broken", "super_monotonic_align", "raise OSError('another version')\n")
    with pytest.raises(cpu_peers.Missing, match="does not load: OSError: another version"):
        peers.super_monotonic_align()
    monkeypatch.delenv(peers.FOLDER_VARIABLE)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "broken" not in entry])
    with pytest.raises(cpu_peers.Missing, match="not installed, and no folder of --peers"):
        peers.super_monotonic_align()


def test_a_peer_that_crashes_is_asked_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, where = CtcShape(1, 8, 4, 2), place.Interpreter()

    def trial(program: str) -> str:
        really = subprocess.run

        def instead(command: list[str], **options: Any) -> Any:
            assert command[3:] == ["--rehearse", "1", "8", "4", "2"]
            return really([sys.executable, "-c", program], **options)

        with mock.patch("benchmarks.gpu.peers.subprocess.run", instead):
            return peers.crash_of_torchaudio(shape, where)

    assert trial("") == ""
    assert trial("import os; os.kill(os.getpid(), 11)") == "crashes (signal 11)"
    assert trial("raise ValueError('too long')") == "fails: ValueError: too long"
    monkeypatch.setattr(peers, "TRIAL_S", 0.5)
    assert trial("import time; time.sleep(60)") == "takes more than 0 s"


def test_such_a_process_makes_one_call(handed_over: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "def forced_align(log_probs, targets):\n    print(*log_probs.shape, *targets.shape, targets.dtype)\n"
    checkout(handed_over / "audio", "torchaudio", "")
    (handed_over / "audio" / "torchaudio" / "functional.py").write_text(text)
    with mock.patch.dict("os.environ", {"TRITON_INTERPRET": "1"}):
        peers._trial(["--rehearse", "2", "8", "4", "2"])
    assert capsys.readouterr().out == "1 8 4 1 2 torch.int32\n"


def contestant(what: str, by: str, kind: Any = "ours", chain: int = 0) -> Contestant:
    return Contestant(f"{what}, {by}", kind, lambda _: None, by=by, work=Work(0, 0, chain, 0))


def test_targets_are_judged_clock_by_clock() -> None:
    rows = [contestant("mine", "one", chain=1000), contestant("mine", "two"), contestant("peer", "one", "peer")]
    records = [{"median": 1e-3}, {"median": 4e-3}, {"median": 0.1}]
    aims = (
        Target("mine", 2e-3),
        Target("mine", 3, READ_ONCE),
        Target("mine", 2, CHAIN),
        Target("mine", 1 / 50, "peer"),
    )
    case = Case("case", "", "", lambda _: None, lambda *_: [], 1, targets=aims)
    rates = Rates(1.0, 1.0, chain_step=4e-7, cell=0.0)
    rows.append(contestant("peer", "two", "peer"))
    records.append({})  # it did not answer
    found = list(targets.verdicts(case, rows, records, rates, read_once=5e-4))
    assert [(one["by"], one["target"], one["verdict"]) for one in found] == [
        ("one", "≤ 2 ms", "met"),
        ("two", "≤ 2 ms", "not met"),
        ("one", "≤ 3 × read once", "met"),
        ("two", "≤ 3 × read once", "not met"),
        ("one", "≤ 2 × the chain floor", "not met"),
        ("two", "≤ 2 × the chain floor", "not known"),
        ("one", "≥ 50 × as fast as peer", "met"),
        ("two", "≥ 50 × as fast as peer", "not known"),
    ]
    assert found[4]["limit"] == pytest.approx(8e-4)
    assert report.target_line([{"targets": found}]) == "targets: 3 met, 2 not known, 3 not met"
    with pytest.raises(KeyError, match="which is no contestant"):
        list(targets.verdicts(dataclasses.replace(case, targets=(Target("nobody", 1),)), rows, records, rates, 1.0))


def test_the_devices_own_calls_exist_and_are_made_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU to make them: torch's own classes say which attributes and arguments there are."""
    torch = pytest.importorskip("torch")
    events: list[Any] = []
    real = torch.cuda.Event

    def event(**options: Any) -> Any:
        assert options == {"enable_timing": True}
        found = mock.create_autospec(real, instance=True)
        found.elapsed_time.return_value = 2.5
        events.append(found)
        return found

    cuda = mock.create_autospec(torch.cuda)
    cuda.Event = event
    properties = SimpleNamespace(multi_processor_count=132, total_memory=1 << 36, clock_rate=1_980_000)
    cuda.get_device_properties.return_value = properties
    cuda.get_device_name.return_value = "a GPU"
    cuda.get_device_capability.return_value = (9, 0)
    buffer = torch.ones(4)
    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(place, "_buffer", lambda size, device: buffer)
    device = place.Cuda()
    order: list[str] = []
    assert device.on_device(lambda: order.append(str(len(events)))) == pytest.approx(2.5e-3)
    assert not buffer.any()  # the cache was emptied before
    begin, end = events
    begin.record.assert_called_once_with()
    end.record.assert_called_once_with()
    end.synchronize.assert_called_once_with()
    begin.elapsed_time.assert_called_once_with(end)
    assert place.whole_call(device, lambda: order.append("called")) >= 0
    assert order == ["2", "called"]
    assert cuda.synchronize.call_count == 3
    assert device.cycles_per_s() == 1.98e9
    assert device.describe()["capability"] == "9.0"
    del properties.clock_rate
    monkeypatch.setattr(place, "nvidia_smi", lambda field: 1755.0)
    assert device.cycles_per_s() == 1.755e9


def test_the_drivers_tool_may_be_missing_or_say_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert place.nvidia_smi("clocks.max.sm") == 0.0
    for said, number in (("1980", 1980.0), ("[N/A]", 0.0), ("", 0.0)):
        tool.write_text(f"#!/bin/sh\necho '{said}'\n")
        tool.chmod(0o755)
        assert place.nvidia_smi("clocks.max.sm") == number


def test_kernels_are_interpreted_in_a_rehearsal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert place.place_of(rehearse=True).device == "cpu"
    with pytest.raises(RuntimeError, match="belongs to a rehearsal"):
        place.place_of(rehearse=False)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert place.place_of(rehearse=False).device == "cuda:0"
    with pytest.raises(RuntimeError, match="belongs to a rehearsal"):
        place.place_of(rehearse=True)


def test_a_calls_time_is_shared_out_to_its_last_part() -> None:
    medians = {
        "staging": 1.0,
        "arrived": 3.0,
        "kernels": 4.0,
        "copy out": 0.5,
        "align": 8.0,
        "engine": 9.0,
        "client": 9.5,
    }
    parts = engine.parts_of(medians)
    assert parts == {
        "staging": 1.0, "copy in": 2.0, "kernels": 4.0, "copy out": 0.5,
        "rest of align": 0.5, "engine on top": 1.0, "client on top": 0.5,
    }  # fmt: skip
    assert sum(parts.values()) == medians["client"]
    assert tuple(parts) == summary.PARTS


def test_activities_are_known_by_their_names() -> None:
    names = [
        "Memcpy HtoD (Pinned -> Device)",
        "Memcpy DtoH (Device -> Pinned)",
        "Memset (Device)",
        "mas_forward_kernel",
    ]
    assert [engine.kind_of(name) for name in names] == ["copy in", "copy out", "fill", "kernels"]


def test_a_summary_is_written_whatever_the_stages_left(tmp_path: Path) -> None:
    (tmp_path / "timings.json").write_text('{"cases": [')  # it was ended while it wrote
    outcomes = [Outcome("tests", "failed", 2.0, "1 failed | 2 passed")]
    text = summary.write(summary.collect(tmp_path, outcomes, rehearsed=False), tmp_path)
    assert "| tests | failed | 2.0 | 1 failed \\| 2 passed |" in text
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["timings"] is None
    assert found["stages"][0]["state"] == "failed"


def test_the_last_line_is_found_in_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"first\n\xff\xfe last \n\n====\n")
    assert last_line(path).endswith("last")
    path.write_bytes(b"")
    assert last_line(path) == ""
