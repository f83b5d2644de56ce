"""Monotonic alignment search by Triton against the reference: interpreted on the CPU, or for real with `-m gpu`."""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from kernels.gpu_support import examples, garbage_in_new_memory, lose_the_first_strip, on_each_device, python_lines
from kernels.mas_gpu_support import LAUNCHES, watched, way_back
from kernels.strategies import (
    GENERATORS,
    KINDS,
    check_mas,
    dyadic,
    mas_batch,
    mas_batches,
    normal,
    same_results,
    stored,
)

from alignd_kernels import gpu_borders
from alignd_kernels.dtypes import DType
from alignd_kernels.mas import cpu, gpu, gpu_forward
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.ragged import offsets_of
from alignd_kernels.status import Status

# Sums that leave float32's range are part of the tests; NumPy, under the interpreter, warns of them.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")

SETTINGS = settings(max_examples=examples(25), deadline=None, derandomize=True)
FEW = settings(SETTINGS, max_examples=examples(8))
SMALL = {"max_tokens": 12, "max_frames": 40, "max_items": 4}


@pytest.fixture(autouse=True, scope="module")
def garbage() -> Iterator[None]:
    with garbage_in_new_memory():
        yield


@on_each_device
@LAUNCHES
@SETTINGS
@given(batch=mas_batches(**SMALL))
def test_equals_the_reference(device: str, launches: int, batch: MasBatch) -> None:
    with way_back(launches):
        check_mas(batch, gpu.align(batch, device))


@on_each_device
@LAUNCHES
@FEW
@given(batch=mas_batches(max_tokens=90, max_frames=150, max_items=2))
def test_equals_the_reference_over_several_strips(device: str, launches: int, batch: MasBatch) -> None:
    with way_back(launches):
        check_mas(batch, gpu.align(batch, device))


@on_each_device
@pytest.mark.parametrize("kind", KINDS)
@LAUNCHES
def test_infeasible_and_empty_items_beside_good_ones(device: str, kind, launches: int) -> None:
    rng = np.random.default_rng(2)
    shapes = [(2, 5), (3, 2), (0, 4), (4, 0), (0, 0), (5, 5), (70, 69), (2, 5)]
    batch = mas_batch([kind(rng, shape) for shape in shapes], DType.FLOAT32)
    with way_back(launches):
        check_mas(batch, gpu.align(batch, device))


def legal(tokens: int, frames: int) -> np.ndarray:
    token, frame = np.arange(tokens)[:, None], np.arange(frames)
    return (token <= frame) & (token >= tokens - frames + frame)


@on_each_device
@FEW
@given(batch=mas_batches(kinds=[dyadic, normal], **SMALL), rng=GENERATORS)
def test_what_stands_outside_the_band_changes_nothing(device: str, batch: MasBatch, rng: np.random.Generator) -> None:
    values = batch.values.copy()
    for index in range(len(batch)):
        S, T, pitch = int(batch.tokens[index]), int(batch.frames[index]), int(batch.pitches[index])
        rows = values[batch.offsets[index] :][: S * pitch].reshape(S, pitch)[:, :T]
        garbage = stored(rng.choice([np.nan, np.inf, -np.inf, 1e30], rows.shape), batch.dtype)
        rows[...] = np.where(legal(S, T), rows, garbage)
    check_mas(batch, gpu.align(dataclasses.replace(batch, values=values), device))


@on_each_device
@pytest.mark.parametrize("dtype", DType)
def test_one_bad_cell_on_a_legal_path_is_found_wherever_it_is(device: str, dtype: DType) -> None:
    """Each cell of one small lattice in turn, as a batch."""
    good = dyadic(np.random.default_rng(3), (3, 4))
    cells = np.argwhere(np.ones_like(good))
    items = np.repeat(good[None], 2 * len(cells), 0)
    items[np.arange(2 * len(cells)), *np.tile(cells, (2, 1)).T] = np.repeat([np.nan, np.inf], len(cells))
    batch = mas_batch(list(items), dtype)
    result = gpu.align(batch, device)
    check_mas(batch, result)
    assert (result.statuses == Status.NOT_FINITE).sum() == 2 * legal(3, 4).sum()


@on_each_device
@FEW
@given(batch=mas_batches(**SMALL))
def test_a_batch_equals_its_items_alone(device: str, batch: MasBatch) -> None:
    whole = gpu.align(batch, device)
    starts = offsets_of(batch.tokens)
    per_item = ("offsets", "tokens", "frames", "pitches")
    for index in range(len(batch)):
        one = slice(index, index + 1)
        alone = gpu.align(dataclasses.replace(batch, **{name: getattr(batch, name)[one] for name in per_item}), device)
        np.testing.assert_array_equal(alone.durations, whole.durations[starts[index] : starts[index + 1]])
        np.testing.assert_array_equal(alone.scores, whole.scores[one])
        np.testing.assert_array_equal(alone.statuses, whole.statuses[one])


@on_each_device
def test_no_items_and_negative_lengths(device: str) -> None:
    assert len(gpu.align(mas_batch([], DType.FLOAT32), device).statuses) == 0
    batch = dataclasses.replace(mas_batch([np.zeros((2, 3))] * 2, DType.FLOAT32), tokens=np.array([-4, 2]))
    result = gpu.align(batch, device)
    assert result.statuses.tolist() == [Status.EMPTY, Status.OK]
    assert result.durations.tolist() == [1, 2]


@on_each_device
@pytest.mark.parametrize("dtype", DType)
def test_read_only_and_unaligned_buffers(device: str, dtype: DType) -> None:
    batch = mas_batch([normal(np.random.default_rng(3), (5, 20))], dtype)
    unaligned = np.frombuffer(b"x" + batch.values.tobytes(), batch.values.dtype, offset=1)
    check_mas(batch, gpu.align(dataclasses.replace(batch, values=unaligned), device))


@on_each_device
def test_items_in_several_buffers_and_in_the_other_order(device: str) -> None:
    rng = np.random.default_rng(12)
    shapes = [(3, 9), (70, 80), (5, 7)]
    whole = mas_batch([dyadic(rng, shape) for shape in shapes], DType.FLOAT32)
    expected = gpu.align(whole, device)
    parts = tuple(whole.values[o : o + s * t].copy() for o, (s, t) in zip(whole.offsets, shapes))
    order, zeros = np.array([1, 2, 0]), np.zeros(3, np.int64)
    scattered = dataclasses.replace(
        whole, values=(parts[2], parts[0], parts[1]), sources=order, offsets=zeros, pitches=whole.frames
    )
    same_results(gpu.align(scattered, device), expected)
    turned = tuple(np.ascontiguousarray(part.reshape(shape).T).ravel() for part, shape in zip(parts, shapes))
    scattered = dataclasses.replace(
        whole, values=turned, sources=np.arange(3), offsets=zeros, pitches=whole.tokens, frames_first=True
    )
    same_results(gpu.align(scattered, device), expected)
    with pytest.raises(ValueError, match="sources"):
        gpu.align(dataclasses.replace(scattered, sources=None, frames_first=False), device)


@on_each_device
def test_a_padded_batch_in_any_strides(device: str) -> None:
    """Tensors on the device, of which the kernel reads a part: no copy, no wait."""
    rng = np.random.default_rng(4)
    shapes = [(4, 9), (7, 8), (9, 9), (8, 3), (0, 9)]
    flat = mas_batch([dyadic(rng, shape) for shape in shapes], DType.FLOAT32)
    memory = torch.full((9, 6, 12), float("nan"))  # [tokens, items, frames]
    value = memory.permute(1, 0, 2)[:5, :, 1:11]
    for index, (tokens, frames) in enumerate(shapes):
        item = flat.values[flat.offsets[index] :][: tokens * frames].reshape(tokens, frames)
        value[index, :tokens, :frames] = torch.from_numpy(item)
    lengths = torch.tensor(shapes).T.to(device)
    found = gpu.launch(value.to(device), lengths[0], lengths[1])
    expected = cpu.align(flat, paths=True)
    tokens, frames = offsets_of(flat.tokens), offsets_of(flat.frames)
    for index in range(len(shapes)):
        for row, values in [
            (found.durations[index], expected.durations[tokens[index] : tokens[index + 1]]),
            (found.paths[index], expected.paths[frames[index] : frames[index + 1]]),
        ]:
            np.testing.assert_array_equal(row.cpu(), np.pad(values, (0, len(row) - len(values))))
    np.testing.assert_array_equal(found.scores.cpu(), expected.scores)
    np.testing.assert_array_equal(found.statuses.cpu(), expected.statuses)


@on_each_device
def test_lengths_beyond_the_padded_size_are_caught(device: str) -> None:
    value = torch.zeros(3, 2, 4).to(device)
    tokens, frames = torch.tensor([2, 3, 2]).to(device), torch.tensor([4, 4, 2**40]).to(device)
    found = gpu.launch(value, tokens, frames)
    assert found.statuses.tolist() == [Status.OK, Status.INTERNAL, Status.INTERNAL]
    assert found.durations.tolist() == [[1, 3], [0, 0], [0, 0]]
    assert found.paths.tolist() == [[0, 1, 1, 1], [0] * 4, [0] * 4]
    assert found.scores.isnan().tolist() == [False, True, True]


@on_each_device
def test_too_little_scratch_is_an_error_not_a_fault(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_words", lambda tokens, frames, width: np.zeros(len(tokens), np.int64))
    result = gpu.align(mas_batch([np.zeros((2, 3))], DType.FLOAT32), device)
    assert result.statuses.tolist() == [Status.INTERNAL]
    assert result.durations.tolist() == [0, 0]


@on_each_device
def test_launches_for_a_batch_of_any_lengths(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, trace = watched(monkeypatch, really=True)
    batch = mas_batch([np.zeros((2, 3)), np.zeros((70, 71)), np.zeros((3, 2)), np.zeros((1, 140))], DType.FLOAT32)
    check_mas(batch, gpu.align(batch, device))
    assert forward.grids == [(4 * 2,)]  # strips of 64 tokens
    assert trace.grids == []  # the strips that end last trace short items
    monkeypatch.setattr(gpu, "FUSED_CHUNKS", 4)
    check_mas(batch, gpu.align(batch, device))
    assert forward.grids == [(4 * 2,)] * 2
    assert trace.grids == [(4 * 2,)]  # four chunks of 32 frames a program


@on_each_device
def test_python_does_nothing_by_frame_token_or_item(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watched(monkeypatch, really=False)
    small, large = (mas_batch([np.zeros(shape)] * n, DType.FLOAT32) for shape, n in [((1, 2), 1), ((90, 400), 30)])
    gpu.align(large, device)  # a first launch compiles, and makes the borders' memory
    assert python_lines(lambda: gpu.align(small, device)) == python_lines(lambda: gpu.align(large, device))


@on_each_device
def test_scratch_is_what_is_used(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, _ = watched(monkeypatch, really=False)
    for dtype in DType:
        batch = mas_batch([np.zeros((160, 800)), np.zeros((3, 2)), np.zeros((0, 5)), np.zeros((7, 7))], dtype)
        gpu.align(batch, device)
        need = gpu.scratch_bytes(batch)
        scratch = [forward.arguments[-1][name] for name in ("bits", "moved", "on_path", "paths")]
        allocated = sum(tensor.numel() * tensor.element_size() for tensor in scratch)
        good = (batch.tokens >= 1) & (batch.tokens <= batch.frames)
        allocated -= (4 + np.dtype(dtype.accumulator).itemsize) * int(batch.frames[~good].sum())  # their paths
        width = 32 if dtype is DType.FLOAT64 else 64
        waste = 5 * width * ((width + 30) // 32 + 1) * int((~good).sum())  # one strip, of one frame
        planes = 2 if dtype is DType.FLOAT64 else 1
        assert need.sum() == allocated - waste + 8 * planes * forward.arguments[-1]["plane"]
        assert need[0] < 0.65 * 160 * 800
        assert need[1:3].tolist() == [0, 0]


@on_each_device
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
def test_border_memory_is_used_again(device: str, dtype: DType) -> None:
    """Whatever earlier launches have left in it: other shapes, items that failed, more of it or less."""
    rng = np.random.default_rng(7)
    for shapes in [[(130, 140)], [(3, 5), (70, 90)], [(70, 72), (200, 210)], [(65, 60), (130, 133)], [(130, 140)]]:
        batch = mas_batch([dyadic(rng, shape) for shape in shapes], dtype)
        check_mas(batch, gpu.align(batch, device))


@on_each_device
def test_epochs_start_again(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_borders, "MAX_EPOCH", 3)
    forward, _ = watched(monkeypatch, really=True)
    rng = np.random.default_rng(8)
    for _ in range(7):
        batch = mas_batch([dyadic(rng, (70, 80))], DType.FLOAT32)
        check_mas(batch, gpu.align(batch, device))
    assert [arguments["epoch"] for arguments in forward.arguments] == [1, 2, 3, 1, 2, 3, 1]


@on_each_device
def test_border_memory_that_has_grown_stays(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small items and one large one in turns ask for other parts of it."""
    made: list[tuple[int, int]] = []
    cleared = gpu_borders._cleared

    def noted(device: torch.device, words: int, items: int) -> gpu_borders.Borders:
        made.append((words, items))
        return cleared(device, words, items)

    watched(monkeypatch, really=True)
    monkeypatch.setattr(gpu_borders, "_cleared", noted)
    rng = np.random.default_rng(14)
    for _ in range(3):
        for shapes in [[(70, 80)], [(2, 3)] * 9]:
            batch = mas_batch([dyadic(rng, shape) for shape in shapes], DType.FLOAT32)
            check_mas(batch, gpu.align(batch, device))
    assert len(made) == 2


@on_each_device
def test_large_borders_are_made_for_one_launch(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_borders, "KEPT_WORDS", 60)
    batch = mas_batch([dyadic(np.random.default_rng(9), (70, 80))], DType.FLOAT32)
    for _ in range(2):
        check_mas(batch, gpu.align(batch, device))


@on_each_device
def test_a_launch_that_fails_leaves_nothing_to_the_next(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = mas_batch([dyadic(np.random.default_rng(10), (70, 80))], DType.FLOAT32)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no launch")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "launcher", lambda *_, **__: fails)
        with pytest.raises(RuntimeError, match="no launch"):
            gpu.align(batch, device)
    check_mas(batch, gpu.align(batch, device))


@on_each_device
@LAUNCHES
def test_a_border_that_never_comes_fails_its_item_alone(
    device: str, launches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_the_first_strip(gpu, device, monkeypatch)
    forward, _ = watched(monkeypatch, really=True)
    rng = np.random.default_rng(11)
    shapes = [(100, 130), (5, 40), (70, 72)]
    batch = mas_batch([dyadic(rng, shape) for shape in shapes], DType.FLOAT32)
    with way_back(launches):
        result, expected = gpu.align(batch, device, paths=True), cpu.align(batch, paths=True)
    assert len(forward.grids) == 1
    assert result.statuses.tolist() == [Status.INTERNAL, Status.OK, Status.OK]
    assert np.isnan(result.scores[0])
    assert not result.durations[:100].any()
    assert not result.paths[:130].any()
    np.testing.assert_array_equal(result.durations[100:], expected.durations[100:])
    np.testing.assert_array_equal(result.paths[130:], expected.paths[130:])
    np.testing.assert_array_equal(result.scores[1:], expected.scores[1:])


@pytest.mark.interpreter
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
@LAUNCHES
def test_words_that_are_never_handed_over_fail_their_item_alone(
    dtype: DType, launches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "PATIENCE", 3)
    monkeypatch.setattr(gpu_forward, "hand_over", lambda *_: None)
    rng = np.random.default_rng(11)
    shapes = [(5, 40), (100, 130), (20, 22)]
    batch = mas_batch([dyadic(rng, shape) for shape in shapes], dtype)
    with way_back(launches):
        result = gpu.align(batch, "cpu")
    assert result.statuses.tolist() == [Status.OK, Status.INTERNAL, Status.OK]
    assert not result.durations[5:105].any()
    assert np.isnan(result.scores[1])


def test_devices_without_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="Triton kernels run on"):
        gpu.align(mas_batch([np.zeros((2, 3))], DType.FLOAT32), "meta")


@pytest.mark.gpu
def test_a_captured_graph_gives_new_answers_for_new_scores() -> None:
    rng = np.random.default_rng(13)
    value = torch.zeros(3, 150, 1500, device="cuda")
    tokens, frames = torch.tensor([150, 70, 9], device="cuda"), torch.tensor([1500, 300, 9], device="cuda")
    gpu.launch(value, tokens, frames)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = gpu.launch(value, tokens, frames)
    for _ in range(3):
        scores = normal(rng, (3, 150, 1500))
        value.copy_(torch.from_numpy(scores))
        graph.replay()
        gpu.launch(value, tokens, frames)  # between replays, in memory of its own
        items = [scores[b, :s, :t] for b, (s, t) in enumerate(zip(tokens.tolist(), frames.tolist()))]
        expected = cpu.align(mas_batch(items, DType.FLOAT32))
        starts = offsets_of(tokens.cpu().numpy())
        for b, own in enumerate(itertools.pairwise(starts)):
            np.testing.assert_array_equal(found.durations[b, : int(tokens[b])].cpu(), expected.durations[slice(*own)])
        np.testing.assert_array_equal(found.scores.cpu(), expected.scores)


@pytest.mark.gpu
def test_nothing_waits_before_the_results_are_asked_for() -> None:
    value = torch.zeros(64, 500, 3000, device="cuda")
    lengths = [torch.full((64,), n, device="cuda") for n in (500, 3000)]
    gpu.launch(value, *lengths)
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = gpu.launch(value, *lengths)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (result.statuses == Status.OK).all()
