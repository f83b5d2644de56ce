"""The soft alignment of MAS through every door."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from alignd_client import InvalidItemError, ItemCode
from alignd_kernels.mas import soft_reference

SHAPES = [(3, 7), (1, 1), (4, 4), (2, 9), (5, 6)]


def values(dtype: Any = np.float32) -> list[npt.NDArray[Any]]:
    rng = np.random.default_rng(2)
    return [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ragged_items_match_the_reference(client: Any, dtype: Any) -> None:
    items = values(dtype)
    for x, found in zip(items, client.mas_posteriors(items), strict=True):
        _, cells, score = soft_reference.posteriors(x)
        assert found.status.ok
        assert found.posteriors.shape == x.shape
        assert found.posteriors.dtype == np.float32
        np.testing.assert_allclose(found.posteriors, cells, atol=1e-5)
        np.testing.assert_allclose(found.posteriors.sum(0), 1, atol=1e-5)
        assert found.score == pytest.approx(score, rel=1e-5)


def test_tensors_and_stacks(client: Any) -> None:
    stack = torch.randn(4, 3, 8)
    alone = [found.posteriors for found in client.mas_posteriors(list(stack))]
    together = [found.posteriors for found in client.mas_posteriors(stack)]
    assert all(isinstance(found, torch.Tensor) for found in alone + together)
    for one, other in zip(alone, together, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert not together[0].requires_grad


def test_bad_items_fail_alone(client: Any) -> None:
    good, nan = values()[0], np.full((2, 4), np.nan, np.float32)
    items = [
        good,
        nan,
        np.zeros((5, 3), np.float32),
        np.zeros((0, 3), np.float32),
        np.full((2, 3), -np.inf, "f4"),
        good,
    ]
    answers = list(client.mas_posteriors(items, on_error="return"))
    codes = [answer.status.code for answer in answers]
    bad = [ItemCode.NOT_FINITE, ItemCode.TOO_FEW_FRAMES, ItemCode.EMPTY, ItemCode.NO_FINITE_PATH]
    assert codes == [ItemCode.OK, *bad, ItemCode.OK]
    for answer in answers[1:5]:
        assert answer.posteriors.shape == (0, 0)
        assert np.isnan(answer.score)
    assert answers[0].posteriors.tolist() == answers[5].posteriors.tolist()
    with pytest.raises(InvalidItemError, match="item 1"):
        list(client.mas_posteriors(items))
