"""What the tests of CTC's best paths on a GPU share."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from kernels.gpu_support import Launches
from kernels.strategies import CtcItem, dyadic, random_targets

from alignd_kernels import gpu_borders
from alignd_kernels.ctc import gpu
from alignd_kernels.ctc.batch import STAR_MAX


def item(labels: int, spare: int, seed: int, vocabulary: int = 6, star: float = STAR_MAX) -> CtcItem:
    """An item with ties, repeats and stars, and `spare` frames more than it needs."""
    rng = np.random.default_rng(seed)
    targets = random_targets(rng, labels, vocabulary, 2)
    frames = max(labels + int(np.count_nonzero(targets[1:] == targets[:-1])) + spare, 0)
    return dyadic(rng, (frames, vocabulary)), targets, 2, star


@contextmanager
def way_back(launches: int) -> Iterator[None]:
    """Found by the strip that ends last, or in a launch of its own: as for long items."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "FUSED_CHUNKS", 2**31 if launches == 1 else 0)
        yield


LAUNCHES = pytest.mark.parametrize("launches", [1, 2])

KERNELS = ("ctc_star_kernel", "ctc_forward_kernel", "ctc_trace_kernel")


def watched(monkeypatch: pytest.MonkeyPatch, *, really: bool) -> list[Launches]:
    """The kernels' launches. Borders are of this test alone: what is not launched draws no tickets."""
    monkeypatch.setattr(gpu_borders, "_kept", functools.cache(lambda device, stream: gpu_borders._Kept()))
    launches = [Launches(getattr(gpu, name), really) for name in KERNELS]
    for name, launch in zip(KERNELS, launches):
        monkeypatch.setattr(gpu, name, launch)
    return launches
