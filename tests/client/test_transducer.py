"""Transducer lattices through every door."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from alignd_client import AlignClient, InvalidItemError, InvalidItemsError, InvalidRequestError, ItemCode
from alignd_client.transducer_items import reduced
from alignd_kernels.transducer import reference


def joint(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Log-scores on a dyadic grid, exact in every dtype."""
    return (-np.random.default_rng(seed).integers(0, 32, shape) / 8).astype(np.float32)


CASES: list[tuple[int, list[int]]] = [(7, [1, 2, 3]), (3, [1, 1]), (1, [4]), (9, []), (6, [3, 4, 4, 1]), (2, [2])]


def durations_of(starts: npt.NDArray[Any], frames: int) -> list[int]:
    return [end - start for start, end in zip(starts.tolist(), [*starts.tolist()[1:], frames])]


def items(vocabulary: int = 5) -> tuple[list[Any], list[list[int]]]:
    log_probs = [joint(T, len(labels) + 1, vocabulary, seed=seed) for seed, (T, labels) in enumerate(CASES)]
    return log_probs, [labels for _, labels in CASES]


@pytest.mark.parametrize("modified", [False, True])
def test_ragged_items_match_the_reference(client: Any, modified: bool) -> None:
    log_probs, targets = items()
    results = list(client.align_transducer(log_probs, targets, modified=modified))
    assert len(results) == len(CASES)
    for x, labels, result in zip(log_probs, targets, results):
        _, starts, score = reference.align(reference.arcs_of(x, np.array(labels, int), 0), modified, np.float32)
        assert result.status.ok
        assert result.emission_frames.tolist() == starts.tolist()
        assert result.durations.tolist() == durations_of(starts, len(x))
        assert result.emission_frames.dtype == result.durations.dtype == np.int32
        assert result.score == score
        assert result.frames == len(x)


def test_the_blank_is_any_column(client: Any) -> None:
    log_probs, targets = items()
    last = [[label - 1 for label in labels] for labels in targets]
    rolled = [np.roll(x, -1, axis=2) for x in log_probs]
    expected = [result.emission_frames.tolist() for result in client.align_transducer(log_probs, targets)]
    found = client.align_transducer(rolled, last, blank=4)
    assert [result.emission_frames.tolist() for result in found] == expected


@pytest.mark.parametrize("modified", [False, True])
def test_posteriors_match_the_reference(client: Any, modified: bool) -> None:
    log_probs, targets = items()
    results = list(client.transducer_posteriors(log_probs, targets, modified=modified))
    for x, labels, result in zip(log_probs, targets, results, strict=True):
        _, nodes, score = reference.posteriors(reference.arcs_of(x, np.array(labels, int), 0), modified)
        assert result.posteriors.shape == (len(x), len(labels) + 1)
        assert result.posteriors.dtype == np.float32
        np.testing.assert_allclose(result.posteriors, nodes, atol=1e-5)
        assert result.score == pytest.approx(score, rel=1e-5)


def test_reduced_log_probs_need_no_targets(client: Any) -> None:
    log_probs, targets = items()
    arcs = [reduced(x, np.array(labels, np.int32), 0) for x, labels in zip(log_probs, targets)]
    expected = list(client.align_transducer(log_probs, targets))
    for one, other in zip(expected, client.align_transducer(arcs), strict=True):
        assert one.emission_frames.tolist() == other.emission_frames.tolist()
        assert one.score == other.score
    stack = np.stack([arcs[0], arcs[0] - 1])
    assert [a.emission_frames.tolist() for a in client.align_transducer(stack)] == [
        expected[0].emission_frames.tolist()
    ] * 2


def test_two_columns_travel() -> None:
    """60 MB of joint log-probs, as a large vocabulary makes them, are 0.1 MB of blank and label."""
    log_probs, targets = np.zeros((100, 31, 5000), np.float32), np.ones(30, np.int32)
    assert log_probs.nbytes > 60e6
    assert reduced(log_probs, targets, 0).nbytes < 0.1e6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors(client: Any, dtype: torch.dtype) -> None:
    log_probs, targets = items()
    tensors = [torch.from_numpy(x).to(dtype).requires_grad_() for x in log_probs]
    results = client.align_transducer(tensors, [torch.tensor(labels, dtype=torch.int64) for labels in targets])
    for x, labels, result in zip(log_probs, targets, results, strict=True):
        _, starts, _ = reference.align(reference.arcs_of(x, np.array(labels, int), 0), False, np.float32)
        assert isinstance(result.emission_frames, torch.Tensor)
        assert isinstance(result.durations, torch.Tensor)
        assert result.emission_frames.tolist() == starts.tolist()
    (nodes,) = client.transducer_posteriors(tensors[:1], [torch.tensor(targets[0])])
    assert isinstance(nodes.posteriors, torch.Tensor)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["NumPy", "torch"])
@pytest.mark.parametrize("modified", [False, True])
def test_padded_batch(client: Any, kind: Any, modified: bool) -> None:
    log_probs = joint(3, 8, 4, 6)
    targets = np.array([[1, 2, 5], [3, 0, -7], [5, 1, 0]], np.int64)  # what lies past a length is not looked at
    frames, lengths = [8, 3, 5], [3, 1, 2]
    starts, durations, scores = client.transducer_align(
        kind(log_probs), targets, torch.tensor(frames), lengths, modified=modified
    )
    assert isinstance(starts, type(kind(log_probs)))
    starts, durations, scores = (np.asarray(array) for array in (starts, durations, scores))
    assert starts.shape == durations.shape == (3, 3)
    assert (starts.dtype, durations.dtype, scores.dtype) == (np.int32, np.int32, np.float64)
    for b in range(3):
        T, U = frames[b], lengths[b]
        arcs = reference.arcs_of(log_probs[b, :T, : U + 1], targets[b, :U], 0)
        _, expected, score = reference.align(arcs, modified, np.float32)
        assert starts[b, :U].tolist() == expected.tolist()
        assert durations[b, :U].tolist() == durations_of(expected, T)
        assert not starts[b, U:].any()
        assert not durations[b, U:].any()
        assert scores[b] == score


def test_a_padded_batch_that_is_reduced(client: Any) -> None:
    log_probs, targets = joint(2, 5, 3, 4), np.array([[1, 2], [3, 3]], np.int32)
    arcs = reduced(log_probs, targets, 0)
    whole = client.transducer_align(log_probs, targets)
    for one, other in zip(whole, client.transducer_align(arcs), strict=True):
        assert one.tolist() == other.tolist()


BAD: dict[str, tuple[Any, list[int], ItemCode, str]] = {
    "no frames": (np.zeros((0, 2, 3), "f4"), [1], ItemCode.EMPTY, "needs a frame"),
    "a target outside": (np.zeros((2, 2, 3), "f4"), [3], ItemCode.TARGET_OUT_OF_RANGE, "target 3 is out of range"),
    "a negative target": (np.zeros((2, 2, 3), "f4"), [-1], ItemCode.TARGET_OUT_OF_RANGE, "target -1"),
    "a blank target": (np.zeros((2, 2, 3), "f4"), [0], ItemCode.TARGET_IS_BLANK, "is the blank"),
    "NaN": (np.full((2, 2, 3), np.nan, "f4"), [1], ItemCode.NOT_FINITE, "NOT_FINITE"),
    "infinite": (np.full((2, 2, 3), np.inf, "f4"), [1], ItemCode.NOT_FINITE, "NOT_FINITE"),
    "no way": (np.full((2, 2, 3), -np.inf, "f4"), [1], ItemCode.NO_FINITE_PATH, "NO_FINITE_PATH"),
    "other labels": (
        np.zeros((2, 3, 3), "f4"),
        [1],
        ItemCode.MALFORMED,
        "but 1 targets ask for 2: joint log-probs are [",
    ),
    "other dimensions": (np.zeros((2, 3), "f4"), [1], ItemCode.MALFORMED, "3-D"),
    "integers": (np.zeros((2, 2, 3), int), [1], ItemCode.MALFORMED, "float16, bfloat16, float32 or float64"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("method", ["align_transducer", "transducer_posteriors"])
def test_a_bad_item_fails_alone(client: Any, method: str, name: str) -> None:
    log_probs, targets, code, words = BAD[name]
    good = joint(4, 2, 3)
    answers = getattr(client, method)([good, log_probs, good], [[1], targets, [2]], on_error="return")
    one, bad, other = list(answers)
    assert one.status.ok
    assert other.status.ok
    assert bad.status.code is code
    assert words in bad.status.message
    assert np.isnan(bad.score)
    assert len(bad.emission_frames if method == "align_transducer" else bad.posteriors) == 0


def test_labels_that_one_symbol_a_frame_leaves_no_room_for(client: Any) -> None:
    (result,) = client.align_transducer([joint(2, 4, 3)], [[1, 2, 1]], modified=True, on_error="return")
    assert result.status.code is ItemCode.TOO_FEW_FRAMES
    (result,) = client.align_transducer([joint(2, 4, 3)], [[1, 2, 1]])
    assert result.status.ok


def test_errors_name_what_is_wrong(client: Any) -> None:
    good = joint(4, 2, 3)
    with pytest.raises(InvalidRequestError, match="blank"):
        client.align_transducer([good], [[1]], blank=-1)
    with pytest.raises(InvalidRequestError, match="blank: must be an integer, not True"):
        client.align_transducer([good], [[1]], blank=True)
    with pytest.raises(InvalidRequestError, match="modified: must be True or False, not 'no'"):
        client.align_transducer([good], [[1]], modified="no")
    with pytest.raises(ValueError, match="on_error"):
        client.align_transducer([good], [[1]], on_error="ignore")
    with pytest.raises(InvalidRequestError, match="1 of them and more log_probs"):
        list(client.align_transducer([good, good], [[1]]))
    arcs = reduced(good, np.array([1], np.int32), 0)
    with pytest.raises(InvalidRequestError, match="without targets column 0 is the blank"):
        list(client.align_transducer([arcs], blank=1))
    with pytest.raises(InvalidRequestError, match="without targets column 0 is the blank"):
        client.transducer_align(arcs[None], blank=1)
    with pytest.raises(ValueError, match=r"without targets must be \[frames, labels \+ 1, 2\]"):
        list(client.align_transducer([good]))
    with pytest.raises(InvalidItemError, match="item 1: target 7"):
        list(client.align_transducer([good, good], [[1], [7]]))
    with pytest.raises(InvalidItemsError, match="2 of 3") as raised:
        client.transducer_align(joint(3, 4, 2, 3), [[1], [0], [9]])
    assert [error.code for error in raised.value.errors] == [ItemCode.TARGET_IS_BLANK, ItemCode.TARGET_OUT_OF_RANGE]
    for arguments, words in (
        ((joint(3, 4, 2, 3),), "log_probs of 3 columns need them"),
        ((joint(3, 4, 2, 3), [[1, 2]] * 3), r"their shape is \[3, 2\]"),
        ((joint(3, 4, 2, 3), [[1]] * 3, [5, 4, 4]), "item 0 has 5"),
        ((joint(3, 4, 2, 3), [[1]] * 3, None, [1, 1, 2]), "item 2 has 2"),
        ((joint(3, 4, 0, 3), np.zeros((3, 0), int)), "one more than labels"),
    ):
        with pytest.raises(InvalidRequestError, match=words):
            client.transducer_align(*arguments)


def test_a_server_that_answers_nonsense_is_not_believed(connect: Any, server: Any, monkeypatch: Any) -> None:
    """Frames out of order, or that are none."""
    from alignd import wire
    from support import reference_answers

    for starts in ([2, 1], [0, 4], [-1, 0]):
        reply = wire.TransducerReply((wire.OK,), np.array(starts, np.int32), np.zeros(1))
        monkeypatch.setitem(reference_answers.ANSWERS, "TransducerAlign", lambda request, reply=reply: reply)
        with pytest.raises(Exception, match="in order"):
            list(connect().align_transducer([joint(4, 3, 3)], [[1, 2]]))


def test_methods_stand_in_both_clients() -> None:
    from alignd_client.aio import AsyncAlignClient

    for name in ("align_transducer", "transducer_posteriors", "transducer_align"):
        assert getattr(AlignClient, name).__doc__
        assert f"`AlignClient.{name}`" in getattr(AsyncAlignClient, name).__doc__
