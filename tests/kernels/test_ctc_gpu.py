"""CTC forced alignment by Triton against the reference: interpreted on the CPU, or for real with `-m gpu`."""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from kernels.ctc_gpu_support import LAUNCHES, item, watched, way_back
from kernels.gpu_support import examples, garbage_in_new_memory, lose_the_first_strip, on_each_device, python_lines
from kernels.strategies import (
    GENERATORS,
    check_ctc,
    ctc_batch,
    ctc_batches,
    ctc_item,
    dyadic,
    normal,
    random_targets,
    same_results,
    stored,
)

from alignd_kernels.ctc import cpu, gpu, gpu_strip, reference
from alignd_kernels.ctc.batch import STAR, STAR_MAX, CtcBatch
from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import offsets_of
from alignd_kernels.status import Status

# Sums that leave float32's range are part of the tests; NumPy, under the interpreter, warns of them.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")

SETTINGS = settings(max_examples=examples(25), deadline=None, derandomize=True)
FEW = settings(SETTINGS, max_examples=examples(6))


@pytest.fixture(autouse=True, scope="module")
def garbage() -> Iterator[None]:
    with garbage_in_new_memory():
        yield


def visited_columns(batch: CtcBatch, index: int) -> np.ndarray:
    """Which of an item's log-probs [T, V] stand for a cell that some legal path visits."""
    log_probs, targets, blank, star_score = ctc_item(batch, index)
    first, last = reference.visiting_times(targets, len(log_probs))
    visited = np.zeros(log_probs.shape, bool)
    for state in range(len(first)):
        label = targets[state // 2] if state % 2 else blank
        frames = slice(first[state], last[state] + 1)
        if label != STAR:
            visited[frames, label] = True
        elif np.isnan(star_score):
            visited[frames, np.arange(log_probs.shape[1]) != blank] = True
    return visited


@on_each_device
@LAUNCHES
@SETTINGS
@given(batch=ctc_batches(max_items=4))
def test_equals_the_reference(device: str, launches: int, batch: CtcBatch) -> None:
    with way_back(launches):
        check_ctc(batch, gpu.align(batch, device))


@on_each_device
@LAUNCHES
@FEW
@given(batch=ctc_batches(max_labels=70, max_spare=70, max_items=2))
def test_equals_the_reference_over_several_strips(device: str, launches: int, batch: CtcBatch) -> None:
    with way_back(launches):
        check_ctc(batch, gpu.align(batch, device))


@on_each_device
@pytest.mark.parametrize("dtype", DType)
def test_one_launch_more_changes_nothing(device: str, dtype: DType) -> None:
    rng = np.random.default_rng(12)
    items = [(normal(rng, x.shape), targets, *rest) for x, targets, *rest in (item(40, 30, 0), item(3, 90, 1))]
    items += [item(5, -6, 2), item(0, 9, 3), item(33, 0, 4)]
    batch = ctc_batch(items, dtype)
    with way_back(1):
        once = gpu.align(batch, device)
    with way_back(2):
        same_results(gpu.align(batch, device), once)


@on_each_device
def test_repeats_cross_strips(device: str) -> None:
    """Runs of one label over the edge of a strip, with blanks that must be visited there."""
    rng = np.random.default_rng(21)
    items = []
    for run in ((30, 36), (31, 33), (0, 70)):
        targets = np.where((np.arange(70) >= run[0]) & (np.arange(70) < run[1]), 3, np.arange(70) % 2 + 1)
        frames = 70 + int(np.count_nonzero(targets[1:] == targets[:-1])) + 3
        items.append((dyadic(rng, (frames, 5)), targets.astype(np.int32), 0, 0.0))
    batch = ctc_batch(items, DType.FLOAT32)
    check_ctc(batch, gpu.align(batch, device))


@on_each_device
@pytest.mark.parametrize("targets", [[1], [1, 1], [2] * 9, [1] * 34, [STAR], [1, STAR, 1], [STAR, 1, 1, STAR]])
def test_items_with_few_frames_to_spare(device: str, targets: list[int]) -> None:
    needed = len(targets) + sum(a == b for a, b in zip(targets[1:], targets))
    x = dyadic(np.random.default_rng(5), (needed + 7, 4))
    items = [(x[: needed + spare].copy(), np.array(targets, np.int32), 0, STAR_MAX) for spare in (-1, 0, 1, 2, 7)]
    batch = ctc_batch(items, DType.FLOAT32)
    for index, (log_probs, *_) in enumerate(items[1:], 1):
        log_probs[~visited_columns(batch, index)] = np.nan  # without frames to spare, no path visits a blank
    batch = ctc_batch(items, DType.FLOAT32)
    result = gpu.align(batch, device)
    check_ctc(batch, result)
    assert result.statuses.tolist() == [Status.EMPTY if needed == 1 else Status.TOO_FEW_FRAMES] + [Status.OK] * 4


@on_each_device
@LAUNCHES
def test_bad_targets_get_the_first_ones_status(device: str, launches: int) -> None:
    """What stands behind the first bad target, or in a later chunk of 32, does not count."""
    x = np.zeros((200, 5))
    bad = [[0], [5], [-2], [STAR, STAR], [STAR, STAR, 0], [0, 5], [5, 0], [1, 5, STAR, STAR]]
    bad += [[1, 2] * 20 + tail for tail in ([5], [0], [2**31 - 1, 0], [3, STAR, STAR, 5])] + [
        [STAR] + [1, 2] * 15 + [0, 9]
    ]
    items = [(x, np.array(targets, np.int32), 0, 0.0) for targets in bad]
    items += [(x, np.array([1, 7], np.int32), blank, 0.0) for blank in (-1, 5)]
    items += [(x[:0], np.array([7], np.int32), 9, 0.0), (x, np.zeros(0, np.int32), 9, 0.0)]
    items += [(x[:3], np.array([1, 1, 1], np.int32), 0, 0.0), (x[:5], np.array([1, 1, 1], np.int32), 0, 0.0)]
    batch = ctc_batch(items, DType.FLOAT32)
    with way_back(launches):
        result = gpu.align(batch, device)
    check_ctc(batch, result)
    assert set(result.statuses) >= {Status.TARGET_IS_BLANK, Status.TARGET_OUT_OF_RANGE, Status.ADJACENT_STARS}


@on_each_device
@pytest.mark.parametrize("dtype", DType)
def test_stars_that_take_the_largest_label(device: str, dtype: DType) -> None:
    """More columns than the kernel reads at once; the blank's, however high, does not count."""
    rng = np.random.default_rng(7)
    items = []
    for blank in (0, 255, 256, 599):
        x = dyadic(rng, (6, 600)) - 1
        x[:, blank] = 5
        x[np.arange(6), rng.integers(0, 600, 6)] += 4
        items.append((x, np.array([STAR, (blank + 1) % 600], np.int32), blank, STAR_MAX))
    one_column = (np.zeros((4, 1)), np.array([STAR], np.int32), 0, STAR_MAX)
    batch = ctc_batch([*items, one_column], dtype, padding=2)
    result = gpu.align(batch, device)
    check_ctc(batch, result)
    assert result.statuses.tolist() == [Status.OK] * 4 + [Status.NO_FINITE_PATH]


@on_each_device
@FEW
@given(batch=ctc_batches(kinds=[dyadic, normal], max_items=4), rng=GENERATORS)
def test_what_no_path_visits_changes_nothing(device: str, batch: CtcBatch, rng: np.random.Generator) -> None:
    log_probs = batch.log_probs.copy()
    statuses = cpu.align(batch).statuses
    for index in np.flatnonzero(statuses == Status.OK):
        T, V, pitch = int(batch.frames[index]), int(batch.vocabulary[index]), int(batch.pitches[index])
        rows = log_probs[batch.offsets[index] :][: T * pitch].reshape(T, pitch)[:, :V]
        garbage = stored(rng.choice([np.nan, np.inf, -np.inf, 1e30], rows.shape), batch.dtype)
        rows[...] = np.where(visited_columns(batch, index), rows, garbage)
    same_results(gpu.align(dataclasses.replace(batch, log_probs=log_probs), device), gpu.align(batch, device))


@on_each_device
@pytest.mark.parametrize(("dtype", "targets"), list(zip(DType, [[1, 1, 3], [3, STAR], [STAR], [2, 2]])))
def test_one_bad_cell_on_a_legal_path_is_found_wherever_it_is(device: str, dtype: DType, targets: list[int]) -> None:
    """Each log-prob of one small item in turn, as a batch."""
    good = dyadic(np.random.default_rng(3), (5, 4))
    cells = np.argwhere(np.ones_like(good))
    items = np.repeat(good[None], len(cells), 0)
    items[np.arange(len(cells)), *cells.T] = np.where(np.arange(len(cells)) % 3, np.nan, np.inf)
    batch = ctc_batch([(x, np.array(targets, np.int32), 0, STAR_MAX) for x in items], dtype)
    result = gpu.align(batch, device)
    check_ctc(batch, result)
    assert (result.statuses == Status.NOT_FINITE).sum() == visited_columns(batch, 0).sum()


@on_each_device
@FEW
@given(batch=ctc_batches(max_items=4))
def test_a_batch_equals_its_items_alone(device: str, batch: CtcBatch) -> None:
    whole = gpu.align(batch, device)
    frames, labels = offsets_of(batch.frames), offsets_of(batch.target_lengths)
    shared = ("log_probs", "targets", "dtype", "sources")
    per_item = [field.name for field in dataclasses.fields(batch) if field.name not in shared]
    for index in range(len(batch)):
        one = slice(index, index + 1)
        alone = gpu.align(dataclasses.replace(batch, **{name: getattr(batch, name)[one] for name in per_item}), device)
        own = slice(frames[index], frames[index + 1])
        np.testing.assert_array_equal(alone.paths, whole.paths[own])
        np.testing.assert_array_equal(alone.frame_scores, whole.frame_scores[own])
        np.testing.assert_array_equal(alone.durations, whole.durations[labels[index] : labels[index + 1]])
        np.testing.assert_array_equal(alone.scores, whole.scores[one])
        np.testing.assert_array_equal(alone.statuses, whole.statuses[one])


@on_each_device
@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16])
def test_halves_are_widened_exactly(device: str, dtype: DType) -> None:
    """Blanks of −∞ hold the path on the label, so that frame scores are the label's log-probs."""
    bits = np.r_[np.arange(0, 2**16, 2311), [0, 1, 0x8000, 0x8001, 0x03FF, 0x0400, 0x007F, 0x0080]].astype(np.uint16)
    log_probs = np.stack([np.full_like(bits, stored(-np.inf, dtype)), bits], 1)
    one = ctc_batch([(np.zeros((len(bits), 2)), np.array([1], np.int32), 0, 0.0)], dtype)
    with np.errstate(all="ignore"):
        finite = np.isfinite(ctc_item(dataclasses.replace(one, log_probs=log_probs.ravel()), 0)[0][:, 1])
    log_probs[~finite | (bits & 0x7FFF > 0x7B00), 1] = 0
    batch = dataclasses.replace(one, log_probs=log_probs.ravel())
    result = gpu.align(batch, device)
    check_ctc(batch, result)
    np.testing.assert_array_equal(result.frame_scores, ctc_item(batch, 0)[0][:, 1])


@on_each_device
def test_no_items_and_negative_lengths(device: str) -> None:
    assert len(gpu.align(ctc_batch([], DType.FLOAT32), device).statuses) == 0
    batch = ctc_batch([item(2, 3, 0), item(2, 3, 0)], DType.FLOAT32)
    batch = dataclasses.replace(batch, target_lengths=np.array([-3, 2]))
    result = gpu.align(batch, device)
    assert result.statuses.tolist() == [Status.EMPTY, Status.OK]
    assert len(result.durations) == 2


@on_each_device
@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.int16])
def test_a_padded_batch_in_any_strides(device: str, kind: torch.dtype) -> None:
    """Tensors on the device, of which the kernel reads a part; a target beyond int32 stays out of range."""
    items = [
        item(labels, spare, seed, star=-0.5) for seed, (labels, spare) in enumerate([(3, 4), (1, 0), (4, 1), (2, -1)])
    ]
    flat = ctc_batch(items, DType.FLOAT32)
    T = int(flat.frames.max())
    log_probs = torch.full((T, 5, 9), float("nan")).permute(1, 0, 2)[:, :, 2:8]
    targets = torch.full((5, 9), 2**32 + 1)[:, 1:7] if kind is torch.int64 else torch.full((6, 5), 6, dtype=kind).T
    for index, (x, labels, _, _) in enumerate(items):
        log_probs[index, : len(x)] = torch.from_numpy(x)
        targets[index, : len(labels)] = torch.from_numpy(labels)
    lengths, frames = torch.tensor([[*flat.target_lengths.tolist(), 1], [*flat.frames.tolist(), T]]).T.contiguous().T
    found = gpu.launch(
        *(tensor.to(device) for tensor in (log_probs, targets, frames, lengths)), blank=2, star_score=-0.5
    )
    expected = cpu.align(flat)
    path_starts, label_starts = offsets_of(flat.frames), offsets_of(flat.target_lengths)
    for index in range(len(items)):
        own = slice(path_starts[index], path_starts[index + 1])
        for row, values in [
            (found.paths[index], expected.paths[own]),
            (found.frame_scores[index], expected.frame_scores[own]),
            (found.durations[index], expected.durations[label_starts[index] : label_starts[index + 1]]),
        ]:
            np.testing.assert_array_equal(row.cpu(), np.pad(values, (0, len(row) - len(values))))
    np.testing.assert_array_equal(found.scores[:-1].cpu(), expected.scores)
    assert found.statuses.tolist() == [*expected.statuses, Status.TARGET_OUT_OF_RANGE]


@on_each_device
@pytest.mark.parametrize("sizes", [(0, 3), (4, 0), (4, 1)])
def test_padded_batches_of_hardly_anything(device: str, sizes: tuple[int, int]) -> None:
    """No frame, no label, or one label in a column that is not contiguous."""
    T, L = sizes
    log_probs, targets = torch.zeros(2, T, 3), torch.ones(5, 2, dtype=torch.int64).T[:, :L]
    lengths = torch.full((2,), T), torch.full((2,), L)
    found = gpu.launch(*(tensor.to(device) for tensor in (log_probs, targets, *lengths)))
    assert found.statuses.tolist() == [Status.OK if T and L else Status.EMPTY] * 2
    assert found.paths.tolist() == [[1] * T if L else [0] * T] * 2
    assert found.durations.tolist() == [[T] if T and L else [0] * L] * 2


@on_each_device
def test_lengths_beyond_the_padded_size_are_caught(device: str) -> None:
    arguments = torch.zeros(4, 5, 3), torch.ones(4, 1, dtype=torch.int64)
    lengths = torch.tensor([5, 6, 5, 2**40]), torch.tensor([1, 1, 2, 1])
    found = gpu.launch(*(tensor.to(device) for tensor in (*arguments, *lengths)))
    assert found.statuses.tolist() == [Status.OK, Status.INTERNAL, Status.INTERNAL, Status.INTERNAL]
    assert found.paths[1:].abs().sum() == 0
    assert found.durations.tolist() == [[5], [0], [0], [0]]


@on_each_device
@pytest.mark.parametrize("size", ["_words", "_border_words", "_strips"])
def test_too_little_scratch_is_an_error_not_a_fault(device: str, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, size, lambda labels, *_: np.zeros_like(labels))
    result = gpu.align(ctc_batch([item(40, 3, 0)], DType.FLOAT32), device)
    assert result.statuses.tolist() == [Status.INTERNAL]
    assert not result.paths.any()
    assert not result.durations.any()


@on_each_device
def test_launches_for_a_batch_of_any_lengths(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    star, forward, trace = watched(monkeypatch, really=True)
    short = [(2, 0), (40, 93), (0, 5), (3, -2)]
    batch = ctc_batch([item(*sizes, seed, star=-0.5) for seed, sizes in enumerate(short)], DType.FLOAT32)
    check_ctc(batch, gpu.align(batch, device))
    assert int(batch.frames.max()) in range(129, 257)
    assert forward.grids == [(4 * 2,)]  # strips of 32 pairs
    assert star.grids == trace.grids == []
    longer = ctc_batch([item(2, 0, 0, star=-0.5), item(1, 800, 1, star=-0.5)], DType.FLOAT32)
    check_ctc(longer, gpu.align(longer, device))
    assert forward.grids[1:] == [(2,)]
    assert trace.grids == [(2 * 7,)]  # four chunks of 32 frames a program
    assert star.grids == []
    largest = ctc_batch([item(*sizes, seed, star=STAR_MAX) for seed, sizes in enumerate(short)], DType.FLOAT32)
    check_ctc(largest, gpu.align(largest, device))
    assert star.grids == [(4 * 2,)]  # 128 frames a program
    assert forward.grids[2:] == [(4 * 2,)]
    assert len(trace.grids) == 1


@on_each_device
def test_python_does_nothing_by_frame_label_or_item(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watched(monkeypatch, really=False)
    small, large = ctc_batch([item(1, 0, 0)], DType.FLOAT32), ctc_batch([item(80, 300, 1)] * 30, DType.FLOAT32)
    gpu.align(large, device)  # a first launch compiles, and makes the borders' memory
    assert python_lines(lambda: gpu.align(small, device)) == python_lines(lambda: gpu.align(large, device))


@on_each_device
def test_scratch_is_what_is_used(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, forward, trace = watched(monkeypatch, really=False)
    for dtype in DType:
        items = [item(300, 1200, 0), item(5, -6, 1), item(0, 9, 2), item(32, 0, 3)]
        batch = ctc_batch(items, dtype)
        gpu.align(batch, device)
        need = gpu.scratch_bytes(batch)
        names = ["wild", "trouble", "bits", "moved"]
        scratch = [trace.arguments[-1][name] for name in names]
        if dtype is DType.FLOAT64:
            scratch.append(trace.arguments[-1]["on_path"])
        else:
            assert trace.arguments[-1]["on_path"] is trace.arguments[-1]["frame_scores"]
        allocated = sum(tensor.numel() * tensor.element_size() for tensor in scratch)
        planes = 2 if dtype is DType.FLOAT64 else 1
        allocated += 8 * planes * forward.arguments[-1]["plane"]
        # Two items have no path. Their frames are there, and a strip of one label in one frame.
        per_frame = dtype.storage.itemsize + (8 if dtype is DType.FLOAT64 else 0)
        allocated -= per_frame * int(batch.frames[1:3].sum())
        allocated -= 2 * (14 * 32 * 2 + 4)
        assert need.sum() == allocated
        assert need[0] < 1.1 * 300 * 1300
        assert need[1:3].tolist() == [0, 0]


@on_each_device
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
def test_border_memory_is_used_again(device: str, dtype: DType) -> None:
    """Whatever earlier launches have left in it: other shapes, items that failed, more of it or less."""
    for sizes in [[(70, 4)], [(3, 5), (40, 20)], [(33, 2), (64, 9)], [(65, -1), (40, 3)], [(70, 4)]]:
        batch = ctc_batch([item(labels, spare, labels) for labels, spare in sizes], dtype)
        check_ctc(batch, gpu.align(batch, device))


@on_each_device
@LAUNCHES
def test_a_border_that_never_comes_fails_its_item_alone(
    device: str, launches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_the_first_strip(gpu, device, monkeypatch)
    _, forward, _ = watched(monkeypatch, really=True)
    batch = ctc_batch([item(70, 20, 1), item(3, 9, 2), item(40, 8, 3)], DType.FLOAT32)
    with way_back(launches):
        result, expected = gpu.align(batch, device), cpu.align(batch)
    assert result.statuses.tolist() == [Status.INTERNAL, Status.OK, Status.OK]
    trouble = forward.arguments[0]["trouble"].tolist()
    assert [trouble[strip] & 2 for strip in (1, 3, 4, 5)] == [2, 0, 0, 0]
    first = int(batch.frames[0])
    assert np.isnan(result.scores[0])
    assert not result.paths[:first].any()
    assert not result.frame_scores[:first].any()
    assert not result.durations[:70].any()
    np.testing.assert_array_equal(result.paths[first:], expected.paths[first:])
    np.testing.assert_array_equal(result.durations[70:], expected.durations[70:])
    np.testing.assert_array_equal(result.scores[1:], expected.scores[1:])


@pytest.mark.interpreter
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
@LAUNCHES
def test_words_that_are_never_handed_over_fail_their_item_alone(
    dtype: DType, launches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "PATIENCE", 3)
    monkeypatch.setattr(gpu_strip, "hand_over", lambda *_: None)
    batch = ctc_batch([item(3, 9, 2), item(40, 8, 3), item(31, 2, 4)], dtype)
    with way_back(launches):
        assert gpu.align(batch, "cpu").statuses.tolist() == [Status.OK, Status.INTERNAL, Status.OK]


def test_devices_without_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="Triton kernels run on"):
        gpu.align(ctc_batch([item(2, 3, 0)], DType.FLOAT32), "meta")


@pytest.mark.gpu
def test_nothing_waits_before_the_results_are_asked_for() -> None:
    log_probs = torch.zeros(64, 3000, 40, device="cuda")
    targets = torch.ones(64, 300, dtype=torch.int64, device="cuda")
    lengths = [torch.full((64,), n, device="cuda") for n in (3000, 300)]
    gpu.launch(log_probs, targets, *lengths)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = gpu.launch(log_probs, targets, *lengths)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (found.statuses == Status.OK).all()


@pytest.mark.gpu
@pytest.mark.parametrize("frames", [500, 1500])
@pytest.mark.parametrize("star_score", [-1.0, STAR_MAX])
def test_a_captured_graph_gives_new_answers_for_new_scores(frames: int, star_score: float) -> None:
    rng = np.random.default_rng(13)
    sizes = [(frames, 100), (300, 70), (9, 5)]
    items = [random_targets(rng, labels, 32, 0) for _, labels in sizes]
    targets = torch.zeros(3, 100, dtype=torch.int64)
    for row, labels in zip(targets, items):
        row[: len(labels)] = torch.from_numpy(labels)
    log_probs = torch.zeros(3, frames, 32, device="cuda")
    lengths, targets = torch.tensor(sizes).T.contiguous().cuda(), targets.cuda()
    arguments = (log_probs, targets, lengths[0], lengths[1])
    gpu.launch(*arguments, star_score=star_score)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = gpu.launch(*arguments, star_score=star_score)
    for _ in range(3):
        scores = normal(rng, (3, frames, 32))
        log_probs.copy_(torch.from_numpy(scores))
        graph.replay()
        gpu.launch(*arguments, star_score=star_score)  # between replays, in memory of its own
        batch = ctc_batch(
            [(scores[b, :T], labels, 0, star_score) for b, ((T, _), labels) in enumerate(zip(sizes, items))],
            DType.FLOAT32,
        )
        expected = cpu.align(batch)
        starts = offsets_of(batch.frames)
        np.testing.assert_array_equal(found.statuses.cpu(), expected.statuses)
        np.testing.assert_array_equal(found.scores.cpu(), expected.scores)
        for b, (begin, end) in enumerate(itertools.pairwise(starts)):
            np.testing.assert_array_equal(found.paths[b, : end - begin].cpu(), expected.paths[begin:end])
