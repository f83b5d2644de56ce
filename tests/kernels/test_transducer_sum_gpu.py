"""Sums over the paths of transducers by Triton against the reference, interpreted or, with `-m gpu`, for real."""

import functools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from kernels.gpu_support import Launches, examples, garbage_in_new_memory, on_each_device
from kernels.strategies import dyadic, normal, with_bad_cells, with_minus_infinity
from kernels.transducer_strategies import (
    random_labels,
    some_of,
    status_of_labels,
    transducer_arcs,
    transducer_batch,
    transducer_batches,
    transducer_stored,
)

from alignd_kernels import gpu_borders
from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import offsets_of
from alignd_kernels.status import Status
from alignd_kernels.transducer import gpu_batch, gpu_sum, gpu_sum_forward, reference
from alignd_kernels.transducer.batch import TransducerBatch, TransducerCosts

# What is read beyond a strip's last row may be anything; NumPy, under the interpreter, warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero) encountered:RuntimeWarning")

FEW = settings(max_examples=examples(5), deadline=None, derandomize=True)
SMALL = {"max_frames": 5, "max_labels": 4, "max_items": 2}
KINDS = [dyadic, normal, with_minus_infinity, with_bad_cells]
TOPOLOGIES = pytest.mark.parametrize("modified", [False, True], ids=["standard", "modified"])
LAMBDA = 0.25


@pytest.fixture(autouse=True, scope="module")
def garbage() -> Iterator[None]:
    with garbage_in_new_memory():
        yield


def batch_of(
    shapes: list[tuple[int, int]], dtype: DType = DType.FLOAT32, kind=dyadic, modified: bool = False, **paddings: int
) -> TransducerBatch:
    """Items of so many frames and labels, over three columns."""
    rng = np.random.default_rng(1)
    items = [(kind(rng, (T, U + 1, 3)), random_labels(rng, U, 3, 1), 1) for T, U in shapes]
    return transducer_batch(items, dtype, modified=modified, **paddings)


def tolerances(batch: TransducerBatch, index: int) -> tuple[float, float]:
    """Of scores, beside their rounding, and of probabilities: `gpu_sum`'s, and what the reference's logarithms lose."""
    unit = 2.0**-53 if batch.dtype is DType.FLOAT64 else 2.0**-24
    arcs = transducer_arcs(batch, index)
    steps = len(arcs) if batch.modified else sum(arcs.shape[:2])
    largest = np.max(np.abs(arcs), initial=1.0, where=np.isfinite(arcs))
    lost = 4 * (steps + 1) ** 2 * largest * 2.0**-53
    return 8 * (steps + 1) * unit + lost, 16 * (steps + 1) * unit + 3 * lost


def check_sums(batch: TransducerBatch, device: str) -> TransducerCosts:
    """Costs, gradients and posteriors are the reference's, within `tolerances`."""
    found = gpu_sum.costs(batch, device, fastemit_lambda=LAMBDA)
    nodes = gpu_sum.posteriors(batch, device)
    starts = offsets_of(batch.frames * (batch.labels + 1))
    assert found.costs.dtype == found.gradients.dtype == nodes.posteriors.dtype == batch.dtype.accumulator
    assert found.gradients.shape == (2 * starts[-1],)
    assert nodes.posteriors.shape == (starts[-1],)
    np.testing.assert_array_equal(found.statuses, nodes.statuses)
    for index in range(len(batch)):
        shape = int(batch.frames[index]), int(batch.labels[index]) + 1
        own = slice(starts[index], starts[index + 1])
        slopes = found.gradients[2 * own.start : 2 * own.stop].reshape(*shape, 2)
        probabilities = nodes.posteriors[own].reshape(shape)
        context = f"item {index}, {shape}, {batch.dtype}, modified: {batch.modified}"
        status = status_of_labels(batch, index)
        if status is not Status.OK:
            assert found.statuses[index] == status, context
            assert np.isnan([found.costs[index], nodes.scores[index], *slopes.ravel()]).all(), context
            assert not probabilities.any(), context
            continue
        arcs = transducer_arcs(batch, index)
        cost, expected_slopes = reference.cost(arcs, batch.modified, LAMBDA)
        status, expected, score = reference.posteriors(arcs, batch.modified)
        of_score, relative = tolerances(batch, index)
        assert found.statuses[index] == status, context
        rounding = np.finfo(batch.dtype.accumulator).eps
        np.testing.assert_allclose(found.costs[index], cost, rounding, of_score, err_msg=context)
        np.testing.assert_allclose(nodes.scores[index], score, 2.0**-52, of_score, err_msg=context)
        np.testing.assert_allclose(slopes, expected_slopes, relative, 1e-36, err_msg=context)
        np.testing.assert_allclose(probabilities, expected, relative, 1e-36, err_msg=context)
    return found


@on_each_device
@FEW
@given(batch=transducer_batches(kinds=KINDS, **SMALL))
def test_equals_the_reference(device: str, batch: TransducerBatch) -> None:
    check_sums(batch, device)


@on_each_device
@TOPOLOGIES
def test_shapes_at_the_edges_of_strips_and_chunks(device: str, modified: bool) -> None:
    edges = [31, 32] if device == "cpu" else [30, 31, 32, 62, 63, 64, 65]
    shapes = [(1, 0), (33, 1), *((u if modified else 1, u) for u in edges)]
    check_sums(batch_of(shapes, modified=modified, gap=1, node_padding=1, frame_padding=2), device)


@on_each_device
@pytest.mark.parametrize("dtype", DType)
def test_all_types(device: str, dtype: DType) -> None:
    check_sums(batch_of([(4, 3), (1, 33)], dtype, kind=normal), device)


@on_each_device
def test_long_items_lose_no_digits(device: str) -> None:
    """Logarithms of these sums are some −700, whose ulp in float32 is 6 · 10⁻⁵."""
    check_sums(batch_of([(150, 3)], kind=lambda rng, shape: 3 * dyadic(rng, shape) - 3), device)


@on_each_device
@TOPOLOGIES
def test_bad_items_beside_good_ones(device: str, modified: bool) -> None:
    rng = np.random.default_rng(2)
    good, bad, blocked = (dyadic(rng, (4, 3, 3)) for _ in range(3))
    bad[1, 1] = np.nan
    blocked[3] = -np.inf
    labels = np.array([1, 2], np.int32)
    items = [(good, labels, 0), (bad, labels, 0), (blocked, labels, 0), (good, labels, 1), (good[:1], labels, 0)]
    items += [(good[:0], labels, 0), (good, np.array([1, 3], np.int32), 0)]
    batch = transducer_batch(items, DType.FLOAT32, modified=modified)
    statuses = check_sums(batch, device).statuses
    assert {*statuses.tolist()} >= {Status.OK, Status.NOT_FINITE, Status.NO_FINITE_PATH, Status.EMPTY}


@on_each_device
def test_masks_of_huge_finite_numbers_count_as_impossible(device: str) -> None:
    rng = np.random.default_rng(3)
    good, labels = dyadic(rng, (4, 3, 2)), np.array([1, 1], np.int32)
    masked = np.where(rng.random(good.shape) < 0.2, -3e38, good)
    expected = np.where(masked < -1e38, -np.inf, masked)
    found = gpu_sum.costs(transducer_batch([(masked, labels, 0)], DType.FLOAT32), device)
    wanted = gpu_sum.costs(transducer_batch([(expected, labels, 0)], DType.FLOAT32), device)
    assert wanted.statuses.tolist() == [Status.OK]
    np.testing.assert_array_equal(found.costs, wanted.costs)
    np.testing.assert_array_equal(found.gradients, wanted.gradients)


@on_each_device
@pytest.mark.parametrize("value", [-1e8, -3e38, 1e7, 3e38])
def test_sums_that_no_exponent_holds_are_told(device: str, value: float) -> None:
    """The items beside them, in the same batch, are not touched."""
    labels = np.array([1, 1], np.int32)
    items = [(np.full((4, 3, 2), fill), labels, 0) for fill in (-1.0, value, -2.0)]
    found = gpu_sum.costs(transducer_batch(items, DType.FLOAT32), device)
    assert found.statuses.tolist() == [Status.OK, Status.NO_FINITE_PATH, Status.OK]
    assert found.costs[1] == np.inf
    assert not found.gradients[24:48].any()
    paths = np.log(10)  # two labels among four frames, the last blank at the end
    np.testing.assert_allclose(found.costs[[0, 2]], [6 - paths, 12 - paths], 1e-6)


@on_each_device
@FEW
@given(batch=transducer_batches(kinds=KINDS, **SMALL))
def test_a_batch_equals_its_items_alone(device: str, batch: TransducerBatch) -> None:
    whole = gpu_sum.costs(batch, device)
    starts = 2 * offsets_of(batch.frames * (batch.labels + 1))
    for index in range(len(batch)):
        alone = gpu_sum.costs(some_of(batch, np.array([index])), device)
        np.testing.assert_array_equal(alone.gradients, whole.gradients[starts[index] : starts[index + 1]])
        np.testing.assert_array_equal(alone.costs, whole.costs[index : index + 1])


@on_each_device
def test_no_items_and_no_gradients(device: str) -> None:
    empty = gpu_sum.costs(batch_of([]), device)
    assert [len(empty.costs), len(empty.gradients), len(empty.statuses)] == [0, 0, 0]
    assert len(gpu_sum.posteriors(batch_of([]), device).scores) == 0
    batch = batch_of([(3, 2)])
    alone = gpu_sum.costs(batch, device, gradients=False)
    assert alone.gradients is None
    np.testing.assert_array_equal(alone.costs, gpu_sum.costs(batch, device).costs)


@pytest.mark.interpreter
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
def test_a_border_that_never_comes_fails_its_item_alone(dtype: DType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_sum, "PATIENCE", 3)
    monkeypatch.setattr(gpu_sum_forward, "hand_over", lambda *_: None)
    found = gpu_sum.costs(batch_of([(2, 1), (2, 33), (1, 1)], dtype), "cpu")
    assert found.statuses.tolist() == [Status.OK, Status.INTERNAL, Status.OK]
    assert np.isnan(found.costs).tolist() == [False, True, False]


@on_each_device
def test_scratch_is_what_is_used(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Borders of this test alone: what is not launched draws no tickets.
    monkeypatch.setattr(gpu_borders, "_kept", functools.cache(lambda device, stream: gpu_borders._Kept()))
    launches = Launches(gpu_sum.transducer_sum_forward_kernel, really=False)
    monkeypatch.setattr(gpu_sum, "transducer_sum_forward_kernel", launches)
    monkeypatch.setattr(gpu_sum, "transducer_gradient_kernel", Launches(gpu_sum.transducer_gradient_kernel, False))
    monkeypatch.setattr(gpu_batch, "transducer_arcs_kernel", Launches(gpu_batch.transducer_arcs_kernel, False))
    words = []
    borders = gpu_sum.borders
    monkeypatch.setattr(gpu_sum, "borders", lambda *of: words.append(of[1]) or borders(*of))
    for dtype in (DType.FLOAT16, DType.FLOAT64):
        batch = batch_of([(800, 160), (9, 9)], dtype)
        gpu_sum.costs(batch, device)
        used, size = launches.arguments[-1], np.dtype(dtype.accumulator).itemsize
        allocated = sum(used[name].numel() * used[name].element_size() for name in ("arcs", "sums_m", "sums_e"))
        allocated -= (4 * size + 2 * (size + 4)) * gpu_batch.PADDING
        need = gpu_sum.scratch_bytes(batch)
        assert need.sum() == allocated + 8 * words[-1]
        assert need[0] < 1.4 * (4 * size + 8) * 800 * 160


def padded_of(batch: TransducerBatch, device: str) -> tuple[torch.Tensor, ...]:
    """Log-probs [B, T, U + 1, V] in strides of their own and NaN around, targets, frames and labels."""
    T, U, V = (int(size.max()) for size in (batch.frames, batch.labels, batch.vocabulary))
    memory = torch.full((T, len(batch), U + 2, V + 1), float("nan"))
    targets = torch.full((len(batch), U), -1)
    for index in range(len(batch)):
        item = torch.from_numpy(np.ascontiguousarray(transducer_stored(batch, index)))
        memory[: item.shape[0], index, : item.shape[1], :V] = item
        first, length = int(batch.target_offsets[index]), int(batch.labels[index])
        targets[index, :length] = torch.from_numpy(batch.targets[first : first + length])
    log_probs = memory.permute(1, 0, 2, 3)[:, :, : U + 1, :V]
    rest = targets, torch.from_numpy(batch.frames), torch.from_numpy(batch.labels)
    return tuple(tensor.to(device) for tensor in (log_probs, *rest))


def dense(batch: TransducerBatch, gradients: np.ndarray, factors: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Derivatives by padded log-probs, from those by the items' arcs."""
    found = np.zeros(shape, np.float32)
    starts = 2 * offsets_of(batch.frames * (batch.labels + 1))
    for index in range(len(batch)):
        T, U = int(batch.frames[index]), int(batch.labels[index])
        slopes = factors[index] * gradients[starts[index] : starts[index + 1]].reshape(T, U + 1, 2)
        first = int(batch.target_offsets[index])
        found[index, :T, : U + 1, batch.blanks[index]] = slopes[:, :, 0]
        for u in range(U):
            found[index, :T, u, batch.targets[first + u]] = slopes[:, u, 1]
    return found


@on_each_device
@TOPOLOGIES
def test_padded_tensors_on_the_device(device: str, modified: bool) -> None:
    batch = batch_of([(4, 3), (2, 0), (3, 3)], modified=modified, gap=1)
    expected = gpu_sum.costs(batch, device, fastemit_lambda=LAMBDA)
    log_probs, *rest = padded_of(batch, device)
    found = gpu_sum.costs_on_gpu(log_probs, *rest, 1, modified=modified, fastemit_lambda=LAMBDA)
    np.testing.assert_array_equal(found.costs.cpu(), expected.costs)
    factors = torch.tensor([1.0, -2.0, 0.5], device=device)
    zeros = torch.zeros_like(log_probs, memory_format=torch.contiguous_format)
    gradients = gpu_sum.scatter_on_gpu(found.found, factors, zeros, *rest, found.statuses, 1, modified=modified)
    wanted = dense(batch, expected.gradients, factors.cpu().numpy(), tuple(log_probs.shape))
    np.testing.assert_array_equal(gradients.cpu(), wanted)
    nodes, wanted = gpu_sum.posteriors(batch, device), np.zeros(log_probs.shape[:3], np.float32)
    starts = offsets_of(batch.frames * (batch.labels + 1))
    for index in range(len(batch)):
        T, U = int(batch.frames[index]), int(batch.labels[index])
        wanted[index, :T, : U + 1] = nodes.posteriors[starts[index] : starts[index + 1]].reshape(T, U + 1)
    sums = gpu_sum.posteriors_on_gpu(log_probs, *rest, 1, modified=modified)
    np.testing.assert_array_equal(sums.found.cpu(), wanted)
    np.testing.assert_array_equal(sums.scores.cpu(), nodes.scores)


@on_each_device
@TOPOLOGIES
def test_items_end_to_end_on_the_device(device: str, modified: bool) -> None:
    batch = batch_of([(4, 3), (2, 0), (2, 33 * (not modified))], modified=modified)
    expected = gpu_sum.costs(batch, device)
    log_probs = torch.from_numpy(batch.log_probs).reshape(-1, 3).to(device)
    rest = [torch.from_numpy(part).to(device) for part in (batch.targets, batch.frames, batch.labels)]
    found = gpu_sum.costs_on_gpu(log_probs, *rest, 1, modified=modified, largest=(7, 40))
    np.testing.assert_array_equal(found.costs.cpu(), expected.costs)
    np.testing.assert_array_equal(found.found.cpu().reshape(-1), expected.gradients)
    gradients = torch.zeros_like(log_probs)
    gpu_sum.scatter_on_gpu(
        found.found, torch.ones(3, device=device), gradients, *rest, found.statuses, 1, modified=modified
    )
    at = 0
    for index in range(len(batch)):
        nodes = int(batch.frames[index]) * (int(batch.labels[index]) + 1)
        alone = some_of(batch, np.array([index]))
        wanted = dense(
            alone,
            expected.gradients[2 * at : 2 * (at + nodes)],
            np.ones(1),
            (1, *transducer_stored(batch, index).shape),
        )
        np.testing.assert_array_equal(gradients[at : at + nodes].cpu(), wanted.reshape(-1, 3))
        at += nodes
    sums = gpu_sum.posteriors_on_gpu(log_probs, *rest, 1, modified=modified, largest=(7, 40))
    np.testing.assert_array_equal(sums.found.cpu(), gpu_sum.posteriors(batch, device).posteriors)


@on_each_device
def test_lengths_beyond_the_tensors_are_caught(device: str) -> None:
    batch = batch_of([(4, 2), (3, 1), (2, 2)])
    log_probs, targets, frames, labels = padded_of(batch, device)
    wrong = torch.tensor([5, 3, 2**40], device=device), torch.tensor([2, 3, 2], device=device)
    found = gpu_sum.costs_on_gpu(log_probs, targets, *wrong, 1)
    assert found.statuses.tolist() == [Status.INTERNAL] * 3
    assert found.costs.isnan().all()
    assert not found.found.any()
    nodes = gpu_sum.posteriors_on_gpu(log_probs, targets, *wrong, 1)
    assert nodes.statuses.tolist() == [Status.INTERNAL] * 3
    assert nodes.scores.isnan().all()
    assert not nodes.found.any()
    flat, labels_flat = (torch.from_numpy(part).to(device) for part in (batch.log_probs, batch.targets))
    late = torch.tensor([4, 3, 3], device=device)
    found = gpu_sum.costs_on_gpu(flat.reshape(-1, 3), labels_flat, late, labels, 1, largest=(9, 9))
    assert found.statuses.tolist() == [Status.OK, Status.OK, Status.INTERNAL]
    found = gpu_sum.costs_on_gpu(flat.reshape(-1, 3), labels_flat, frames, labels, 1)  # looks them up
    assert found.statuses.tolist() == [Status.OK] * 3
    found = gpu_sum.costs_on_gpu(flat.reshape(-1, 3), labels_flat, frames, labels, 1, largest=(3, 1))
    assert found.statuses.tolist() == [Status.INTERNAL, Status.OK, Status.INTERNAL]


@on_each_device
def test_half_precision_gradients(device: str) -> None:
    batch = batch_of([(4, 2), (3, 1)])
    log_probs, *rest = padded_of(batch, device)
    found = gpu_sum.costs_on_gpu(log_probs.half(), *rest, 1)
    expected = gpu_sum.costs_on_gpu(log_probs, *rest, 1)  # the values are exact in half precision
    assert torch.equal(found.found, expected.found)
    ones = torch.ones(2, device=device)
    halves, singles = (
        gpu_sum.scatter_on_gpu(
            found.found, ones, torch.zeros(log_probs.shape, dtype=dtype, device=device), *rest, found.statuses, 1
        )
        for dtype in (torch.float16, torch.float32)
    )
    assert torch.equal(halves, singles.half())


@pytest.mark.gpu
@TOPOLOGIES
@pytest.mark.parametrize("dtype", DType)
def test_large_items_equal_the_cpu_kernels(dtype: DType, modified: bool) -> None:
    from alignd_kernels.transducer import cpu_sum

    batch = batch_of([(1500, 300), (3000, 700), (900, 900), (4000, 1)], dtype, kind=dyadic, modified=modified)
    found, expected = gpu_sum.costs(batch, "cuda"), cpu_sum.costs(batch)
    unit = 2.0**-53 if dtype is DType.FLOAT64 else 2.0**-24
    np.testing.assert_array_equal(found.statuses, expected.statuses)
    np.testing.assert_allclose(found.costs, expected.costs, 4 * unit, 2 * 8 * 3701 * unit)
    np.testing.assert_allclose(found.gradients, expected.gradients, 2 * 16 * 3701 * unit, 1e-36)


@pytest.mark.gpu
def test_repeats_give_the_same_bits() -> None:
    batch = batch_of([(300, 90), (20, 200), (500, 31)], kind=normal)
    first = gpu_sum.costs(batch, "cuda")
    for _ in range(200):
        again = gpu_sum.costs(batch, "cuda")
        np.testing.assert_array_equal(again.gradients, first.gradients)
        np.testing.assert_array_equal(again.costs, first.costs)


@pytest.mark.gpu
def test_nothing_waits_before_the_results_are_asked_for() -> None:
    log_probs = torch.zeros(16, 500, 101, 20, device="cuda")
    targets = torch.ones(16, 100, dtype=torch.int64, device="cuda")
    lengths = [torch.full((16,), n, device="cuda") for n in (500, 100)]
    flat, end_to_end = log_probs.reshape(-1, 20), targets.reshape(-1)

    def both() -> list[torch.Tensor]:
        found = gpu_sum.costs_on_gpu(log_probs, targets, *lengths)
        packed = gpu_sum.costs_on_gpu(flat, end_to_end, *lengths, largest=(500, 100))
        zeros = torch.zeros_like(log_probs)
        return [
            gpu_sum.scatter_on_gpu(found.found, found.costs, zeros, targets, *lengths, found.statuses),
            packed.costs,
        ]

    both()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = both()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(part.isfinite().all() for part in result)


@pytest.mark.gpu
def test_offsets_beyond_32_bits() -> None:
    """The second item's log-probs, and its gradients, begin past 2³⁰ elements and end past 2³¹."""
    log_probs = torch.full((2, 1000, 257, 5000), -1.0, dtype=torch.float16, device="cuda")
    targets = torch.full((2, 256), 4999, device="cuda")
    lengths = torch.tensor([1000, 1000], device="cuda"), torch.tensor([256, 256], device="cuda")
    found = gpu_sum.costs_on_gpu(log_probs, targets, *lengths)
    assert torch.equal(found.costs[0], found.costs[1])
    gradients = gpu_sum.scatter_on_gpu(
        found.found, torch.ones(2, device="cuda"), log_probs.zero_(), targets, *lengths, found.statuses
    )
    assert torch.equal(gradients[0, ..., 0], gradients[1, ..., 0])
    assert torch.equal(gradients[1, ..., 4999], found.found[1, ..., 1].half())
