"""The transducers' reference against exhaustive search, differences and published costs."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.strategies import GENERATORS, dyadic, normal, with_minus_infinity
from kernels.transducer_strategies import legal_arcs

from alignd_kernels.status import Status
from alignd_kernels.transducer import reference

SETTINGS = settings(max_examples=120, deadline=None, derandomize=True)
SIZES = st.tuples(st.integers(1, 5), st.integers(0, 4), st.booleans()).filter(
    lambda size: size[1] <= size[0] or not size[2]
)

Arc = tuple[int, int, int]
"""t, u, and 0 for blank or 1 for the label."""


def paths(frames: int, labels: int, modified: bool) -> list[list[Arc]]:
    """Every path, as its arcs: an order of blanks and labels. In the standard topology T blanks, the last one at the
    end; in the modified one an arc for each frame."""
    steps = frames if modified else frames + labels - 1
    found = []
    for places in itertools.combinations(range(steps), labels):
        t = u = 0
        arcs = []
        for kind in [int(step in places) for step in range(steps)] + ([] if modified else [0]):
            arcs.append((t, u, kind))
            t, u = t + (modified or kind == 0), u + kind
        assert (t, u) == (frames, labels)
        found.append(arcs)
    return found


def total(arcs: np.ndarray, path: list[Arc]) -> float:
    return float(sum(arcs[arc] for arc in path))


def emitted(path: list[Arc]) -> list[int]:
    return [t for t, _, kind in path if kind]


@SETTINGS
@given(GENERATORS, SIZES, st.sampled_from([dyadic, normal, with_minus_infinity]))
def test_the_best_of_all_paths(rng, size, kind) -> None:
    T, U, modified = size
    arcs = kind(rng, (T, U + 1, 2))
    status, frames, score = reference.align(arcs, modified)
    every = paths(T, U, modified)
    totals = [total(arcs, path) for path in every]
    if max(totals) == -np.inf:
        assert status == Status.NO_FINITE_PATH
        assert np.isnan(score)
        assert not frames.any()
        return
    assert status == Status.OK
    assert frames.tolist() in [emitted(path) for path in every]
    assert score == pytest.approx(max(totals), rel=1e-12, abs=1e-12)
    if kind is not normal:  # exact sums: among the best, seen from the end, the one that comes by blank the longest
        best = [path for path, sum_of_path in zip(every, totals) if sum_of_path == max(totals)]
        assert frames.tolist() == emitted(min(best, key=lambda path: [kind for _, _, kind in reversed(path)]))


@SETTINGS
@given(GENERATORS, SIZES, st.sampled_from([dyadic, normal, with_minus_infinity]))
def test_sums_over_all_paths(rng, size, kind) -> None:
    T, U, modified = size
    arcs = kind(rng, (T, U + 1, 2))
    every = paths(T, U, modified)
    totals = np.array([total(arcs, path) for path in every])
    status, posteriors, score = reference.posteriors(arcs, modified)
    cost, gradient = reference.cost(arcs, modified)
    if totals.max() == -np.inf:
        assert status == Status.NO_FINITE_PATH
        assert not posteriors.any()
        assert cost == np.inf
        assert not gradient.any()
        return
    log_likelihood = totals.max() + np.log(np.exp(totals - totals.max()).sum())
    assert score == pytest.approx(log_likelihood, rel=1e-9, abs=1e-9)
    assert cost == pytest.approx(-log_likelihood, rel=1e-9, abs=1e-9)
    visits, takes = np.zeros((T, U + 1)), np.zeros((T, U + 1, 2))
    for path, probability in zip(every, np.exp(totals - log_likelihood)):
        for t, u, arc in path:
            visits[t, u] += probability
            takes[t, u, arc] += probability
    np.testing.assert_allclose(posteriors, visits, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(gradient, -takes, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("modified", [False, True])
@pytest.mark.parametrize(("T", "U"), [(1, 0), (1, 1), (3, 2), (4, 4), (5, 1)])
def test_gradients_are_differences_of_costs(T: int, U: int, modified: bool) -> None:
    arcs = np.random.default_rng(T).standard_normal((T, U + 1, 2))
    _, gradient = reference.cost(arcs, modified)
    _, faster = reference.cost(arcs, modified, fastemit_lambda=0.25)
    legal = legal_arcs(T, U, modified)
    step = 1e-5
    for place in np.ndindex(arcs.shape):
        if not legal[place]:
            assert gradient[place] == 0
            continue
        around = []
        for sign in (1, -1):
            moved = arcs.copy()
            moved[place] += sign * step
            around.append(reference.cost(moved, modified)[0])
        assert gradient[place] == pytest.approx((around[0] - around[1]) / (2 * step), abs=1e-8)
    np.testing.assert_allclose(faster, gradient * [1.0, 1.25], rtol=1e-12)


@pytest.mark.parametrize("modified", [False, True])
@pytest.mark.parametrize(("T", "U"), [(1, 0), (1, 1), (1, 2), (3, 0), (3, 2), (3, 3), (4, 2)])
def test_arcs_are_those_of_all_paths(T: int, U: int, modified: bool) -> None:
    """Poisoning an arc fails the item exactly where a path takes it; the counts are binomial coefficients."""
    every = paths(T, U, modified) if not modified or U <= T else []
    assert len(every) == (math.comb(T, U) if modified else math.comb(T + U - 1, U))
    taken = {arc for path in every for arc in path}
    if not every:
        assert not legal_arcs(T, U, modified).any()
        return
    for place in np.ndindex(T, U + 1, 2):
        for bad in (np.nan, np.inf):
            arcs = np.zeros((T, U + 1, 2))
            arcs[place] = bad
            expected = Status.NOT_FINITE if place in taken else Status.OK
            assert reference.align(arcs, modified)[0] == expected
            assert reference.posteriors(arcs, modified)[0] == expected
            assert np.isnan(reference.cost(arcs, modified)[0]) == (place in taken)
    np.testing.assert_array_equal(
        legal_arcs(T, U, modified), [[[(t, u, k) in taken for k in (0, 1)] for u in range(U + 1)] for t in range(T)]
    )


def test_ties_come_by_blank_seen_from_the_end() -> None:
    assert reference.align(np.zeros((4, 3, 2)))[1].tolist() == [0, 0]
    assert reference.align(np.zeros((4, 3, 2)), modified=True)[1].tolist() == [0, 1]


def test_costs_of_uniform_log_probs_count_the_paths() -> None:
    for T, U, V in ((1, 0, 5), (3, 2, 4), (6, 4, 7)):
        arcs = np.full((T, U + 1, 2), -np.log(V))
        assert reference.cost(arcs)[0] == pytest.approx((T + U) * np.log(V) - np.log(math.comb(T + U - 1, U)))
        modified = reference.cost(arcs, modified=True)[0]
        assert modified == pytest.approx(T * np.log(V) - np.log(math.comb(T, U)))


TABLE = [
    [[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.6, 0.1, 0.1], [0.1, 0.1, 0.2, 0.8, 0.1]],
    [[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.2, 0.1, 0.1], [0.7, 0.1, 0.2, 0.1, 0.1]],
]
"""Activations [T, U + 1, V] of the labels 1, 2, with which the tests of several packages of losses begin."""


@pytest.mark.parametrize(
    ("frames", "labels", "expected"),
    [(2, [1, 2], 4.495666773770733), (1, [1, 2], 4.274244594423859), (1, [], 1.7314291957733714)],
)
def test_costs_that_packages_of_losses_publish(frames: int, labels: list[int], expected: float) -> None:
    activations = np.array(TABLE)[:frames, : len(labels) + 1]
    log_probs = activations - np.log(np.exp(activations).sum(-1, keepdims=True))
    cost, _ = reference.cost(reference.arcs_of(log_probs, np.array(labels, np.int32), 0))
    assert cost == pytest.approx(expected, rel=1e-12)


def test_items_are_judged_in_order_before_their_log_probs_are_read() -> None:
    labels = np.array([1, 2])
    assert reference.check_labels(labels, 0, 0, 7) == Status.EMPTY
    assert reference.check_labels(labels, 1, 0, 0) == Status.EMPTY
    for blank in (-1, 3):
        assert reference.check_labels(labels, 1, 3, blank) == Status.TARGET_OUT_OF_RANGE
    for bad in (-1, 3):
        assert reference.check_labels(np.array([1, bad, 0]), 1, 3, 0, modified=True) == Status.TARGET_OUT_OF_RANGE
    assert reference.check_labels(np.array([1, 0, 3]), 1, 3, 0, modified=True) == Status.TARGET_IS_BLANK
    assert reference.check_labels(labels, 1, 3, 0, modified=True) == Status.TOO_FEW_FRAMES
    assert reference.check_labels(labels, 1, 3, 0) == Status.OK
    assert reference.check_labels(labels[:0], 1, 1, 0, modified=True) == Status.OK
