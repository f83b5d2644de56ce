"""The arithmetic of the harness: summaries, rounds, turns, floors."""

import numpy as np
import pytest

from benchmarks import floor
from benchmarks.case import Work, sets_needed
from benchmarks.measure import Plan, interleave, rounds_of, schedule, summarize
from benchmarks.rates import Rates


def test_a_summary_has_median_quartiles_and_least() -> None:
    summary = summarize([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (summary.median, summary.q1, summary.q3, summary.least, summary.rounds) == (3.0, 2.0, 4.0, 1.0, 5)


def test_a_single_sample_is_its_own_summary() -> None:
    summary = summarize([2.0])
    assert (summary.median, summary.q1, summary.q3) == (2.0, 2.0, 2.0)


def test_no_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summarize([])


def test_slow_contestants_get_fewer_rounds() -> None:
    plan = Plan(budget_s=1.0, most_rounds=40, least_rounds=5, slow_s=2.0)
    rounds = rounds_of({"fast": 0.001, "middling": 0.1, "slowish": 1.0, "slow": 3.0, "slowest": 60.0}, plan)
    assert rounds == {"fast": 40, "middling": 10, "slowish": 5, "slow": 2, "slowest": 1}


def test_turns_are_interleaved_and_all_are_taken() -> None:
    turns = list(schedule({"a": 6, "b": 2, "c": 1}))
    assert {name: turns.count(name) for name in "abc"} == {"a": 6, "b": 2, "c": 1}
    first, second = (index for index, name in enumerate(turns) if name == "b")
    assert "a" in turns[first:second]
    assert turns[-1] != "a" or turns[-2] != "a"


def test_neighbouring_calls_get_different_input_sets() -> None:
    seen: list[int] = []

    def call(inputs: int) -> float:
        seen.append(inputs)
        return 1.0

    interleave({"a": call, "b": call}, [10, 20, 30], {"a": 4, "b": 4})
    assert seen == [10, 20, 30, 10, 20, 30, 10, 20]


def test_input_sets_exceed_twice_the_cache_between_two_uses() -> None:
    assert sets_needed(set_bytes=16 << 20, cache_bytes=32 << 20) == 5
    assert sets_needed(set_bytes=1 << 30, cache_bytes=32 << 20) == 2


def test_the_floor_is_what_takes_longest() -> None:
    rates = Rates(read=1e9, write=5e8, chain_step=1e-9, cell=1e-9)
    memory = rates.floor(Work(2_000_000, 1_000_000, 1000, 1_000))
    assert memory.bound_by == "memory"
    assert memory.seconds == pytest.approx(4e-3)
    chain = rates.floor(Work(1000, 1000, 10_000_000, 1000))
    assert chain.bound_by == "chain"
    assert chain.seconds == pytest.approx(1e-2)
    arithmetic = rates.floor(Work(1000, 1000, 1000, 10_000_000))
    assert arithmetic.bound_by == "arithmetic"
    assert arithmetic.seconds == pytest.approx(1e-2)


@pytest.mark.parametrize("words", [1, 3, 4, 1000, 100_003])
def test_what_is_read_and_written_once_is_all_of_it(words: int) -> None:
    buffer = np.arange(words, dtype=np.int64)
    pieces = floor._pieces(buffer, 4)
    assert sum(len(piece) for piece in pieces) == words
    assert floor.read_once([buffer]) > 0
    assert floor.write_once([buffer]) > 0
    assert not buffer.any()


def test_measured_rates_are_finite_and_positive() -> None:
    assert 0 < floor.chain_step() < 1e-6
    assert 0 < floor.cell_seconds() < 1e-7
