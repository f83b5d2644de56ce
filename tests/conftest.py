"""What every test shares: where CI is set, a skipped test is a failure; and whether Triton interprets."""

import os
from collections.abc import Generator
from typing import Any

import pytest

# Under CI everything that a test needs is installed; a skip there would hide a missing install step. Tests that need a
# GPU are deselected by their mark (pyproject.toml), not skipped.
SKIPS_FAIL = os.environ.get("CI", "").lower() not in ("", "0", "false")


def pytest_configure(config: pytest.Config) -> None:
    """Triton decides when it is imported whether kernels are interpreted or compiled: this is settled before any module
    of tests is, as each process collects all of them."""
    wanted = str(config.getoption("markexpr", ""))
    for_real = "gpu" in wanted.replace("not gpu", "")
    if not for_real:
        os.environ.setdefault("TRITON_INTERPRET", "1")


def fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if SKIPS_FAIL and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"skipped under CI, which installs everything a test needs: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    report = yield
    fail_if_skipped(report)
    return report
