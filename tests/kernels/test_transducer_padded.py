"""transducer_align as users call it: padded and packed, NumPy and torch, errors."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.strategies import GENERATORS, dyadic
from kernels.transducer_strategies import random_labels

import alignd_kernels as ak
from alignd_kernels.transducer import reason, reference

SETTINGS = settings(max_examples=50, deadline=None, derandomize=True)
torch = pytest.importorskip("torch")

TORCH_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
FRAMES, LABELS, V, BLANK = [9, 4, 7], [5, 0, 3], 6, 2


class Example:
    """Three items, padded, with NaN and bad labels in the padding; and what the reference says of them."""

    def __init__(self, modified: bool = False, dtype: Any = np.float32) -> None:
        rng = np.random.default_rng(5)
        self.log_probs = np.full((3, 10, 7, V), np.nan, dtype)
        self.targets = np.full((3, 6), -5, np.int32)
        self.emission_frames, self.durations = np.zeros((3, 6), np.int32), np.zeros((3, 6), np.int32)
        self.scores = np.zeros(3)
        self.arcs = np.full((3, 10, 7, 2), np.nan, dtype)
        for b, (T, U) in enumerate(zip(FRAMES, LABELS)):
            labels = random_labels(rng, U, V, BLANK)
            log_probs = dyadic(rng, (T, U + 1, V))
            arcs = reference.arcs_of(log_probs, labels, BLANK)
            _, frames, self.scores[b] = reference.align(arcs, modified)
            self.log_probs[b, :T, : U + 1], self.targets[b, :U] = log_probs, labels
            self.arcs[b, :T, : U + 1] = np.where(np.isinf(arcs), np.nan, arcs)
            self.emission_frames[b, :U] = frames
            self.durations[b, :U] = np.diff(frames, append=T)

    def check(self, found: tuple[Any, ...], labels: int = 6) -> None:
        np.testing.assert_array_equal(found[0], self.emission_frames[:, :labels])
        np.testing.assert_array_equal(found[1], self.durations[:, :labels])
        np.testing.assert_array_equal(found[2], self.scores)
        assert [str(array.dtype).removeprefix("torch.") for array in found[:3]] == ["int32", "int32", "float64"]

    def packed(self) -> tuple[np.ndarray, np.ndarray]:
        nodes = [x[:T, : U + 1].reshape(-1, V) for x, T, U in zip(self.log_probs, FRAMES, LABELS)]
        return np.concatenate(nodes), np.concatenate([y[:U] for y, U in zip(self.targets, LABELS)])


@pytest.mark.parametrize("modified", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_padded_numpy(dtype: str, modified: bool) -> None:
    example = Example(modified, dtype)
    found = ak.transducer_align(example.log_probs, example.targets, FRAMES, LABELS, BLANK, modified=modified)
    assert all(isinstance(array, np.ndarray) for array in found)
    example.check(found)


@pytest.mark.parametrize("modified", [False, True])
@pytest.mark.parametrize("dtype", TORCH_TYPES)
def test_padded_torch(dtype: str, modified: bool) -> None:
    example = Example(modified)
    log_probs = torch.from_numpy(example.log_probs).to(TORCH_TYPES[dtype]).requires_grad_()
    lengths = torch.tensor(FRAMES), torch.tensor(LABELS, dtype=torch.int32)
    found = ak.transducer_align(log_probs, torch.from_numpy(example.targets), *lengths, BLANK, modified=modified)
    assert all(torch.is_tensor(array) for array in found)
    example.check(found)


@pytest.mark.parametrize("modified", [False, True])
def test_reduced_log_probs_need_no_targets(modified: bool) -> None:
    example = Example(modified)
    example.check(ak.transducer_align(example.arcs, None, FRAMES, LABELS, modified=modified))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("modified", [False, True])
def test_packed(modified: bool, kind: Any) -> None:
    example = Example(modified)
    log_probs, targets = example.packed()
    found = ak.transducer_align(kind(log_probs), kind(targets), FRAMES, LABELS, BLANK, modified=modified)
    example.check(found, labels=5)
    arcs = np.concatenate([x[:T, : U + 1].reshape(-1, 2) for x, T, U in zip(example.arcs, FRAMES, LABELS)])
    example.check(ak.transducer_align(kind(arcs), None, FRAMES, LABELS, modified=modified), labels=5)


@SETTINGS
@given(GENERATORS, st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), max_size=5))
def test_padding_and_packing_give_the_same(rng: np.random.Generator, sizes: list[tuple[int, int]]) -> None:
    frames, labels = np.array(sizes, np.int64).reshape(-1, 2).T
    T, U = max(frames, default=0) + 1, max(labels, default=0)
    log_probs = dyadic(rng, (len(sizes), T, U + 1, 4)).astype(np.float32)
    targets = rng.integers(1, 4, (len(sizes), U))
    padded = ak.transducer_align(log_probs, targets, frames, labels)
    nodes = [log_probs[b, :t, : u + 1].reshape(-1, 4) for b, (t, u) in enumerate(sizes)]
    packed = ak.transducer_align(
        np.concatenate([np.zeros((0, 4), np.float32), *nodes]),
        np.concatenate([np.zeros(0, np.int64), *(targets[b, :u] for b, (_, u) in enumerate(sizes))]),
        frames,
        labels,
    )
    for one, other in zip(padded, packed):
        np.testing.assert_array_equal(one, other)


def test_lengths_default_to_the_whole() -> None:
    log_probs = dyadic(np.random.default_rng(0), (2, 5, 4, 3)).astype(np.float32)
    targets = np.ones((2, 3), np.int64)
    for one, other in zip(
        ak.transducer_align(log_probs, targets), ak.transducer_align(log_probs, targets, [5, 5], [3, 3]), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("layout", ["transposed", "sliced", "columns reversed", "read only"])
def test_layouts_and_the_callers_arrays_stay(layout: str) -> None:
    example = Example()
    x = example.log_probs
    if layout == "transposed":
        x = np.ascontiguousarray(x.transpose(1, 0, 2, 3)).transpose(1, 0, 2, 3)
    elif layout == "sliced":
        wide = np.full((3, 12, 9, 2 * V), np.nan, np.float32)
        wide[:, 1:11, 2:, 3 : 3 + V] = x
        x = wide[:, 1:11, 2:, 3 : 3 + V]
    elif layout == "columns reversed":
        x = np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    else:
        x.flags.writeable = False
    before = x.copy()
    example.check(ak.transducer_align(x, example.targets, FRAMES, LABELS, BLANK))
    np.testing.assert_array_equal(x, before)
    tensor = torch.tensor(before).transpose(0, 1).contiguous().transpose(0, 1)
    example.check(ak.transducer_align(tensor, torch.tensor(example.targets), FRAMES, LABELS, BLANK))


def test_every_bad_item_is_listed_and_good_ones_are_answered() -> None:
    example = Example()
    frames, labels, targets = [0, 4, 7], LABELS, example.targets.copy()
    targets[2, 1] = BLANK
    with pytest.raises(ak.InvalidItemsError) as caught:
        ak.transducer_align(example.log_probs, targets, frames, labels, BLANK)
    assert caught.value.statuses == {0: ak.Status.EMPTY, 2: ak.Status.TARGET_IS_BLANK}
    assert "needs a frame" in caught.value.reasons[0]
    assert "blank (2)" in caught.value.reasons[2]
    *found, statuses = ak.transducer_align(example.log_probs, targets, frames, labels, BLANK, check=False)
    assert statuses.tolist() == [ak.Status.EMPTY, ak.Status.OK, ak.Status.TARGET_IS_BLANK]
    assert found[2].tolist()[1] == example.scores[1]
    assert np.isnan(found[2][[0, 2]]).all()
    assert not found[0].any()
    assert not found[1].any()
    *_, statuses = ak.transducer_align(
        torch.tensor(example.log_probs), torch.tensor(targets), frames, labels, BLANK, check=False
    )
    assert torch.is_tensor(statuses)


def test_more_labels_than_frames_depend_on_the_topology() -> None:
    log_probs = np.zeros((1, 2, 4, 2), np.float32)
    assert ak.transducer_align(log_probs)[0].tolist() == [[0, 0, 0]]
    with pytest.raises(ak.InvalidItemsError, match="too few frames"):
        ak.transducer_align(log_probs, modified=True)


@pytest.mark.parametrize("huge", [2**31, 2**32 + 1, -(2**40)])
def test_targets_beyond_32_bits_are_out_of_range(huge: int) -> None:
    with pytest.raises(ak.InvalidItemsError, match="out of range"):
        ak.transducer_align(np.zeros((1, 3, 2, 3), np.float32), np.array([[huge]]))


X, Y = np.zeros((2, 3, 3, 4), np.float32), np.ones((2, 2), np.int64)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "not of shape", (X[0], Y)),
        (ValueError, "one node more", (X[:, :, :0], Y[:, :0])),
        (ValueError, "2 columns and blank 0", (X,)),
        (ValueError, "2 columns and blank 0", (X[..., :2], None, None, None, 1)),
        (ValueError, r"targets must be \[2, 2\]", (X, Y[:, :1])),
        (ValueError, r"targets must be \[2, 2\]", (X, Y[0])),
        (ValueError, "blank is 4", (X, Y, None, None, 4)),
        (ValueError, "blank is -1", (X, Y, None, None, -1)),
        (ValueError, r"input_lengths\[1\] is 4", (X, Y, [3, 4])),
        (ValueError, r"target_lengths\[0\] is -1", (X, Y, None, [-1, 2])),
        (TypeError, "input_lengths must be integers", (X, Y, [1.0, 2.0])),
        (TypeError, "targets must be integers", (X, Y * 1.0)),
        (TypeError, "scores must be", (X.astype(np.int32), Y)),
        (ValueError, "need input_lengths", (X[0, 0], Y[0])),
        (ValueError, "need target_lengths", (X[0, 0], Y[0], [1])),
        (ValueError, "must have 6 rows", (X[0, 0], Y[0], [2], [2])),
        (ValueError, "must have 3 rows", (X[0, :2, 0], Y[0], [1], [2])),
        (ValueError, "targets must be the items'", (X[0, 0], Y[0, :1], [1], [2])),
        (ValueError, r"must be \[labels of all items\]", (X[0, 0], Y, [1], [2])),
        (ValueError, "input_lengths must be of shape", (X[0, 0], Y[0], 1, [2])),
    ],
)
def test_wrong_arguments(error: type[Exception], message: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(error, match=message):
        ak.transducer_align(*arguments)


@pytest.mark.parametrize("shape", [(0, 4, 5, 2), (0, 0, 1, 2)])
def test_no_items(shape: tuple[int, ...]) -> None:
    found = ak.transducer_align(np.zeros(shape, np.float32))
    assert [array.shape for array in found] == [(0, shape[2] - 1), (0, shape[2] - 1), (0,)]


@pytest.mark.parametrize("status", ak.Status)
def test_every_status_has_a_reason(status: ak.Status) -> None:
    assert len(reason(status, 3, np.array([1, 5]), 4, 0, False)) > 5
