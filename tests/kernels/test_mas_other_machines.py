"""The MAS kernel for machines other than this one: without AVX-512 it is run, for aarch64 it is compiled.
On neither is a multiplication fused into an addition: float16 is widened by arithmetic."""

from pathlib import Path

import pytest
from kernels.subprocesses import COMPILED_FOR_AARCH64, WITHOUT_AVX_512, X86, run_script

CHECKED = """
import numpy as np
from kernels.strategies import KINDS, check_mas, mas_batch
from alignd_kernels.dtypes import DType
from alignd_kernels.mas import cpu

rng = np.random.default_rng(0)
for kind in KINDS:
    for dtype in (DType.FLOAT16, DType.FLOAT64):
        shapes = [(1, 1), (1, 40), (15, 17), (16, 16), (17, 33), (31, 95), (32, 64), (33, 47), (65, 130), (90, 250)]
        batch = mas_batch([kind(rng, shape) for shape in shapes], dtype)
        check_mas(batch, cpu.align(batch))
assembly = "".join(cpu._align_range.inspect_asm().values())
print("ymm" in assembly, "zmm" in assembly, "vfmadd" in assembly or "vfmsub" in assembly or "vfnmadd" in assembly)
"""


@pytest.mark.skipif(not X86, reason="AVX2 is x86's, and aarch64 is compiled for from there")
def test_without_avx_512_and_for_aarch64(tmp_path: Path) -> None:
    script = CHECKED + COMPILED_FOR_AARCH64
    found = run_script(script, "alignd_kernels.mas.cpu", ALIGND_CACHE_DIR=str(tmp_path), **WITHOUT_AVX_512)
    assert found == ["True", "False", "False"] + ["True"] * 2
