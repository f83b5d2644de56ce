"""What the ahead-of-time test compiles is what a launch compiles."""

from typing import Any

import pytest
from kernels.gpu_support import Launches

from alignd_kernels.ctc import gpu as ctc_gpu
from alignd_kernels.dtypes import DType
from alignd_kernels.mas import gpu as mas_gpu
from kernels import ahead_of_time


def type_of(argument: Any) -> str:
    """As Triton abbreviates it."""
    if not hasattr(argument, "dtype"):
        return "i32"
    return "*" + ahead_of_time.SHORT[str(argument.dtype).removeprefix("torch.")]


@pytest.mark.interpreter
@pytest.mark.parametrize("dtype", DType)
def test_what_is_compiled_is_what_is_launched(dtype: DType, monkeypatch: pytest.MonkeyPatch) -> None:
    for family, gpu in {"mas": mas_gpu, "ctc": ctc_gpu}.items():
        launches = {}
        for name in ahead_of_time.KERNELS[family]:
            launches[name] = Launches(getattr(ahead_of_time.module_of(family, name), name))
            monkeypatch.setattr(gpu, name, launches[name])
        gpu.warm_up("cpu", [dtype])
        for name, launch in launches.items():
            module = ahead_of_time.module_of(family, name)
            variants = module.variants(dtype)
            assert len(launch.arguments) == len(variants)
            for constants, launched in zip(variants, launch.arguments):
                types = ahead_of_time.signature(family, getattr(module, name), dtype, constants)
                given = {argument: kind for argument, kind in types.items() if kind != "constexpr"}
                assert {argument: type_of(launched[argument]) for argument in given} == given
                assert constants.items() <= launched.items()
