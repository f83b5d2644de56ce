"""Every GPU kernel compiles, without a GPU, for the GPUs that it is meant for, and keeps its state in registers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kernels.sources import barriers_in

from alignd_kernels.ctc import gpu_kernel as ctc_kernel
from alignd_kernels.dtypes import DType
from alignd_kernels.mas import gpu_kernel as mas_kernel
from kernels import ahead_of_time

SOURCES = {"mas": mas_kernel, "ctc": ctc_kernel}


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("family", SOURCES)
def test_compiles_without_spills(family: str, capability: int, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, ahead_of_time.__file__, family, str(capability)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-4000:]
    variants = [json.loads(line) for line in done.stdout.splitlines()]
    assert [variant["dtype"] for variant in variants] == [dtype.value for dtype in DType]
    for variant in variants:
        assert variant["spilled_bytes"] == 0, variant
        assert variant["shared_bytes"] == 0, variant  # vectors are shuffled between registers
        assert variant["barriers"] >= barriers_in(SOURCES[family]) >= 3, variant
        assert variant["non_coherent_loads"] == 0, variant  # they might miss what the program wrote itself
        assert variant["fused_multiply_adds"] == 0, variant
