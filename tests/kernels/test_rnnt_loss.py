"""rnnt_loss as users call it: warp_rnnt's arguments and published numbers, gradients, layouts, errors."""

import inspect
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import alignd_kernels as ak
from alignd_kernels.transducer import reference

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
torch = pytest.importorskip("torch")

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
A, B, C, D, E = [0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.6, 0.1, 0.1], [0.1, 0.1, 0.2, 0.8, 0.1], [0.1, 0.1, 0.2, 0.1, 0.1], [0.7, 0.1, 0.2, 0.1, 0.1]  # fmt: skip  # noqa: E501
"""Rows before the softmax in warp_rnnt's unit tests."""

# Blank's and the label's gradients in these tests, [T, U, 2].
SINGLE = [
    [[-0.308198071906, -0.691801928094], [-0.308198071906, -0.383603856188], [-0.383603856188, 0]],
    [[0, -0.308198071906], [0, -0.616396143812], [-1, 0]],
]
LONGER = [
    [[-0.45920877, -0.54079123], [-0.32392462, -0.21686661], [-0.21686661, 0]],
    [[-0.13528414, -0.32392462], [-0.29937584, -0.3484734], [-0.56534001, 0]],
    [[0, -0.13528414], [0, -0.43465999], [-1, 0]],
]
PUBLISHED = {
    "one to many": ([[A, B, C]], 4.274244594423859, [[[0, -1], [0, -1], [-1, 0]]]),
    "one to empty": ([[A]], 1.7314291957733714, [[[-1, 0]]]),
    "single": ([[A, B, C], [A, D, E]], 4.495666773770733, SINGLE),
    "longer": ([[A, B, C], [A, D, E], [A, B, C]], 5.7367250428101615, LONGER),
}


def lengths(*values: int) -> Any:
    return torch.tensor(values, dtype=torch.int32)


def example(name: str) -> tuple[Any, Any, float, Any]:
    """Log-probs [T, U, V] in float32, labels, cost, the gradient by log-probs."""
    rows, cost, arcs = PUBLISHED[name]
    log_probs = torch.tensor(rows).log_softmax(-1)
    labels = lengths(*range(1, log_probs.shape[1]))
    gradient = torch.zeros_like(log_probs)
    gradient[:, :, 0] = torch.tensor(arcs)[:, :, 0]
    for u, label in enumerate(labels.tolist()):
        gradient[:, u, label] = torch.tensor(arcs)[:, u, 1]
    return log_probs, labels, cost, gradient


def compacted(log_probs: Any, labels: Any, frames: Any, label_lengths: Any) -> tuple[Any, Any]:
    """Padded arguments without their padding."""
    sizes = list(enumerate(zip(frames.tolist(), label_lengths.tolist())))
    nodes = [log_probs[b, :T, : U + 1].reshape(-1, log_probs.shape[-1]) for b, (T, U) in sizes]
    return torch.cat(nodes), torch.cat([labels[b, :U] for b, (_, U) in sizes])


@pytest.mark.parametrize("name", PUBLISHED)
def test_warp_rnnts_published_numbers(name: str) -> None:
    log_probs, labels, cost, gradient = example(name)
    T, U, _ = log_probs.shape
    padded = log_probs[None].requires_grad_()
    found = ak.rnnt_loss(padded, labels[None], lengths(T), lengths(U - 1))
    found.sum().backward()
    np.testing.assert_allclose(found.detach(), [cost], atol=1e-6)
    np.testing.assert_allclose(padded.grad[0], gradient, atol=1e-6)
    compact = log_probs.detach().reshape(T * U, -1).requires_grad_()
    again = ak.rnnt_loss(compact, labels, lengths(T), lengths(U - 1), compact=True)
    again.sum().backward()
    assert torch.equal(again, found)
    assert torch.equal(compact.grad, padded.grad.reshape(T * U, -1))


def test_warp_rnnts_published_batch() -> None:
    (first, labels, cost_1, gradient_1), (second, _, cost_2, gradient_2) = example("single"), example("longer")
    log_probs = torch.zeros(2, 3, 3, 5).log_softmax(-1)
    log_probs[0, :2], log_probs[1] = first, second
    log_probs.requires_grad_()
    found = ak.rnnt_loss(log_probs, torch.stack([labels, labels]), lengths(2, 3), lengths(2, 2))
    np.testing.assert_allclose(found.detach(), [cost_1, cost_2], atol=1e-6)
    found.sum().backward()
    np.testing.assert_allclose(log_probs.grad[0, :2], gradient_1, atol=1e-6)
    np.testing.assert_allclose(log_probs.grad[1], gradient_2, atol=1e-6)
    assert not log_probs.grad[0, 2].any()


def test_torchaudios_numbers() -> None:
    """Of torchaudio 2.11's `rnnt_loss` on a CPU, its gradients by the log-probs summed under random weights, which
    none can change unseen. `make bench` compares with the package itself."""
    costs = [11.872473716736, 7.271777629852, 9.137852668762]
    sums = [
        [0.550472140312, -1.496832847595, 0.028502158821, 0.213839545846, 1.300036907196],
        [-0.735264956951, 1.371625423431, 0.278950065374, 1.754895806313, 0],
        [-0.109759062529, 0.072005987167, 0, 0, 0],
    ]
    rng = np.random.default_rng(7)
    log_probs, weights = (torch.from_numpy(rng.standard_normal((3, 5, 4, 6), dtype=np.float32)) for _ in range(2))
    log_probs = log_probs.log_softmax(-1).requires_grad_()
    labels = torch.tensor([[0, 5, 3], [4, 0, 0], [1, 1, 0]], dtype=torch.int32)
    found = ak.rnnt_loss(log_probs, labels, lengths(5, 4, 2), lengths(3, 1, 2), blank=2)
    found.sum().backward()
    np.testing.assert_allclose(found.detach(), costs, rtol=1e-6)
    np.testing.assert_allclose((log_probs.grad * weights).sum((2, 3)), sums, rtol=0, atol=4e-6)


def test_memory_is_of_the_nodes_but_for_the_gradient() -> None:
    """Of a vocabulary of 3,000, nothing else of its size is made: some tens of bytes a node."""
    N, T, U, V = 2, 60, 20, 3000
    nodes = N * T * (U + 1)
    log_probs = torch.randn(N, T, U + 1, V).log_softmax(-1).requires_grad_()
    arguments = torch.ones(N, U, dtype=torch.int32), lengths(T, T), lengths(U, U)
    ak.rnnt_loss(log_probs, *arguments).sum().backward()  # which compiles
    log_probs.grad = None
    tracemalloc.start()
    try:
        costs = ak.rnnt_loss(log_probs, *arguments)
        assert tracemalloc.get_traced_memory()[1] < 64 * nodes
        costs.sum().backward()
        assert log_probs.grad is not None
        assert tracemalloc.get_traced_memory()[1] < log_probs.nbytes + 64 * nodes
    finally:
        tracemalloc.stop()


def judge(log_probs: Any, labels: Any, frames: Any, label_lengths: Any, blank: int, modified: bool) -> Any:
    """Costs by the definition, node by node, which autograd differentiates by itself."""
    costs = []
    for b, (T, U) in enumerate(zip(frames.tolist(), label_lengths.tolist())):
        sums = {(0, 0): log_probs.new_zeros(())}
        for t in range(T + 1):
            for u in range(U + 1):
                terms = []
                if (t - 1, u) in sums:
                    terms.append(sums[t - 1, u] + log_probs[b, t - 1, u, blank])
                before = (t - 1 if modified else t), u - 1
                if before in sums and before[0] < T:
                    terms.append(sums[before] + log_probs[b, before[0], u - 1, labels[b, u - 1]])
                if terms and reference.legal(t, u, T, U, modified):
                    sums[t, u] = torch.logsumexp(torch.stack(terms), 0)
        costs.append(-sums[T, U])
    return torch.stack(costs)


@st.composite
def problems(draw: st.DrawFn, least_columns: int = 2) -> dict[str, Any]:
    """Arguments of a call, float64, labels and lengths of either integer type."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    N, T, U = draw(st.integers(1, 3)), draw(st.integers(1, 7)), draw(st.integers(0, 5))
    V = draw(st.integers(least_columns, 6))
    modified = draw(st.booleans()) and U <= T
    frames = [draw(st.integers(U if modified and U else 1, T)) for _ in range(N)]
    blank = draw(st.integers(0, V - 1))
    kind = draw(st.sampled_from([torch.int32, torch.int64]))
    labels = torch.randint(0, V - 1, (N, U), generator=generator)
    return {
        "log_probs": torch.randn(N, T, U + 1, V, dtype=torch.float64, generator=generator).log_softmax(-1),
        "labels": (labels + (labels >= blank)).to(kind),
        "frames_lengths": torch.tensor(frames, dtype=kind),
        "labels_lengths": torch.tensor([draw(st.integers(0, U)) for _ in range(N)], dtype=kind),
        "blank": blank,
        "modified": modified,
    }


def with_gradient(log_probs: Any, call: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Costs, and the gradient of their sum with weights that differ."""
    leaf = log_probs.detach().clone().requires_grad_()
    costs = call(leaf)
    (costs * torch.arange(1, len(costs) + 1)).sum().backward()
    return costs.detach(), leaf.grad


@SETTINGS
@given(problems())
def test_equals_the_definition_differentiated_by_autograd(problem: dict[str, Any]) -> None:
    log_probs = problem.pop("log_probs")
    found = with_gradient(log_probs, lambda x: ak.rnnt_loss(x, **problem))
    arguments = [problem[name] for name in ("labels", "frames_lengths", "labels_lengths", "blank", "modified")]
    expected = with_gradient(log_probs, lambda x: judge(x, *arguments))
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


@settings(SETTINGS, max_examples=10)
@given(problems())
def test_gradcheck(problem: dict[str, Any]) -> None:
    log_probs = problem.pop("log_probs").requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ak.rnnt_loss(x, **problem), (log_probs,))


@SETTINGS
@given(problems())
def test_other_layouts_give_the_same(problem: dict[str, Any]) -> None:
    log_probs, labels, blank = problem.pop("log_probs"), problem["labels"], problem["blank"]
    costs, gradient = with_gradient(log_probs, lambda x: ak.rnnt_loss(x, **problem))
    frames, label_lengths = problem["frames_lengths"], problem["labels_lengths"]

    same = with_gradient(log_probs, lambda x: ak.rnnt_loss(x, gather=True, **problem))
    assert torch.equal(same[0], costs)
    assert torch.equal(same[1], gradient)

    strided = with_gradient(
        log_probs.transpose(1, 2).contiguous(), lambda x: ak.rnnt_loss(x.transpose(1, 2), **problem)
    )
    assert torch.equal(strided[0], costs)
    assert torch.equal(strided[1].transpose(1, 2), gradient)

    compact, compact_labels = compacted(log_probs, labels, frames, label_lengths)
    others = {name: value for name, value in problem.items() if name != "labels"}
    found = with_gradient(compact, lambda x: ak.rnnt_loss(x, compact_labels, compact=True, **others))
    assert torch.equal(found[0], costs)
    assert torch.equal(found[1], compacted(gradient, labels, frames, label_lengths)[0])

    index = torch.full((*log_probs.shape[:3], 2), blank)
    index[:, :, :-1, 1] = labels[:, None]
    others = problem | {"blank": -1}
    gathered = with_gradient(log_probs.gather(3, index), lambda x: ak.rnnt_loss(x, **others))
    assert torch.equal(gathered[0], costs)
    expected = gradient.gather(3, index)
    expected[:, :, -1, 1] = 0
    for b, U in enumerate(label_lengths.tolist()):
        expected[b, :, U, 1] = 0
    assert torch.equal(gathered[1], expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_dtypes(dtype: Any) -> None:
    """Halves are summed in float32; the gradient is rounded once, to the log-probs' type."""
    torch.manual_seed(1)
    log_probs = torch.randn(2, 9, 5, 7).log_softmax(-1).to(dtype)
    arguments = torch.randint(1, 7, (2, 4)), lengths(9, 6), lengths(4, 2)
    costs, gradient = with_gradient(log_probs, lambda x: ak.rnnt_loss(x, *arguments))
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    expected_costs, expected = with_gradient(log_probs.to(wide), lambda x: ak.rnnt_loss(x, *arguments))
    assert gradient.dtype == dtype
    assert torch.equal(costs, expected_costs)
    assert torch.equal(gradient, expected.to(dtype))


def some() -> tuple[Any, ...]:
    torch.manual_seed(2)
    log_probs = torch.randn(3, 6, 4, 5, dtype=torch.float64).log_softmax(-1)
    return log_probs, torch.randint(1, 5, (3, 3)), lengths(6, 4, 1), lengths(3, 0, 2)


def test_reductions_and_averages() -> None:
    log_probs, *others = some()
    costs, frames = ak.rnnt_loss(log_probs, *others), torch.tensor([6.0, 4.0, 1.0], dtype=torch.float64)
    assert torch.equal(ak.rnnt_loss(log_probs, *others, False, None), costs)
    assert torch.equal(ak.rnnt_loss(log_probs, *others, reduction="sum"), costs.sum())
    assert torch.equal(ak.rnnt_loss(log_probs, *others, reduction="mean"), costs.mean())
    assert torch.equal(ak.rnnt_loss(log_probs, *others, average_frames=True), costs / frames)
    _, plain = with_gradient(log_probs, lambda x: ak.rnnt_loss(x, *others))
    _, averaged = with_gradient(log_probs, lambda x: ak.rnnt_loss(x, *others, average_frames=True))
    np.testing.assert_allclose(averaged, plain / frames[:, None, None, None], rtol=1e-14)


@pytest.mark.parametrize("modified", [False, True])
def test_fastemit_scales_the_gradients_of_labels(modified: bool) -> None:
    log_probs, labels, _, label_lengths = some()
    call = {"labels": labels, "frames_lengths": lengths(6, 4, 2), "labels_lengths": label_lengths}
    costs, gradient = with_gradient(log_probs, lambda x: ak.rnnt_loss(x, modified=modified, **call))
    same, scaled = with_gradient(log_probs, lambda x: ak.rnnt_loss(x, fastemit_lambda=0.5, modified=modified, **call))
    assert torch.equal(same, costs)
    assert torch.equal(scaled[..., 0], gradient[..., 0])
    np.testing.assert_allclose(scaled[..., 1:], 1.5 * gradient[..., 1:], rtol=1e-14)


def test_costs_that_are_not_finite() -> None:
    """Only their own item's gradients are, and those of what no path takes stay 0."""
    log_probs, labels, frames, label_lengths = some()
    log_probs[0, 2, :, 0] = -torch.inf
    log_probs[1, 3, 0, 0] = torch.nan
    log_probs[2, 1:] = torch.nan
    log_probs[1, :, 1:] = torch.nan
    costs, gradient = with_gradient(log_probs, lambda x: ak.rnnt_loss(x, labels, frames, label_lengths))
    assert costs[0] == torch.inf
    assert costs[1].isnan()
    assert costs[2].isfinite()
    assert not gradient[0].any()
    assert gradient[1, :4, 0, 0].isnan().all()
    assert not gradient[1, :, :, 1:].any()
    assert gradient[2].isfinite().all()
    assert gradient[2].any()


def test_without_gradients_and_twice() -> None:
    log_probs, *others = some()
    with torch.no_grad():
        assert not ak.rnnt_loss(log_probs.requires_grad_(), *others).requires_grad
    costs = ak.rnnt_loss(log_probs, *others)
    (first,) = torch.autograd.grad(costs.sum(), log_probs, retain_graph=True, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        (costs.sum() + first.sum()).backward(retain_graph=True)
    assert torch.equal(torch.autograd.grad(costs.sum(), log_probs)[0], first)


def test_no_items() -> None:
    none = lengths()
    found = ak.rnnt_loss(torch.zeros(0, 3, 2, 4, requires_grad=True), torch.zeros(0, 1, dtype=torch.int32), none, none)
    found.sum().backward()
    assert found.shape == (0,)
    assert ak.rnnt_loss(torch.zeros(0, 4), none, none, none, compact=True).shape == (0,)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "NumPy": ({"log_probs": np.zeros((3, 6, 4, 5))}, TypeError, "log_probs must be a torch tensor"),
    "integers": ({"log_probs": torch.zeros(3, 6, 4, 5, dtype=torch.int32)}, TypeError, "log_probs must be float16 or"),
    "float labels": ({"labels": torch.ones(3, 3)}, TypeError, "labels must be int32 or int64, not float32"),
    "short lengths": ({"frames_lengths": lengths(6, 4, 1).short()}, TypeError, "frames_lengths must be int32 or int64"),
    "a list": ({"labels_lengths": [3, 0, 2]}, TypeError, "labels_lengths must be a torch tensor, not list"),
    "three axes": ({"log_probs": torch.zeros(3, 6, 5)}, ValueError, r"log_probs must be \[N, T, U, V\]"),
    "labels' shape": ({"labels": torch.ones(3, 4, dtype=torch.int64)}, ValueError, r"\(3, 3\) for log_probs"),
    "items": ({"frames_lengths": lengths(6, 4)}, ValueError, r"one for each item, not of shapes \(2,\) and \(3,\)"),
    "no frames": ({"frames_lengths": lengths(6, 0, 1)}, ValueError, r"frames_lengths\[1\] is 0; .* from 1 to 6"),
    "many frames": ({"frames_lengths": lengths(6, 4, 7)}, ValueError, r"frames_lengths\[2\] is 7; .* from 1 to 6"),
    "negative": ({"labels_lengths": lengths(-1, 0, 2)}, ValueError, r"labels_lengths\[0\] is -1; .* from 0 to 3"),
    "many labels": ({"labels_lengths": lengths(3, 4, 2)}, ValueError, r"labels_lengths\[1\] is 4; .* from 0 to 3"),
    "too few frames": ({"modified": True}, ValueError, r"labels_lengths\[2\] is 2, but .* each of its 1 frames"),
    "a label is blank": (
        {"blank": 4, "labels": torch.full((3, 3), 4)},
        ValueError,
        "label 0 of item 0 is 4.*the blank",
    ),
    "a large label": (
        {"labels": torch.tensor([[1, 2, 3], [1, 2, 3], [1, 5, 9]])},
        ValueError,
        "label 1 of item 2 is 5",
    ),
    "a negative label": ({"labels": torch.tensor([[1, 2, -3]] * 3)}, ValueError, "label 2 of item 0 is -3"),
    "a huge label": ({"labels": torch.tensor([[1, 2, 2**40]] * 3)}, ValueError, "label 2 of item 0 is 1099511627776"),
    "blank": ({"blank": 5}, ValueError, "blank is 5; it must be a column of log_probs, from 0 to 4"),
    "gathered": ({"blank": -1}, ValueError, "2 columns, not 5"),
    "reduction": ({"reduction": "average"}, ValueError, "'average'"),
    "fastemit": ({"fastemit_lambda": -0.1}, ValueError, "fastemit_lambda must be finite and at least 0, not -0.1"),
    "device": ({"labels": torch.ones(3, 3, dtype=torch.int64, device="meta")}, ValueError, "labels is on meta"),
    "compact": ({"compact": True}, ValueError, r"log_probs must be \[ΣTU, V\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name: str) -> None:
    changed, error, message = BAD[name]
    names = ("log_probs", "labels", "frames_lengths", "labels_lengths")
    with pytest.raises(error, match=message):
        ak.rnnt_loss(**(dict(zip(names, some())) | changed))


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [(33, 5, "log_probs has 33 rows, but the lengths make 31"), (31, 4, "labels has 4 elements.*sum to 5")],
)
def test_bad_compact_arguments(rows: int, labels: int, message: str) -> None:
    log_probs, _, frames, label_lengths = some()
    compact = log_probs.reshape(-1, 5)[:rows], torch.ones(labels, dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        ak.rnnt_loss(*compact, frames, label_lengths, compact=True)


def test_labels_beyond_their_lengths_may_be_anything() -> None:
    log_probs, labels, *others = some()
    expected = ak.rnnt_loss(log_probs, labels, *others)
    labels[1:, 2], labels[1] = 2**50, -7
    assert torch.equal(ak.rnnt_loss(log_probs, labels, *others), expected)


def test_large_items_are_shared_among_threads() -> None:
    torch.manual_seed(3)
    log_probs = torch.randn(2, 300, 100, 8).log_softmax(-1)
    labels, frames, label_lengths = torch.randint(1, 8, (2, 99)), lengths(300, 111), lengths(99, 64)
    costs, gradient = with_gradient(log_probs, lambda x: ak.rnnt_loss(x, labels, frames, label_lengths))
    for b, (T, U) in enumerate([(300, 99), (111, 64)]):
        alone = log_probs[b : b + 1, :T, : U + 1]
        cost, own = with_gradient(
            alone, lambda x, b=b, T=T, U=U: ak.rnnt_loss(x, labels[b : b + 1, :U], lengths(T), lengths(U))
        )
        assert torch.equal(cost[0], costs[b])
        assert torch.equal(own[0] * (b + 1), gradient[b, :T, : U + 1])
        assert not gradient[b, T:].any()
        assert not gradient[b, :, U + 1 :].any()


def test_without_torch_it_names_the_extra() -> None:
    script = """
import sys
sys.modules["torch"] = None
import alignd_kernels
try:
    alignd_kernels.rnnt_loss(1, 2, 3, 4)
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=100)
    assert "alignd-kernels[gpu]" in done.stdout


def test_parameters_are_warp_rnnts_with_ours_after_them() -> None:
    """Of warp_rnnt 0.7.0, in its order and with its defaults."""
    required = inspect.Parameter.empty
    theirs = {"log_probs": required, "labels": required, "frames_lengths": required, "labels_lengths": required}
    theirs |= {"average_frames": False, "reduction": "none", "blank": 0, "gather": False, "fastemit_lambda": 0.0}
    theirs |= {"compact": False}
    found = inspect.signature(ak.rnnt_loss).parameters.values()
    assert [(each.name, each.default) for each in found] == [*theirs.items(), ("modified", False)]
    assert {each.kind for each in found} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


@pytest.mark.parametrize("name", ["average_frames", "gather", "compact", "modified"])
def test_another_packages_order_of_arguments_is_told(name: str) -> None:
    """torchaudio's fifth argument is blank, warp_rnnt's a flag."""
    one = torch.ones(1, dtype=torch.int32)
    with pytest.raises(TypeError, match=f"{name} must be True or False, not -1"):
        ak.rnnt_loss(torch.zeros(1, 1, 2, 3), one[:, None], one, one, **{name: -1})
