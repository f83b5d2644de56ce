"""transducer_posteriors as users call it: padded, packed and reduced, NumPy and torch, errors."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.strategies import GENERATORS, normal
from kernels.transducer_strategies import UNIT, random_labels, sum_tolerance

import alignd_kernels as ak
from alignd_kernels.transducer import reference

SETTINGS = settings(max_examples=30, deadline=None, derandomize=True)
TOPOLOGIES = pytest.mark.parametrize("modified", [False, True], ids=["standard", "modified"])
torch = pytest.importorskip("torch")

TORCH_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
FRAMES, LABELS, V, BLANK = [9, 4, 7], [5, 0, 3], 6, 2
SHAPE = 3, 10, 7


class Example:
    """Three items, padded, with NaN and bad labels in the padding; and what the reference says of them."""

    def __init__(self, modified: bool = False, dtype: Any = torch.float32) -> None:
        rng = np.random.default_rng(5)
        joint = np.full((*SHAPE, V), np.nan, np.float32)
        self.targets = np.full((3, 6), -5, np.int64)
        for b, (T, U) in enumerate(zip(FRAMES, LABELS)):
            joint[b, :T, : U + 1], self.targets[b, :U] = normal(rng, (T, U + 1, V)), random_labels(rng, U, V, BLANK)
        self.log_probs = torch.from_numpy(joint).to(dtype)
        self.accumulator = np.float64 if dtype is torch.float64 else np.float32
        self.posteriors, self.scores, self.slack = np.zeros(SHAPE), np.zeros(3), 0.0
        self.arcs = torch.full((*SHAPE, 2), torch.nan, dtype=dtype)
        rounded = self.log_probs.double().numpy()
        for b, (T, U) in enumerate(zip(FRAMES, LABELS)):
            arcs = reference.arcs_of(rounded[b, :T, : U + 1], self.targets[b, :U], BLANK)
            self.arcs[b, :T, : U + 1] = torch.from_numpy(np.where(np.isinf(arcs), np.nan, arcs)).to(dtype)
            _, self.posteriors[b, :T, : U + 1], self.scores[b] = reference.posteriors(arcs, modified)
            self.slack = max(self.slack, sum_tolerance(arcs, modified, self.accumulator))

    def check(self, found: tuple[Any, ...]) -> None:
        self.check_nodes(found[0], self.posteriors)
        np.testing.assert_allclose(found[1], self.scores, 4 * UNIT[np.float64], self.slack)
        assert str(found[1].dtype).removeprefix("torch.") == "float64"

    def check_packed(self, found: tuple[Any, ...]) -> None:
        self.check_nodes(found[0], end_to_end(self.posteriors))
        np.testing.assert_allclose(found[1], self.scores, 4 * UNIT[np.float64], self.slack)

    def check_nodes(self, found: Any, expected: np.ndarray) -> None:
        assert str(found.dtype).removeprefix("torch.") == np.dtype(self.accumulator).name
        np.testing.assert_allclose(found, expected, self.slack, 2.0**-80)


def end_to_end(padded: Any, frames: Any = FRAMES, labels: Any = LABELS) -> Any:
    """The items' nodes [sum of T · (U + 1), …]."""
    nodes = [np.asarray(x)[:T, : U + 1].reshape(-1, *x.shape[2:]) for x, T, U in zip(padded, frames, labels)]
    return np.concatenate([np.zeros((0, *padded.shape[3:]), nodes[0].dtype if nodes else np.float32), *nodes])


@TOPOLOGIES
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_padded_numpy(dtype: str, modified: bool) -> None:
    example = Example(modified, TORCH_TYPES[dtype])
    found = ak.transducer_posteriors(
        example.log_probs.numpy(), example.targets, FRAMES, LABELS, BLANK, modified=modified
    )
    assert [type(array) for array in found] == [np.ndarray, np.ndarray]
    example.check(found)


@TOPOLOGIES
@pytest.mark.parametrize("dtype", TORCH_TYPES)
def test_padded_torch(dtype: str, modified: bool) -> None:
    example = Example(modified, TORCH_TYPES[dtype])
    lengths = torch.tensor(FRAMES), torch.tensor(LABELS, dtype=torch.int32)
    found = ak.transducer_posteriors(
        example.log_probs.requires_grad_(), torch.from_numpy(example.targets), *lengths, BLANK, modified=modified
    )
    assert [type(array) for array in found] == [torch.Tensor, torch.Tensor]
    assert not found[0].requires_grad
    example.check(found)


@TOPOLOGIES
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_packed_and_reduced(modified: bool, kind: Any) -> None:
    example = Example(modified)
    packed, arcs = kind(end_to_end(example.log_probs)), kind(end_to_end(example.arcs))
    targets = kind(np.concatenate([row[:U] for row, U in zip(example.targets, LABELS)]))
    example.check_packed(ak.transducer_posteriors(packed, targets, FRAMES, LABELS, BLANK, modified=modified))
    example.check_packed(ak.transducer_posteriors(arcs, None, FRAMES, LABELS, modified=modified))
    example.check(ak.transducer_posteriors(kind(example.arcs), None, FRAMES, LABELS, modified=modified))


@SETTINGS
@given(GENERATORS, st.lists(st.tuples(st.integers(1, 8), st.integers(0, 7)), max_size=4), st.booleans())
def test_every_form_says_the_same(rng: np.random.Generator, sizes: list[tuple[int, int]], modified: bool) -> None:
    frames, labels = np.array(sizes, np.int64).reshape(-1, 2).T
    frames = np.maximum(frames, labels) if modified else frames
    T, U = max(frames, default=0) + int(rng.integers(2)), max(labels, default=0)
    log_probs = normal(rng, (len(sizes), T, U + 1, 4)).astype(np.float32)
    targets = rng.integers(1, 4, (len(sizes), U))
    options = {"modified": modified, "check": False}
    whole, scores, statuses = ak.transducer_posteriors(log_probs, targets, frames, labels, **options)
    own = np.concatenate([np.zeros(0, np.int64), *(row[:u] for row, u in zip(targets, labels))])
    packed = ak.transducer_posteriors(end_to_end(log_probs, frames, labels), own, frames, labels, **options)
    columns = np.stack([np.zeros((len(sizes), U + 1), np.int64), np.pad(targets, ((0, 0), (0, 1)))], -1)
    arcs = np.take_along_axis(log_probs, columns[:, None], -1)
    reduced = ak.transducer_posteriors(arcs, None, frames, labels, **options)
    for found, nodes in ((packed, end_to_end(whole, frames, labels)), (reduced, whole)):
        np.testing.assert_array_equal(found[0], nodes)
        np.testing.assert_array_equal(found[1], scores)
        np.testing.assert_array_equal(found[2], statuses)
    for b, (t, u) in enumerate(zip(frames, labels)):
        own_arcs = reference.arcs_of(log_probs[b, :t, : u + 1], targets[b, :u], 0)
        status, nodes, score = reference.posteriors(own_arcs, modified)
        slack = sum_tolerance(own_arcs, modified, np.float32)
        expected = np.zeros((T, U + 1))
        expected[:t, : u + 1] = nodes
        assert statuses[b] == status
        np.testing.assert_allclose(whole[b], expected, slack, 2.0**-80)
        np.testing.assert_allclose(scores[b], score, 4 * UNIT[np.float64], slack)


@TOPOLOGIES
def test_what_the_nodes_of_a_frame_sum_to(modified: bool) -> None:
    """One, since every path is in each frame, and in the standard topology what it emits there, by the loss's slope."""
    example = Example(modified, torch.float64)
    log_probs = example.log_probs[:1, :9, :6].clone().requires_grad_()
    targets, lengths = torch.from_numpy(example.targets[:1, :5]), (torch.tensor([9]), torch.tensor([5]))
    nodes, scores = ak.transducer_posteriors(log_probs, targets, *lengths, BLANK, modified=modified)
    cost = ak.rnnt_loss(log_probs, targets, *lengths, blank=BLANK, modified=modified)
    cost.sum().backward()
    labels = -log_probs.grad[0].sum((1, 2)) + log_probs.grad[0, :, :, BLANK].sum(1)
    expected = torch.ones(9, dtype=torch.float64) + (0 if modified else labels)
    np.testing.assert_allclose(nodes[0].sum(1), expected, rtol=15 * 16 * UNIT[np.float64] * 2)
    assert labels.sum() == pytest.approx(5, rel=1e-12)
    assert scores[0] == -cost.detach()[0]


@pytest.mark.parametrize("layout", ["transposed", "columns reversed", "read only"])
def test_layouts_and_the_callers_arrays_stay(layout: str) -> None:
    example = Example()
    x = example.log_probs.numpy()
    if layout == "transposed":
        x = np.ascontiguousarray(x.transpose(1, 0, 2, 3)).transpose(1, 0, 2, 3)
    elif layout == "columns reversed":
        x = np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    else:
        x.flags.writeable = False
    before = x.copy()
    example.check(ak.transducer_posteriors(x, example.targets, FRAMES, LABELS, BLANK))
    np.testing.assert_array_equal(x, before)


def test_lengths_default_to_the_whole_and_targets_may_be_lists() -> None:
    log_probs = normal(np.random.default_rng(0), (2, 5, 4, 3)).astype(np.float32)
    found = ak.transducer_posteriors(log_probs, [[1, 2, 1], [2, 2, 1]])
    expected = ak.transducer_posteriors(log_probs, np.array([[1, 2, 1], [2, 2, 1]]), [5, 5], [3, 3])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="targets must be of one length"):
        ak.transducer_posteriors(log_probs, [[1, 2, 1], [2]])


def test_every_bad_item_is_listed_and_good_ones_are_answered() -> None:
    example = Example()
    log_probs, targets, frames = example.log_probs.numpy(), example.targets.copy(), [0, 4, 7]
    targets[2, 1] = BLANK
    with pytest.raises(ak.InvalidItemsError) as caught:
        ak.transducer_posteriors(log_probs, targets, frames, LABELS, BLANK)
    assert caught.value.statuses == {0: ak.Status.EMPTY, 2: ak.Status.TARGET_IS_BLANK}
    assert "needs a frame" in caught.value.reasons[0]
    assert "blank (2)" in caught.value.reasons[2]
    for kind in (np.asarray, torch.from_numpy):
        nodes, scores, statuses = ak.transducer_posteriors(
            kind(log_probs), kind(targets), frames, LABELS, BLANK, check=False
        )
        assert statuses.tolist() == [ak.Status.EMPTY, ak.Status.OK, ak.Status.TARGET_IS_BLANK]
        assert isinstance(statuses, type(kind(log_probs)))
        np.testing.assert_allclose(nodes[1], example.posteriors[1], example.slack)
        assert not nodes[[0, 2]].any()
        assert np.isnan(np.asarray(scores)).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("place", "value", "status"),
    [
        ((2, 0, 0), np.nan, ak.Status.NOT_FINITE),
        ((2, 0, 0), np.inf, ak.Status.NOT_FINITE),
        ((2, slice(None), slice(None)), -np.inf, ak.Status.NO_FINITE_PATH),
        ((2, 0, 2), np.nan, ak.Status.OK),  # no path reads that column
    ],
)
def test_log_probs_that_are_not_finite(place: Any, value: float, status: ak.Status) -> None:
    log_probs = np.zeros((1, 4, 3, 3), np.float32)
    log_probs[0][place] = value
    nodes, scores, statuses = ak.transducer_posteriors(log_probs, np.array([[1, 1]]), check=False)
    assert statuses.tolist() == [status]
    assert (nodes.any(), np.isfinite(scores[0])) == ((True, True) if status is ak.Status.OK else (False, False))


def test_more_labels_than_frames_depend_on_the_topology() -> None:
    log_probs = np.zeros((1, 2, 4, 2), np.float32)
    nodes, scores = ak.transducer_posteriors(log_probs)
    np.testing.assert_allclose(nodes[0], [[1, 0.75, 0.5, 0.25], [0.25, 0.5, 0.75, 1]], 16 * 6 * UNIT[np.float32])
    np.testing.assert_allclose(scores, np.log(4), 0, 8 * 6 * UNIT[np.float32])
    with pytest.raises(ak.InvalidItemsError, match="too few frames"):
        ak.transducer_posteriors(log_probs, modified=True)


X, Y = np.zeros((2, 3, 3, 4), np.float32), np.ones((2, 2), np.int64)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "not of shape", (X[0], Y)),
        (ValueError, "2 columns and blank 0", (X,)),
        (ValueError, r"targets must be \[2, 2\]", (X, Y[:, :1])),
        (ValueError, "blank is 4", (X, Y, None, None, 4)),
        (TypeError, "blank must be an integer", (X, Y, None, None, True)),
        (ValueError, r"input_lengths\[1\] is 4", (X, Y, [3, 4])),
        (ValueError, r"target_lengths\[0\] is -1", (X, Y, None, [-1, 2])),
        (TypeError, "targets must be integers", (X, Y * 1.0)),
        (TypeError, "scores must be", (X.astype(np.int32), Y)),
        (ValueError, "need target_lengths", (X[0, 0], Y[0], [1])),
        (ValueError, "must have 6 rows", (X[0, 0], Y[0], [2], [2])),
        (ValueError, "targets must be the items'", (X[0, 0], Y[0, :1], [1], [2])),
        (NotImplementedError, "transducer_posteriors runs on the CPU", (torch.zeros(X.shape, device="meta"), Y)),
    ],
)
def test_wrong_arguments(error: type[Exception], message: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(error, match=message):
        ak.transducer_posteriors(*arguments)


def test_no_items() -> None:
    found = ak.transducer_posteriors(np.zeros((0, 4, 5, 2), np.float32))
    assert [array.shape for array in found] == [(0, 4, 5), (0,)]
    none = np.zeros(0, np.int64)
    found = ak.transducer_posteriors(np.zeros((0, 2), np.float32), None, none, none)
    assert [array.shape for array in found] == [(0,), (0,)]
