"""Triton decides when it is imported whether kernels are interpreted or compiled: this is settled before any test."""

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    wanted = str(config.getoption("markexpr", ""))
    for_real = "gpu" in wanted.replace("not gpu", "")
    if not for_real:
        os.environ.setdefault("TRITON_INTERPRET", "1")
