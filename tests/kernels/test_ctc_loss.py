"""CTC as users call it: the loss, as torch has it; padded posteriors, label priors, emissions of target columns."""

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import alignd_kernels as ak
from alignd_kernels.ctc import align, sum_reference
from alignd_kernels.ctc.batch import STAR, CtcBatch
from alignd_kernels.dtypes import DType
from alignd_kernels.status import Status

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
torch = pytest.importorskip("torch")
F = torch.nn.functional


def lengths(*values: int) -> Any:
    return torch.tensor(values, dtype=torch.int64)


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    """Logits [T, B, V] and the other arguments, float64; some items have too few frames, some no targets."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    T, B, V, L = draw(st.integers(1, 20)), draw(st.integers(1, 4)), draw(st.integers(2, 6)), draw(st.integers(0, 7))
    blank = draw(st.integers(0, V - 1))
    labels = torch.randint(0, V - 1, (B, L), generator=generator)
    labels += labels >= blank
    counts = torch.tensor([draw(st.integers(0, L)) for _ in range(B)])
    if draw(st.booleans()):  # end to end
        labels = torch.cat([labels[b, :count] for b, count in enumerate(counts.tolist())])
    return {
        "logits": torch.randn(T, B, V, dtype=torch.float64, generator=generator) * draw(st.sampled_from([0.1, 1, 20])),
        "targets": labels.to(draw(st.sampled_from([torch.int32, torch.int64]))),
        "input_lengths": torch.tensor([draw(st.integers(0 if L else 1, T)) for _ in range(B)]),
        "target_lengths": counts,
        "blank": blank,
    }


def with_gradient(logits: Any, call: Callable[[Any], Any]) -> tuple[Any, Any]:
    """The loss, and the gradient by what is before the log-softmax."""
    leaf = logits.detach().clone().requires_grad_()
    loss = call(leaf.log_softmax(-1))
    (loss * torch.arange(1, loss.numel() + 1).reshape(loss.shape)).sum().backward()
    return loss.detach(), leaf.grad


@SETTINGS
@given(problems(), st.sampled_from(["none", "mean", "sum"]), st.booleans())
def test_equals_torchs(problem: dict[str, Any], reduction: str, zero_infinity: bool) -> None:
    logits = problem.pop("logits")
    options = {"reduction": reduction, "zero_infinity": zero_infinity}
    found, gradient = with_gradient(logits, lambda x: ak.ctc_loss(x, **problem, **options))
    expected, slope = with_gradient(logits, lambda x: F.ctc_loss(x, **problem, **options))
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)
    if not zero_infinity:  # torch's gradient of an infinite cost is NaN, ours 0: that with such costs left out
        _, slope = with_gradient(logits, lambda x: F.ctc_loss(x, **problem, reduction=reduction, zero_infinity=True))
    np.testing.assert_allclose(gradient, slope, rtol=1e-9, atol=1e-11)


@settings(SETTINGS, max_examples=10)
@given(problems())
def test_gradcheck(problem: dict[str, Any]) -> None:
    """By the log-probs themselves, normalised or not: the derivative is that of the value."""
    logits = problem.pop("logits").clamp(-3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ak.ctc_loss(x, **problem, reduction="sum", zero_infinity=True), (logits,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype: Any) -> None:
    """Halves are summed in float32; the gradient is rounded once, to the log-probs' type."""
    torch.manual_seed(1)
    log_probs = torch.randn(40, 2, 7).log_softmax(-1).to(dtype)
    arguments = torch.randint(1, 7, (2, 4)), lengths(40, 30), lengths(4, 2)
    results = []
    for kind in (dtype, torch.float64):
        leaf = log_probs.to(kind).detach().requires_grad_()
        loss = ak.ctc_loss(leaf, *arguments)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    (found, gradient), (expected, slope) = results
    assert found.dtype == torch.float32
    assert gradient.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient.float(), slope, rtol=0, atol=0.51 * torch.finfo(dtype).eps + 1e-5)


def test_long_items_as_exact_as_torchs_in_float64() -> None:
    torch.manual_seed(2)
    logits = torch.randn(1500, 2, 40, dtype=torch.float64) * 3
    arguments = torch.randint(1, 40, (2, 200)), lengths(1500, 1100), lengths(200, 150)
    expected, slope = with_gradient(logits, lambda x: F.ctc_loss(x, *arguments, reduction="none"))
    found, gradient = with_gradient(logits, lambda x: ak.ctc_loss(x.float(), *arguments, reduction="none"))
    np.testing.assert_allclose(found, expected, rtol=2.0**-22)
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=2e-4)


def some() -> tuple[Any, ...]:
    torch.manual_seed(3)
    log_probs = torch.randn(6, 3, 5, dtype=torch.float64).log_softmax(-1)
    return log_probs, torch.tensor([[1, 2, 2], [3, 1, 1], [4, 4, 4]]), lengths(6, 4, 3), lengths(3, 0, 2)


def test_one_item_without_a_batch_and_other_forms_of_lengths() -> None:
    log_probs, targets, *counts = some()
    whole = ak.ctc_loss(log_probs, targets, *counts, reduction="none")
    assert torch.equal(ak.ctc_loss(log_probs, targets, (6, 4, 3), [3, 0, 2], reduction="none"), whole)
    for one in (6, lengths(6), torch.tensor(6), (6,)):
        found = ak.ctc_loss(log_probs[:, 0], targets[0], one, 3, reduction="none")
        assert found.shape == ()
        assert found == whole[0]
    assert torch.equal(ak.ctc_loss(log_probs[:, 0], targets[0], 6, 3), whole[0] / 3)


def test_strided_log_probs_are_read_where_they_lie() -> None:
    log_probs, *others = some()
    expected = with_gradient(log_probs, lambda x: ak.ctc_loss(x, *others, reduction="none"))
    batch_first = log_probs.transpose(0, 1).contiguous()
    found = with_gradient(batch_first, lambda x: ak.ctc_loss(x.transpose(0, 1), *others, reduction="none"))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1].transpose(0, 1), expected[1])


def test_costs_that_are_not_finite() -> None:
    """Only their own item's gradients are touched; what no path takes and what is beyond lengths is not looked at."""
    log_probs, targets, frames, counts = some()
    counts[1] = 1
    log_probs[2, 0, :] = -torch.inf
    log_probs[1, 1, 3] = torch.nan
    log_probs[3:, 2] = torch.nan
    log_probs[:, 2, 1] = torch.nan
    leaf = log_probs.requires_grad_()
    costs = ak.ctc_loss(leaf, targets, frames, counts, reduction="none")
    costs.sum().backward()
    assert costs[0] == torch.inf
    assert costs[1].isnan()
    assert costs[2].isfinite()
    assert not leaf.grad[:, 0].any()
    assert leaf.grad[:4, 1].isnan().all()
    assert not leaf.grad[4:, 1].any()
    assert leaf.grad[:, 2].isfinite().all()
    assert leaf.grad[:3, 2].any()


def test_without_gradients_and_twice() -> None:
    log_probs, *others = some()
    with torch.no_grad():
        assert not ak.ctc_loss(log_probs.requires_grad_(), *others).requires_grad
    costs = ak.ctc_loss(log_probs, *others)
    (first,) = torch.autograd.grad(costs.sum(), log_probs, retain_graph=True, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        (costs + first.sum()).backward(retain_graph=True)
    assert torch.equal(torch.autograd.grad(costs.sum(), log_probs)[0], first)


def test_no_items() -> None:
    arguments = torch.zeros(3, 0, 4, requires_grad=True), torch.zeros(0, 2, dtype=torch.int64), lengths(), lengths()
    found = ak.ctc_loss(*arguments, reduction="none")
    found.sum().backward()
    assert found.shape == (0,)
    with pytest.raises(ValueError, match="no items"):
        ak.ctc_loss(*arguments)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "NumPy": ({"log_probs": np.zeros((6, 3, 5))}, TypeError, "log_probs must be a torch tensor"),
    "integers": ({"log_probs": torch.zeros(6, 3, 5, dtype=torch.int32)}, TypeError, "must be floating-point"),
    "four axes": ({"log_probs": torch.zeros(6, 3, 5, 1)}, ValueError, r"\[T, B, V\] or \[T, V\]"),
    "elsewhere": ({"log_probs": torch.zeros(6, 3, 5, device="meta")}, NotImplementedError, r"\.cpu\(\)"),
    "reduction": ({"reduction": "avg"}, ValueError, "reduction must be"),
    "blank": ({"blank": 5}, ValueError, r"blank is 5; it must be within \[0, 5\)"),
    "float targets": ({"targets": torch.ones(3, 3)}, TypeError, "targets must be integers"),
    "targets' items": ({"targets": torch.ones(2, 3, dtype=torch.int64)}, ValueError, "3 items, but targets 2"),
    "targets' axes": ({"targets": torch.ones(3, 3, 1, dtype=torch.int64)}, ValueError, "not of shape"),
    "sum of lengths": ({"targets": torch.ones(7, dtype=torch.int64)}, ValueError, "7 elements, but .* sum to 5"),
    "float lengths": ({"input_lengths": torch.ones(3)}, TypeError, "input_lengths must be integers"),
    "many frames": ({"input_lengths": (6, 7, 3)}, ValueError, r"input_lengths\[1\] is 7"),
    "many targets": ({"target_lengths": (3, 0, 4)}, ValueError, r"target_lengths\[2\] is 4"),
    "negative": ({"target_lengths": (3, -1, 2)}, ValueError, r"target_lengths\[1\] is -1"),
    "one length": ({"input_lengths": 6}, ValueError, "one for each item"),
    "blank target": ({"blank": 2}, ValueError, "target 1 of item 0 is 2, which is the blank"),
    "-1": ({"targets": torch.tensor([[1, 2, 2], [3, 1, 1], [4, -1, 4]])}, ValueError, "target 1 of item 2 is -1"),
    "large": ({"targets": torch.tensor([[1, 5, 2], [3, 1, 1], [4, 4, 4]])}, ValueError, "is 5, which is not a column"),
    "huge": ({"targets": torch.tensor([[1, 2**40, 2]] * 3)}, ValueError, "is 1099511627776, which is not a column"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name: str) -> None:
    names = ("log_probs", "targets", "input_lengths", "target_lengths")
    changed, error, message = BAD[name]
    with pytest.raises(error, match=message):
        ak.ctc_loss(**dict(zip(names, some())) | changed)


def test_without_torch_the_error_names_what_brings_it() -> None:
    script = "import sys; sys.modules['torch'] = None; import alignd_kernels as ak; ak.ctc_loss(0, 0, 0, 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert "ImportError" in done.stderr
    assert "alignd-kernels[gpu]" in done.stderr


# Posteriors of padded batches


@pytest.mark.parametrize("star", [-0.5, "max"])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("torch", "bfloat16"), *((kind, f"float{n}") for kind in ("numpy", "torch") for n in (16, 32, 64))],
)
def test_posteriors(kind: str, dtype: str, star: Any) -> None:
    torch.manual_seed(4)
    tensor = torch.randn(4, 12, 6).log_softmax(-1).to(getattr(torch, dtype))
    targets = torch.tensor([[1, 2, 2, 3], [STAR, 1, 1, 0], [0, 0, 0, 0], [5, 4, STAR, 3]])
    frames, counts = lengths(12, 9, 7, 4), lengths(4, 2, 0, 4)
    for b, T in enumerate(frames.tolist()):
        tensor[b, T:] = torch.nan
    arguments = (tensor, targets, frames, counts)
    if kind == "numpy":
        arguments = tuple(argument.numpy() for argument in arguments)
    posteriors, scores = ak.ctc_posteriors(*arguments, star_score=star)
    assert type(posteriors) is type(scores) is type(arguments[0])
    assert str(posteriors.dtype).removeprefix("torch.") == ("float64" if dtype == "float64" else "float32")
    assert str(scores.dtype).removeprefix("torch.") == "float64"
    score = np.nan if star == "max" else star
    for b, (T, L) in enumerate(zip(frames.tolist(), counts.tolist())):
        item = tensor[b, :T].double().numpy(), targets[b, :L].numpy(), 0, score
        status, expected, total = sum_reference.posteriors(*item)
        assert status is Status.OK
        np.testing.assert_allclose(np.asarray(posteriors[b, :T, : 2 * L + 1]), expected, 0, 1e-5)
        np.testing.assert_allclose(float(scores[b]), total, 0, 1e-4)
        assert not np.asarray(posteriors[b, T:]).any()
        assert not np.asarray(posteriors[b, :, 2 * L + 1 :]).any()


def test_posteriors_of_bad_items_are_listed_or_told_by_status() -> None:
    log_probs, targets = np.zeros((4, 5, 3), np.float32), np.array([[1, 2], [1, 1], [2, 1], [0, 1]])
    log_probs[2, 2, 1] = np.nan
    arguments = log_probs, targets, np.array([5, 2, 5, 5])
    with pytest.raises(ak.InvalidItemsError, match="too few frames") as caught:
        ak.ctc_posteriors(*arguments)
    assert caught.value.statuses == {
        1: Status.TOO_FEW_FRAMES,
        2: Status.NOT_FINITE,
        3: Status.TARGET_IS_BLANK,
    }
    posteriors, scores, statuses = ak.ctc_posteriors(*arguments, check=False)
    assert statuses.tolist() == [Status.OK, Status.TOO_FEW_FRAMES, Status.NOT_FINITE, Status.TARGET_IS_BLANK]
    assert posteriors[0].any()
    assert not posteriors[1:].any()
    assert np.isnan(scores).tolist() == [False, True, True, True]
    with pytest.raises(ak.InvalidItemsError, match="needs a frame"):
        ak.ctc_posteriors(log_probs, targets[:, :0], np.array([5, 0, 5, 5]))
    with pytest.raises(ValueError, match="not NaN"):
        ak.ctc_posteriors(log_probs, targets, star_score=np.nan)
    with pytest.raises(NotImplementedError, match="CPU"):
        ak.ctc_posteriors(torch.zeros(1, 5, 3, device="meta"), torch.ones(1, 2, dtype=torch.int64))


# Label priors


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_priors_are_the_mean_posterior_of_each_column(kind: str, dtype: Any) -> None:
    torch.manual_seed(5)
    log_probs = torch.randn(3, 8, 5).log_softmax(-1).to(dtype)
    log_probs[:, :, 3] = -torch.inf
    frames = lengths(8, 0, 3)
    log_probs[1], log_probs[2, 3:] = torch.nan, torch.nan
    mean = torch.cat([log_probs[0], log_probs[2, :3]]).double().exp().mean(0)
    given = (log_probs, frames) if kind == "torch" else (log_probs.numpy(), frames.numpy())
    priors = ak.ctc_label_priors(*given)
    assert type(priors) is type(given[0])
    np.testing.assert_allclose(priors, mean.log(), rtol=1e-13)
    assert priors[3] == -np.inf
    less = ak.subtract_label_priors(given[0], priors, 0.5)
    assert type(less) is type(given[0])
    assert less.dtype == given[0].dtype
    expected = log_probs[0].double() - 0.5 * torch.where(mean > 0, mean.log(), 0.0)
    rounding = 8 * float(torch.finfo(dtype).eps)  # of log-probs down to -8, twice
    np.testing.assert_allclose(np.asarray(less)[0].astype(float), expected, rtol=0, atol=rounding)
    assert np.array_equal(np.asarray(ak.subtract_label_priors(given[0], priors, 0.0)), log_probs, equal_nan=True)


def test_gradcheck_of_subtracted_priors() -> None:
    generator = torch.Generator().manual_seed(7)
    log_probs = torch.randn(2, 3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    priors = torch.tensor([-0.5, -torch.inf, -2.0, -3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ak.subtract_label_priors(x, priors, 0.3), (log_probs,))
    with torch.no_grad():
        priors[1] = -1.0
    assert torch.autograd.gradcheck(lambda x, p: ak.subtract_label_priors(x, p, 0.3), (log_probs, priors))


def test_priors_lengthen_labels_of_a_peaky_model() -> None:
    """Blank outweighs a label by little in the frames around its peak: without the prior they are the label's."""
    log_probs = np.full((1, 20, 3), np.log(0.01))
    log_probs[0, :, 0] = np.log(0.98)
    for label, frames in ((1, slice(3, 8)), (2, slice(11, 16))):
        log_probs[0, frames, 0], log_probs[0, frames, label] = np.log(0.6), np.log(0.39)
        log_probs[0, frames.start + 2, [0, label]] = log_probs[0, frames.start + 2, [label, 0]]
    targets = np.array([[1, 2]])
    peaky, _ = ak.forced_align(log_probs, targets)
    less = ak.subtract_label_priors(log_probs, ak.ctc_label_priors(log_probs), 1.0)
    found, _ = ak.forced_align(less, targets)
    assert np.count_nonzero(peaky) == 2
    assert np.flatnonzero(found[0] == 1).tolist() == [3, 4, 5, 6, 7]
    assert np.flatnonzero(found[0] == 2).tolist() == [11, 12, 13, 14, 15]


def test_bad_priors() -> None:
    x = np.zeros((2, 3, 4))
    with pytest.raises(ValueError, match="must be \\[batch"):
        ak.ctc_label_priors(np.zeros(4))
    with pytest.raises(ValueError, match="no frames"):
        ak.ctc_label_priors(x, np.zeros(2, int))
    with pytest.raises(ValueError, match="no logs of probabilities"):
        ak.ctc_label_priors(x + 5)
    with pytest.raises(TypeError, match="log_probs must be floating-point, not int64"):
        ak.subtract_label_priors(np.ones((3, 4), np.int64), np.zeros(4), 1.0)
    with pytest.raises(TypeError, match="both be torch tensors"):
        ak.subtract_label_priors(torch.zeros(3, 4), np.zeros(4), 1.0)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="NaN or \\+inf in log_probs"):
            ak.ctc_label_priors(np.where(np.arange(4) == 1, bad, x))
        with pytest.raises(ValueError, match="NaN or \\+inf in log_priors"):
            ak.subtract_label_priors(x, np.array([0, bad, 0, 0]), 1.0)
        with pytest.raises(ValueError, match="prior_scale"):
            ak.subtract_label_priors(x, np.zeros(4), bad)
    with pytest.raises(ValueError, match="prior_scale"):
        ak.subtract_label_priors(x, np.zeros(4), -0.1)
    with pytest.raises(ValueError, match="log_priors must be"):
        ak.subtract_label_priors(x, np.zeros(3), 1.0)
    with pytest.raises(NotImplementedError, match="CPU"):
        ak.ctc_label_priors(torch.zeros(2, 3, 4, device="meta"))


# Emissions of target columns


@st.composite
def wide(draw: st.DrawFn) -> tuple[Any, Any, Any, Any, int]:
    """A padded batch of feasible items with repeats and wildcards, in float64 NumPy."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    B, L, V = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(3, 40))
    blank = int(rng.integers(V))
    labels = rng.integers(0, min(V - 1, 5), (B, L))
    labels += labels >= blank
    labels[:, ::3] = np.where(rng.random(labels[:, ::3].shape) < 0.3, STAR, labels[:, ::3])
    counts, frames = rng.integers(1, L + 1, B), rng.integers(2 * L, 2 * L + 9, B)
    return rng.standard_normal((B, 2 * L + 8, V)), labels, frames, counts, blank


@SETTINGS
@given(wide(), st.booleans())
def test_target_columns_answer_as_the_full_vocabulary(problem: tuple[Any, ...], as_tensors: bool) -> None:
    log_probs, targets, frames, counts, blank = problem
    if as_tensors:
        log_probs, targets = torch.from_numpy(log_probs), torch.from_numpy(targets)
    emissions, own, columns = ak.ctc_target_columns(log_probs, targets, counts, blank)
    assert type(emissions) is type(own) is type(columns) is type(log_probs)
    expected = ak.forced_align(log_probs, targets, frames, counts, blank)
    paths, scores = (np.asarray(found) for found in ak.forced_align(emissions, own, frames, counts, 0))
    named = np.where(paths == STAR, STAR, np.take_along_axis(np.asarray(columns), np.maximum(paths, 0).astype(int), 1))
    np.testing.assert_array_equal(named, expected[0])
    np.testing.assert_array_equal(scores, expected[1])
    sums = ak.ctc_posteriors(log_probs, targets, frames, counts, blank)
    for one, other in zip(ak.ctc_posteriors(emissions, own, frames, counts, 0), sums):
        np.testing.assert_array_equal(one, other)


@SETTINGS
@given(wide())
def test_one_column_for_each_target(problem: tuple[Any, ...]) -> None:
    """As a model gives them that computes nothing but the targets' scores: equal labels have equal columns."""
    log_probs, targets, frames, counts, blank = problem
    given = np.where(targets == STAR, blank, targets)
    emissions = np.concatenate([log_probs[:, :, [blank]], np.take_along_axis(log_probs, given[:, None], 2)], 2)
    own = ak.ctc_column_targets(targets, counts)
    assert own.dtype == np.int32
    expected = ak.forced_align(log_probs, targets, frames, counts, blank, check=False)
    found = ak.forced_align(emissions, own, frames, counts, 0, check=False)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0] == 0, expected[0] == blank)
    np.testing.assert_array_equal(found[2], expected[2])
    for b, L in enumerate(counts.tolist()):
        np.testing.assert_array_equal(ak.ctc_column_targets(targets[b, :L]), own[b, :L])


def test_repeats_count_among_target_columns() -> None:
    targets = np.array([7, 7, 9, 7])
    assert ak.ctc_column_targets(targets).tolist() == [1, 1, 3, 1]
    emissions, own, columns = ak.ctc_target_columns(np.zeros((4, 12)), targets, blank=3)
    assert (emissions.shape, own.tolist(), columns.tolist()) == ((4, 3), [1, 1, 2, 1], [3, 7, 9])
    _, _, statuses = ak.forced_align(emissions[None], own[None], check=False)
    assert statuses.tolist() == [Status.TOO_FEW_FRAMES]


def test_target_columns_go_into_a_batch_as_they_are_and_have_gradients() -> None:
    torch.manual_seed(6)
    full, targets = torch.randn(9, 30, dtype=torch.float64), torch.tensor([4, 4, 20])
    emissions, own, columns = ak.ctc_target_columns(full, targets)
    one = np.ones(1, np.int64)
    batch = CtcBatch(
        emissions.numpy().reshape(-1), DType.FLOAT64, 0 * one, 9 * one, 3 * one, 3 * one, own.numpy(), 0 * one,
        3 * one, np.zeros(1, np.int32), np.zeros(1, np.float32),
    )  # fmt: skip
    result = align(batch)
    paths, scores = ak.forced_align(full[None], targets[None])
    assert result.scores[0] == pytest.approx(float(scores.sum()), rel=1e-14)
    symbols = np.where(result.paths % 2, targets.numpy()[np.minimum(result.paths // 2, 2)], 0)
    np.testing.assert_array_equal(symbols, paths[0])

    slopes = []
    for reduce in (False, True):
        leaf = full.clone().requires_grad_()
        taken, labels, _ = ak.ctc_target_columns(leaf, targets) if reduce else (leaf, targets, None)
        ak.ctc_loss(taken, labels, 9, 3).backward()
        slopes.append(leaf.grad)
    assert torch.equal(*slopes)
    assert columns.tolist() == [0, 4, 20]


@pytest.mark.parametrize("single", [False, True])
def test_gradcheck_of_target_columns(single: bool) -> None:
    """By log-probs, also where a label comes again and where blank's column fills up an item with fewer labels."""
    generator = torch.Generator().manual_seed(8)
    log_probs = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator)
    arguments = (torch.tensor([[4, 1, 4], [2, 3, 0]]), torch.tensor([3, 1]))
    if single:
        log_probs, arguments = log_probs[0], (arguments[0][0],)
    taken, *_ = ak.ctc_target_columns(log_probs, *arguments)
    assert taken.shape[-1] == 3
    assert torch.autograd.gradcheck(lambda x: ak.ctc_target_columns(x, *arguments)[0], (log_probs.requires_grad_(),))


def test_bad_target_columns() -> None:
    x, targets = np.zeros((2, 5, 4)), np.array([[1, 2], [3, 3]])
    for changed, message in [
        ((x[0], targets), "must be \\[T, V\\] and \\[L\\]"),
        ((x[:1], targets), "must be \\[T, V\\] and \\[L\\]"),
        ((x, targets + 1), "target 0 of item 1 is 4"),
        ((x, targets - 1), "target 0 of item 0 is 0: blank"),
        ((x, targets - 4), "target 0 of item 0 is -3"),
        ((x, targets, [3, 1]), "target_lengths\\[0\\] is 3"),
        ((x, targets, None, 4), "blank is 4"),
        ((x[0], targets[0], [2]), "for several items"),
        ((x, np.int64(3)), "targets must be \\[L\\] or"),
    ]:
        with pytest.raises(ValueError, match=message):
            ak.ctc_target_columns(*changed)
    with pytest.raises(TypeError, match="targets must be integers"):
        ak.ctc_column_targets(targets + 0.5)


def test_costs_beyond_what_exponents_hold_are_infinite() -> None:
    log_probs, targets = torch.full((2000, 1, 3), -1e4), torch.tensor([[1, 2]])
    lengths = torch.tensor([2000]), torch.tensor([2])
    assert ak.ctc_loss(log_probs, targets, *lengths) == math.inf
    assert ak.ctc_loss(log_probs.double(), targets, *lengths, reduction="none") == pytest.approx(2e7, rel=1e-5)


@pytest.mark.parametrize("blank", [0.5, True, "0"])
def test_a_blank_that_is_no_integer(blank: Any) -> None:
    one = torch.ones(1, dtype=torch.int64)
    with pytest.raises(TypeError, match="blank must be an integer"):
        ak.ctc_loss(torch.zeros(3, 1, 4), one[:, None], 3 * one, one, blank=blank)
    with pytest.raises(TypeError, match="blank must be an integer"):
        ak.ctc_posteriors(torch.zeros(1, 3, 4), one[:, None], blank=blank)
    with pytest.raises(TypeError, match="blank must be an integer"):
        ak.rnnt_loss(torch.zeros(1, 3, 2, 4), one[:, None], 3 * one, one, blank=blank)
    with pytest.raises(TypeError, match="blank must be an integer"):
        ak.transducer_align(torch.zeros(1, 3, 2, 4), one[:, None], blank=blank)
