"""Best paths of transducers by Triton against the reference: interpreted on the CPU, or for real with `-m gpu`."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from kernels.gpu_support import Launches, examples, garbage_in_new_memory, on_each_device, python_lines
from kernels.strategies import GENERATORS, dyadic, normal, same_results, with_minus_infinity
from kernels.transducer_strategies import (
    check_transducer,
    random_labels,
    read_columns,
    scattered,
    some_of,
    transducer_batch,
    transducer_batches,
    transducer_stored,
    with_garbage,
)

from alignd_kernels import gpu_borders
from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import offsets_of
from alignd_kernels.status import Status
from alignd_kernels.transducer import gpu, gpu_batch, gpu_forward
from alignd_kernels.transducer.batch import TransducerBatch

# Sums that leave float32's range are part of the tests; NumPy, under the interpreter, warns of them.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")

SETTINGS = settings(max_examples=examples(12), deadline=None, derandomize=True)
FEW = settings(SETTINGS, max_examples=examples(4))
SMALL = {"max_frames": 9, "max_labels": 6, "max_items": 2}
TOPOLOGIES = pytest.mark.parametrize("modified", [False, True], ids=["standard", "modified"])


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


@on_each_device
@SETTINGS
@given(batch=transducer_batches(**SMALL))
def test_equals_the_reference(device: str, batch: TransducerBatch) -> None:
    check_transducer(batch, gpu.align(batch, device))


@on_each_device
@FEW
@given(batch=transducer_batches(max_frames=40, max_labels=66, max_items=1))
def test_equals_the_reference_over_several_strips(device: str, batch: TransducerBatch) -> None:
    check_transducer(batch, gpu.align(batch, device))


EDGES = [1, 31, 32, 33, 63, 64, 65]


@on_each_device
@TOPOLOGIES
@pytest.mark.parametrize("dtype", [DType.FLOAT32, pytest.param(DType.FLOAT64, marks=pytest.mark.gpu)])
def test_shapes_at_the_edges_of_strips_and_chunks(device: str, dtype: DType, modified: bool) -> None:
    shapes = [(n, 2) for n in EDGES] + [(n if modified else 3, n) for n in (0, 30, *EDGES[1:])] + [(1, 0), (2, 100)]
    batch = batch_of(shapes, dtype, modified=modified, gap=1)
    check_transducer(batch, gpu.align(batch, device))


@on_each_device
@TOPOLOGIES
def test_ties_prefer_blank(device: str, modified: bool) -> None:
    batch = batch_of([(5, 3), (40, 35)], kind=lambda _, shape: np.zeros(shape), modified=modified)
    result = gpu.align(batch, device)
    # Seen from the end the path comes by blanks as long as it can.
    assert result.emission_frames[:3].tolist() == ([0, 1, 2] if modified else [0, 0, 0])
    check_transducer(batch, result)


@on_each_device
@FEW
@given(batch=transducer_batches(kinds=[dyadic, normal], flawed=False, **SMALL), rng=GENERATORS)
def test_what_no_path_can_take_changes_nothing(device: str, batch: TransducerBatch, rng: np.random.Generator) -> None:
    expected = gpu.align(batch, device)
    check_transducer(batch, expected)
    same_results(gpu.align(with_garbage(batch, rng), device), expected)


@on_each_device
@TOPOLOGIES
def test_one_bad_log_prob_on_a_legal_arc_is_found_wherever_it_is(device: str, modified: bool) -> None:
    """Each log-prob of one small lattice in turn, as a batch."""
    rng = np.random.default_rng(3)
    good, labels = dyadic(rng, (2, 3, 2)), np.array([1, 1], np.int32)
    places = [(*place, value) for place in np.ndindex(good.shape) for value in (np.nan, np.inf)]
    items = []
    for *place, value in places:
        item = good.copy()
        item[tuple(place)] = value
        items.append((item, labels, 0))
    batch = transducer_batch(items, DType.BFLOAT16, modified=modified)
    result = gpu.align(batch, device)
    check_transducer(batch, result)
    assert (result.statuses == Status.NOT_FINITE).sum() == 2 * read_columns(batch, 0).sum()


@on_each_device
@TOPOLOGIES
def test_bad_items_beside_good_ones(device: str, modified: bool) -> None:
    rng = np.random.default_rng(4)
    log_probs = dyadic(rng, (40, 36, 3))
    nothing = np.full((3, 2, 3), -np.inf)
    late = np.full(35, 2)
    late[33] = 7
    items = [
        (log_probs, random_labels(rng, 35, 3, 0), 0),
        (log_probs, late, 0),
        (log_probs, np.where(late == 7, 0, late), 0),
        (log_probs, random_labels(rng, 35, 3, 0), 3),
        (log_probs[:0], random_labels(rng, 35, 3, 0), 0),
        (log_probs[..., :0], random_labels(rng, 35, 3, 0), 0),
        (nothing, random_labels(rng, 1, 3, 0), 0),
        (log_probs[:7], random_labels(rng, 35, 3, 0), 0),
        (log_probs[:7], late, 0),
    ]
    batch = transducer_batch(
        [(a, np.asarray(y, np.int32), blank) for a, y, blank in items], DType.FLOAT32, modified=modified
    )
    result = gpu.align(batch, device)
    check_transducer(batch, result)
    assert set(result.statuses.tolist()) >= {
        *(Status.OK, Status.TARGET_OUT_OF_RANGE, Status.TARGET_IS_BLANK, Status.EMPTY, Status.NO_FINITE_PATH),
        *([Status.TOO_FEW_FRAMES] if modified else []),
    }


@on_each_device
def test_the_first_bad_label_decides(device: str) -> None:
    """Over several strips too, which programs of their own look at."""
    log_probs = dyadic(np.random.default_rng(5), (2, 101, 4))
    labels = np.full((4, 100), 1, np.int32)
    labels[0, [10, 90]] = 0, 9
    labels[1, [10, 90]] = -1, 0
    labels[2, [90, 99]] = 2**31 - 1, 0
    labels[3, [90, 99]] = 0, -(2**31)
    batch = transducer_batch([(log_probs, row, 0) for row in labels], DType.FLOAT32)
    result = gpu.align(batch, device)
    check_transducer(batch, result)
    blank, out = Status.TARGET_IS_BLANK, Status.TARGET_OUT_OF_RANGE
    assert result.statuses.tolist() == [blank, out, out, blank]


@on_each_device
@FEW
@given(batch=transducer_batches(**SMALL))
def test_a_batch_equals_its_items_alone(device: str, batch: TransducerBatch) -> None:
    whole = gpu.align(batch, device)
    starts = offsets_of(batch.labels)
    for index in range(len(batch)):
        alone = gpu.align(some_of(batch, np.array([index])), device)
        np.testing.assert_array_equal(alone.emission_frames, whole.emission_frames[starts[index] : starts[index + 1]])
        np.testing.assert_array_equal(alone.scores, whole.scores[index : index + 1])
        np.testing.assert_array_equal(alone.statuses, whole.statuses[index : index + 1])


@on_each_device
def test_items_in_several_buffers(device: str) -> None:
    batch = batch_of([(5, 3), (9, 40), (1, 0)], node_padding=1)
    expected = gpu.align(batch, device)
    same_results(gpu.align(scattered(batch, np.random.default_rng(6)), device), expected)


@on_each_device
def test_no_items_and_negative_lengths(device: str) -> None:
    assert len(gpu.align(batch_of([]), device).statuses) == 0
    batch = dataclasses.replace(batch_of([(3, 2)] * 3), frames=np.array([-4, 3, 3]), labels=np.array([2, -1, 2]))
    result = gpu.align(batch, device)
    assert result.statuses.tolist() == [Status.EMPTY, Status.EMPTY, Status.OK]
    assert result.emission_frames.shape == (4,)


@on_each_device
@pytest.mark.parametrize("dtype", DType)
def test_read_only_and_unaligned_buffers(device: str, dtype: DType) -> None:
    batch = batch_of([(9, 5)], dtype, kind=normal)
    unaligned = np.frombuffer(b"x" + batch.log_probs.tobytes(), batch.log_probs.dtype, offset=1)
    check_transducer(batch, gpu.align(dataclasses.replace(batch, log_probs=unaligned), device))


@on_each_device
@TOPOLOGIES
@pytest.mark.parametrize("targets_as", [torch.int32, torch.int64])
def test_a_padded_batch_in_any_strides(device: str, modified: bool, targets_as: torch.dtype) -> None:
    """Tensors on the device, of which the kernels read a part: no copy, no wait."""
    shapes = [(4, 3), (7, 6), (6, 2), (0, 3), (7, 0), (2, 5)]
    flat = batch_of(shapes, modified=modified)
    memory = torch.full((8, 7, 7, 6), float("nan"))  # [frames, items, nodes, columns]
    log_probs = memory.permute(1, 0, 2, 3)[:6, 1:, :, 2:5]
    targets = torch.full((6, 6), -7, dtype=targets_as)
    for index, (T, U) in enumerate(shapes):
        item = np.ascontiguousarray(transducer_stored(flat, index))
        log_probs[index, :T, : U + 1] = torch.from_numpy(item)
        first = int(flat.target_offsets[index])
        targets[index, :U] = torch.from_numpy(flat.targets[first : first + U])
    lengths = torch.tensor(shapes).T.to(device)
    found = gpu.launch(log_probs.to(device), targets.to(device), *lengths, 1, modified)
    expected = gpu.align(flat, device)
    starts = offsets_of(flat.labels)
    for index, (_, U) in enumerate(shapes):
        row = np.pad(expected.emission_frames[starts[index] : starts[index + 1]], (0, 6 - U))
        np.testing.assert_array_equal(found.emission_frames[index].cpu(), row)
    np.testing.assert_array_equal(found.scores.cpu(), expected.scores)
    np.testing.assert_array_equal(found.statuses.cpu(), expected.statuses)


@on_each_device
def test_lengths_and_targets_beyond_the_padded_size_are_caught(device: str) -> None:
    log_probs = torch.zeros(5, 4, 3, 2).to(device)
    targets = torch.ones(5, 2, dtype=torch.int64)
    targets[4, 1] = 2**32 + 1  # in 32 bits it would be a column
    frames, labels = torch.tensor([4, 5, 4, 2**40, 4]).to(device), torch.tensor([2, 2, 3, 2, 2]).to(device)
    found = gpu.launch(log_probs, targets.to(device), frames, labels, 0)
    assert found.statuses.tolist() == [Status.OK, *[Status.INTERNAL] * 3, Status.TARGET_OUT_OF_RANGE]
    assert found.emission_frames.tolist() == [[0, 0]] * 5
    assert found.scores.isnan().tolist() == [False, *[True] * 4]


@on_each_device
def test_a_padded_batch_of_nothing(device: str) -> None:
    none = torch.zeros(0, dtype=torch.int64).to(device)
    found = gpu.launch(torch.zeros(0, 4, 3, 2).to(device), none.reshape(0, 2), none, none, 0)
    assert [tuple(part.shape) for part in found] == [(0, 2), (0,), (0,)]


@on_each_device
def test_too_little_scratch_is_an_error_not_a_fault(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes_of = gpu_batch.sizes_of
    monkeypatch.setattr(gpu_batch, "sizes_of", lambda *of: (0 * sizes_of(*of)[0], *sizes_of(*of)[1:]))
    result = gpu.align(batch_of([(3, 2)]), device)
    assert result.statuses.tolist() == [Status.INTERNAL]
    assert result.emission_frames.tolist() == [0, 0]


def watched(monkeypatch: pytest.MonkeyPatch, *, really: bool) -> tuple[Launches, Launches]:
    """The kernels' launches. Borders are of this test alone: what is not launched draws no tickets."""
    monkeypatch.setattr(gpu_borders, "_kept", functools.cache(lambda device, stream: gpu_borders._Kept()))
    arcs = Launches(gpu_batch.transducer_arcs_kernel, really)
    forward = Launches(gpu.transducer_forward_kernel, really)
    monkeypatch.setattr(gpu_batch, "transducer_arcs_kernel", arcs)
    monkeypatch.setattr(gpu, "transducer_forward_kernel", forward)
    return arcs, forward


@on_each_device
def test_two_launches_for_a_batch_of_any_lengths(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arcs, forward = watched(monkeypatch, really=True)
    batch = batch_of([(3, 2), (40, 70), (0, 5), (2, 1)])
    check_transducer(batch, gpu.align(batch, device))
    assert forward.grids == [(4 * 3,)]  # strips of 32 label positions
    assert arcs.grids == [(2 + 3 * 3 + 0 + 2,)]  # tiles of 32 rows of a strip


@on_each_device
def test_python_does_nothing_by_frame_label_or_item(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watched(monkeypatch, really=False)
    small, large = batch_of([(1, 2)]), batch_of([(50, 60)] * 30)
    gpu.align(large, device)  # a first launch compiles, and makes the borders' memory
    assert python_lines(lambda: gpu.align(small, device)) == python_lines(lambda: gpu.align(large, device))


@on_each_device
@TOPOLOGIES
def test_scratch_is_what_is_used(device: str, modified: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    _, forward = watched(monkeypatch, really=False)
    for dtype in DType:
        batch = batch_of([(800, 160), (9, 9), (1, 0)], dtype, modified=modified)
        gpu.align(batch, device)
        used = forward.arguments[-1]
        size = np.dtype(dtype.accumulator).itemsize
        allocated = sum(used[name].numel() * used[name].element_size() for name in ("arcs", "bits", "on_path"))
        allocated -= 2 * size * 2 * gpu_batch.PADDING
        planes = 2 if dtype is DType.FLOAT64 else 1
        need = gpu.scratch_bytes(batch)
        assert need.sum() == allocated + 8 * planes * used["plane"]
        assert need[0] < (2.8 * size + 1) * 800 * 160
    few_frames = gpu.scratch_bytes(batch_of([(3, 4), (0, 2)], modified=modified))
    assert (few_frames > 0).tolist() == [not modified, False]


@on_each_device
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
def test_border_memory_is_used_again(device: str, dtype: DType) -> None:
    """Whatever earlier launches have left in it: other shapes, items that failed, more of it or less."""
    for shapes in [[(9, 70)], [(3, 5), (5, 40)], [(1, 70)], [(9, 70)]]:
        batch = batch_of(shapes, dtype)
        check_transducer(batch, gpu.align(batch, device))


@pytest.mark.interpreter
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
def test_a_border_that_never_comes_fails_its_item_alone(dtype: DType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PATIENCE", 3)
    monkeypatch.setattr(gpu_forward, "hand_over", lambda *_: None)
    result = gpu.align(batch_of([(9, 5), (20, 50), (12, 12)], dtype), "cpu")
    assert result.statuses.tolist() == [Status.OK, Status.INTERNAL, Status.OK]
    assert not result.emission_frames[5:55].any()
    assert np.isnan(result.scores[1])


def test_devices_without_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="Triton kernels run on"):
        gpu.align(batch_of([(3, 2)]), "meta")
    zeros = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"Triton kernels run on|columns must be contiguous"):
        gpu.launch(torch.zeros(2, 3, 4, 5).transpose(2, 3), torch.zeros(2, 4), zeros, zeros, 0)


@pytest.mark.gpu
@TOPOLOGIES
@pytest.mark.parametrize("dtype", DType)
def test_every_edge_equals_the_cpu_kernels(dtype: DType, modified: bool) -> None:
    from alignd_kernels.transducer import cpu

    edges = [1, 15, 16, 17, *EDGES[1:], 127, 128, 129, 1023, 1024, 1025, 4095, 4096, 4097]
    shapes = [(t, u - 1) for t in edges for u in edges if t * u <= 2**18 and (u <= t or not modified)]
    shapes += [(1025, 1024), (4097, 1024)] if modified else [(1025, 1024), (4097, 1024), (1025, 4096)]
    batch = batch_of(shapes, dtype, modified=modified, gap=1)
    same_results(gpu.align(batch, "cuda"), cpu.align(batch, None))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DType)
def test_large_items_equal_the_cpu_kernels(dtype: DType) -> None:
    from alignd_kernels.transducer import cpu

    for kind in (dyadic, normal, with_minus_infinity):
        batch = batch_of([(1500, 300), (3000, 700), (20, 900), (4000, 1)], dtype, kind=kind)
        same_results(gpu.align(batch, "cuda"), cpu.align(batch, None))


@pytest.mark.gpu
def test_many_items_equal_the_cpu_kernels() -> None:
    from alignd_kernels.transducer import cpu

    rng = np.random.default_rng(6)
    batch = batch_of([(int(t), int(u)) for t, u in rng.integers(0, 90, (2000, 2))])
    same_results(gpu.align(batch, "cuda"), cpu.align(batch, None))


@pytest.mark.gpu
def test_nothing_waits_before_the_results_are_asked_for() -> None:
    log_probs = torch.zeros(16, 500, 101, 20, device="cuda")
    targets = torch.ones(16, 100, dtype=torch.int64, device="cuda")
    lengths = [torch.full((16,), n, device="cuda") for n in (500, 100)]
    gpu.launch(log_probs, targets, *lengths, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = gpu.launch(log_probs, targets, *lengths, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (result.statuses == Status.OK).all()


@pytest.mark.gpu
def test_offsets_beyond_32_bits() -> None:
    """Two items of 1.2 · 2³¹ log-probs in half precision."""
    log_probs = torch.zeros(2, 1000, 257, 5000, dtype=torch.float16, device="cuda")
    log_probs[1, 999, 256, 0] = -3.0
    log_probs[1, 500, :256, 4999] = 1.0
    targets = torch.full((2, 256), 4999, device="cuda")
    lengths = torch.tensor([1000, 1000], device="cuda"), torch.tensor([256, 256], device="cuda")
    found = gpu.launch(log_probs, targets, *lengths, 0)
    assert found.scores.tolist() == [0.0, 253.0]
    assert found.emission_frames[1].tolist() == [500] * 256


@pytest.mark.gpu
def test_a_captured_graph_gives_new_answers_for_new_log_probs() -> None:
    rng = np.random.default_rng(13)
    log_probs = torch.zeros(3, 200, 71, 8, device="cuda")
    targets = torch.from_numpy(rng.integers(1, 8, (3, 70))).to("cuda")
    lengths = torch.tensor([200, 90, 9], device="cuda"), torch.tensor([70, 40, 0], device="cuda")
    gpu.launch(log_probs, targets, *lengths, 0)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = gpu.launch(log_probs, targets, *lengths, 0)
    for _ in range(3):
        log_probs.copy_(torch.from_numpy(normal(rng, (3, 200, 71, 8))))
        graph.replay()
        expected = gpu.launch(log_probs, targets, *lengths, 0)
        for one, other in zip(found, expected):
            assert torch.equal(one, other)
