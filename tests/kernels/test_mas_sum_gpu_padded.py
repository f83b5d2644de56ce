"""Soft monotonic alignment of a GPU's tensors by the public functions: for real where there is a GPU, and, with Triton
interpreted, of the host's tensors, which the functions are told to take for a GPU's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import alignd_kernels as ak
from alignd_kernels.mas import soft_binarize, soft_loss, soft_padded
from alignd_kernels.status import Status

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero) encountered:RuntimeWarning")

Run = Callable[..., Any]


@pytest.fixture(
    params=[pytest.param("cpu", marks=pytest.mark.interpreter), pytest.param("cuda", marks=pytest.mark.gpu)],
)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def on_gpu(device: str) -> Run:
    """Calls a function as if its tensors, brought to the device, were a GPU's; results come back to the host."""

    def call(function: Run, *arguments: Any, **options: Any) -> Any:
        there = [argument.to(device) if isinstance(argument, torch.Tensor) else argument for argument in arguments]
        with pytest.MonkeyPatch.context() as patch:
            if device == "cpu":
                for module in (soft_binarize, soft_loss, soft_padded):
                    patch.setattr(module, "on_gpu", lambda _: True)
                    patch.setattr(module, "check_known_device", lambda *_: None)
            return function(*there, **options)

    return call


SIZES = [(4, 9), (4, 3), (0, 2)]


def padded(seed: int, sizes: list[tuple[int, int]] = SIZES, dtype: Any = torch.float32) -> tuple[Any, Any, Any]:
    """Scores [B, T, S] with NaN beyond each item's lengths, tokens, frames."""
    tokens, frames = torch.tensor([S for S, _ in sizes]), torch.tensor([T for _, T in sizes])
    generator = torch.Generator().manual_seed(seed)
    shape = len(sizes), int(frames.max()) + 1, int(tokens.max()) + 2
    scores = (torch.randn(shape, generator=generator, dtype=torch.float64) * 2).to(dtype)
    for b, (S, T) in enumerate(sizes):
        scores[b, T:] = scores[b, :, S:] = float("nan")
    return scores, tokens, frames


def mask_of(scores: Any, tokens: Any, frames: Any) -> Any:
    """[B, S, T]."""
    _, T, S = scores.shape
    return (torch.arange(S)[:, None] < tokens[:, None, None]) & (torch.arange(T) < frames[:, None, None])


def test_posteriors(on_gpu: Run, device: str) -> None:
    scores, tokens, frames = padded(1)
    value, mask = scores.transpose(1, 2), mask_of(scores, tokens, frames)
    found = on_gpu(ak.mas_posteriors, value, mask, check=False)
    expected = ak.mas_posteriors(value, mask, check=False)
    assert [part.device.type for part in found] == [device] * 3
    assert [part.dtype for part in found[:2]] == [torch.float32, torch.float64]
    assert np.array_equal(found[2].cpu(), expected[2])
    for one, other in zip(found[:2], expected):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-6, atol=1e-5, equal_nan=True)
    posteriors, totals = on_gpu(ak.mas_posteriors, value[:1], mask[:1])
    assert torch.equal(posteriors, found[0][:1])
    assert torch.equal(totals, found[1][:1])


def test_posteriors_of_bad_items_and_masks(on_gpu: Run) -> None:
    scores, tokens, frames = padded(1)
    value, mask = scores.transpose(1, 2), mask_of(scores, tokens, frames)
    with pytest.raises(ak.InvalidItemsError) as caught:
        on_gpu(ak.mas_posteriors, value, mask)
    assert caught.value.statuses == {1: Status.TOO_FEW_FRAMES, 2: Status.EMPTY}
    mask[0, 3, 2] = False
    with pytest.raises(ValueError, match="mask of item 0 is not a prefix rectangle"):
        on_gpu(ak.mas_posteriors, value, mask)
    *_, statuses = on_gpu(ak.mas_posteriors, value, mask, check=False)
    assert statuses.tolist()[0] == Status.INTERNAL


def both(call: Run, scores: Any, *rest: Any, **options: Any) -> tuple[Any, Any]:
    """Values [B], or their mean, and the gradient, on the host."""
    own = scores.clone().requires_grad_()
    values = call(ak.forward_sum_loss, own, *rest, **options)
    weights = torch.arange(1, values.numel() + 1, device=values.device).reshape(values.shape)
    (gradient,) = torch.autograd.grad((values * weights).sum(), own)
    return values.detach().cpu(), gradient.cpu()


def on_cpu(function: Run, *arguments: Any, **options: Any) -> Any:
    return function(*arguments, **options)


@pytest.mark.parametrize(("blank", "dtype"), [(-1.0, torch.float16), (None, torch.float16), (None, torch.float64)])
def test_forward_sum_loss(on_gpu: Run, blank: float | None, dtype: Any) -> None:
    scores, tokens, frames = padded(2, dtype=dtype)
    options = {"blank_logprob": blank, "reduction": "none"}
    value, gradient = both(on_gpu, scores, tokens, frames, **options)
    expected, slope = both(on_cpu, scores, tokens, frames, **options)
    assert value.dtype == expected.dtype
    assert gradient.dtype == slope.dtype == dtype
    tight = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(value, expected, rtol=tight, atol=tight)
    # Halves are rounded on either way; the first one's weight is 1.
    torch.testing.assert_close(gradient, slope, rtol=2**-9 if dtype == torch.float16 else tight, atol=tight)
    assert gradient[0].any()
    assert not gradient[1:].any()


@pytest.mark.parametrize("blank", [-1.0, None])
def test_bad_scores_spoil_their_item_alone(on_gpu: Run, blank: float | None) -> None:
    """Where no path can be, too: the softmax takes it in. Impossible scores do not, and leave no path, or a blank."""
    inf = float("inf")
    scores, tokens, frames = padded(3, [(4, 6), (4, 6), (4, 6), (4, 6), (4, 3)], torch.float64)
    scores[1, 0, 3], scores[2, 5, 1], scores[4, 1, 1] = inf, float("nan"), inf
    scores[3, 2, :4] = -inf
    options = {"blank_logprob": blank, "reduction": "none"}
    value, gradient = both(on_gpu, scores, tokens, frames, **options)
    expected, slope = both(on_cpu, scores, tokens, frames, **options)
    assert value.isnan().tolist() == [False, True, True, False, False]
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12, equal_nan=True)
    torch.testing.assert_close(gradient, slope, rtol=1e-12, atol=1e-12, equal_nan=True)
    assert gradient[1, :6, :4].isnan().all()
    assert bool(gradient[3].any()) == (blank is not None)


@pytest.mark.parametrize("blank", [-1.0, None])
def test_lengths_on_the_device_that_are_out_of_range(on_gpu: Run, blank: float | None) -> None:
    scores = torch.zeros(5, 4, 3)
    tokens, frames = torch.tensor([3, 4, -1, 2, 2**40]), torch.tensor([4, 4, 4, 5, 2**41])
    from alignd_kernels.mas.gpu_soft_autograd import ForwardSumOnGpu

    values = on_gpu(ForwardSumOnGpu.apply, scores, tokens, frames, blank)
    assert values.isnan().tolist() == [False, True, True, True, True]


def test_reductions_empty_items_and_no_gradient(on_gpu: Run) -> None:
    scores, tokens, frames = padded(4, [(3, 5), (2, 4)])
    for reduction in ("mean", "sum"):
        options = {"reduction": reduction, "blank_logprob": -1.0 if reduction == "mean" else None}
        value, gradient = both(on_gpu, scores, tokens, frames, **options)
        expected, slope = both(on_cpu, scores, tokens, frames, **options)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient, slope, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        again = on_gpu(ak.forward_sum_loss, scores.clone().requires_grad_(), tokens, frames, **options)
    assert not again.requires_grad
    assert again.cpu() == value
    nothing = on_gpu(ak.forward_sum_loss, torch.zeros(2, 4, 0), torch.zeros(2).long(), frames[:2] * 0 + 4)
    assert nothing == 0
    none = on_gpu(ak.forward_sum_loss, scores[:0], tokens[:0], frames[:0], reduction="sum")
    assert none == 0
    with pytest.raises(ValueError, match=r"text_lengths\[0\] is 6"):
        on_gpu(ak.forward_sum_loss, scores, [6, 2], frames)


def test_a_gradient_has_no_derivative(on_gpu: Run) -> None:
    scores, tokens, frames = padded(5, [(2, 3)])
    scores = scores.nan_to_num().requires_grad_()
    value = on_gpu(ak.forward_sum_loss, scores, tokens, frames, blank_logprob=None)
    first = torch.autograd.grad(value, scores, retain_graph=True)[0]
    (again,) = torch.autograd.grad(value * 2, scores, create_graph=True)
    assert torch.equal(again, first * 2)
    with pytest.raises(RuntimeError, match="forward_sum_loss cannot be differentiated twice"):
        again.sum().backward()


def test_binarize_and_its_loss(on_gpu: Run, device: str) -> None:
    scores, tokens, frames = padded(6, [(4, 9), (5, 5), (1, 3)])
    soft = scores.exp()
    hard = on_gpu(ak.binarize, soft[:, None], tokens, frames.tolist())
    assert hard.device.type == device
    assert torch.equal(hard.cpu(), ak.binarize(soft[:, None], tokens, frames))
    loss = ak.attention_binarization_loss(hard, soft[:, None].to(device))
    assert loss.cpu() == ak.attention_binarization_loss(hard.cpu(), soft[:, None])
    with pytest.raises(ak.InvalidItemsError) as caught:
        on_gpu(ak.binarize, soft, torch.tensor([4, 5, 0]), torch.tensor([9, 4, 3]))
    assert caught.value.statuses == {1: Status.TOO_FEW_FRAMES, 2: Status.EMPTY}
    soft[0, 2, 1] = -0.5
    with pytest.raises(ak.InvalidItemsError, match="a negative probability"):
        on_gpu(ak.binarize, soft, tokens, frames)
    with pytest.raises(ValueError, match=r"text_lengths\[1\] is 8"):
        on_gpu(ak.binarize, soft, torch.tensor([4, 8, 1]), frames)
    with pytest.raises(ValueError, match="softmax"):
        on_gpu(ak.binarize, scores.abs().neg(), tokens, frames)


@pytest.mark.gpu
def test_the_prior_follows_its_lengths() -> None:
    tokens, frames = torch.tensor([3, 5]), torch.tensor([7, 6])
    found = ak.beta_binomial_prior(tokens.cuda(), frames.cuda(), log=True)
    assert found.is_cuda
    assert torch.equal(found.cpu(), ak.beta_binomial_prior(tokens, frames, log=True))


@pytest.mark.gpu
@pytest.mark.parametrize("blank", [-1.0, None])
def test_nothing_is_waited_for(blank: float | None) -> None:
    scores = torch.zeros(8, 400, 60, device="cuda", requires_grad=True)
    tokens, frames = torch.full((8,), 60, device="cuda"), torch.full((8,), 400, device="cuda")
    ak.forward_sum_loss(scores, tokens, frames, blank_logprob=blank).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        ak.forward_sum_loss(scores, tokens, frames, blank_logprob=blank).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert scores.grad.isfinite().all()
