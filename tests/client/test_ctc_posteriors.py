"""Posteriors of CTC states through every door."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from alignd_client import STAR, InvalidRequestError, ItemCode
from alignd_kernels.ctc import sum_reference

CASES: list[tuple[list[int], int]] = [([1, 2, 3], 7), ([1, 1], 3), ([4], 1), ([], 5), ([2, STAR, 1], 12)]


def emissions() -> list[npt.NDArray[np.float32]]:
    rng = np.random.default_rng(3)
    return [np.log(rng.dirichlet(np.ones(5), frames)).astype(np.float32) for _, frames in CASES]


@pytest.mark.parametrize("star_score", [0.0, -1.5, "max"])
def test_ragged_items_match_the_reference(client: Any, star_score: Any) -> None:
    targets = [labels for labels, _ in CASES]
    results = client.ctc_posteriors(emissions(), targets, star_score=star_score)
    star = np.nan if star_score == "max" else star_score
    for x, labels, found in zip(emissions(), targets, results, strict=True):
        _, states, score = sum_reference.posteriors(x, np.array(labels, np.int32), 0, star)
        assert found.status.ok
        assert found.posteriors.shape == (len(x), 2 * len(labels) + 1)
        np.testing.assert_allclose(found.posteriors, states, atol=1e-5)
        np.testing.assert_allclose(found.posteriors.sum(1), 1, atol=1e-5)
        assert found.score == pytest.approx(score, rel=1e-5)


def test_tensors(client: Any) -> None:
    (found,) = client.ctc_posteriors([torch.from_numpy(emissions()[0]).bfloat16()], [torch.tensor([1, 2, 3])])
    assert isinstance(found.posteriors, torch.Tensor)
    assert found.posteriors.dtype == torch.float32


def test_bad_items_fail_alone(client: Any) -> None:
    good = emissions()[0]
    targets: list[list[int]] = [[1, 2], [0], [9], [STAR, STAR], [1] * 9, [1, 2]]
    answers = list(client.ctc_posteriors([good] * len(targets), targets, on_error="return"))
    bad = [ItemCode.TARGET_IS_BLANK, ItemCode.TARGET_OUT_OF_RANGE, ItemCode.ADJACENT_STARS, ItemCode.TOO_FEW_FRAMES]
    assert [answer.status.code for answer in answers] == [ItemCode.OK, *bad, ItemCode.OK]
    assert all(answer.posteriors.shape == (0, 0) and np.isnan(answer.score) for answer in answers[1:-1])
    with pytest.raises(InvalidRequestError, match="star_score"):
        client.ctc_posteriors([good], [[1]], star_score=np.nan)


def test_posteriors_far_larger_than_their_emissions_are_refused(client: Any) -> None:
    good, many = emissions()[0], np.zeros((20_000, 2), np.float32)
    targets = [[1], np.ones(9_000, np.int32), [1]]
    one, bad, other = client.ctc_posteriors([good, many, good], targets, on_error="return")
    assert one.status.ok
    assert other.status.ok
    assert bad.status.code is ItemCode.TOO_LARGE
    assert str(4 * 20_000 * 18_001) in bad.status.message
