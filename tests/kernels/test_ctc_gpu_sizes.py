"""CTC forced alignment by Triton at the edges of strips, chunks and launches, and of large items and batches."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from kernels.ctc_gpu_support import item, watched, way_back
from kernels.gpu_support import garbage_in_new_memory, on_each_device
from kernels.strategies import check_ctc, ctc_batch, dyadic, normal, same_results

from alignd_kernels.ctc import cpu, gpu
from alignd_kernels.dtypes import DType
from alignd_kernels.status import Status


@pytest.fixture(autouse=True, scope="module")
def garbage() -> Iterator[None]:
    with garbage_in_new_memory():
        yield


EDGES = (1, 31, 32, 33, 63, 64, 65, 127)


@on_each_device
@pytest.mark.parametrize(("labels", "launches"), list(zip(EDGES, itertools.cycle([1, 2, 1]))))
def test_sizes_at_the_edges_of_strips_and_chunks(device: str, labels: int, launches: int) -> None:
    """With no frame to spare, one, and as many as lead to the edges of the chunks."""
    least = len(item(labels, 0, labels)[0])
    spare = sorted({0, 1, *(frames - least for frames in EDGES if frames > least)})
    if device == "cpu":
        spare = [*spare[:2], spare[-1]]
    items = [item(labels, more, labels) for more in spare]
    dtype = DType.FLOAT64 if labels in (33, 64) else DType.FLOAT32
    batch = ctc_batch(items, dtype)
    with way_back(launches):
        check_ctc(batch, gpu.align(batch, device))


@on_each_device
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
@pytest.mark.parametrize(
    ("frames", "fused"), [(1, True), (31, True), (32, True), (33, True), (511, True), (512, True), (513, False)]
)
def test_frames_at_the_edges_of_what_one_launch_does(
    device: str, frames: int, fused: bool, dtype: DType, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, forward, trace = watched(monkeypatch, really=True)
    batch = ctc_batch([item(1, frames - 1, frames)], dtype)
    assert batch.frames.tolist() == [frames]
    check_ctc(batch, gpu.align(batch, device))
    assert (len(forward.grids), len(trace.grids)) == ((1, 0) if fused else (1, 1))


@on_each_device
def test_many_strips(device: str) -> None:
    """With one frame to spare, so that each is in few chunks."""
    targets = (np.arange(1024) % 3 + 1).astype(np.int32)
    batch = ctc_batch([(dyadic(np.random.default_rng(23), (1025, 5)), targets, 0, 0.0)], DType.FLOAT32)
    same_results(gpu.align(batch, device), cpu.align(batch))


@on_each_device
def test_more_targets_than_are_looked_at_at_a_time(device: str) -> None:
    """A repeat over the edge and more behind it; a bad target behind it."""
    rng = np.random.default_rng(22)
    targets = (np.arange(520) % 2 + 1).astype(np.int32)
    late = targets.copy()
    targets[512:] = targets[511]
    late[[512, 515]] = [5, 0]
    items = [(dyadic(rng, (530, 5)), each, 0, 0.0) for each in (targets, late)]
    batch = ctc_batch(items, DType.FLOAT32)
    result = gpu.align(batch, device)
    check_ctc(batch, result)
    assert result.statuses.tolist() == [Status.OK, Status.TARGET_OUT_OF_RANGE]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DType)
def test_every_edge_of_strips_and_chunks(dtype: DType) -> None:
    edges = [1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025, 4095, 4096, 4097]
    sizes = [(labels, spare) for labels in edges for spare in [0, *edges] if labels * (labels + spare) <= 2**22]
    batch = ctc_batch([item(labels, spare, seed, 40) for seed, (labels, spare) in enumerate(sizes)], dtype)
    same_results(gpu.align(batch, "cuda"), cpu.align(batch))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DType)
def test_large_items_equal_the_cpu_kernels(dtype: DType) -> None:
    sizes = [(300, 1200), (1, 3000), (2000, 0), (700, 1), (1500, 6000)]
    items = [item(labels, spare, seed, 40) for seed, (labels, spare) in enumerate(sizes)]
    rng = np.random.default_rng(8)
    items += [(normal(rng, x.shape), targets, blank, -1.5) for x, targets, blank, _ in items]
    batch = ctc_batch(items, dtype, padding=3)
    same_results(gpu.align(batch, "cuda"), cpu.align(batch))


@pytest.mark.gpu
def test_hours_of_audio_equal_the_cpu_kernels() -> None:
    batch = ctc_batch([item(25_000, 20_000, 9, 32, 0.0)], DType.FLOAT32)
    same_results(gpu.align(batch, "cuda"), cpu.align(batch))


@pytest.mark.gpu
def test_scratch_beyond_32_bits() -> None:
    """Of the last item: its back-pointers begin past 2³¹ words, those of all items at one place in the scores."""
    B, T, L = 32, 40_000, 20_000
    log_probs = torch.from_numpy(normal(np.random.default_rng(24), (1, T, 8))).to("cuda", torch.float16)
    targets = (torch.arange(L, device="cuda") % 7 + 1).expand(B, L)
    lengths = [torch.full((B,), size, device="cuda") for size in (T, L)]
    found = gpu.launch(log_probs.log_softmax(-1).expand(B, T, 8), targets, *lengths)
    assert found.statuses.tolist() == [Status.OK] * B
    assert int(found.durations[0].sum()) == int((found.paths[0] % 2).sum()) >= L
    for part in found:
        assert torch.equal(part[0], part[-1])


@pytest.mark.gpu
def test_many_items_equal_the_cpu_kernels() -> None:
    sizes = np.random.default_rng(10).integers(0, 90, (3000, 2))
    batch = ctc_batch([item(int(n), int(spare) - 2, seed) for seed, (n, spare) in enumerate(sizes)], DType.FLOAT32)
    same_results(gpu.align(batch, "cuda"), cpu.align(batch))


@pytest.mark.gpu
def test_offsets_beyond_32_bits() -> None:
    """The second item's log-probs begin past 2³⁰ elements and end past 2³¹."""
    log_probs = torch.full((2, 40_000, 30_000), -1.0, dtype=torch.float16, device="cuda")
    log_probs[:, 20_000:20_003, 0] = -9.0
    log_probs[1, -5, 29_999] = 2.0
    targets = torch.full((2, 3), 29_999, device="cuda")
    lengths = [torch.full((2,), size, device="cuda") for size in (40_000, 3)]
    found = gpu.launch(log_probs, targets, *lengths)
    assert found.statuses.tolist() == [Status.OK] * 2
    # All other frames cost 1, of the blank or the label alike; two blanks at least, between labels that are alike.
    assert found.scores.tolist() == [-40_000.0, -39_997.0]
    for b in range(2):
        assert (found.paths[b, 20_000:20_003] % 2 == 1).all()
    assert found.paths[1, -5] % 2 == 1
