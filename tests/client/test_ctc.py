"""CTC forced alignment through every door."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from alignd_client import STAR, InvalidItemError, InvalidItemsError, InvalidRequestError, ItemCode, TokenSpan
from alignd_kernels.ctc import reference


def emissions(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Log-scores on a dyadic grid, exact in every dtype."""
    return (-np.random.default_rng(seed).integers(0, 32, shape) / 8).astype(np.float32)


CASES = [([1, 2, 3], 7, 0), ([1, 1], 3, 1), ([4], 1, 2), ([2, 2, 2, 1], 20, 3), ([STAR, 1, STAR], 9, 4)]


def labels_of(path: npt.NDArray[Any], targets: list[int], blank: int) -> list[int]:
    return [targets[state // 2] if state % 2 else blank for state in path.tolist()]


def spans_of(path: npt.NDArray[Any], targets: list[int], scores: npt.NDArray[Any]) -> list[TokenSpan]:
    spans = []
    for i, token in enumerate(targets):
        frames = [t for t, state in enumerate(path.tolist()) if state == 2 * i + 1]
        mean = sum(float(scores[t]) for t in frames) / len(frames)
        spans.append(TokenSpan(token, frames[0], frames[-1] + 1, mean))
    return spans


@pytest.mark.parametrize("star_score", [0.0, -1.5, "max"])
def test_ragged_items_match_the_reference(client: Any, star_score: Any) -> None:
    log_probs = [emissions(frames, 5, seed=seed) for _, frames, seed in CASES]
    targets = [[(target - 1) % 4 if target > 0 else target for target in case[0]] for case in CASES]
    results = list(client.align_ctc(log_probs, targets, blank=4, star_score=star_score))
    assert len(results) == len(CASES)
    wanted_star = math.nan if star_score == "max" else star_score
    for matrix, labels, result in zip(log_probs, targets, results):
        expected = reference.forced_align(matrix, np.array(labels), 4, wanted_star)
        assert result.status.ok
        np.testing.assert_array_equal(result.path, expected.path)
        np.testing.assert_array_equal(result.durations, expected.durations)
        np.testing.assert_array_equal(result.frame_scores, expected.frame_scores)
        assert result.score == expected.score
        assert result.labels.tolist() == labels_of(expected.path, labels, 4)
        assert result.path.dtype == result.durations.dtype == result.labels.dtype == np.int32
        assert list(result.spans) == spans_of(expected.path, labels, expected.frame_scores)
        assert [len(span) for span in result.spans] == expected.durations.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors(client: Any, dtype: torch.dtype) -> None:
    matrix = emissions(8, 4)
    (result,) = client.align_ctc([torch.from_numpy(matrix).to(dtype)], [torch.tensor([1, 3])])
    expected = reference.forced_align(matrix, np.array([1, 3]))
    for array in (result.path, result.durations, result.labels, result.frame_scores):
        assert isinstance(array, torch.Tensor)
    np.testing.assert_array_equal(result.path.numpy(), expected.path)

    paths, scores = client.forced_align(torch.from_numpy(matrix).to(dtype)[None], torch.tensor([[1, 3]]))
    assert paths.dtype == torch.int64
    assert scores.dtype == dtype
    assert paths[0].tolist() == result.labels.tolist()
    assert scores[0].tolist() == expected.frame_scores.tolist()


@pytest.mark.parametrize(
    "targets",
    [[1, 3], (1, 3), range(1, 4, 2), np.array([1, 3], np.uint8), np.array([3, 1])[::-1], torch.tensor([1, 3])],
    ids=["list", "tuple", "range", "uint8", "reversed", "tensor"],
)
def test_kinds_of_targets(client: Any, targets: Any) -> None:
    (result,) = client.align_ctc([emissions(8, 4)], [targets])
    assert [span.token for span in result.spans] == [1, 3]


def test_drop_in_of_a_padded_batch(client: Any) -> None:
    log_probs = emissions(3, 9, 6)
    targets = np.array([[1, 2, 2, 4], [3, 0, 0, 0], [5, 1, 5, 0]], np.int32)
    frames, lengths = [9, 4, 6], torch.tensor([4, 1, 3])
    paths, scores = client.forced_align(log_probs, targets, frames, lengths)
    assert paths.shape == scores.shape == (3, 9)
    assert paths.dtype == np.int32
    assert scores.dtype == np.float32
    for b in range(3):
        labels = targets[b, : lengths[b]].tolist()
        expected = reference.forced_align(log_probs[b, : frames[b]], np.array(labels))
        assert paths[b, : frames[b]].tolist() == labels_of(expected.path, labels, 0)
        np.testing.assert_array_equal(scores[b, : frames[b]], expected.frame_scores)
        assert not paths[b, frames[b] :].any()
        assert not scores[b, frames[b] :].any()


@pytest.mark.parametrize("star_score", [-0.1, "max"])
def test_scores_of_float64_are_float64(client: Any, star_score: Any) -> None:
    log_probs = np.log(np.random.default_rng(0).dirichlet(np.ones(5), (1, 12)))
    targets = [[2, STAR, 1]]
    paths, scores = client.forced_align(log_probs, targets, star_score=star_score)
    assert scores.dtype == np.float64
    for t, label in enumerate(paths[0].tolist()):
        star = log_probs[0, t, 1:].max() if star_score == "max" else np.float32(star_score)
        assert scores[0, t] == (star if label == STAR else log_probs[0, t, label])
    assert STAR in paths[0]


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_a_blank_that_the_paths_cannot_hold(client: Any, make: Any) -> None:
    log_probs = emissions(1, 6, 300)
    targets = make([[1, 2]])
    for narrow in ("uint8", "int8"):
        typed = targets.to(getattr(torch, narrow)) if make is torch.tensor else targets.astype(narrow)
        with pytest.raises(InvalidRequestError, match=f"blank: 299 does not fit {narrow}"):
            client.forced_align(log_probs, typed, blank=299)
    typed = targets.to(torch.int16) if make is torch.tensor else targets.astype(np.uint16)
    paths, _ = client.forced_align(log_probs, typed, blank=299)
    assert paths.dtype == typed.dtype
    assert 299 in paths


def test_blank_pads_the_drop_ins_paths(client: Any) -> None:
    paths, _ = client.forced_align(emissions(1, 6, 4), [[0, 1]], [4], blank=3)
    assert paths[0, 4:].tolist() == [3, 3]
    assert paths.dtype == np.int64


@pytest.mark.parametrize(
    ("frames", "targets", "code"),
    [
        (3, [1, 1, 2], ItemCode.TOO_FEW_FRAMES),
        (5, [], ItemCode.EMPTY),
        (0, [1], ItemCode.EMPTY),
        (5, [1, 4], ItemCode.TARGET_OUT_OF_RANGE),
        (5, [1, -2], ItemCode.TARGET_OUT_OF_RANGE),
        (5, [1, 2**40 + 1], ItemCode.TARGET_OUT_OF_RANGE),
        (5, np.array([2**63], np.uint64), ItemCode.TARGET_OUT_OF_RANGE),
        (5, [1, 0], ItemCode.TARGET_IS_BLANK),
        (9, [1, STAR, STAR], ItemCode.ADJACENT_STARS),
    ],
)
def test_a_bad_item_among_good_ones(client: Any, frames: int, targets: Any, code: ItemCode) -> None:
    log_probs = [emissions(6, 4), emissions(frames, 4), emissions(6, 4)]
    results = list(client.align_ctc(log_probs, [[1], targets, [2]], on_error="return"))
    assert [result.status.code for result in results] == [ItemCode.OK, code, ItemCode.OK]
    assert results[1].spans == ()
    assert len(results[1].labels) == 0
    with pytest.raises(InvalidItemError, match="item 1"):
        list(client.align_ctc(log_probs, [[1], targets, [2]]))


def test_drop_in_lists_every_bad_item(client: Any) -> None:
    with pytest.raises(InvalidItemsError) as caught:
        client.forced_align(emissions(3, 6, 4), [[0, 1], [1, 2], [1, 9]])
    assert caught.value.indices == [0, 2]
    assert [error.code for error in caught.value.errors] == [ItemCode.TARGET_IS_BLANK, ItemCode.TARGET_OUT_OF_RANGE]


@pytest.mark.parametrize(
    ("shape", "code", "field", "words"),
    [
        ((6, 3), ItemCode.TARGET_OUT_OF_RANGE, "blank", "the blank, 3, is no column of a vocabulary of 3"),
        ((6, 0), ItemCode.EMPTY, "frames", "1 targets, 6 frames, vocabulary of 0"),
        ((0, 4), ItemCode.EMPTY, "frames", "1 targets, 0 frames, vocabulary of 4"),
        ((0, 0), ItemCode.EMPTY, "frames", "1 targets, 0 frames, vocabulary of 0"),
    ],
)
def test_an_item_that_no_request_can_hold(
    client: Any, shape: tuple[int, int], code: ItemCode, field: str, words: str
) -> None:
    good = emissions(1, 6, 4)[0]
    found = list(client.align_ctc([good, np.zeros(shape, np.float32), good], [[1]] * 3, blank=3, on_error="return"))
    assert [one.status.ok for one in found] == [True, False, True]
    assert found[1].status[:2] == (code, field)
    assert words in found[1].status.message


def test_scores_below_float32_are_minus_infinity(client: Any) -> None:
    (found,) = client.align_ctc([emissions(1, 1, 4)[0]], [[STAR]], star_score=-1e39, on_error="return")
    assert found.status.code is ItemCode.NO_FINITE_PATH


@pytest.mark.parametrize(
    ("arguments", "options", "field"),
    [
        (([[1]], [6, 6]), {}, "input_lengths"),
        (([[1]], [7]), {}, "input_lengths"),
        (([[1]], [-1]), {}, "input_lengths"),
        (([[1]], None, [2]), {}, "target_lengths"),
        (([[1], [2]],), {}, "targets"),
        (([[1]],), {"blank": -1}, "blank"),
        (([[1]],), {"blank": 4}, "blank"),
        (([[1]],), {"blank": 0.5}, "blank"),
        (([[1]],), {"star_score": math.nan}, "star_score"),
        (([[1]],), {"star_score": math.inf}, "star_score"),
        (([[1]],), {"star_score": 1e39}, "star_score"),
        (([[1]],), {"star_score": "min"}, "star_score"),
    ],
)
def test_arguments_that_contradict_each_other(client: Any, arguments: Any, options: Any, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        client.forced_align(emissions(1, 6, 4), *arguments, **options)
    assert caught.value.field == field
    assert caught.value.reason
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("targets", "error", "words"),
    [
        ([1.5], TypeError, "float64"),
        (np.array([1.0]), TypeError, "float64"),
        (torch.tensor([1.0], dtype=torch.bfloat16), TypeError, "bfloat16"),
        (np.array([True]), TypeError, "bool"),
        ("abc", TypeError, "str"),
        (3, TypeError, "int"),
        ([[1, 2]], ValueError, "1-D"),
        ([[1], [1, 2]], ValueError, "labels"),
    ],
)
def test_targets_that_are_none(client: Any, targets: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        list(client.align_ctc([emissions(6, 4)], [targets]))


def test_other_counts_of_emissions_and_targets(client: Any) -> None:
    good = emissions(6, 4)
    results = client.align_ctc([good, good], [[1]])
    assert next(results).status.ok
    with pytest.raises(InvalidRequestError, match=r"targets.* 1 of them and more log_probs"):
        next(results)
    with pytest.raises(InvalidRequestError, match=r"log_probs.* 1 of them and more targets"):
        list(client.align_ctc([good], [[1], [2], [3]]))


def test_vocabularies_may_differ(client: Any) -> None:
    log_probs = [emissions(6, vocabulary) for vocabulary in (3, 5, 3, 4, 4)]
    results = client.align_ctc(log_probs, [[2], [4], [1], [3], [2]])
    assert [result.spans[0].token for result in results] == [2, 4, 1, 3, 2]
