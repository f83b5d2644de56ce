"""Items of a padded batch that begin past 2³² elements, which is nothing to the kernels: interpreted, or with `-m gpu`.

Larger items, and what is made of them, are in the families' own tests, on a GPU only.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from kernels.gpu_support import far_apart, garbage_in_new_memory, on_each_device
from kernels.strategies import dyadic

from alignd_kernels.attention import gpu as attention
from alignd_kernels.ctc import gpu as ctc
from alignd_kernels.ctc import gpu_sum as ctc_sum
from alignd_kernels.mas import gpu as mas
from alignd_kernels.mas import gpu_sum as mas_sum
from alignd_kernels.status import Status
from alignd_kernels.transducer import gpu as transducer
from alignd_kernels.transducer import gpu_sum as transducer_sum

# What a strip reads beyond its last row may be anything; NumPy, under the interpreter, warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero) encountered:RuntimeWarning")


@pytest.fixture(autouse=True, scope="module")
def garbage() -> Iterator[None]:
    with garbage_in_new_memory():
        yield


def both(device: str, *sizes: int) -> list[torch.Tensor]:
    """Each of these for two items."""
    return [torch.full((2,), size, device=device) for size in sizes]


def labels(device: str) -> torch.Tensor:
    return torch.tensor([[1, 2], [2, 1]], device=device)


FAMILIES: dict[str, tuple[tuple[int, ...], Callable[[torch.Tensor, str], Any]]] = {
    "mas": ((3, 5), lambda x, device: mas.launch(x, *both(device, 3, 5))),
    "mas_sum": ((3, 5), lambda x, device: mas_sum.posteriors_on_gpu(x, *both(device, 3, 5))),
    "ctc": ((5, 4), lambda x, device: ctc.launch(x, labels(device), *both(device, 5, 2))),
    "ctc_star": ((5, 4), lambda x, d: ctc.launch(x, 1 - labels(d), *both(d, 5, 2), blank=3, star_score=np.nan)),
    "ctc_sum": ((5, 4), lambda x, device: ctc_sum.costs_on_gpu(x, labels(device), *both(device, 5, 2))),
    "transducer": ((4, 3, 3), lambda x, device: transducer.launch(x, labels(device), *both(device, 4, 2), 0)),
    "transducer_sum": ((4, 3, 3), lambda x, d: transducer_sum.costs_on_gpu(x, labels(d), *both(d, 4, 2))),
    "attention": ((2, 3, 5), lambda x, device: attention.launch(x, *both(device, 3, 5), "mas")),
    "attention_dtw": ((2, 3, 5), lambda x, device: attention.launch(x, *both(device, 3, 5), "dtw")),
    "attention_stepwise": ((2, 3, 5), lambda x, device: attention.launch(x, *both(device, 3, 5), "stepwise")),
}
"""Shape of an item, and what is done to two."""


@on_each_device
@pytest.mark.parametrize("family", FAMILIES)
def test_an_item_past_32_bits_is_found(device: str, family: str) -> None:
    shape, call = FAMILIES[family]
    scores = torch.from_numpy(dyadic(np.random.default_rng(1), (2, *shape)) / -8).to(device, torch.float16)
    expected, found = call(scores, device), call(far_apart(scores, device), device)
    assert found.statuses.tolist() == [Status.OK] * 2
    assert found.scores[1] != call(torch.zeros_like(scores), device).scores[1]  # what lies between the two
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
