"""Every GPU kernel of attention maps compiles, without a GPU, and keeps its state in registers."""

from pathlib import Path

import pytest
from kernels.gpu_compile import check_compiled

from alignd_kernels.dtypes import DType


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_compiles_without_spills(capability: int, dtype: DType, tmp_path: Path) -> None:
    check_compiled("attention", capability, dtype, tmp_path)
