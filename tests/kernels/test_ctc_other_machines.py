"""The CTC kernel for machines other than this one: without AVX-512 it is run, for aarch64 it is compiled.
On neither is a multiplication fused into an addition: float16 is widened by arithmetic."""

from pathlib import Path

import pytest
from kernels.subprocesses import COMPILED_FOR_AARCH64, WITHOUT_AVX_512, X86, run_script

CHECKED = """
import numpy as np
from kernels import ctc_rowwise
from kernels.strategies import KINDS, check_ctc, ctc_batch, random_targets
from alignd_kernels.ctc import cpu
from alignd_kernels.ctc.plan import SHARED_TILES
from alignd_kernels.dtypes import DType

rng = np.random.default_rng(0)
for kind in KINDS:
    for dtype in (DType.FLOAT16, DType.FLOAT64):
        items = []
        for V in (2, 16, 32, 33, 500):
            for labels, spare in ((1, 0), (1, 40), (15, 2), (16, 16), (32, 33), (33, 15), (65, 100)):
                targets = random_targets(rng, labels, V, 0)
                repeats = np.count_nonzero(targets[1:] == targets[:-1])
                items.append((kind(rng, (labels + repeats + spare, V)), targets, 0, rng.choice([-0.5, np.nan])))
        batch = ctc_batch(items, dtype)
        for kept_bytes in (0, 1 << 30):
            check_ctc(batch, cpu.align_with(batch, None, kept_bytes, SHARED_TILES), ctc_rowwise.forced_align)
assembly = "".join(cpu._align_range.inspect_asm().values())
print("ymm" in assembly, "zmm" in assembly, "vfmadd" in assembly or "vfmsub" in assembly or "vfnmadd" in assembly)
"""


@pytest.mark.skipif(not X86, reason="AVX2 is x86's, and aarch64 is compiled for from there")
def test_without_avx_512_and_for_aarch64(tmp_path: Path) -> None:
    # What is compiled without AVX-512, whose one look-up among 32 columns others have not, is what aarch64 gets.
    script = CHECKED + COMPILED_FOR_AARCH64
    found = run_script(script, "alignd_kernels.ctc.cpu", ALIGND_CACHE_DIR=str(tmp_path), **WITHOUT_AVX_512)
    assert found == ["True", "False", "False"] + ["True"] * 2
