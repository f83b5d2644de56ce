"""What the tests of CTC's best paths on a GPU share."""

import functools

import numpy as np
import pytest
from kernels.strategies import CtcItem, dyadic, random_targets

from alignd_kernels.ctc import gpu
from alignd_kernels.ctc.batch import STAR_MAX
from kernels import gpu_support


def item(labels: int, spare: int, seed: int, vocabulary: int = 6, star: float = STAR_MAX) -> CtcItem:
    """An item with ties, repeats and stars, and `spare` frames more than it needs."""
    rng = np.random.default_rng(seed)
    targets = random_targets(rng, labels, vocabulary, 2)
    frames = max(labels + int(np.count_nonzero(targets[1:] == targets[:-1])) + spare, 0)
    return dyadic(rng, (frames, vocabulary)), targets, 2, star


LAUNCHES = pytest.mark.parametrize("launches", [1, 2])

way_back = functools.partial(gpu_support.way_back, gpu)
watched = functools.partial(gpu_support.watched, gpu, ("ctc_star_kernel", "ctc_forward_kernel", "ctc_trace_kernel"))
