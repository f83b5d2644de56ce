"""Scripts that a test runs in a process of its own: under other settings, or where a fault would end it."""

import os
import platform
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
X86 = platform.machine() in ("x86_64", "AMD64")

WITHOUT_AVX_512 = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx2,+avx,+fma,+sse4.2,+sse4.1,+ssse3,+sse3,+sse2,+sse,+popcnt,+bmi,+bmi2,+lzcnt,+cx16",
}
"""Settings of Numba for an older x86 processor."""

COMPILED_FOR_AARCH64 = """
import importlib, re, sys
import llvmlite.binding as llvm
from alignd_kernels.dtypes import DType

cpu = importlib.import_module(sys.argv[1])
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
machine = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(cpu="neoverse-n1", opt=2)
cpu.warm_up([DType.FLOAT16, DType.FLOAT64])
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
    assembly = machine.emit_assembly(module)
    print("fcmgt" in assembly and not re.search(r"\bfn?m(add|sub|la|ls)\b", assembly))
"""
"""Prints for float16 and float64 whether a module's (an argument) kernel has aarch64's comparison of vectors, and no
multiplication fused into an addition."""


def run_script(script: str, *arguments: str, **environment: str) -> list[str]:
    """The words that a script prints, which may import the tests' modules by name.

    Raises:
        AssertionError: it failed, with what it said; or the signal that ended it.
    """
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:] or f"signal {-done.returncode}"
    return done.stdout.split()
