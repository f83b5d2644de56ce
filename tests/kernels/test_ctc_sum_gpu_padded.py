"""CTC's sums on a GPU's tensors: padded batches, the loss, posteriors, label priors, columns of targets."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from kernels.gpu_support import garbage_in_new_memory, on_each_device
from kernels.strategies import ctc_batch, dyadic

import alignd_kernels as ak
from alignd_kernels.ctc import gpu_sum, gpu_sum_item, priors
from alignd_kernels.ctc.batch import STAR
from alignd_kernels.ctc.gpu_sum_padded import ctc_posteriors_on_gpu
from alignd_kernels.ctc.loss import Targets
from alignd_kernels.ctc.loss_autograd import costs_there
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_common import INTERPRETED
from alignd_kernels.status import Status

# Cells of items that are lost may hold anything; NumPy, under the interpreter, warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero) encountered:RuntimeWarning")

FRAMES, COUNTS = [5, 2, 3, 0], [3, 0, 2, 0]
LABELS = [[1, 3, 3], [0, 9, 9], [2, 1, -7], [9, 9, 9]]


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The interpreter takes milliseconds for a frame, and kernels whole steps of them."""
    if INTERPRETED:
        for dtype in DType:
            monkeypatch.setitem(gpu_sum_item.STEP, dtype, 2)
    with garbage_in_new_memory():
        yield


def batch_first(dtype: Any = torch.float64) -> tuple[Any, Any, Any, Any]:
    """Log-probs [B, T, V] in strides of their own and NaN around, targets [B, L], frames and targets' lengths."""
    memory = torch.full((6, 4, 7), torch.nan, dtype=dtype)
    for b, T in enumerate(FRAMES):
        memory[:T, b, :5] = torch.from_numpy(dyadic(np.random.default_rng(b), (T, 5)))
    targets = torch.full((3, 4), 9)
    targets.copy_(torch.tensor(LABELS).T)
    return memory.transpose(0, 1)[:, :5, :5], targets.T, torch.tensor(FRAMES), torch.tensor(COUNTS)


@on_each_device
def test_padded_tensors_equal_the_batch(device: str) -> None:
    log_probs, targets, frames, counts = (part.to(device) for part in batch_first(torch.float32))
    items = [
        (log_probs[b, :T].cpu().double().numpy(), np.array(LABELS[b][:L], np.int32), 0, -0.5)
        for b, (T, L) in enumerate(zip(FRAMES, COUNTS))
    ]
    batch = ctc_batch(items, DType.FLOAT32)
    expected, states = gpu_sum.costs(batch, device), gpu_sum.posteriors(batch, device)
    found = gpu_sum.costs_on_gpu(log_probs, targets, frames, counts)
    assert found.statuses.tolist() == expected.statuses.tolist() == [1, 1, 1, Status.EMPTY]
    np.testing.assert_array_equal(found.costs.cpu(), expected.costs)
    wanted = np.zeros((4, 5, 5), np.float32)
    begin = 0
    for b, T in enumerate(FRAMES):
        wanted[b, :T] = expected.gradients[begin : begin + 5 * T].reshape(T, 5)
        begin += 5 * T
    np.testing.assert_array_equal(found.found.cpu(), wanted)
    sums = gpu_sum.posteriors_on_gpu(log_probs, targets.int(), frames, counts)
    np.testing.assert_array_equal(sums.scores.cpu(), states.scores)
    wanted, begin = np.zeros((4, 5, 7), np.float32), 0
    for b, (T, L) in enumerate(zip(FRAMES, COUNTS)):
        own = T * (2 * L + 1)
        wanted[b, :T, : 2 * L + 1] = states.posteriors[begin : begin + own].reshape(T, 2 * L + 1)
        begin += own
    np.testing.assert_array_equal(sums.found.cpu(), wanted)


@on_each_device
def test_lengths_beyond_the_tensors_are_caught(device: str) -> None:
    log_probs, targets, *_ = (part.to(device) for part in batch_first())
    log_probs = log_probs.nan_to_num()
    frames = torch.tensor([6, 4, 2**40, 40 - 2**32], device=device)  # the last one is 40 in its low half
    counts = torch.tensor([3, 4, 0, 0], device=device)
    found = gpu_sum.costs_on_gpu(log_probs, targets, frames, counts)
    assert found.statuses.tolist() == [Status.INTERNAL] * 3 + [Status.EMPTY]
    assert found.costs.isnan().all()
    assert found.found.isnan().sum((1, 2)).tolist() == [25, 20, 25, 0]  # the frames that there are
    states = gpu_sum.posteriors_on_gpu(log_probs, targets, frames, counts)
    assert not states.found.any()
    assert states.scores.isnan().all()


@on_each_device
def test_no_items_and_no_labels(device: str) -> None:
    empty = torch.zeros(0, 3, 4, device=device), torch.zeros(0, 2, dtype=torch.int64, device=device)
    lengths = torch.zeros(0, dtype=torch.int64, device=device)
    found = gpu_sum.costs_on_gpu(*empty, lengths, lengths)
    assert [part.numel() for part in found] == [0, 0, 0, 0]
    assert found.found.shape == (0, 3, 4)
    log_probs = torch.full((1, 2, 1), -1.0, device=device)
    for dtype in (torch.int32, torch.int64, torch.uint8):
        none = torch.zeros(1, 0, dtype=dtype, device=device)
        one = torch.ones(1, dtype=torch.int64, device=device)
        found = gpu_sum.costs_on_gpu(log_probs, none, 2 * one, 0 * one)
        assert found.costs.tolist() == pytest.approx([2.0], rel=2.0**-22)
        assert found.found.tolist() == [[[-1.0], [-1.0]]]


@pytest.mark.interpreter
def test_the_loss_equals_the_cpus() -> None:
    """What `ctc_loss` calls for a CUDA tensor: items of no frames among others, one that fits no frames."""
    log_probs, targets, frames, counts = batch_first()
    log_probs = log_probs.nan_to_num().transpose(0, 1)
    frames, counts = torch.tensor([5, 4, 2, 0]), torch.tensor([2, 0, 3, 0])
    targets = targets.clamp(1, 4)
    leaf = log_probs.detach().requires_grad_()
    expected = ak.ctc_loss(leaf, targets, frames, counts, reduction="none")
    expected.sum().backward()
    given = Targets(targets.int().numpy().reshape(-1), 3 * np.arange(4), counts.numpy())
    costs, slopes = costs_there(log_probs, given, frames.numpy(), 0, True)
    assert (costs[2], costs[3]) == (torch.inf, 0)
    torch.testing.assert_close(costs, expected.detach(), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(slopes, leaf.grad, rtol=0, atol=1e-14)
    assert costs_there(log_probs, given, frames.numpy(), 0, False)[1] is None


@pytest.mark.interpreter
def test_posteriors_equal_the_cpus() -> None:
    log_probs, targets, frames, counts = batch_first(torch.float32)
    targets[0, 1] = STAR
    frames[3], log_probs[3, 0] = 1, -1.0
    expected = ak.ctc_posteriors(log_probs, targets, frames, counts, star_score="max")
    found = ctc_posteriors_on_gpu(log_probs, targets, frames.tolist(), counts, 0, np.nan, True)
    # Each errs by what it states: 24 and 30 (T + 1) halves of an ulp.
    for one, other, allowed in zip(found, expected, (54 * 6 * 2.0**-24, 20 * 6 * 2.0**-24), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=0, atol=allowed)
    *_, statuses = ctc_posteriors_on_gpu(log_probs, targets, None, None, 0, 0.0, False)
    assert statuses.tolist() == [Status.OK, Status.TARGET_IS_BLANK, *2 * [Status.TARGET_OUT_OF_RANGE]]


BAD = {
    "no frames": ([5, 2, 3, 0], COUNTS, ak.InvalidItemsError, "item 3: empty item: it needs a frame"),
    "out of range": ([5, 2, 3, 1], [3, 0, 3, 0], ak.InvalidItemsError, "item 2: target -7 is out of range"),
    "too few": ([5, 2, 1, 1], COUNTS, ak.InvalidItemsError, "item 2: too few frames"),
    "long": ([5, 2, 6, 1], COUNTS, ValueError, r"input_lengths\[2\] is 6"),
    "many": ([5, 2, 3, 1], [3, 4, 0, 0], ValueError, r"target_lengths\[1\] is 4"),
}


@pytest.mark.interpreter
@pytest.mark.parametrize("name", BAD)
def test_bad_items_and_lengths(name: str) -> None:
    frames, counts, error, message = BAD[name]
    log_probs, targets, *_ = batch_first(torch.float32)
    log_probs[3, 0] = -1.0
    with pytest.raises(error, match=message):
        ctc_posteriors_on_gpu(log_probs, targets, torch.tensor(frames), torch.tensor(counts), 0, 0.0, True)
    if error is ValueError:  # of the host, before anything is launched
        with pytest.raises(error, match=message):
            ctc_posteriors_on_gpu(log_probs, targets, np.array(frames), np.array(counts), 0, 0.0, True)


def test_arguments_on_several_devices() -> None:
    log_probs, targets, frames, counts = batch_first()
    with pytest.raises(ValueError, match="targets is on meta, but log_probs is on cpu"):
        ak.ctc_loss(log_probs, targets.to("meta"), frames, counts)
    with pytest.raises(ValueError, match="target_lengths is on meta"):
        ak.ctc_loss(log_probs, targets, frames, counts.to("meta"))
    with pytest.raises(NotImplementedError, match="CUDA devices only"):
        ak.ctc_loss(log_probs.to("meta"), targets, frames, counts)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sums_of_label_priors_by_torch(dtype: Any) -> None:
    log_probs = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(1)).log_softmax(-1).to(dtype)
    frames = np.array([6, 0, 2])
    log_probs[1:, 2:] = torch.nan
    log_probs[..., 3] = -torch.inf
    np.testing.assert_allclose(priors._sums_there(log_probs, frames), priors._sums(log_probs, frames), rtol=1e-14)
    assert priors._sums_there(log_probs, frames + 1) is None
    with pytest.raises(TypeError, match="floating-point"):
        priors._sums_there(log_probs.nan_to_num().int(), frames)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("end_to_end", [False, True])
def test_losses_and_gradients_on_the_gpu(dtype: Any, reduction: str, end_to_end: bool) -> None:
    torch.manual_seed(2)
    logits = torch.randn(60, 3, 9)
    targets, counts = torch.randint(1, 9, (3, 40)), torch.tensor([40, 0, 17])
    if end_to_end:
        targets = torch.cat([row[:count] for row, count in zip(targets, counts.tolist())])
    results = []
    for device, lengths_on in (("cpu", "cpu"), ("cuda", "cuda"), ("cuda", "cpu")):
        leaf = logits.to(device, dtype).requires_grad_()
        frames = torch.tensor([60, 50, 33], device=lengths_on)
        loss = ak.ctc_loss(
            leaf.log_softmax(-1), targets.to(lengths_on), frames, counts.to(lengths_on), reduction=reduction
        )
        assert loss.device == leaf.device
        loss.sum().backward()
        results.append((loss.detach().cpu(), leaf.grad.cpu()))
    eps = torch.finfo(dtype).eps
    for loss, gradient in results[1:]:
        torch.testing.assert_close(loss, results[0][0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(gradient, results[0][1], rtol=0, atol=max(2 * eps, 54 * 61 * 2.0**-24))
    for one, other in zip(results[1], results[2]):
        assert torch.equal(one, other)


@pytest.mark.gpu
def test_one_item_strides_and_half_gradients_on_the_gpu() -> None:
    log_probs = torch.randn(6, 3, 5, device="cuda").log_softmax(-1)
    whole = ak.ctc_loss(log_probs, torch.tensor([[1, 2, 2]] * 3), [6, 6, 6], [3, 3, 3], reduction="none")
    one = ak.ctc_loss(log_probs[:, 1], torch.tensor([1, 2, 2], device="cuda"), 6, 3, reduction="none")
    assert one.shape == ()
    assert one == whole[1]
    turned = log_probs.permute(2, 0, 1).contiguous().permute(1, 2, 0)  # columns are not contiguous
    assert torch.equal(ak.ctc_loss(turned, torch.tensor([[1, 2, 2]] * 3), [6] * 3, [3] * 3, reduction="none"), whole)


@pytest.mark.gpu
def test_posteriors_priors_and_columns_stay_on_the_gpu() -> None:
    log_probs = torch.randn(3, 50, 9).log_softmax(-1)
    targets, counts = torch.randint(1, 9, (3, 12)), torch.tensor([12, 0, 5])
    found = ak.ctc_posteriors(log_probs.cuda(), targets.cuda(), None, counts.cuda())
    for one, other in zip(found, ak.ctc_posteriors(log_probs, targets, None, counts), strict=True):
        assert one.is_cuda
        np.testing.assert_allclose(one.cpu(), other, rtol=0, atol=54 * 51 * 2.0**-24)
    weights = ak.ctc_label_priors(log_probs.cuda())
    assert weights.is_cuda
    np.testing.assert_allclose(weights.cpu(), ak.ctc_label_priors(log_probs), rtol=1e-13)
    assert ak.subtract_label_priors(log_probs.cuda(), weights, 0.3).is_cuda
    for one, other in zip(
        ak.ctc_target_columns(log_probs.cuda(), targets.cuda(), counts.cuda()),
        ak.ctc_target_columns(log_probs, targets, counts),
        strict=True,
    ):
        assert one.is_cuda
        assert torch.equal(one.cpu(), other)
