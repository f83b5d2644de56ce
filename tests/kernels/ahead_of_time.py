"""Compile the Triton kernels without a GPU and say what came out: python ahead_of_time.py FAMILY COMPUTE_CAPABILITY.

One line of JSON for each type of scores. To be run without TRITON_INTERPRET.
"""

import importlib
import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MEMORY = 8 << 30
"""Bytes: a bad block size has driven ptxas to 22 GB."""

ARGUMENTS = {
    "mas": {
        "values": "scores",
        "table": "i64",
        "durations": "i32",
        "scores": "fp64",
        "statuses": "i32",
        "rows": "accumulator",
        "bits": "i32",
    },
    "ctc": {
        "log_probs": "scores",
        "targets": "i32",
        "table": "i64",
        "star_scores": "fp32",
        "paths": "i32",
        "durations": "i32",
        "frame_scores": "fp32",
        "scores": "fp64",
        "statuses": "i32",
        "rows": "accumulator",
        "bits": "i32",
    },
}
"""Element types of the tensors that a kernel takes."""

SHORT = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64", "int32": "i32", "int64": "i64"}


def kernel_of(family: str) -> Any:
    return getattr(importlib.import_module(f"alignd_kernels.{family}.gpu_kernel"), f"{family}_best_path_kernel")


def pointers(family: str, scores: str) -> dict[str, str]:
    """Element type of each tensor argument, as Triton abbreviates it."""
    accumulator = "fp64" if scores == "float64" else "fp32"
    names = {"scores": SHORT[scores], "accumulator": accumulator}
    return {name: names.get(element, element) for name, element in ARGUMENTS[family].items()}


def compiled(family: str, dtype: Any, capability: int) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from alignd_kernels.gpu_language import LAUNCH_OPTIONS

    constants = importlib.import_module(f"alignd_kernels.{family}.gpu_kernel").constants(dtype)
    signature = {name: f"*{element}" for name, element in pointers(family, dtype.value).items()}
    signature |= {"pitch_of_table": "i32"} | dict.fromkeys(constants, "constexpr")
    kernel = kernel_of(family)
    assert list(signature) == list(kernel.arg_names)
    begin = time.perf_counter()
    # No attributes: the kernels ask not to be specialised by alignment or value, so this is what a launch compiles.
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs={})
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=LAUNCH_OPTIONS)
    seconds = time.perf_counter() - begin
    cubin = Path(triton.knobs.cache.dir) / f"{family}.cubin"
    cubin.write_bytes(binary.asm["cubin"])
    usage = resources(cubin)
    ptx = binary.asm["ptx"]
    return {
        "kernel": kernel.__name__,
        "dtype": dtype.value,
        "capability": capability,
        "triton": triton.__version__,
        "registers": usage["REG"],
        "spilled_bytes": usage["STACK"] + usage["LOCAL"],
        "shared_bytes": binary.metadata.shared,
        "barriers": len(re.findall(r"\bbar\.sync\b|\bbar\.warp\.sync\b|\bbarrier\.sync\b", ptx)),
        "non_coherent_loads": len(re.findall(r"ld\.global\S*\.nc\b", ptx)),
        "fused_multiply_adds": len(re.findall(r"\bfma\.", ptx)),
        "seconds": round(seconds, 1),
    }


def resources(cubin: Path) -> dict[str, int]:
    """Registers, stack and local memory of the one kernel in a binary. Spilled registers lie on the stack."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    text = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in text.splitlines() if "REG:" in line)
    return {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", line)}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    from alignd_kernels.dtypes import DType

    for each in DType:
        print(json.dumps(compiled(sys.argv[1], each, int(sys.argv[2]))), flush=True)
