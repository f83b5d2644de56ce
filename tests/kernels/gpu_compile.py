"""What the tests say of kernels that are compiled without a GPU for the GPUs that they are meant for."""

import itertools
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from kernels.sources import barriers_in

from alignd_kernels.dtypes import DType
from kernels import ahead_of_time

EACH_TIME = {(90, DType.FLOAT32 if version("triton").startswith("3.6.") else DType.FLOAT64)}
"""What the gate has time for: under both versions of Triton together both types of accumulator. The rest is marked
`matrix`."""

on_each_gpu = pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        pytest.param(*pair, id=f"sm_{pair[0]}-{pair[1].value}", marks=() if pair in EACH_TIME else pytest.mark.matrix)
        for pair in itertools.product((80, 90, 100), DType)
    ],
)

TILE = 32 * 32
"""Scores that change from rows to columns in shared memory at a time."""

WITH_LIBRARY = (
    "ctc_sum_forward_kernel",
    "transducer_sum_forward_kernel",
    "transducer_gradient_kernel",
    "stepwise_forward_kernel",
    "stepwise_backward_kernel",
    "mas_sum_forward_kernel",
)
"""Whose exponentials and logarithms are a library's, which fuses: sums that have a tolerance."""


def check_compiled(family: str, capability: int, dtype: DType, cache: Path) -> None:
    """All variants compile, without spilling a register."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, ahead_of_time.__file__, family, str(capability), dtype.value]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-4000:]
    variants = [json.loads(line) for line in done.stdout.splitlines()]
    assert {variant["kernel"] for variant in variants} == set(ahead_of_time.KERNELS[family])
    assert {variant["dtype"] for variant in variants} == {dtype.value}
    for variant in variants:
        assert variant["spilled_bytes"] == 0, variant
        assert variant["registers"] <= 255, variant
        assert variant["shared_bytes"] <= 8 * TILE, variant
        barriers = barriers_in(ahead_of_time.module_of(family, variant["kernel"]))
        assert variant["barriers"] >= barriers, variant
        assert variant["non_coherent_loads"] == 0, variant  # they might miss what another program wrote
        if variant["kernel"] not in WITH_LIBRARY:
            assert variant["fused_multiply_adds"] == 0, variant
        if variant["kernel"].endswith(("forward_kernel", "window_kernel")):
            # Each word is read, and written, by one instruction that no other program's can cut in two.
            assert variant["words_taken_over"] >= 1, variant
            assert variant["words_handed_over"] >= 1, variant
