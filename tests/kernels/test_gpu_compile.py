"""Every GPU kernel compiles, without a GPU, for the GPUs that it is meant for, and keeps its state in registers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kernels.sources import barriers_in

from alignd_kernels.dtypes import DType
from kernels import ahead_of_time

TILE = 32 * 32
"""Scores that change from rows to columns in shared memory at a time."""


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("family", ahead_of_time.KERNELS)
def test_compiles_without_spills(family: str, capability: int, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, ahead_of_time.__file__, family, str(capability)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-4000:]
    variants = [json.loads(line) for line in done.stdout.splitlines()]
    expected = {(name, dtype.value) for name in ahead_of_time.KERNELS[family] for dtype in DType}
    assert {(variant["kernel"], variant["dtype"]) for variant in variants} == expected
    for variant in variants:
        assert variant["spilled_bytes"] == 0, variant
        assert variant["registers"] <= 255, variant
        assert variant["shared_bytes"] <= 8 * TILE, variant
        barriers = barriers_in(ahead_of_time.module_of(family, variant["kernel"]))
        assert variant["barriers"] >= barriers, variant
        assert variant["non_coherent_loads"] == 0, variant  # they might miss what another program wrote
        assert variant["fused_multiply_adds"] == 0, variant
        if variant["kernel"].endswith("forward_kernel"):
            # Each word is read, and written, by one instruction that no other program's can cut in two.
            assert variant["words_taken_over"] >= 1, variant
            assert variant["words_handed_over"] >= 1, variant
