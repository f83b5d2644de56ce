"""Compile the Triton kernels without a GPU and say what came out: python ahead_of_time.py FAMILY CAPABILITY [DTYPE …].

One line of JSON for each kernel and type of scores. To be run without TRITON_INTERPRET.
"""

import importlib
import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

MEMORY = 8 << 30
"""Bytes: a bad block size has driven ptxas to 22 GB."""

KERNELS = {
    "mas": {"mas_forward_kernel": "mas.gpu_forward", "mas_trace_kernel": "mas.gpu_trace"},
    "mas_sum": {
        "mas_sum_forward_kernel": "mas.gpu_sum_forward",
        "mas_sum_backward_kernel": "mas.gpu_sum_backward",
    },
    "ctc": {
        "ctc_star_kernel": "ctc.gpu_star",
        "ctc_forward_kernel": "ctc.gpu_forward",
        "ctc_trace_kernel": "ctc.gpu_trace",
        "ctc_prepare_kernel": "ctc.gpu_prepare",
        "ctc_window_kernel": "ctc.gpu_window",
        "ctc_window_trace_kernel": "ctc.gpu_window_trace",
    },
    "ctc_sum": {
        "ctc_sum_forward_kernel": "ctc.gpu_sum_forward",
        "ctc_sum_backward_kernel": "ctc.gpu_sum_backward",
        "ctc_columns_kernel": "ctc.gpu_columns",
    },
    "transducer": {
        "transducer_arcs_kernel": "transducer.gpu_arcs",
        "transducer_forward_kernel": "transducer.gpu_forward",
        "transducer_sum_forward_kernel": "transducer.gpu_sum_forward",
        "transducer_gradient_kernel": "transducer.gpu_gradient",
        "transducer_scatter_kernel": "transducer.gpu_scatter",
    },
    "attention": {
        "attention_largest_kernel": "attention.gpu_focus",
        "attention_heads_kernel": "attention.gpu_focus",
        "attention_logarithms_kernel": "attention.gpu_logarithm",
        "attention_cells_kernel": "attention.gpu_cells",
        "attention_dtw_forward_kernel": "attention.gpu_dtw",
        "attention_walk_kernel": "attention.gpu_walk",
        "attention_spans_kernel": "attention.gpu_spans",
    },
    "stepwise": {
        "stepwise_forward_kernel": "stepwise.gpu_forward",
        "stepwise_backward_kernel": "stepwise.gpu_backward",
        "stepwise_hard_kernel": "stepwise.gpu_hard",
    },
}
"""The kernels that a family launches, and where they are; `variants` beside each says what it is compiled for."""

ELEMENTS = {
    "mas": {
        "values": "scores",
        "tokens": "i64",
        "frames": "i64",
        "table": "i64",
        "durations": "i32",
        "borders": "i64",
        "tickets": "i32",
        "bits": "i32",
        "moved": "i8",
        "best": "fp64",
        "trouble": "i32",
        "arrivals": "i32",
        "paths": "i32",
        "scores": "fp64",
        "statuses": "i32",
        "on_path": "accumulator",
    },
    "mas_sum": {
        "values": "scores",
        "tokens": "i64",
        "frames": "i64",
        "table": "i64",
        "borders": "i64",
        "tickets": "i32",
        "shares": "accumulator",
        "ends_m": "accumulator",
        "ends_e": "i32",
        "trouble": "i32",
        "arrivals": "i32",
        "ways": "i32",
        "found": "accumulator",
        "costs": "accumulator",
        "scores": "fp64",
        "statuses": "i32",
    },
    "ctc": {
        "log_probs": "scores",
        "targets": "i32",
        "target_lengths": "i64",
        "frames": "i64",
        "table": "i64",
        "star_scores": "fp32",
        "wild": "scores",
        "repeats": "i32",
        "trouble": "i32",
        "checked": "i32",
        "durations": "i32",
        "borders": "i64",
        "tickets": "i32",
        "bits": "i32",
        "moved": "i16",
        "ends": "fp64",
        "kept": "accumulator",
        "states": "i32",
        "arrivals": "i32",
        "on_path": "accumulator",
        "paths": "i32",
        "frame_scores": "fp32",
        "scores": "fp64",
        "statuses": "i32",
    },
    "ctc_sum": {
        "log_probs": "scores",
        "targets": "i32",
        "target_lengths": "i64",
        "frames": "i64",
        "table": "i64",
        "star_scores": "fp32",
        "wild": "scores",
        "borders": "i64",
        "tickets": "i32",
        "cells": "accumulator",
        "repeats": "i32",
        "spares": "i32",
        "ends": "accumulator",
        "ends_e": "i32",
        "trouble": "i32",
        "arrivals": "i32",
        "out": "accumulator",
        "costs": "accumulator",
        "scores": "fp64",
        "statuses": "i32",
    },
    "transducer": {
        "log_probs": "scores",
        "targets": "i32",
        "frames": "i64",
        "labels": "i64",
        "table": "i64",
        "arcs": "accumulator",
        "checked": "i32",
        "borders": "i64",
        "tickets": "i32",
        "bits": "i32",
        "best": "fp64",
        "trouble": "i32",
        "arrivals": "i32",
        "emissions": "i32",
        "sums_m": "accumulator",
        "sums_e": "i32",
        "costs": "accumulator",
        "fastemit": "accumulator",
        "found": "accumulator",
        "gradients": "scores",
        "arc_gradients": "accumulator",
        "factors": "accumulator",
        "on_path": "accumulator",
        "scores": "fp64",
        "statuses": "i32",
    },
    "stepwise": {
        "energies": "scores",
        "tokens": "i64",
        "frames": "i64",
        "initial": "accumulator",
        "alpha": "accumulator",
        "upstream": "accumulator",
        "borders": "i64",
        "tickets": "i32",
        "slopes": "accumulator",
        "initial_slopes": "accumulator",
        "paths": "i32",
        "statuses": "i32",
    },
    "attention": {
        "values": "scores",
        "tokens": "i64",
        "frames": "i64",
        "table": "i64",
        "largest": "accumulator",
        "bad": "i32",
        "arrivals": "i32",
        "rates": "fp32",
        "heads": "i32",
        "chosen": "i64",
        "wanted": "i64",
        "cells": "accumulator",
        "borders": "i64",
        "tickets": "i32",
        "bits": "i32",
        "best": "fp64",
        "trouble": "i32",
        "on_path": "accumulator",
        "decided": "fp64",
        "durations": "i32",
        "found_scores": "fp64",
        "found_statuses": "i32",
        "starts": "i32",
        "ends": "i32",
        "scores": "fp64",
        "statuses": "i32",
    },
}
"""Element types of the tensors that a family's kernels take. All other arguments are int32."""

SHORT = {
    "float16": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
    "float64": "fp64",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
}


def module_of(family: str, name: str) -> ModuleType:
    return importlib.import_module(f"alignd_kernels.{KERNELS[family][name]}")


def signature(family: str, kernel: Any, dtype: Any, constants: dict[str, object]) -> dict[str, str]:
    """Type of each argument, as Triton abbreviates it."""
    accumulator = "fp64" if dtype.value == "float64" else "fp32"
    names = {"scores": SHORT[dtype.value], "accumulator": accumulator}
    tensors = {name: f"*{names.get(element, element)}" for name, element in ELEMENTS[family].items()}
    return {name: "constexpr" if name in constants else tensors.get(name, "i32") for name in kernel.arg_names}


def compiled(family: str, name: str, dtype: Any, constants: dict[str, object], capability: int) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from alignd_kernels.gpu_language import LAUNCH_OPTIONS

    kernel = getattr(module_of(family, name), name)
    begin = time.perf_counter()
    # No attributes: the kernels ask not to be specialised by alignment or value, so this is what a launch compiles.
    types = signature(family, kernel, dtype, constants)
    source = ASTSource(fn=kernel, signature=types, constexprs=constants, attrs={})
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=LAUNCH_OPTIONS)
    seconds = time.perf_counter() - begin
    cubin = Path(triton.knobs.cache.dir) / f"{name}.cubin"
    cubin.write_bytes(binary.asm["cubin"])
    usage = resources(cubin)
    ptx = binary.asm["ptx"]
    return {
        "kernel": name,
        "dtype": dtype.value,
        "constants": {constant: str(value) for constant, value in constants.items()},
        "capability": capability,
        "triton": triton.__version__,
        "registers": usage["REG"],
        "spilled_bytes": usage["STACK"] + usage["LOCAL"],
        "shared_bytes": binary.metadata.shared,
        "barriers": len(re.findall(r"\bbar\.sync\b|\bbar\.warp\.sync\b|\bbarrier\.sync\b", ptx)),
        "non_coherent_loads": len(re.findall(r"ld\.global\S*\.nc\b", ptx)),
        "fused_multiply_adds": len(re.findall(r"\bfma\.", ptx)),
        "words_taken_over": len(re.findall(r"\bld\.volatile\.global\.b64\b", ptx)),
        "words_handed_over": len(re.findall(r"\batom\.global\.gpu\.relaxed\.exch\.b64\b", ptx)),
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

    for each in KERNELS[sys.argv[1]]:
        for scores in map(DType, sys.argv[3:] or DType):
            for variant in module_of(sys.argv[1], each).variants(scores):
                print(json.dumps(compiled(sys.argv[1], each, scores, variant, int(sys.argv[2]))), flush=True)
