"""Sums over CTC paths by Triton against the reference, interpreted or, with `-m gpu`, for real."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from kernels.gpu_support import Launches, examples, garbage_in_new_memory, on_each_device
from kernels.strategies import (
    CtcItem,
    ctc_batch,
    ctc_batches,
    ctc_item,
    dyadic,
    normal,
    random_targets,
    same_results,
    with_bad_cells,
    with_minus_infinity,
)

from alignd_kernels import gpu_borders
from alignd_kernels.ctc import cpu_sum, gpu_sum, gpu_sum_backward, gpu_sum_forward, gpu_sum_item, sum_reference
from alignd_kernels.ctc.batch import STAR, STAR_MAX, CtcBatch
from alignd_kernels.ctc.sum_batch import CtcCosts
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_common import INTERPRETED
from alignd_kernels.ragged import offsets_of
from alignd_kernels.status import Status

# Cells of items that are lost may hold anything; NumPy, under the interpreter, warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero) encountered:RuntimeWarning")

FEW = settings(max_examples=examples(10), deadline=None, derandomize=True)
SMALL = {"max_labels": 3, "max_spare": 3, "max_items": 2}
KINDS = [dyadic, normal, with_minus_infinity, with_bad_cells]


@pytest.fixture(autouse=True, scope="module")
def garbage() -> Iterator[None]:
    with garbage_in_new_memory():
        yield


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes milliseconds for a frame, and kernels whole steps of them."""
    if INTERPRETED:
        for dtype in DType:
            monkeypatch.setitem(gpu_sum_item.STEP, dtype, 2)


def ulp(dtype: DType) -> float:
    return float(np.finfo(dtype.accumulator).eps)


def item_of(seed: int, frames: int, length: int, star: float = -1.5, stars: float = 0.2, kind: Any = normal) -> CtcItem:
    rng = np.random.default_rng(seed)
    return kind(rng, (frames, 5)), random_targets(rng, length, 5, 0, stars), 0, star


def matrices(flat: np.ndarray, frames: np.ndarray, columns: np.ndarray) -> list[np.ndarray]:
    """Items' [T, columns] out of one flat array that holds nothing else."""
    starts = offsets_of(frames * columns)
    assert flat.shape == (starts[-1],)
    sizes = zip(frames.tolist(), columns.tolist())
    return [flat[starts[b] : starts[b + 1]].reshape(size) for b, size in enumerate(sizes)]


def tolerances(batch: CtcBatch, index: int) -> tuple[float, float]:
    """Of log-likelihoods, beside their rounding, and of probabilities: `gpu_sum`'s, and what the reference's logarithms
    lose: an ulp of theirs in each frame."""
    log_probs, targets, blank, star = ctc_item(batch, index)
    T, unit = len(log_probs), ulp(batch.dtype) / 2
    x = sum_reference.reference.emissions(log_probs, targets, blank, star).astype(np.float64)
    alpha, _ = sum_reference.forward_backward(x, targets)
    largest = float(np.abs(x[np.isfinite(alpha)]).max(initial=0))
    theirs = T * 2.0**-52 * float(np.abs(alpha[np.isfinite(alpha)]).max(initial=0))
    a_frame = unit * max(0.0, largest - 8192)
    return (8 * unit + a_frame) * (T + 1) + theirs, (30 * unit + 2 * a_frame) * (T + 1) + 3 * theirs


def check_sums(batch: CtcBatch, device: str, states: bool = True) -> CtcCosts:
    """Costs and gradients are the reference's, within `tolerances`; and with `states` posteriors."""
    found = gpu_sum.costs(batch, device)
    assert found.costs.dtype == found.gradients.dtype == batch.dtype.accumulator
    gradients = matrices(found.gradients, batch.frames, batch.vocabulary)
    for index in range(len(batch)):
        item = ctc_item(batch, index)
        context = f"item {index}, {item[0].shape}, {item[1:]}, {batch.dtype}"
        status, _, _ = sum_reference.posteriors(*item)
        cost, slope = sum_reference.cost(*item)
        assert found.statuses[index] == status, context
        of_score, of_cells = tolerances(batch, index) if status is Status.OK else (0.0, 0.0)
        rounding = ulp(batch.dtype)
        np.testing.assert_allclose(found.costs[index], cost, rounding, of_score, err_msg=context)
        np.testing.assert_allclose(gradients[index], slope, 0, of_cells, err_msg=context)
    if states:
        check_posteriors(batch, found.statuses, device)
    return found


def check_posteriors(batch: CtcBatch, statuses: np.ndarray, device: str) -> None:
    found = gpu_sum.posteriors(batch, device)
    assert found.posteriors.dtype == batch.dtype.accumulator
    np.testing.assert_array_equal(found.statuses, statuses)
    posteriors = matrices(found.posteriors, batch.frames, 2 * batch.target_lengths + 1)
    for index in range(len(batch)):
        item = ctc_item(batch, index)
        context = f"item {index}, {item[0].shape}, {item[1:]}, {batch.dtype}"
        status, expected, total = sum_reference.posteriors(*item)
        of_score, of_cells = tolerances(batch, index) if status is Status.OK else (0.0, 0.0)
        np.testing.assert_allclose(found.scores[index], total, 2.0**-52, of_score, err_msg=context)
        np.testing.assert_allclose(posteriors[index], expected, 0, of_cells, err_msg=context)
        if status is Status.OK:  # where no path can be, nothing is
            cells = np.zeros(expected.shape, bool)
            for cell in sum_reference.visitable(item[1], len(item[0])):
                cells[cell] = True
            assert not posteriors[index][~cells].any(), context
            assert (posteriors[index] >= 0).all(), context


@on_each_device
@FEW
@given(batch=ctc_batches(kinds=KINDS, **SMALL))
def test_equals_the_reference(device: str, batch: CtcBatch) -> None:
    check_sums(batch, device)


@on_each_device
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
def test_shapes_at_the_edges_of_strips(device: str, dtype: DType) -> None:
    lengths = [32] if device == "cpu" else [30, 31, 32, 33, 62, 63, 64, 65]
    spare = [0] if device == "cpu" else [0, 1, 7, 8, 9]
    items = []
    for L in lengths:
        for more in spare:
            targets = item_of(L, 1, L)[1]
            repeats = int(np.count_nonzero(targets[1:] == targets[:-1]))
            items.append((item_of(L, L + repeats + more, L)[0], targets, 0, -0.5))
    check_sums(ctc_batch(items, dtype, 1, 2), device, dtype is DType.FLOAT64)


@on_each_device
def test_one_strip_that_is_full(device: str) -> None:
    targets = np.tile(np.array([1, 2], np.int32), 16)[:31]
    check_sums(ctc_batch([(dyadic(np.random.default_rng(1), (31, 3)), targets, 0, 0.0)], DType.FLOAT32), device, False)


@on_each_device
@pytest.mark.parametrize("dtype", DType)
def test_all_types_and_a_step_as_it_is(device: str, dtype: DType, monkeypatch: pytest.MonkeyPatch) -> None:
    if dtype is DType.FLOAT32:
        monkeypatch.setitem(gpu_sum_item.STEP, dtype, 8)
    check_sums(ctc_batch([item_of(2, 4, 2), item_of(3, 1, 0)], dtype), device)


@on_each_device
@pytest.mark.parametrize("star", [0.0, -np.inf, np.inf, STAR_MAX])
def test_wildcards(device: str, star: float) -> None:
    log_probs = dyadic(np.random.default_rng(5), (4, 4))
    log_probs[2] = [-1.0, -0.5, -0.5, -0.75]  # the first of two largest
    items = [
        (log_probs[:3], np.array([STAR], np.int32), 0, star),
        (log_probs[:1, :1], np.array([STAR], np.int32), 0, star),
    ]
    if not np.isinf(star):
        items.append((log_probs, np.array([1, STAR, 1], np.int32), 0, star))
    check_sums(ctc_batch(items, DType.FLOAT32, 1, 1), device, np.isnan(star))


def bad_items() -> list[CtcItem]:
    good, labels = item_of(6, 4, 2, stars=0.0)[0], np.array([1, 2], np.int32)
    spoilt, blocked = good.copy(), good.copy()
    spoilt[1, 2] = np.nan
    blocked[2] = -np.inf
    items = [(good, labels, 0, 0.0), (spoilt, labels, 0, 0.0), (blocked, labels, 0, 0.0), (good, labels, 1, 0.0)]
    items += [(good[:1], labels, 0, 0.0), (good[:0], labels, 0, 0.0), (good[:, :0], labels[:0], 0, 0.0)]
    items += [(good, labels[:0], blank, 0.0) for blank in (5, -1)]
    items += [(good, np.array(own, np.int32), 0, 0.0) for own in ([5], [1, -2], [STAR, STAR], [0, 1])]
    return items


@on_each_device
def test_bad_items_beside_good_ones(device: str) -> None:
    found = check_sums(ctc_batch(bad_items(), DType.FLOAT32, 1, 1), device)
    expected = cpu_sum.costs(ctc_batch(bad_items(), DType.FLOAT32, 1, 1))
    np.testing.assert_array_equal(found.statuses, expected.statuses)
    assert {*found.statuses.tolist()} == {*range(1, 9)}


@on_each_device
def test_negative_lengths(device: str) -> None:
    one = ctc_batch([item_of(7, 5, 2, stars=0.0)] * 3, DType.FLOAT32)
    frames, target_lengths = np.array([-1, 5, 5]), np.array([2, 2, -2])
    found = gpu_sum.posteriors(
        CtcBatch(
            one.log_probs, one.dtype, one.offsets, frames, one.vocabulary, one.pitches, one.targets,
            one.target_offsets, target_lengths, one.blanks, one.star_scores,
        ),
        device,
    )  # fmt: skip
    assert found.statuses.tolist() == [Status.EMPTY, Status.OK, Status.EMPTY]
    np.testing.assert_array_equal(found.posteriors[:25], gpu_sum.posteriors(one, device).posteriors[:25])


@on_each_device
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_what_no_path_takes_changes_nothing(device: str, value: float) -> None:
    log_probs, targets = dyadic(np.random.default_rng(8), (5, 4)), np.array([1, 1, 2], np.int32)
    spoilt = np.full(log_probs.shape, value)
    for t, s in sum_reference.visitable(targets, 5):
        column = targets[s // 2] if s % 2 else 0
        spoilt[t, column] = log_probs[t, column]
    one, other = (ctc_batch([(x, targets, 0, 0.0)], DType.FLOAT32) for x in (log_probs, spoilt))
    same_results(gpu_sum.costs(one, device), gpu_sum.costs(other, device))


@on_each_device
@pytest.mark.parametrize(("dtype", "lost"), [(DType.FLOAT32, True), (DType.FLOAT64, False)])
def test_equal_labels_keep_what_is_far_below_the_label_before(device: str, dtype: DType, lost: bool) -> None:
    """The second of two equal labels is e^-2000 below the first until the end, where only it goes on; and costs beyond
    float32's exponents on the CPU are +inf here too."""
    log_probs = np.full((8, 3), -1.0)
    log_probs[1:5, 0] = -100.0
    log_probs[3, 0] = -2000.0
    log_probs[5:, 0] = -np.inf
    items = [(log_probs, np.array([1, 1], np.int32), 0, 0.0)]
    check_sums(ctc_batch(items, dtype), device)
    large = ctc_batch([(np.full((2, 2), -3e6), np.array([1], np.int32), 0, 0.0)], dtype)
    found, expected = gpu_sum.costs(large, device), cpu_sum.costs(large)
    np.testing.assert_array_equal(found.statuses, expected.statuses)
    assert (found.costs[0] == np.inf) == lost


@on_each_device
@pytest.mark.parametrize("value", [-1e8, -3e38, 2e7, 3e38])
def test_sums_that_no_exponent_holds_are_told(device: str, value: float) -> None:
    """The items beside them, in the same batch, are not touched."""
    items = [(np.full((2, 2), fill), np.array([1], np.int32), 0, 0.0) for fill in (-1.0, value, -2.0)]
    found = gpu_sum.costs(ctc_batch(items, DType.FLOAT32), device)
    assert found.statuses.tolist() == [Status.OK, Status.NO_FINITE_PATH, Status.OK]
    assert found.costs[1] == np.inf
    assert not found.gradients[4:8].any()
    np.testing.assert_allclose(found.costs[[0, 2]], [2 - np.log(3), 4 - np.log(3)], 1e-6)


@on_each_device
@settings(FEW, max_examples=examples(6))
@given(batch=ctc_batches(kinds=KINDS, **SMALL))
def test_a_batch_equals_its_items_alone(device: str, batch: CtcBatch) -> None:
    whole = gpu_sum.costs(batch, device)
    gradients = matrices(whole.gradients, batch.frames, batch.vocabulary)
    for index in range(len(batch)):
        alone = gpu_sum.costs(batch.take(np.array([index])), device)
        np.testing.assert_array_equal(alone.gradients, gradients[index].reshape(-1))
        np.testing.assert_array_equal(alone.costs, whole.costs[index : index + 1])
        np.testing.assert_array_equal(alone.statuses, whole.statuses[index : index + 1])


@on_each_device
def test_no_items_and_no_gradients(device: str) -> None:
    empty = gpu_sum.costs(ctc_batch([], DType.FLOAT32), device)
    assert [len(empty.costs), len(empty.gradients), len(empty.statuses)] == [0, 0, 0]
    assert len(gpu_sum.posteriors(ctc_batch([], DType.FLOAT64), device).scores) == 0
    batch = ctc_batch([item_of(9, 4, 2)], DType.FLOAT32)
    alone = gpu_sum.costs(batch, device, gradients=False)
    assert alone.gradients is None
    np.testing.assert_array_equal(alone.costs, gpu_sum.costs(batch, device).costs)


@pytest.mark.interpreter
@pytest.mark.parametrize("module", [gpu_sum_forward, gpu_sum_backward])
def test_a_border_that_never_comes_fails_its_item_alone(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_sum, "PATIENCE", 3)
    monkeypatch.setattr(module, "hand_over", lambda *_: None)
    wide = dyadic(np.random.default_rng(0), (32, 3)), np.tile(np.array([1, 2], np.int32), 16), 0, 0.0
    batch = ctc_batch([item_of(1, 2, 1), wide, item_of(2, 1, 1)], DType.FLOAT32)
    found = gpu_sum.posteriors(batch, "cpu")
    assert found.statuses.tolist() == [Status.OK, Status.INTERNAL, Status.OK]
    assert np.isnan(found.scores).tolist() == [False, True, False]
    states = matrices(found.posteriors, batch.frames, 2 * batch.target_lengths + 1)
    assert [bool(each.any()) for each in states] == [True, False, True]


def states_of(lengths: list[tuple[int, int]], dtype: DType) -> CtcBatch:
    """Items of so many frames and labels, no two of them alike in a row."""
    items = [(np.zeros((T, 3)), np.tile(np.array([1, 2], np.int32), L)[:L], 0, 0.0) for T, L in lengths]
    return ctc_batch(items, dtype)


@on_each_device
def test_scratch_is_what_is_used(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Borders of this test alone: what is not launched draws no tickets.
    monkeypatch.setattr(gpu_borders, "_kept", functools.cache(lambda device, stream: gpu_borders._Kept()))
    launches = Launches(gpu_sum.ctc_sum_forward_kernel, really=False)
    monkeypatch.setattr(gpu_sum, "ctc_sum_forward_kernel", launches)
    for name in ("ctc_sum_backward_kernel", "ctc_columns_kernel", "ctc_star_kernel"):
        monkeypatch.setattr(gpu_sum, name, Launches(getattr(gpu_sum, name), really=False))
    words = []
    borders = gpu_sum.borders
    monkeypatch.setattr(gpu_sum, "borders", lambda *of: words.append(of[1]) or borders(*of))
    for dtype, size, planes in ((DType.FLOAT16, 4, 3), (DType.FLOAT64, 8, 5)):
        batch = states_of([(800, 160), (9, 9), (2, 3), (5, 0), (0, 0)], dtype)
        batch.star_scores[:] = np.nan
        gpu_sum.costs(batch, device)
        used = launches.arguments[-1]
        names = ("cells", "repeats", "trouble", "wild")
        allocated = sum(used[name].numel() * used[name].element_size() for name in names) + 8 * words[-1]
        # What cannot be aligned takes as much as an item of one frame without labels, and the star all frames.
        none, stored = 64 * size * 33 + 8, dtype.storage.itemsize
        need = gpu_sum.scratch_bytes(batch)
        assert need.sum() == allocated - 2 * none - 2 * stored
        assert need[0] == 64 * size * 6 * 672 + 8 * planes * 5 * 641 + 8 * 6 + stored * 800
        assert need[2:].tolist() == [0, 64 * size * 37 + 8 + stored * 5, 0]


@on_each_device
def test_equals_torchs_loss(device: str) -> None:
    torch.manual_seed(1)
    logits = torch.randn(7, 3, 5, dtype=torch.float64, requires_grad=True)
    targets, frames, counts = torch.tensor([[1, 2, 2], [3, 1, 4], [4, 4, 1]]), [7, 5, 4], [3, 0, 2]
    log_probs = logits.log_softmax(-1)
    losses = torch.nn.functional.ctc_loss(log_probs, targets, frames, counts, reduction="none")
    losses.sum().backward()
    found = gpu_sum.costs_on_gpu(
        log_probs.detach().transpose(0, 1).to(device), targets.to(device),
        torch.tensor(frames, device=device), torch.tensor(counts, device=device),
    )  # fmt: skip
    torch.testing.assert_close(found.costs.cpu(), losses.detach(), rtol=1e-13, atol=1e-13)
    leaf = logits.detach().requires_grad_()
    leaf.log_softmax(-1).backward(found.found.cpu().transpose(0, 1))
    torch.testing.assert_close(leaf.grad, logits.grad, rtol=1e-12, atol=1e-13)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DType)
def test_large_items_equal_the_cpu_kernels(dtype: DType) -> None:
    rng = np.random.default_rng(3)
    sizes = [(1500, 300), (3000, 700), (901, 700), (4000, 1), (2000, 0)]
    items = [(dyadic(rng, (T, 30)), random_targets(rng, L, 30, 0), 0, -1.0) for T, L in sizes]
    batch = ctc_batch(items, dtype)
    found, expected = gpu_sum.costs(batch, "cuda"), cpu_sum.costs(batch)
    np.testing.assert_array_equal(found.statuses, expected.statuses)
    unit = ulp(dtype) / 2
    # Both err, each by what it states: the CPU by 12 T and 24 T of these.
    np.testing.assert_allclose(found.costs, expected.costs, 4 * unit, 20 * 4001 * unit)
    np.testing.assert_allclose(found.gradients, expected.gradients, 0, 54 * 4001 * unit)
    one, other = gpu_sum.posteriors(batch, "cuda"), cpu_sum.posteriors(batch)
    np.testing.assert_allclose(one.posteriors, other.posteriors, 0, 54 * 4001 * unit)


@pytest.mark.gpu
def test_repeats_give_the_same_bits() -> None:
    batch = ctc_batch([item_of(1, 300, 90), item_of(2, 400, 200), item_of(3, 500, 31, STAR_MAX)], DType.FLOAT32)
    first = gpu_sum.costs(batch, "cuda")
    for _ in range(200):
        same_results(gpu_sum.costs(batch, "cuda"), first)


@pytest.mark.gpu
def test_nothing_waits_before_the_results_are_asked_for() -> None:
    log_probs = torch.zeros(16, 500, 20, device="cuda").log_softmax(-1)
    targets = torch.arange(100, device="cuda").remainder(19).add(1).expand(16, 100)
    lengths = [torch.full((16,), n, device="cuda") for n in (500, 100)]

    def both() -> list[torch.Tensor]:
        return [call(log_probs, targets, *lengths).found for call in (gpu_sum.costs_on_gpu, gpu_sum.posteriors_on_gpu)]

    both()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = both()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(result[0].sum(2), torch.full((16, 500), -1.0, device="cuda"), rtol=1e-4, atol=0)
    torch.testing.assert_close(result[1].sum(2), torch.ones(16, 500, device="cuda"), rtol=1e-4, atol=0)


@pytest.mark.gpu
def test_offsets_beyond_32_bits() -> None:
    """The second item's log-probs, and its gradients, begin past 2³⁰ elements and end past 2³¹."""
    log_probs = torch.full((2, 40_000, 30_000), -1.0, dtype=torch.float16, device="cuda")
    targets = torch.full((2, 3), 29_999, device="cuda")
    lengths = torch.tensor([40_000, 40_000], device="cuda"), torch.tensor([3, 3], device="cuda")
    found = gpu_sum.costs_on_gpu(log_probs, targets, *lengths)
    assert torch.equal(found.costs[0], found.costs[1])
    for column in (0, 29_999):
        assert torch.equal(found.found[0, :, column], found.found[1, :, column])
    assert found.found[1, -1, 29_999] < 0
