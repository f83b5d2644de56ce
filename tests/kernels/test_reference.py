"""The references against exhaustive search, torch's CTC loss and published facts."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.strategies import GENERATORS, dyadic, normal, random_targets, with_minus_infinity

from alignd_kernels.ctc import reference as ctc
from alignd_kernels.ctc.batch import STAR, STAR_MAX
from alignd_kernels.mas import reference as mas
from alignd_kernels.status import Status

SETTINGS = settings(max_examples=150, deadline=None, derandomize=True)


def mas_paths(tokens: int, frames: int) -> list[np.ndarray]:
    """Every legal path, as the token of each frame."""
    cuts = itertools.combinations(range(1, frames), tokens - 1)
    return [np.searchsorted(np.array(cut, np.int64), np.arange(frames), side="right") for cut in cuts]


@SETTINGS
@given(GENERATORS, st.integers(1, 5), st.integers(0, 5), st.sampled_from([dyadic, normal, with_minus_infinity]))
def test_mas_is_the_best_of_all_paths(rng, tokens, spare, kind) -> None:
    frames = tokens + spare
    value = kind(rng, (tokens, frames))
    status, durations, score = mas.maximum_path(value)
    paths = mas_paths(tokens, frames)
    totals = [value[path, np.arange(frames)].sum() for path in paths]
    if max(totals) == -np.inf:
        assert status == Status.NO_FINITE_PATH
        return
    assert status == Status.OK
    path = np.repeat(np.arange(tokens), durations)
    assert any(np.array_equal(path, other) for other in paths)
    assert score == pytest.approx(max(totals), rel=1e-12, abs=1e-12)
    if kind is not normal:  # exact sums: among the best, seen from the end, the one that stays longest on each token
        best = [tuple(other[::-1]) for other, total in zip(paths, totals) if total == max(totals)]
        assert tuple(path[::-1]) == max(best)


def test_mas_ties_are_those_of_glow_tts() -> None:
    _, durations, _ = mas.maximum_path(np.zeros((3, 7)))
    assert durations.tolist() == [1, 1, 5]


def test_mas_bands_are_the_cells_of_legal_paths() -> None:
    """Poisoning a cell fails the item exactly where a legal path visits the cell."""
    for tokens, frames in [(1, 1), (1, 4), (3, 3), (3, 5), (4, 6)]:
        visited = np.zeros((tokens, frames), bool)
        for path in mas_paths(tokens, frames):
            visited[path, np.arange(frames)] = True
        for cell in np.ndindex(tokens, frames):
            value = np.zeros((tokens, frames))
            value[cell] = np.nan
            expected = Status.NOT_FINITE if visited[cell] else Status.OK
            assert mas.maximum_path(value)[0] == expected


@pytest.mark.parametrize(("tokens", "frames"), [(0, 0), (0, 3), (3, 0)])
def test_mas_of_nothing_is_empty(tokens: int, frames: int) -> None:
    assert mas.maximum_path(np.zeros((tokens, frames)))[0] == Status.EMPTY


def test_mas_with_too_few_frames() -> None:
    assert mas.maximum_path(np.zeros((4, 3)))[0] == Status.TOO_FEW_FRAMES


def ctc_paths(targets: np.ndarray, frames: int) -> list[tuple[int, ...]]:
    """Every legal sequence of states, built by the rule that collapsing repeats and then blanks gives the targets."""
    last = 2 * len(targets)

    def steps(state: int) -> list[int]:
        skip = state % 2 == 1 and state + 2 <= last and targets[state // 2] != targets[state // 2 + 1]
        return [state, state + 1, state + 2] if skip else [state, min(state + 1, last)]

    paths = [(0,), (1,)]
    for _ in range(frames - 1):
        paths = [(*path, state) for path in paths for state in sorted(set(steps(path[-1])))]
    return [path for path in paths if path[-1] >= last - 1]


@SETTINGS
@given(
    GENERATORS,
    st.integers(1, 3),
    st.integers(0, 3),
    st.sampled_from([dyadic, normal, with_minus_infinity]),
    st.sampled_from([0.0, -0.75, STAR_MAX]),
)
def test_ctc_is_the_best_of_all_paths(rng, labels, spare, kind, star_score) -> None:
    blank = int(rng.integers(4))
    targets = random_targets(rng, labels, 4, blank, stars=0.3)
    frames = labels + int(np.count_nonzero(targets[1:] == targets[:-1])) + spare
    log_probs = kind(rng, (frames, 4))
    emission = ctc.emissions(log_probs, targets, blank, star_score)
    paths = ctc_paths(targets, frames)
    totals = [emission[np.arange(frames), list(path)].sum() for path in paths]
    found = ctc.forced_align(log_probs, targets, blank, star_score)
    if max(totals) == -np.inf:
        assert found.status == Status.NO_FINITE_PATH
        return
    assert found.status == Status.OK
    assert tuple(found.path) in paths
    assert found.score == pytest.approx(max(totals), rel=1e-12, abs=1e-12)
    if kind is not normal:  # exact sums: of the best, one that ends on the label; seen from there, the one that stays
        best = [path for path, total in zip(paths, totals) if total == max(totals)]
        on_label = [path for path in best if path[-1] == 2 * labels - 1]
        assert tuple(found.path[::-1]) == max(path[::-1] for path in on_label or best)
    counts = [np.count_nonzero(found.path == 2 * i + 1) for i in range(labels)]
    assert found.durations.tolist() == counts
    np.testing.assert_array_equal(found.frame_scores, emission[np.arange(frames), found.path].astype(np.float32))


def test_ctc_cells_are_those_of_legal_paths() -> None:
    for targets in ([1], [1, 1], [1, 2], [1, 2, 2], [STAR, 1]):
        labels = np.array(targets, np.int32)
        repeats = int(np.count_nonzero(labels[1:] == labels[:-1]))
        for frames in range(len(targets) + repeats, len(targets) + repeats + 4):
            first, last = ctc.visiting_times(labels, frames)
            paths = np.array(ctc_paths(labels, frames))
            for state in range(2 * len(targets) + 1):
                visits = np.flatnonzero((paths == state).any(0))
                assert visits.tolist() == list(range(first[state], last[state] + 1))


@SETTINGS
@given(GENERATORS, st.integers(1, 6), st.integers(0, 10))
def test_ctc_against_torchs_loss(rng, labels, spare) -> None:
    """The loss sums over all paths, so the best one cannot be more probable; and a lone path is the sum."""
    torch = pytest.importorskip("torch")
    targets = random_targets(rng, labels, 5, 0, stars=0)
    repeats = int(np.count_nonzero(targets[1:] == targets[:-1]))
    frames = labels + repeats + spare
    log_probs = torch.randn(frames, 5, generator=torch.Generator().manual_seed(int(rng.integers(2**31))))
    log_probs = log_probs.double().log_softmax(1)
    loss = torch.nn.functional.ctc_loss(
        log_probs[:, None], torch.from_numpy(targets)[None].long(), [frames], [labels], reduction="sum"
    )
    found = ctc.forced_align(log_probs.numpy(), targets)
    total = -loss.item()
    assert found.score <= total + 1e-9
    paths = len(ctc_paths(targets, frames)) if frames < 9 else None
    if spare == 0:
        assert paths in (1, None)
        assert found.score == pytest.approx(total, abs=1e-9)
    elif paths is not None:
        assert total <= found.score + np.log(paths) + 1e-9


@pytest.mark.parametrize(
    ("targets", "frames", "blank", "status"),
    [
        ([], 5, 0, Status.EMPTY),
        ([1], 0, 0, Status.EMPTY),
        ([1], 5, 4, Status.TARGET_OUT_OF_RANGE),
        ([1], 5, -1, Status.TARGET_OUT_OF_RANGE),
        ([1, 4], 5, 0, Status.TARGET_OUT_OF_RANGE),
        ([-2], 5, 0, Status.TARGET_OUT_OF_RANGE),
        ([1, 0], 5, 0, Status.TARGET_IS_BLANK),
        ([1, STAR, STAR], 5, 0, Status.ADJACENT_STARS),
        ([1, 2, 3], 2, 0, Status.TOO_FEW_FRAMES),
        ([1, 1], 2, 0, Status.TOO_FEW_FRAMES),
        ([1, 1], 3, 0, Status.OK),
        ([0, 9], 1, 0, Status.TARGET_IS_BLANK),
    ],
)
def test_ctc_checks_targets_in_order(targets: list[int], frames: int, blank: int, status: Status) -> None:
    assert ctc.forced_align(np.zeros((frames, 4)), np.array(targets, np.int32), blank).status == status


def test_ctc_ties_stay_then_move_then_skip_and_end_on_the_label() -> None:
    found = ctc.forced_align(np.zeros((6, 3)), np.array([1, 2], np.int32))
    assert found.path.tolist() == [1, 3, 3, 3, 3, 3]
