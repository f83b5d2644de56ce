"""Sums over monotonic paths: the reference against every path one by one, and against differences of its costs."""

import itertools

import numpy as np
import pytest

from alignd_kernels.mas.soft_reference import cost, forward_backward, posteriors, visitable
from alignd_kernels.status import Status

SHAPES = [(1, 1), (1, 4), (2, 2), (2, 5), (3, 3), (3, 6), (4, 7)]


def every_path(tokens: int, frames: int) -> list[np.ndarray]:
    """The token of each frame, of all paths."""
    moves = itertools.combinations(range(1, frames), tokens - 1)
    return [np.searchsorted(np.array(move, int), np.arange(frames), "right") for move in moves]


@pytest.mark.parametrize(("S", "T"), SHAPES)
@pytest.mark.parametrize("scale", [0.1, 3.0, 200.0])
def test_every_path_is_summed_once(S: int, T: int, scale: float) -> None:
    value = np.random.default_rng(S * T).standard_normal((S, T)) * scale
    paths = every_path(S, T)
    scores = np.array([value[path, np.arange(T)].sum() for path in paths])
    total = scores.max() + np.log(np.exp(scores - scores.max()).sum())
    expected = np.zeros((S, T))
    for path, score in zip(paths, scores):
        expected[path, np.arange(T)] += np.exp(score - total)
    status, found, log_likelihood = posteriors(value)
    assert status is Status.OK
    np.testing.assert_allclose(log_likelihood, total, 1e-13)
    np.testing.assert_allclose(found, expected, 0, 1e-12)
    cells = {(int(s), int(t)) for path in paths for t, s in enumerate(path)}
    assert cells == set(visitable(S, T))


@pytest.mark.parametrize(("S", "T"), SHAPES)
def test_both_ways_sum_to_the_same_in_every_frame(S: int, T: int) -> None:
    alpha, beta = forward_backward(np.random.default_rng(T).standard_normal((S, T)))
    in_frames = np.logaddexp.reduce(alpha + beta, 0)
    np.testing.assert_allclose(in_frames, alpha[-1, -1], 1e-13)


@pytest.mark.parametrize(("S", "T"), SHAPES)
def test_the_gradient_is_the_slope_of_the_cost(S: int, T: int) -> None:
    value = np.random.default_rng(S + T).standard_normal((S, T))
    _, gradient = cost(value)
    step = 1e-5
    for cell in np.ndindex(S, T):
        slopes = []
        for sign in (1, -1):
            moved = value.copy()
            moved[cell] += sign * step
            slopes.append(sign * cost(moved)[0])
        np.testing.assert_allclose(sum(slopes) / (2 * step), gradient[cell], 0, 1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_only_cells_that_a_path_can_visit_matter(bad: float) -> None:
    value = np.random.default_rng(3).standard_normal((3, 5))
    _, expected, total = posteriors(value)
    legal = set(visitable(3, 5))
    for cell in np.ndindex(3, 5):
        spoilt = value.copy()
        spoilt[cell] = bad
        status, found, log_likelihood = posteriors(spoilt)
        if cell in legal:
            assert status is Status.NOT_FINITE
            assert not found.any()
            value_of, gradient = cost(spoilt)
            assert np.isnan(value_of)
            assert np.isnan(gradient).all()
        else:
            assert (status, log_likelihood) == (Status.OK, total)
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("value", "status", "expected"),
    [
        (np.zeros((0, 3)), Status.EMPTY, np.nan),
        (np.zeros((3, 0)), Status.EMPTY, np.nan),
        (np.zeros((3, 2)), Status.TOO_FEW_FRAMES, np.inf),
        (np.full((2, 3), -np.inf), Status.NO_FINITE_PATH, np.inf),
    ],
)
def test_items_without_a_path(value: np.ndarray, status: Status, expected: float) -> None:
    found = posteriors(value)
    assert found[0] is status
    assert np.isnan(found[2])
    assert not found[1].any()
    cost_of, gradient = cost(value)
    np.testing.assert_equal(cost_of, expected)
    assert gradient.shape == value.shape
    assert np.isnan(gradient).all() if np.isnan(expected) else not gradient.any()


def test_minus_infinity_closes_a_cell() -> None:
    value = np.zeros((2, 3))
    value[0, 1] = -np.inf
    status, found, total = posteriors(value)
    assert (status, total) == (Status.OK, 0.0)
    np.testing.assert_array_equal(found, [[1, 0, 0], [0, 1, 1]])
