"""Every GPU kernel of stepwise monotonic attention compiles, without a GPU, and keeps its state in registers."""

from pathlib import Path

from kernels.gpu_compile import check_compiled, on_each_gpu

from alignd_kernels.dtypes import DType


@on_each_gpu
def test_compiles_without_spills(capability: int, dtype: DType, tmp_path: Path) -> None:
    check_compiled("stepwise", capability, dtype, tmp_path)
