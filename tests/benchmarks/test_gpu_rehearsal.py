"""gpu.sh is rehearsed as far as a CPU allows: every stage but the suites, which `make test` runs by themselves."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.plan import Request, environment
from benchmarks.machine import ROOT

pytest.importorskip("torch")
pytest.importorskip("triton")

pytestmark = pytest.mark.interpreter


STAGES = "small-cases", "timings", "rnnt", "functions", "engine"
CASES = "cuda-mas-8192x2048", "cuda-ctc-1500x300"


@dataclass(frozen=True)
class Rehearsal:
    """What came out of one.

    Attributes:
        code: the exit status.
        summary: as it was stored.
        text: the same, to be read.
        said: all that was printed.
    """

    code: int
    summary: dict[str, Any]
    text: str
    said: str


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    """One of all stages but the suites, with a case of each family to time."""
    out = tmp_path_factory.mktemp("rehearsal")
    only = ["--only", ",".join(STAGES), "--cases", ",".join(CASES)]
    done = subprocess.run(
        [ROOT / "tests/benchmarks/gpu.sh", "--rehearse", "--out", out, *only],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=240,
    )
    said = done.stdout + done.stderr
    assert (out / "summary.json").exists(), said
    summary = json.loads((out / "summary.json").read_text())
    return Rehearsal(done.returncode, summary, (out / "summary.md").read_text(), said)


def test_all_stages_pass(rehearsal: Rehearsal) -> None:
    states = {stage["name"]: stage["state"] for stage in rehearsal.summary["stages"]}
    assert states == {"machine": "passed", "wheels": "skipped"} | dict.fromkeys(STAGES, "passed"), rehearsal.said
    assert rehearsal.code == 0
    assert rehearsal.text.startswith("# alignd on Triton's interpreter, no GPU: a rehearsal")
    assert "A rehearsal: the times say nothing" in rehearsal.text


def rows(case: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in case["contestants"]}


def test_the_timings_beside_peers_that_stand_in(rehearsal: Rehearsal) -> None:
    mas, ctc = rehearsal.summary["timings"]["cases"]
    for case, peer in ((mas, "super-monotonic-align"), (ctc, "torchaudio.forced_align")):
        found = rows(case)
        for clock in ("whole call", "on the device"):
            assert found[f"{peer}, {clock}"]["median"] > 0
        assert found[f"{peer}, whole call"]["agrees"] == "same paths"
        assert found["alignd on the CPU, whole call"]["agrees"] == "same paths"
        assert all(target["limit"] > 0 for target in case["targets"])
    assert [(target["what"], target["target"]) for target in mas["targets"]][::2] == [
        ("launch: durations", "≤ 3 × read once"),
        ("launch: durations", "≥ 50 × as fast as super-monotonic-align"),
        ("maximum_path: dense", "≥ 20 × as fast as super-monotonic-align"),
    ]
    assert "not met" in rehearsal.text


WORSE = """
import torch

def maximum_path(value, mask):  # the first token for as long as it can be had: a legal path, and hardly the best one
    path = torch.zeros_like(value)
    for item, one in enumerate(mask):
        S, T = int(one[:, 0].sum()), int(one[0].sum())
        frame = torch.arange(T)
        path[item, torch.clamp(frame - (T - S), min=0), frame] = 1
    return path
"""


def test_real_shapes_beside_a_peer_that_is_wrong_and_one_that_is_missing(tmp_path: Path) -> None:
    peers = tmp_path / "peers"
    package = peers / "super_monotonic_align"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(WORSE)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu.timings", str(tmp_path), "--cases", "real", "--rehearse"],
        env={**os.environ, **environment(Request(tmp_path, rehearse=True, peers=peers))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    mas, ctc = json.loads((tmp_path / "timings.json").read_text())["cases"]
    assert rows(mas)["super-monotonic-align, whole call"]["agrees"].startswith("DISAGREES: ")
    assert rows(ctc)["torchaudio.forced_align, whole call"]["note"] == f"missing: no torchaudio in {peers}"
    for case in (mas, ctc):
        assert rows(case)["align: the batch, ragged, in the kernels"]["agrees"] == "same paths"
        assert {target["by"] for target in case["targets"]} == {"whole call", "on the device", "in the kernels"}
        assert all(target["target"].startswith("≤ 1.5 × ") for target in case["targets"])


def test_the_engines_batches(rehearsal: Rehearsal) -> None:
    batches = rehearsal.summary["engine"]["batches"]
    assert [batch["name"].split(",")[0] for batch in batches] == ["MAS", "CTC"]
    for batch in batches:
        assert sum(batch["parts"].values()) == pytest.approx(batch["medians"]["client"])
        assert batch["medians"]["kernels"] > 0
        assert batch["activity"]["kernels, count"] > 0
        assert batch["at_once"]["batches"] == 2
        assert batch["at_once"]["each"] > 0


def test_the_transducer_loss_beside_peers_that_stand_in(rehearsal: Rehearsal) -> None:
    for cell in rehearsal.summary["rnnt"]["cells"]:
        for name in ("alignd, dense", "alignd, compact", "warp-rnnt", "warp-rnnt, compact", "torchaudio"):
            assert cell[name] > 0
        assert cell["alignd, dense: times as fast as warp-rnnt"] == cell["warp-rnnt"] / cell["alignd, dense"]
    assert "| alignd, dense: times as fast as warp-rnnt |" in rehearsal.text


def test_functions_beside_peers_that_stand_in(rehearsal: Rehearsal) -> None:
    records = rehearsal.summary["functions"]["functions"]
    names = [record["name"].split(",")[0] for record in records]
    assert names[:4] == ["ctc_loss", "forward_sum_loss", "stepwise_expectation", "align_attention"]
    assert len(names) == 12
    assert all(record["seconds"] > 0 and record["compared"] for record in records), records
    assert [record["peer_seconds"] is None for record in records] == [record["peer"] == "none" for record in records]
    assert "| ctc_loss, B=1, T=6, V=4, L=2 | " in rehearsal.text


def test_a_function_that_is_wrong_fails_its_stage(tmp_path: Path) -> None:
    program = (
        "import itertools, sys\n"
        "from benchmarks.gpu import functions\n"
        "answers = itertools.count(1.0)\n"
        "wrong = lambda *given, **options: given[0].sum() * next(answers)\n"
        "functions.losses.ak.ctc_loss = wrong\n"
        "sys.exit(functions.main([sys.argv[1], '--rehearse']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=environment(Request(tmp_path, rehearse=True)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "WrongAnswerError: ctc_loss, B=1, T=6, V=4, L=2: not what the CPU's kernels give" in done.stderr


def test_a_kernel_that_is_wrong_fails_the_small_cases(tmp_path: Path) -> None:
    program = (
        "import dataclasses, sys\n"
        "from benchmarks.gpu import small_cases\n"
        "from benchmarks.gpu.small import mas\n"
        "align = mas.gpu.align\n"
        "def wrong(batch, device):\n"
        "    result = align(batch, device)\n"
        "    return dataclasses.replace(result, durations=result.durations + 1)\n"
        "mas.gpu.align = wrong\n"
        "sys.exit(small_cases.main(['--rehearse', 'float32', '--family', 'mas']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(Request(tmp_path, rehearse=True)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "WrongAnswerError: MAS, float32, (1, 1): [2], not [1]" in done.stderr
