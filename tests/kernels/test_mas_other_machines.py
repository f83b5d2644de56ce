"""The MAS kernel for machines other than this one: without AVX-512 it is run, for aarch64 it is compiled."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

X86 = platform.machine() in ("x86_64", "AMD64")
TESTS = Path(__file__).parents[1]

CHECKED = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from kernels.strategies import KINDS, check_mas, mas_batch
from alignd_kernels.dtypes import DType
from alignd_kernels.mas import cpu

rng = np.random.default_rng(0)
for kind in KINDS:
    for dtype in DType:
        shapes = [(1, 1), (1, 40), (15, 17), (16, 16), (17, 33), (31, 95), (32, 64), (33, 47), (65, 130), (90, 250)]
        batch = mas_batch([kind(rng, shape) for shape in shapes], dtype)
        check_mas(batch, cpu.align(batch))
assembly = "".join(cpu._align_range.inspect_asm().values())
print("ymm" in assembly, "zmm" in assembly)
"""

COMPILED = """
import re
import llvmlite.binding as llvm
from alignd_kernels.dtypes import DType
from alignd_kernels.mas import cpu

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
machine = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(cpu="neoverse-n1", opt=2)
cpu.warm_up()
for signature in cpu._align_range.signatures:
    code = cpu._align_range.inspect_llvm(signature)
    code = re.sub(r"target triple = .*", 'target triple = "aarch64-unknown-linux-gnu"', code)
    code = re.sub(r"target datalayout = .*", f'target datalayout = "{machine.target_data}"', code)
    code = re.sub(r'"target-(cpu|features)"="[^"]*"', "", code)
    # Where Numba counts references, emitting x86 code has put an instruction of x86's; it is none of the kernel's.
    code = re.sub(r"(tail )?call i8 @llvm\\.x86\\.atomic\\.sub\\.cc[^\\n]*", "add i8 0, 0", code)
    assert "@llvm.x86" not in re.sub(r"declare [^\\n]*", "", code)
    module = llvm.parse_assembly(code)
    module.verify()
    print("fcmgt" in machine.emit_assembly(module))
"""


def run(script: str, cache: Path, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", script, str(TESTS)],
        env=os.environ | {"ALIGND_CACHE_DIR": str(cache)} | environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:] or f"signal {-done.returncode}"
    return done.stdout.split()


@pytest.mark.skipif(not X86, reason="AVX2 is x86's")
def test_without_avx_512(tmp_path: Path) -> None:
    features = "+avx2,+avx,+fma,+sse4.2,+sse4.1,+ssse3,+sse3,+sse2,+sse,+popcnt,+bmi,+bmi2,+lzcnt,+cx16"
    assert run(CHECKED, tmp_path, NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES=features) == ["True", "False"]


@pytest.mark.skipif(not X86, reason="cross-compiled from x86")
def test_compiles_for_aarch64(tmp_path: Path) -> None:
    assert run(COMPILED, tmp_path) == ["True"] * 4
