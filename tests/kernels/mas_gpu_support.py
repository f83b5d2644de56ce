"""What the tests of best paths of MAS on a GPU share."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from kernels.gpu_support import Launches

from alignd_kernels import gpu_borders
from alignd_kernels.mas import gpu


@contextmanager
def way_back(launches: int) -> Iterator[None]:
    """Found by the strip that ends last, or in a launch of its own: as for long items."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "FUSED_CHUNKS", 2**31 if launches == 1 else 0)
        yield


LAUNCHES = pytest.mark.parametrize("launches", [1, 2])

KERNELS = ("mas_forward_kernel", "mas_trace_kernel")


def watched(monkeypatch: pytest.MonkeyPatch, *, really: bool) -> list[Launches]:
    """The kernels' launches. Borders are of this test alone: what is not launched draws no tickets."""
    monkeypatch.setattr(gpu_borders, "_kept", functools.cache(lambda device, stream: gpu_borders._Kept()))
    launches = [Launches(getattr(gpu, name), really) for name in KERNELS]
    for name, launch in zip(KERNELS, launches):
        monkeypatch.setattr(gpu, name, launch)
    return launches
