"""What the ahead-of-time test compiles is what a launch compiles."""

import numpy as np
import pytest
from kernels.gpu_support import Launches
from kernels.strategies import ctc_batch, dyadic, mas_batch

from alignd_kernels.ctc import gpu as ctc_gpu
from alignd_kernels.dtypes import DType
from alignd_kernels.mas import gpu as mas_gpu
from kernels import ahead_of_time


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
