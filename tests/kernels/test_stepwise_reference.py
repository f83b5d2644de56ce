"""The reference of stepwise monotonic attention against exhaustive enumeration and central differences."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.strategies import GENERATORS

from alignd_kernels.stepwise import reference

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)
ENDS, FORMS = ["keep", "leak"], ["paper", "sma"]
EACH = [(end, form, given) for end in ENDS for form in FORMS for given in (False, True)]


def enumerated(energies: np.ndarray, end: str, form: str, initial: np.ndarray) -> np.ndarray:
    """Every sequence of choices, one a frame, from every token that the attention starts on: a tree, no two of whose
    branches are joined."""
    S, T = energies.shape
    if form == "sma":
        weights = np.exp(energies)
        energies = weights / weights.sum(1, keepdims=True)
    stay = 1 / (1 + np.exp(-energies))
    alpha = np.zeros((S, T))

    def arrive(at: int, t: int, probability: float) -> None:
        if at < S:  # what has left the last token is nowhere
            alpha[at, t] += probability
            choose(at, t + 1, probability)

    def choose(at: int, t: int, probability: float) -> None:
        if t < T:
            stays = 1.0 if at == S - 1 and end == "keep" else stay[at, t]
            arrive(at, t, probability * stays)
            arrive(at + 1, t, probability * (1 - stays))

    for start in range(S):
        if form == "paper":
            arrive(start, 0, initial[start])
        else:
            choose(start, 0, initial[start])
    return alpha


def start_of(rng: np.random.Generator, tokens: int, given: bool) -> np.ndarray | None:
    return rng.random(tokens) if given else None


@SETTINGS
@given(GENERATORS, st.integers(1, 4), st.integers(1, 6), st.sampled_from(EACH))
def test_expectation_is_the_sum_over_all_sequences_of_choices(
    rng: np.random.Generator, tokens: int, frames: int, settings: Any
) -> None:
    end, form, given = settings
    energies = rng.standard_normal((tokens, frames)) * 3
    initial = start_of(rng, tokens, given)
    started = np.eye(1, tokens)[0] if initial is None else initial
    found = reference.expectation(energies, end, form, initial)
    np.testing.assert_allclose(found, enumerated(energies, end, form, started), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("end", "form", "given"), EACH)
def test_gradients_are_central_differences(end: Any, form: Any, given: bool) -> None:
    rng = np.random.default_rng(0)
    for tokens, frames in [(1, 1), (1, 5), (3, 1), (4, 7), (6, 3)]:
        energies, upstream = rng.standard_normal((2, tokens, frames)) * 2
        initial = start_of(rng, tokens, given)

        def loss(by_energies: Any = 0.0, by_initial: Any = 0.0) -> float:
            start = initial + by_initial if initial is not None else None  # noqa: B023
            return float((upstream * reference.expectation(energies + by_energies, end, form, start)).sum())  # noqa: B023

        found, found_initial = reference.gradient(energies, upstream, end, form, initial)
        step = 1e-5
        for cell in np.ndindex(tokens, frames):
            bump = np.zeros((tokens, frames))
            bump[cell] = step
            difference = (loss(bump) - loss(-bump)) / (2 * step)
            assert found[cell] == pytest.approx(difference, rel=1e-6, abs=1e-8)
        for token in range(tokens if given else 0):
            bump = np.zeros(tokens)
            bump[token] = step
            difference = (loss(0.0, bump) - loss(0.0, -bump)) / (2 * step)
            assert found_initial[token] == pytest.approx(difference, rel=1e-6, abs=1e-8)


def test_mass_is_kept_or_leaks() -> None:
    energies = np.random.default_rng(1).standard_normal((4, 50)) - 1
    np.testing.assert_allclose(reference.expectation(energies).sum(0), 1, rtol=1e-12)
    leaking = reference.expectation(energies, "leak").sum(0)
    assert (np.diff(leaking[4:]) < 0).all()
    assert leaking[-1] < 1e-3


def test_the_published_form_starts_before_frame_0() -> None:
    """alpha[0, 0] = p[0, 0] and alpha[1, 0] = 1 - p[0, 0], with p of softmaxed energies: from 0.5 to 0.73."""
    energies = np.random.default_rng(2).standard_normal((3, 5)) * 10
    alpha = reference.expectation(energies, "leak", "sma")
    weight = np.exp(energies[0, 0]) / np.exp(energies[0]).sum()
    p = 1 / (1 + np.exp(-weight))
    assert 0.5 <= p <= 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(alpha[:, 0], [p, 1 - p, 0], rtol=1e-12)


def test_certain_energies_are_hard_choices() -> None:
    rng = np.random.default_rng(3)
    energies = rng.choice([-np.inf, -800.0, 800.0, np.inf], (5, 12))
    path = reference.hard(energies)
    np.testing.assert_array_equal(reference.expectation(energies), np.arange(5)[:, None] == path)


@SETTINGS
@given(GENERATORS, st.integers(1, 6), st.integers(1, 12))
def test_hard_takes_the_likelier_choice(rng: np.random.Generator, tokens: int, frames: int) -> None:
    energies = rng.integers(-2, 3, (tokens, frames)) / 2
    path = reference.hard(energies)
    assert path.dtype == np.int32
    assert path[0] == 0
    for t in range(1, frames):
        at = path[t - 1]
        moves = at < tokens - 1 and 1 / (1 + np.exp(-energies[at, t])) <= 0.5
        assert path[t] == at + moves


def test_hard_refuses_nan_only_where_it_decides() -> None:
    energies = np.full((3, 4), np.nan)
    energies[0, 1:] = 1.0
    assert reference.hard(energies).tolist() == [0, 0, 0, 0]
    energies[0, 2] = np.nan
    with pytest.raises(ValueError, match=r"energies\[0, 2\] is NaN"):
        reference.hard(energies)
    assert reference.hard(np.full((1, 3), np.nan)).tolist() == [0, 0, 0]


def test_focus_rate() -> None:
    uniform = np.full((4, 6), 1 / 4)
    sharp = np.eye(4)[:, [0, 1, 1, 2, 3, 3]]
    half = (uniform + sharp) / 2
    np.testing.assert_allclose(reference.focus_rate(np.stack([uniform, sharp, half])), [0.25, 1, 0.625])
    assert reference.focus_rate(np.zeros((2, 0, 3))).tolist() == [0, 0]
    assert reference.focus_rate(np.zeros((2, 3, 0))).tolist() == [0, 0]
