"""CTC forced alignment by Numba against the reference."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from kernels.strategies import (
    GENERATORS,
    check_ctc,
    ctc_batch,
    ctc_batches,
    ctc_item,
    dyadic,
    normal,
    random_targets,
    same_results,
    stored,
    time_ratio,
)

from alignd_kernels.ctc import cpu, reference
from alignd_kernels.ctc.batch import STAR, STAR_MAX, CtcBatch
from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import offsets_of
from alignd_kernels.status import Status
from alignd_kernels.threads import WorkerPool

SETTINGS = settings(max_examples=150, deadline=None, derandomize=True)
FEW = settings(SETTINGS, max_examples=30)


def visited_columns(batch: CtcBatch, index: int) -> np.ndarray:
    """Which of an item's log-probs [T, V] stand for a cell that some legal path visits."""
    log_probs, targets, blank, star_score = ctc_item(batch, index)
    first, last = reference.visiting_times(targets, len(log_probs))
    visited = np.zeros(log_probs.shape, bool)
    for state in range(len(first)):
        label = targets[state // 2] if state % 2 else blank
        frames = slice(first[state], last[state] + 1)
        if label != STAR:
            visited[frames, label] = True
        elif np.isnan(star_score):
            visited[frames, np.arange(log_probs.shape[1]) != blank] = True
    return visited


def rows_of(batch: CtcBatch, log_probs: np.ndarray, index: int) -> np.ndarray:
    """An item's part of a flat buffer, writable, [T, V]."""
    T, V, pitch = int(batch.frames[index]), int(batch.vocabulary[index]), int(batch.pitches[index])
    return log_probs[batch.offsets[index] :][: T * pitch].reshape(T, pitch)[:, :V]


@SETTINGS
@given(ctc_batches())
def test_equals_the_reference(batch: CtcBatch) -> None:
    check_ctc(batch, cpu.align(batch))


@FEW
@given(ctc_batches(kinds=[dyadic, normal], max_labels=60, max_spare=150, max_items=2))
def test_equals_the_reference_on_longer_items(batch: CtcBatch) -> None:
    check_ctc(batch, cpu.align(batch))


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("spare", [-1, 0, 1, 2, 7, 8])
@pytest.mark.parametrize("targets", [[1], [1, 1], [1, 2, 3], [2] * 9, [STAR], [1, STAR, 1], [STAR, 2]])
def test_items_with_few_frames_to_spare(dtype: DType, spare: int, targets: list[int]) -> None:
    repeats = sum(a == b for a, b in zip(targets[1:], targets))
    x = dyadic(np.random.default_rng(5), (len(targets) + repeats + spare, 4))
    batch = ctc_batch([(x, np.array(targets, np.int32), 0, star) for star in (-0.5, STAR_MAX)], dtype)
    check_ctc(batch, cpu.align(batch))


@SETTINGS
@given(ctc_batches(kinds=[dyadic, normal]), GENERATORS)
def test_what_no_path_visits_changes_nothing(batch: CtcBatch, rng: np.random.Generator) -> None:
    log_probs, before = batch.log_probs.copy(), cpu.align(batch)
    for index in np.flatnonzero(before.statuses == Status.OK):
        rows = rows_of(batch, log_probs, index)
        garbage = stored(rng.choice([np.nan, np.inf, -np.inf, 1e30], rows.shape), batch.dtype)
        rows[...] = np.where(visited_columns(batch, index), rows, garbage)
    same_results(cpu.align(dataclasses.replace(batch, log_probs=log_probs)), before)


@SETTINGS
@given(ctc_batches(kinds=[dyadic, normal]), GENERATORS)
def test_one_bad_cell_on_a_legal_path_is_found(batch: CtcBatch, rng: np.random.Generator) -> None:
    log_probs, expected = batch.log_probs.copy(), cpu.align(batch).statuses.copy()
    for index in np.flatnonzero(expected == Status.OK):
        cells = np.argwhere(visited_columns(batch, index))
        frame, column = cells[rng.integers(len(cells))] if len(cells) else (0, 0)
        rows_of(batch, log_probs, index)[frame, column] = stored(rng.choice([np.nan, np.inf]), batch.dtype)
        expected[index] = Status.NOT_FINITE if len(cells) else Status.OK
    result = cpu.align(dataclasses.replace(batch, log_probs=log_probs))
    np.testing.assert_array_equal(result.statuses, expected)


@SETTINGS
@given(ctc_batches(kinds=[dyadic], max_labels=60, max_spare=90, max_items=2), GENERATORS)
def test_one_bad_cell_on_a_legal_path_is_found_among_many_that_lie_on_none(
    batch: CtcBatch, rng: np.random.Generator
) -> None:
    log_probs, expected = batch.log_probs.copy(), cpu.align(batch).statuses.copy()
    for index in np.flatnonzero(expected == Status.OK):
        rows, visited = rows_of(batch, log_probs, index), visited_columns(batch, index)
        garbage = stored(rng.choice([np.nan, np.inf], rows.shape), batch.dtype)
        rows[...] = np.where(visited, rows, garbage)
        if cells := np.argwhere(visited).tolist():
            rows[tuple(cells[rng.integers(len(cells))])] = stored(rng.choice([np.nan, np.inf]), batch.dtype)
            expected[index] = Status.NOT_FINITE
    result = cpu.align(dataclasses.replace(batch, log_probs=log_probs))
    np.testing.assert_array_equal(result.statuses, expected)


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.FLOAT64])
@pytest.mark.parametrize(
    ("frames", "labels", "vocabulary"),
    [(11500, 5750, 3), (5000, 4990, 200)],
    ids=["more labels a frame than columns", "fewer"],
)
def test_a_bad_item_takes_no_longer_than_a_good_one(dtype: DType, frames: int, labels: int, vocabulary: int) -> None:
    targets = (np.arange(labels) % (vocabulary - 1) + 1).astype(np.int32)
    log_probs = normal(np.random.default_rng(10), (frames, vocabulary))
    good = ctc_batch([(log_probs, targets, 0, 0.0)], dtype)
    log_probs[-1] = np.nan
    bad = ctc_batch([(log_probs, targets, 0, 0.0)], dtype)
    assert cpu.align(bad).statuses.tolist() == [Status.NOT_FINITE]
    assert time_ratio(lambda: cpu.align(bad), lambda: cpu.align(good)) < 4


@FEW
@given(ctc_batches(max_items=12))
def test_a_batch_equals_its_items_alone(batch: CtcBatch) -> None:
    whole = cpu.align(batch)
    frames, labels = offsets_of(batch.frames), offsets_of(batch.target_lengths)
    flat = ("log_probs", "targets")
    for index in range(len(batch)):
        one = slice(index, index + 1)
        per_item = {
            field.name: getattr(batch, field.name)[one]
            for field in dataclasses.fields(batch)
            if field.name not in (*flat, "dtype", "sources")
        }
        alone = cpu.align(dataclasses.replace(batch, **per_item))
        own = slice(frames[index], frames[index + 1])
        np.testing.assert_array_equal(alone.paths, whole.paths[own])
        np.testing.assert_array_equal(alone.frame_scores, whole.frame_scores[own])
        np.testing.assert_array_equal(alone.durations, whole.durations[labels[index] : labels[index + 1]])
        np.testing.assert_array_equal(alone.scores, whole.scores[one])
        np.testing.assert_array_equal(alone.statuses, whole.statuses[one])


@pytest.mark.parametrize("dtype", DType)
def test_threads_change_nothing(dtype: DType) -> None:
    rng = np.random.default_rng(6)
    items = []
    for length, spare in rng.integers(0, 90, (60, 2)):
        targets = random_targets(rng, int(length), 30, 3)
        items.append((normal(rng, (2 * int(length) + int(spare), 30)), targets, 3, STAR_MAX))
    batch = ctc_batch(items, dtype)
    with WorkerPool(3) as pool:
        same_results(cpu.align(batch, pool), cpu.align(batch))


def score_of_the_peers_tie_rule(log_probs: np.ndarray, targets: np.ndarray, blank: int) -> float:
    """Score of the path that the rule of torchaudio and ctc-forced-aligner finds.

    It skips if that is strictly better than both others, else moves if that is, else stays; so it stays, worse than
    need be, where moving and skipping are equal.
    """
    T, L = len(log_probs), len(targets)
    states = [blank if s % 2 == 0 else targets[s // 2] for s in range(2 * L + 1)]
    scores = np.full(2 * L + 1, -np.inf)
    scores[:2] = log_probs[0, states[0]], log_probs[0, states[1]]
    steps = np.zeros((T, 2 * L + 1), np.int64)
    for t in range(1, T):
        before = scores.copy()
        for s in range(2 * L + 1):
            stay, move = before[s], before[s - 1] if s > 0 else -np.inf
            skips = s % 2 == 1 and s > 1 and states[s] != states[s - 2]
            skip = before[s - 2] if skips else -np.inf
            if skip > move and skip > stay:
                best, steps[t, s] = skip, 2
            elif move > stay and move > skip:
                best, steps[t, s] = move, 1
            else:
                best = stay
            scores[s] = best + log_probs[t, states[s]]
    return float(max(scores[2 * L], scores[2 * L - 1]))


@FEW
@given(ctc_batches(kinds=[dyadic], max_labels=8, max_spare=20, max_items=20))
def test_the_score_is_never_below_that_of_the_peers_tie_rule(batch: CtcBatch) -> None:
    result = cpu.align(batch)
    for index in np.flatnonzero(result.statuses == Status.OK):
        log_probs, targets, blank, _ = ctc_item(batch, index)
        if STAR not in targets:
            assert result.scores[index] >= score_of_the_peers_tie_rule(log_probs, targets, blank)


def test_the_peers_tie_rule_does_lose_somewhere() -> None:
    """Otherwise the test above would prove nothing."""
    rng = np.random.default_rng(7)
    items = [(dyadic(rng, (20, 4)), random_targets(rng, 6, 4, 0, stars=0), 0, 0.0) for _ in range(100)]
    ours = cpu.align(ctc_batch(items, DType.FLOAT32)).scores
    theirs = [score_of_the_peers_tie_rule(*item[:3]) for item in items]
    assert (ours > theirs).any()


def test_more_columns_than_states() -> None:
    rng = np.random.default_rng(8)
    batch = ctc_batch([(normal(rng, (12, 500)), np.array([499, 3, 3], np.int32), 7, 0.0)], DType.FLOAT32)
    check_ctc(batch, cpu.align(batch))


def test_negative_lengths_are_empty_items() -> None:
    good = (np.zeros((4, 3)), np.array([1, 2], np.int32), 0, 0.0)
    batch = ctc_batch([good, good, good], DType.FLOAT32)
    batch = dataclasses.replace(batch, frames=np.array([-1, 4, 4]), target_lengths=np.array([2, -5, 2]))
    assert cpu.align(batch).statuses.tolist() == [Status.EMPTY, Status.EMPTY, Status.OK]


def test_no_items() -> None:
    result = cpu.align(ctc_batch([], DType.FLOAT32))
    assert len(result.statuses) == len(result.paths) == len(result.durations) == len(result.scores) == 0


@pytest.mark.parametrize("dtype", DType)
def test_read_only_buffers(dtype: DType) -> None:
    batch = ctc_batch([(normal(np.random.default_rng(9), (9, 4)), np.array([1, 2], np.int32), 0, 0.0)], dtype)
    read_only = dataclasses.replace(
        batch,
        log_probs=np.frombuffer(batch.log_probs.tobytes(), batch.log_probs.dtype),
        targets=np.frombuffer(batch.targets.tobytes(), np.int32),
    )
    same_results(cpu.align(read_only), cpu.align(batch))


def test_scratch_is_stated_and_small() -> None:
    wide = (np.zeros((1500, 32)), np.arange(300, dtype=np.int32) % 31 + 1, 0, 0.0)
    tight = (np.zeros((301, 32)), wide[1], 0, 0.0)
    infeasible = (np.zeros((3, 32)), wide[1], 0, 0.0)
    need = cpu.scratch_bytes(ctc_batch([wide, tight, infeasible], DType.FLOAT32))
    assert 1200 * 300 * 3 / 8 < need[0] < 1200 * 300 / 2
    assert need[1] < need[0] / 5
    assert need[2] == 0


def test_memory_that_cannot_be_had_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = ctc_batch([(np.zeros((4, 3)), np.array([1, 2], np.int32), 0, 0.0)], DType.FLOAT32)

    def no_memory(*args: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", no_memory)
        with pytest.raises(MemoryError):
            cpu.align(batch)
    check_ctc(batch, cpu.align(batch))
