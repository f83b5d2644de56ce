"""Every GPU kernel compiles, without a GPU, for the GPUs that it is meant for, and keeps its state in registers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from kernels.gpu_support import Launches, barriers_in
from kernels.strategies import ctc_batch, dyadic, mas_batch

from alignd_kernels.ctc import gpu as ctc_gpu
from alignd_kernels.ctc import gpu_kernel as ctc_kernel
from alignd_kernels.dtypes import DType
from alignd_kernels.mas import gpu as mas_gpu
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


@pytest.mark.interpreter
@pytest.mark.parametrize("dtype", DType)
def test_what_is_compiled_is_what_is_launched(dtype: DType, monkeypatch: pytest.MonkeyPatch) -> None:
    x = dyadic(np.random.default_rng(0), (2, 4))
    batches = {"mas": mas_batch([x], dtype), "ctc": ctc_batch([(x, np.array([1], np.int32), 0, 0.0)], dtype)}
    for family, gpu in {"mas": mas_gpu, "ctc": ctc_gpu}.items():
        launches = Launches(ahead_of_time.kernel_of(family), really=False)
        monkeypatch.setattr(gpu, f"{family}_best_path_kernel", launches)
        gpu.align(batches[family], "cpu")
        (launched,) = launches.arguments
        tensors = ahead_of_time.pointers(family, dtype.value)
        names = {name: ahead_of_time.SHORT[str(launched[name].dtype).removeprefix("torch.")] for name in tensors}
        assert names == tensors
        assert gpu.constants(dtype).items() <= launched.items()
