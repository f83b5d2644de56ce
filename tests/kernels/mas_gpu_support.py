"""What the tests of best paths of MAS on a GPU share."""

import functools

import pytest

from alignd_kernels.mas import gpu
from kernels import gpu_support

LAUNCHES = pytest.mark.parametrize("launches", [1, 2])

way_back = functools.partial(gpu_support.way_back, gpu)
watched = functools.partial(gpu_support.watched, gpu, ("mas_forward_kernel", "mas_trace_kernel"))
