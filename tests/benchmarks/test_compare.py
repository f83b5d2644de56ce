"""`--compare`: what counts as slower, and a slower tree found from end to end."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare, machine
from benchmarks.catalogue import named
from benchmarks.worker import DISTRIBUTIONS, Refused, Worker, digest

FEW_INPUTS = """
from benchmarks import machine
machine.last_level_cache = lambda: 0  # two input sets are enough then
"""

SLEEPER = """
import time
from alignd_kernels import attention
quick = attention.align
def slow(*arguments, **options):
    time.sleep(0.1)
    return quick(*arguments, **options)
attention.align = slow
"""


def samples(slowdown: float, spread: float, n: int = 31) -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(5)
    old = 1e-3 * np.exp(rng.normal(0, spread, n))
    new = 1e-3 * slowdown * np.exp(rng.normal(0, spread, n))
    return old.tolist(), new.tolist()


@pytest.mark.parametrize(
    ("slowdown", "spread", "slower"),
    [
        (1.0, 0.05, False),
        (1.05, 0.01, False),
        (1.3, 0.05, True),
        (1.12, 0.01, True),
        (1.12, 0.3, False),
        (0.5, 0.1, False),
    ],
)
def test_slower_is_beyond_threshold_and_spread(slowdown: float, spread: float, slower: bool) -> None:
    decision = compare.decide(*samples(slowdown, spread), threshold=0.10)
    assert decision.slower is slower
    assert decision.low <= decision.ratio <= decision.high


def test_one_outlier_does_not_make_a_case_slower() -> None:
    old, new = [1.0] * 11, [1.0] * 10 + [50.0]
    assert not compare.decide(old, new, threshold=0.10).slower


def test_the_interval_is_the_sign_tests() -> None:
    # Of 9 values the second and the second last enclose the median with 96 %, of 20 the sixth and the sixth last.
    assert [compare._ranks_outside(n) for n in (6, 9, 20)] == [1, 2, 6]


def test_too_few_or_unpaired_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        compare.decide([1.0] * 5, [1.0] * 5, threshold=0.1)
    with pytest.raises(ValueError, match="not pairs"):
        compare.decide([1.0] * 9, [1.0] * 8, threshold=0.1)


def test_an_unknown_revision_is_said_to_be_unknown() -> None:
    with pytest.raises(SystemExit, match="no-such-revision"), compare.tree_of("no-such-revision"):
        pass


def test_digests_tell_paths_apart_and_not_types() -> None:
    path = np.array([0, 1, 2], np.int32)
    assert digest([path]) == digest([path.astype(np.int64)])
    assert digest([path]) != digest([path[::-1]])


def present_tree(folder: Path, at_start: str) -> Path:
    """The present packages, in processes that do something first."""
    for name in DISTRIBUTIONS:
        (folder / name).mkdir(parents=True)
        for package in (machine.ROOT / name).iterdir():
            if package.is_dir():
                (folder / name / package.name).symlink_to(package)
    (folder / "kernels" / "sitecustomize.py").write_text(at_start)
    return folder


def test_a_slower_tree_is_found_and_an_equal_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a case that imports no torch, and whose call takes a millisecond or two."""
    monkeypatch.setattr(compare, "BUDGET_S", 0.0)
    quick = present_tree(tmp_path / "quick", FEW_INPUTS)
    slow = present_tree(tmp_path / "slow", FEW_INPUTS + SLEEPER)
    case = named("attention-dtw-448x1500")
    lines, failed = compare.compare_case(case, quick, slow, threshold=0.5)
    assert failed
    assert "SLOWER" in next(line for line in lines if "attention.align" in line)
    lines, failed = compare.compare_case(case, slow, quick, threshold=0.5)
    assert not failed


def test_a_case_that_a_tree_cannot_run_is_refused() -> None:
    with Worker(machine.ROOT) as worker, pytest.raises(Refused, match="no-such-case"):
        worker.prepare("no-such-case")


def test_a_process_that_ends_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "kernels" / "alignd_kernels"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("import os; os._exit(3)")
    with Worker(tmp_path) as worker, pytest.raises(Refused, match="the process ended"):
        worker.prepare("mas-tiny")


def test_the_tree_of_a_revision_has_its_files() -> None:
    with compare.tree_of("HEAD") as folder:
        listed = subprocess.run(
            ["git", "show", "HEAD:kernels/pyproject.toml"], cwd=machine.ROOT, capture_output=True, text=True, check=True
        )
        assert (folder / "kernels" / "pyproject.toml").read_text() == listed.stdout
