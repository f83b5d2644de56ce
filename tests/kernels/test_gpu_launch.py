"""What the ahead-of-time test compiles is what a launch compiles."""

from types import SimpleNamespace
from typing import Any

import pytest
from kernels.gpu_support import Launches

from alignd_kernels.attention import gpu as attention_gpu
from alignd_kernels.ctc import gpu as ctc_gpu
from alignd_kernels.ctc import gpu_long as ctc_gpu_long
from alignd_kernels.ctc import gpu_sum as ctc_gpu_sum
from alignd_kernels.dtypes import DType
from alignd_kernels.mas import gpu as mas_gpu
from alignd_kernels.mas import gpu_sum as mas_gpu_sum
from alignd_kernels.stepwise import gpu as stepwise_gpu
from alignd_kernels.transducer import gpu as transducer_gpu
from alignd_kernels.transducer import gpu_batch as transducer_gpu_batch
from alignd_kernels.transducer import gpu_sum as transducer_gpu_sum
from kernels import ahead_of_time

# What a strip reads beyond its last row may be anything; NumPy, under the interpreter, warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")


def type_of(argument: Any) -> str:
    """As Triton abbreviates it."""
    if not hasattr(argument, "dtype"):
        return "i32"
    return "*" + ahead_of_time.SHORT[str(argument.dtype).removeprefix("torch.")]


@pytest.mark.interpreter
@pytest.mark.parametrize("dtype", DType)
def test_what_is_compiled_is_what_is_launched(dtype: DType, monkeypatch: pytest.MonkeyPatch) -> None:
    transducer = [transducer_gpu, transducer_gpu_sum, transducer_gpu_batch]
    families = {"mas": [mas_gpu], "ctc": [ctc_gpu, ctc_gpu_long], "transducer": transducer, "stepwise": [stepwise_gpu]}
    families |= {"attention": [attention_gpu], "mas_sum": [mas_gpu_sum], "ctc_sum": [ctc_gpu_sum]}
    # MAS's kernels, of which it warms those for its types too, have been looked at.
    monkeypatch.setattr(attention_gpu, "mas", SimpleNamespace(warm_up=lambda *_: None))
    for family, launchers in families.items():
        launches = {}
        for name in ahead_of_time.KERNELS[family]:
            launches[name] = Launches(getattr(ahead_of_time.module_of(family, name), name))
            for module in launchers:
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, launches[name])
        for module in launchers:
            if hasattr(module, "warm_up"):
                module.warm_up("cpu", [dtype])
        for name, launch in launches.items():
            module = ahead_of_time.module_of(family, name)
            missing = module.variants(dtype)
            for launched in launch.arguments:
                (constants,) = (variant for variant in module.variants(dtype) if variant.items() <= launched.items())
                types = ahead_of_time.signature(family, getattr(module, name), dtype, constants)
                given = {argument: kind for argument, kind in types.items() if kind != "constexpr"}
                assert {argument: type_of(launched[argument]) for argument in given} == given
                missing = [variant for variant in missing if variant != constants]
            assert not missing  # what is not warmed would be compiled for a request
