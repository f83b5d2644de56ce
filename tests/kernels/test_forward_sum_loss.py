"""The forward-sum loss against torch's CTC loss; its prior and its hard alignments."""

import subprocess
import sys
from fractions import Fraction
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import alignd_kernels as ak
from alignd_kernels.status import Status

torch = pytest.importorskip("torch")
functional = torch.nn.functional

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)
TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SIZES = st.lists(st.tuples(st.integers(0, 12), st.integers(-2, 30)), min_size=1, max_size=5)

UNLIKELY = -1e4
"""A blank's score without weight: at −inf itself, torch's gradient is NaN."""


def by_ctc(scores: Any, tokens: Any, frames: Any, blank: float) -> Any:
    """The papers' formulation, as values [B] before any reduction."""
    values = []
    for item, S, T in zip(scores, tokens.tolist(), frames.tolist()):
        log_probs = functional.pad(item[:T, :S], (1, 0), value=blank).log_softmax(1)
        values.append(
            functional.ctc_loss(
                log_probs,
                torch.arange(1, S + 1),
                torch.tensor(T),
                torch.tensor(S),
                reduction="none",
                zero_infinity=True,
            )
        )
    return torch.stack(values)


def mean_by_ctc(scores: Any, tokens: Any, frames: Any, blank: float = -1.0) -> Any:
    return (by_ctc(scores, tokens, frames, blank) / tokens.clamp(min=1)).mean()


def padded(seed: int, sizes: list[tuple[int, int]], dtype: Any = torch.float32, scale: float = 2.0) -> Any:
    """Scores [B, T, S] with NaN beyond each item's lengths, tokens, frames."""
    tokens, frames = torch.tensor([S for S, _ in sizes]), torch.tensor([T for _, T in sizes])
    generator = torch.Generator().manual_seed(seed)
    shape = len(sizes), int(frames.max()) + 1, int(tokens.max()) + 2
    scores = (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)
    for b, (S, T) in enumerate(sizes):
        scores[b, T:] = scores[b, :, S:] = float("nan")
    return scores, tokens, frames


def both(ours: Any, theirs: Any, scores: Any) -> tuple[Any, Any, Any, Any]:
    """Values and gradients of two functions of the scores."""
    found = []
    for function in (ours, theirs):
        own = scores.clone().requires_grad_()
        value = function(own)
        found += [value.detach(), torch.autograd.grad(value, own)[0]]
    return found[0], found[1], found[2], found[3]


@SETTINGS
@given(
    st.integers(0, 2**31), SIZES, st.sampled_from([torch.float32, torch.float64]), st.sampled_from([-1.0, 3.0, -40.0])
)
def test_equals_the_ctc_formulation(seed: int, sizes: list[tuple[int, int]], dtype: Any, blank: float) -> None:
    sizes = [(S, max(S + more, 1)) for S, more in sizes]
    scores, tokens, frames = padded(seed, sizes, dtype)
    value, gradient, expected, slope = both(
        lambda x: ak.forward_sum_loss(x, tokens, frames, blank_logprob=blank),
        lambda x: mean_by_ctc(x, tokens, frames, blank),
        scores,
    )
    assert value.dtype == gradient.dtype == dtype
    # torch's own float32 lattice is of logarithms, which have the ulp of a sum over all frames
    tight = 1e-12 if dtype == torch.float64 else 3e-5
    torch.testing.assert_close(value, expected, rtol=tight, atol=tight)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=tight)


@SETTINGS
@given(st.integers(0, 2**31), SIZES)
def test_without_a_blank_it_is_the_limit_of_an_unlikely_one(seed: int, sizes: list[tuple[int, int]]) -> None:
    sizes = [(max(S, 1), max(S + more, 1)) for S, more in sizes]
    scores, tokens, frames = padded(seed, sizes, torch.float64)
    value, gradient, expected, slope = both(
        lambda x: ak.forward_sum_loss(x, tokens, frames, blank_logprob=None),
        lambda x: mean_by_ctc(x, tokens, frames, UNLIKELY),
        scores,
    )
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-11)


@pytest.mark.parametrize("blank", [-1.0, None])
def test_long_float32_items(blank: float | None) -> None:
    """Against float64, since a float32 lattice of logarithms is less exact than ours. Scores are exact in both."""
    scores, tokens, frames = padded(1, [(160, 2000), (300, 1500)], scale=4.0)
    value, gradient, expected, slope = both(
        lambda x: ak.forward_sum_loss(x, tokens, frames, blank_logprob=blank, reduction="sum"),
        lambda x: by_ctc(x.double(), tokens, frames, UNLIKELY if blank is None else blank).sum(),
        scores,
    )
    bound = 2 * 2000 * 6 * 2.0**-23
    torch.testing.assert_close(value.double(), expected, rtol=2.0**-23, atol=bound)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=2 * bound)


def test_more_tokens_than_frames_count_as_nothing() -> None:
    scores, tokens, frames = padded(2, [(4, 9), (6, 5)], torch.float64)
    values, gradient, expected, _ = both(
        lambda x: ak.forward_sum_loss(x, tokens, frames), lambda x: mean_by_ctc(x, tokens, frames), scores
    )
    torch.testing.assert_close(values, expected)
    assert not gradient[1].any()
    assert gradient[0].any()
    each = ak.forward_sum_loss(scores, tokens, frames, reduction="none")
    torch.testing.assert_close(each, by_ctc(scores, tokens, frames, -1.0))
    assert each[1] == 0


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_reductions(reduction: str) -> None:
    scores, tokens, frames = padded(3, [(4, 9), (5, 5), (1, 7)], torch.float64)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) if reduction == "none" else torch.tensor(3.0)

    def weighted(values: Any) -> Any:
        return ((values if reduction == "none" else values.sum()) * weights).sum()

    value, gradient, expected, slope = both(
        lambda x: (ak.forward_sum_loss(x, tokens, frames, reduction=reduction) * weights).sum(),
        lambda x: weighted(by_ctc(x, tokens, frames, -1.0)),
        scores,
    )
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, slope)


@pytest.mark.parametrize("blank", [-1.0, None])
def test_gradcheck(blank: float | None) -> None:
    generator = torch.Generator().manual_seed(4)
    scores = torch.randn(3, 1, 7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    tokens, frames = torch.tensor([4, 2, 4]), torch.tensor([7, 5, 4])

    def loss(x: Any) -> Any:
        return ak.forward_sum_loss(x, tokens, frames, blank_logprob=blank, reduction="none")

    assert torch.autograd.gradcheck(loss, scores)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("blank", [-1.0, None])
def test_types_and_layouts(dtype: Any, blank: float | None) -> None:
    scores, tokens, frames = padded(5, [(4, 9), (5, 6)], dtype)
    value, gradient, expected, slope = both(
        lambda x: ak.forward_sum_loss(x[:, None], tokens, frames, blank_logprob=blank),
        lambda x: ak.forward_sum_loss(x.double(), tokens.numpy(), frames.numpy(), blank_logprob=blank),
        scores,
    )
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.dtype == dtype
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-5)  # rounded to the type on either way
    turned = scores.transpose(1, 2).contiguous().transpose(1, 2)
    again = ak.forward_sum_loss(turned, tokens, frames, blank_logprob=blank)
    assert torch.equal(again, value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("blank", [-1.0, None])
def test_bad_scores_spoil_their_item_alone(bad: float, blank: float | None) -> None:
    scores, tokens, frames = padded(6, [(4, 9), (5, 6)], torch.float64)
    expected = ak.forward_sum_loss(scores, tokens, frames, blank_logprob=blank, reduction="none")
    spoilt = scores.clone()
    spoilt[1, 0, 4] = bad  # where no path can be: the softmax takes it in
    spoilt.requires_grad_()
    values = ak.forward_sum_loss(spoilt, tokens, frames, blank_logprob=blank, reduction="none")
    assert values[0] == expected[0]
    assert values[1].isnan()
    gradient = torch.autograd.grad(values.sum(), spoilt)[0]
    assert gradient[0].isfinite().all()
    assert gradient[1, :6, :5].isnan().all()
    assert not gradient[1, 6:].any()


@pytest.mark.parametrize("blank", [-1.0, None])
def test_minus_infinity(blank: float | None) -> None:
    scores, tokens, frames = padded(7, [(3, 6), (3, 6), (3, 6)], torch.float64)
    scores[1, :6, 1] = -float("inf")  # no frame for token 1: no path
    scores[2, 2, :3] = -float("inf")  # no token in frame 2: a blank may stand there
    scores.requires_grad_()
    values = ak.forward_sum_loss(scores, tokens, frames, blank_logprob=blank, reduction="none")
    assert values[1] == 0
    gradient = torch.autograd.grad(values.sum(), scores)[0]
    assert not gradient[1].any()
    assert gradient[0].any()
    if blank is None:
        assert values[2] == 0
        assert not gradient[2].any()
    else:
        expected = by_ctc(scores.detach(), tokens, frames, blank)
        torch.testing.assert_close(values.detach(), expected)
        assert gradient[2].isfinite().all()
        assert gradient[2].any()


def test_empty_items() -> None:
    scores = torch.zeros(3, 4, 5)
    values = ak.forward_sum_loss(scores, torch.tensor([0, 2, 0]), torch.tensor([4, 0, 0]), reduction="none")
    assert values.tolist() == [0, 0, 0]
    assert ak.forward_sum_loss(torch.zeros(0, 4, 5), torch.zeros(0).long(), torch.zeros(0).long(), reduction="sum") == 0


def test_a_gradient_may_be_taken_twice_but_not_of_a_gradient() -> None:
    scores, tokens, frames = padded(8, [(4, 9)], torch.float64)
    scores = scores.nan_to_num().requires_grad_()
    value = ak.forward_sum_loss(scores, tokens, frames)
    first = torch.autograd.grad(value, scores, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(value * 2, scores, create_graph=True)[0], first * 2)
    (again,) = torch.autograd.grad(ak.forward_sum_loss(scores, tokens, frames), scores, create_graph=True)
    with pytest.raises(RuntimeError, match="forward_sum_loss cannot be differentiated twice"):
        again.sum().backward()
    with torch.no_grad():
        scores += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_no_gradient_is_prepared_where_none_is_wanted() -> None:
    scores, tokens, frames = padded(8, [(4, 9)])
    wanted = scores.clone().requires_grad_()
    with torch.no_grad():
        value = ak.forward_sum_loss(wanted, tokens, frames)
    assert not value.requires_grad
    assert value == ak.forward_sum_loss(scores, tokens, frames)
    torch.testing.assert_close(value, ak.forward_sum_loss(wanted, tokens, frames).detach(), rtol=0, atol=0)


def test_bad_arguments() -> None:
    scores, two = torch.zeros(2, 5, 3), torch.tensor([3, 2])
    frames = torch.tensor([5, 5])
    for error, match, call in [
        (TypeError, "torch tensor", lambda: ak.forward_sum_loss(np.zeros((2, 5, 3)), two, frames)),
        (TypeError, "floating-point", lambda: ak.forward_sum_loss(scores.long(), two, frames)),
        (ValueError, "T_mel, T_text", lambda: ak.forward_sum_loss(scores[0], two, frames)),
        (ValueError, "T_mel, T_text", lambda: ak.forward_sum_loss(scores.expand(2, 2, 5, 3), two, frames)),
        (ValueError, r"text_lengths\[0\] is 4", lambda: ak.forward_sum_loss(scores, two + 1, frames)),
        (ValueError, r"mel_lengths\[0\] is 6", lambda: ak.forward_sum_loss(scores, two, frames + 1)),
        (ValueError, r"text_lengths\[1\] is -1", lambda: ak.forward_sum_loss(scores, two - 3, frames)),
        (TypeError, "must be integers", lambda: ak.forward_sum_loss(scores, two.float(), frames)),
        (ValueError, "one for each item", lambda: ak.forward_sum_loss(scores, two[:1], frames)),
        (ValueError, "finite", lambda: ak.forward_sum_loss(scores, two, frames, blank_logprob=-float("inf"))),
        (ValueError, "reduction", lambda: ak.forward_sum_loss(scores, two, frames, reduction="max")),
        (ValueError, "no items", lambda: ak.forward_sum_loss(scores[:0], two[:0], frames[:0])),
        (NotImplementedError, r"\.cpu\(\)", lambda: ak.forward_sum_loss(scores.to("meta"), two, frames)),
        (NotImplementedError, r"\.cpu\(\)", lambda: ak.binarize(scores.to("meta"), two, frames)),
        (TypeError, "torch tensor", lambda: ak.binarize(np.zeros((2, 5, 3)), two, frames)),
        (TypeError, "floating-point", lambda: ak.binarize(scores.long(), two, frames)),
    ]:
        with pytest.raises(error, match=match):
            call()


def test_without_torch_the_error_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import alignd_kernels as ak, numpy as np\n"
        "assert ak.beta_binomial_prior(2, 3).shape == (3, 2)\n"
        "assert ak.mas_posteriors(np.zeros((1, 2, 3)), np.ones((1, 2, 3)))[0].shape == (1, 2, 3)\n"
        "for call in (ak.forward_sum_loss, ak.binarize):\n"
        "    try:\n        call(None, None, None)\n"
        "    except ImportError as error:\n        print('alignd-kernels[gpu]' in str(error))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["True", "True"]


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, alignd_kernels; print('torch' in sys.modules, 'numba' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]


# the prior


def exact_prior(tokens: int, frames: int, w: Fraction, trials: int) -> list[list[Fraction]]:
    """C(n, k) · B(k + α, n − k + β) / B(α, β), by rising factorials of fractions."""

    def rising(x: Fraction, count: int) -> Fraction:
        product = Fraction(1)
        for j in range(count):
            product *= x + j
        return product

    rows = []
    for i in range(1, frames + 1):
        alpha, beta = w * i, w * (frames - i + 1)
        everything = rising(alpha + beta, trials)
        rows.append([comb(trials, k) * rising(alpha, k) * rising(beta, trials - k) / everything for k in range(tokens)])
    return rows


@pytest.mark.parametrize("w", [Fraction(1), Fraction(1, 20), Fraction(5, 2)])
@pytest.mark.parametrize(("S", "T"), [(1, 1), (1, 5), (2, 3), (7, 4), (12, 30)])
@pytest.mark.parametrize("form", ["radtts", "fastpitch"])
def test_prior(S: int, T: int, w: Fraction, form: Any) -> None:
    expected = exact_prior(S, T, w, S if form == "fastpitch" else S - 1)
    found = ak.beta_binomial_prior(S, T, float(w), form=form)
    assert found.shape == (T, S)
    np.testing.assert_allclose(found, np.array(expected, float), 1e-12)
    np.testing.assert_allclose(np.exp(ak.beta_binomial_prior(S, T, float(w), log=True, form=form)), found, 1e-13)
    if form == "radtts":
        assert all(sum(row) == 1 for row in expected)


def test_prior_of_two_tokens_in_three_frames() -> None:
    np.testing.assert_allclose(ak.beta_binomial_prior(2, 3), [[3 / 4, 1 / 4], [1 / 2, 1 / 2], [1 / 4, 3 / 4]], 1e-14)


def test_priors_of_a_batch() -> None:
    tokens, frames = torch.tensor([3, 5, 3]), torch.tensor([7, 6, 7])
    found = ak.beta_binomial_prior(tokens, frames, 0.5)
    assert isinstance(found, torch.Tensor)
    assert found.shape == (3, 7, 5)
    logs = ak.beta_binomial_prior(tokens.numpy(), frames.numpy(), 0.5, log=True)
    for b, (S, T) in enumerate(zip(tokens.tolist(), frames.tolist())):
        np.testing.assert_array_equal(found[b, :T, :S], ak.beta_binomial_prior(S, T, 0.5))
        assert not found[b, T:].any()
        assert not found[b, :, S:].any()
        assert not logs[b, T:].any()
        assert (logs[b, :T, S:] == -np.inf).all()
    assert ak.beta_binomial_prior(np.zeros(0, int), np.zeros(0, int)).shape == (0, 0, 0)


def test_bad_priors() -> None:
    for error, match, arguments in [
        (ValueError, "tokens must be at least 1", (0, 3)),
        (ValueError, "frames must be at least 1", (3, -1)),
        (TypeError, "must be integers", (2.5, 3)),
        (ValueError, "both of shape", ([1, 2], [3])),
        (ValueError, "positive", (1, 2, 0.0)),
        (ValueError, "positive", (1, 2, float("nan"))),
    ]:
        with pytest.raises(error, match=match):
            ak.beta_binomial_prior(*arguments)
    with pytest.raises(ValueError, match="radtts"):
        ak.beta_binomial_prior(1, 2, form="other")


# hard alignments


@pytest.mark.parametrize("dtype", TYPES)
def test_binarize(dtype: Any) -> None:
    scores, tokens, frames = padded(9, [(4, 9), (5, 5), (1, 3)])
    soft = scores.exp().to(dtype).requires_grad_()
    hard = ak.binarize(soft[:, None], tokens, frames)
    assert hard.shape == soft[:, None].shape
    assert hard.dtype == dtype
    assert not hard.requires_grad
    mask = torch.zeros_like(scores)
    for b, (S, T) in enumerate(zip(tokens.tolist(), frames.tolist())):
        mask[b, :T, :S] = 1
        path = hard[b, 0, :T, :S]
        assert (path.sum(1) == 1).all()
        token = path.argmax(1)
        assert (int(token[0]), int(token[-1])) == (0, S - 1)
        assert set(token.diff().tolist()) <= {0, 1}
        assert hard[b].sum() == T
    best = ak.maximum_path(soft.detach().double().log().transpose(1, 2), mask.transpose(1, 2))
    assert torch.equal(hard[:, 0].float(), best.transpose(1, 2))


def test_binarize_lists_what_has_no_path() -> None:
    soft = torch.full((4, 5, 3), 0.5)
    soft[1, :, 1] = 0
    soft[2, 2, 1] = -0.5
    with pytest.raises(ak.InvalidItemsError) as caught:
        ak.binarize(soft, torch.tensor([3, 3, 3, 3]), torch.tensor([5, 5, 5, 2]))
    statuses = {1: Status.NO_FINITE_PATH, 2: Status.NOT_FINITE, 3: Status.TOO_FEW_FRAMES}
    assert caught.value.statuses == statuses
    assert caught.value.reasons[1] == "every path meets a probability of 0 (3 tokens, 5 frames)"
    assert caught.value.reasons[2].startswith("a negative probability, NaN or +inf")
    assert "attn is [T_mel, T_text]" in caught.value.reasons[3]


def test_binarization_loss_refuses_what_is_no_probability() -> None:
    with pytest.raises(ValueError, match="pass probabilities"):
        ak.attention_binarization_loss(torch.ones(2, 3), torch.rand(2, 3).log())
    with pytest.raises(TypeError, match="must be torch tensors, not ndarray and Tensor"):
        ak.attention_binarization_loss(np.ones((2, 3)), torch.rand(2, 3))


def test_binarization_loss() -> None:
    soft = torch.tensor([[[0.5, 0.5], [0.25, 0.75], [0.0, 1.0]]], dtype=torch.float64, requires_grad=True)
    hard = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    value = ak.attention_binarization_loss(hard, soft)
    torch.testing.assert_close(value.detach(), torch.tensor(np.log(8) / 3))
    value.backward()
    torch.testing.assert_close(soft.grad, -hard.double() / soft.detach().clamp(min=1e-12) / 3)
    nowhere = ak.attention_binarization_loss(torch.ones(1), torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(nowhere, torch.tensor(-np.log(1e-12)))
    for other in (torch.zeros(1, 3, 2), torch.ones(2)):
        with pytest.raises(ValueError, match=r"one shape|nothing in hard"):
            ak.attention_binarization_loss(other, soft)


def test_gradcheck_of_the_binarization_loss() -> None:
    """Smaller probabilities than `eps`, whatever it is, have no slope."""
    generator = torch.Generator().manual_seed(9)
    scores = torch.rand(2, 1, 5, 3, dtype=torch.float64, generator=generator)
    hard = ak.binarize(scores, torch.tensor([3, 2]), torch.tensor([5, 4]))
    soft = (scores + 0.1).requires_grad_()
    for eps in (1e-12, 0.8):
        assert torch.autograd.gradcheck(lambda x, eps=eps: ak.attention_binarization_loss(hard, x, eps), (soft,))
    (gradient,) = torch.autograd.grad(ak.attention_binarization_loss(hard, soft, 0.8), soft)
    assert (gradient != 0).equal((hard == 1) & (soft >= 0.8))
    assert (gradient != 0).any()
    assert ((hard == 1) & (soft < 0.8)).any()


def test_logarithms_are_no_probabilities() -> None:
    with pytest.raises(ValueError, match="softmax"):
        ak.binarize(torch.randn(1, 9, 4).log_softmax(-1), torch.tensor([4]), torch.tensor([9]))


def test_a_softmax_over_the_prior_is_finite_in_padding_too() -> None:
    tokens, frames = torch.tensor([6, 4]), torch.tensor([20, 15])
    scores = torch.randn(2, 20, 6, requires_grad=True)
    prior = ak.beta_binomial_prior(tokens, frames, log=True)
    soft = (scores.log_softmax(-1) + prior).softmax(-1)
    ak.attention_binarization_loss(ak.binarize(soft, tokens, frames), soft).backward()
    assert scores.grad.isfinite().all()
    assert not soft[1, :, 4:][:15].any()
    assert prior[1, 15:].count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_what_a_frame_has_in_common_changes_nothing(dtype: torch.dtype) -> None:
    """A blank that is out of the question, and scores far from 0, are no less exact: no sum grows with them."""
    scores = padded(3, [(160, 800)], dtype)[0].detach().requires_grad_()

    def loss(scores: Any, blank: float | None) -> tuple[Any, Any]:
        value = ak.forward_sum_loss(scores, [160], [800], blank_logprob=blank, reduction="none")
        return value.detach(), torch.autograd.grad(value.sum(), scores)[0]

    expected, slopes = loss(scores, None)
    assert expected > 100
    assert slopes.abs().max() > 0.5
    far = -6e4 if dtype is torch.float16 else -1e6
    found, by_blank = loss(scores, far)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(by_blank, slopes, rtol=0, atol=1e-3)
    if dtype is not torch.float16:  # which has no such numbers
        moved = (scores.detach() + 2e4).requires_grad_()
        same = (moved.detach().double() - 2e4).requires_grad_()
        torch.testing.assert_close(loss(moved, None)[0].double(), loss(same, None)[0], rtol=1e-5, atol=0)
