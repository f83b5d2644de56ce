"""The reference of attention maps against everything that a path could be, on small maps."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.strategies import GENERATORS, dyadic, normal, with_minus_infinity

from alignd_kernels.attention import reference
from alignd_kernels.mas import reference as mas
from alignd_kernels.status import Status
from alignd_kernels.stepwise import reference as stepwise

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)
SIZES = st.tuples(st.integers(1, 4), st.integers(1, 5))

Path = tuple[tuple[int, int], ...]


def warping_paths(S: int, T: int) -> Iterator[Path]:
    """All paths of DTW from (0, 0) to (S-1, T-1)."""
    if (S, T) == (1, 1):
        yield ((0, 0),)
    for before_S, before_T in ((S, T - 1), (S - 1, T - 1), (S - 1, T)):
        if before_S and before_T:
            for path in warping_paths(before_S, before_T):
                yield (*path, (S - 1, T - 1))


def preference(path: Path) -> list[int]:
    """The moves of a path from its end on, as the ties' rule ranks them: same token, diagonal, same frame."""
    ranks = {(0, 1): 0, (1, 1): 1, (1, 0): 2}
    return [ranks[i - before_i, j - before_j] for (before_i, before_j), (i, j) in pairwise(path)][::-1]


def spans(path: Path, S: int) -> tuple[list[int], list[int]]:
    frames = [[j for i, j in path if i == token] for token in range(S)]
    return [min(own) for own in frames], [max(own) + 1 for own in frames]


def test_there_are_as_many_paths_as_delannoys_numbers() -> None:
    assert [sum(1 for _ in warping_paths(n, n)) for n in (1, 2, 3, 4)] == [1, 3, 13, 63]


@SETTINGS
@given(GENERATORS, SIZES, st.sampled_from([dyadic, with_minus_infinity]))
def test_dtw_is_the_best_of_all_paths_and_the_preferred_one(rng, size, kind) -> None:
    S, T = size
    x = kind(rng, size)
    score = {path: sum(x[cell] for cell in path) for path in warping_paths(S, T)}
    best = max(score.values())
    status, starts, ends, found = reference.warp(x)
    if best == -np.inf:
        assert status is Status.NO_FINITE_PATH
        return
    assert status is Status.OK
    assert found == best
    wanted = min((path for path in score if score[path] == best), key=preference)
    assert (starts.tolist(), ends.tolist()) == spans(wanted, S)


@SETTINGS
@given(GENERATORS, st.integers(1, 5), SIZES)
def test_the_head_is_the_first_of_those_with_the_largest_mean_maximum(rng, heads, size) -> None:
    maps = dyadic(rng, (heads, *size))
    found = reference.align(maps, "dtw")
    rates = maps.max(1).mean(1)
    np.testing.assert_allclose(found.focus_rates, rates, rtol=2.0**-24)
    assert found.head == int(np.argmax(found.focus_rates))
    alone = reference.align(maps[found.head : found.head + 1], "dtw")
    assert (alone.score, alone.starts.tolist(), alone.ends.tolist()) == (
        found.score,
        found.starts.tolist(),
        found.ends.tolist(),
    )


@SETTINGS
@given(GENERATORS, SIZES)
def test_mas_is_that_familys(rng, size) -> None:
    S, T = size
    x = normal(rng, (S, S + T - 1))
    found = reference.align(x[None], "mas")
    status, durations, score = mas.maximum_path(x)
    assert (found.status, found.score) == (status, score)
    np.testing.assert_array_equal(found.ends - found.starts, durations)
    np.testing.assert_array_equal(found.starts[1:], found.ends[:-1])


@SETTINGS
@given(GENERATORS, SIZES)
def test_a_walk_leaves_a_token_at_the_first_later_value_of_at_most_one_half(rng, size) -> None:
    S, T = size
    p = rng.integers(0, 9, size) / 8
    status, starts, ends, score = reference.walk(p)
    assert status is Status.OK
    t, terms = 0, []
    for j in range(S):
        assert starts[j] == t
        leaves = [frame for frame in range(t + 1, T) if p[j, frame] <= 0.5] if j < S - 1 else []
        t = leaves[0] if leaves else T
        assert ends[j] == t
        if j < S - 1:
            decided = range(starts[j] + 1, min(t + 1, T))
            terms += [p[j, frame] if p[j, frame] > 0.5 else 1 - p[j, frame] for frame in decided]
    assert score == pytest.approx(np.log(terms).sum(), abs=1e-12)


def test_a_tie_stays_on_the_token_then_goes_along_the_diagonal() -> None:
    _, starts, ends, _ = reference.warp(np.zeros((3, 6)))
    assert (starts.tolist(), ends.tolist()) == ([0, 0, 0], [1, 1, 6])
    _, starts, ends, _ = reference.warp(np.zeros((6, 3)))
    assert ends.tolist() == [1, 1, 1, 1, 1, 3]


def test_logarithms_are_of_the_values_and_rates_are_not() -> None:
    maps = np.array([[[0.5, 0.25], [0.125, 0.5]]])
    found = reference.align(maps, "dtw", log=True)
    assert found.focus_rates.tolist() == [0.5]
    assert found.score == 2 * np.log(0.5)


@pytest.mark.parametrize(
    ("maps", "mode", "log", "status"),
    [
        (np.zeros((0, 2, 3)), "dtw", False, Status.EMPTY),
        (np.zeros((2, 0, 3)), "mas", False, Status.EMPTY),
        (np.zeros((2, 3, 0)), "stepwise", False, Status.EMPTY),
        (np.zeros((1, 4, 3)), "mas", False, Status.TOO_FEW_FRAMES),
        (np.zeros((1, 4, 3)), "dtw", False, Status.OK),
        (np.zeros((1, 4, 3)), "stepwise", False, Status.OK),
        (np.full((1, 2, 3), -np.inf), "mas", False, Status.NO_FINITE_PATH),
        (np.full((1, 2, 3), -np.inf), "dtw", False, Status.NO_FINITE_PATH),
        (np.zeros((1, 2, 3)), "dtw", True, Status.NO_FINITE_PATH),
        (np.full((1, 2, 3), -1.0), "dtw", True, Status.NOT_FINITE),
        (np.full((1, 2, 3), -1.0), "mas", True, Status.NOT_FINITE),
        (np.full((1, 2, 3), 1.5), "stepwise", False, Status.MALFORMED),
        (np.full((1, 2, 3), -np.inf), "stepwise", False, Status.MALFORMED),
        (np.full((1, 1, 3), 1.5), "stepwise", False, Status.OK),
    ],
)
def test_statuses(maps, mode, log, status) -> None:
    found = reference.align(maps, mode, log)
    assert found.status is status
    if status is not Status.OK:
        assert np.isnan(found.score)
        assert not found.focus_rates.any()
        assert not found.ends.any()


@pytest.mark.parametrize("mode", ["mas", "dtw", "stepwise"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_count_in_every_head(mode, bad) -> None:
    maps = np.full((2, 2, 2), 0.75)
    maps[1, 1, 0] = bad  # off every monotonic path, in the second head
    assert reference.align(maps, mode).status is Status.NOT_FINITE


def test_a_negative_value_that_no_monotonic_path_visits_has_no_say() -> None:
    maps = np.full((1, 2, 2), 0.75)
    maps[0, 1, 0] = -1.0
    assert reference.align(maps, "mas", log=True).status is Status.OK
    assert reference.align(maps, "dtw", log=True).status is Status.NOT_FINITE


def test_a_walk_is_the_hard_mode_of_stepwise_attention() -> None:
    """One rule, written down twice: by probabilities here, by energies there."""
    rng = np.random.default_rng(3)
    for S, T in ((1, 1), (3, 8), (5, 4), (4, 30)):
        energies = rng.standard_normal((S, T)) + 0.5
        _, starts, ends, _ = reference.walk(1 / (1 + np.exp(-energies)))
        path = np.repeat(np.arange(S), ends - starts)
        assert path.tolist() == stepwise.hard(energies).tolist()
