"""CTC items that are too long for all of their back-pointers, by Triton: interpreted, or for real with `-m gpu`."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from kernels.gpu_support import examples, garbage_in_new_memory, on_each_device
from kernels.strategies import check_ctc, ctc_batch, ctc_batches, dyadic, normal, random_targets, same_results

from alignd_kernels.ctc import gpu, gpu_long, gpu_strip
from alignd_kernels.ctc.batch import STAR, STAR_MAX, CtcBatch
from alignd_kernels.ctc.gpu_padded import forced_align_on_gpu
from alignd_kernels.dtypes import DType
from alignd_kernels.status import Status

pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")

SETTINGS = settings(max_examples=examples(6), deadline=None, derandomize=True)


@pytest.fixture(autouse=True, scope="module")
def garbage() -> Iterator[None]:
    with garbage_in_new_memory():
        yield


@contextmanager
def windows(chunks: int, kept_bytes: int = 0) -> Iterator[None]:
    """Of so many chunks, for all items whose back-pointers and borders take more than `kept_bytes`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "KEPT_BYTES", kept_bytes)
        patch.setattr(gpu_long, "WINDOW_CHUNKS", chunks)
        patch.setattr(gpu_long, "window_bytes", lambda *_: 1)  # less than any
        yield


def item(labels: int, spare: int, seed: int, vocabulary: int = 6) -> tuple[np.ndarray, np.ndarray, int, float]:
    """With ties, repeats and stars, and `spare` frames more than it needs."""
    rng = np.random.default_rng(seed)
    targets = random_targets(rng, labels, vocabulary, 2)
    frames = labels + int(np.count_nonzero(targets[1:] == targets[:-1])) + spare
    return dyadic(rng, (frames, vocabulary)), targets, 2, STAR_MAX


@on_each_device
@pytest.mark.parametrize("chunks", [1, 2])
@SETTINGS
@given(batch=ctc_batches(max_items=3))
def test_equals_the_reference(device: str, chunks: int, batch: CtcBatch) -> None:
    with windows(chunks):
        check_ctc(batch, gpu.align(batch, device))


@on_each_device
@SETTINGS
@given(batch=ctc_batches(max_labels=70, max_spare=70, max_items=1))
def test_equals_the_reference_over_several_strips_and_windows(device: str, batch: CtcBatch) -> None:
    with windows(1):
        check_ctc(batch, gpu.align(batch, device))


@on_each_device
@pytest.mark.parametrize(("dtype", "chunks"), [(DType.FLOAT32, 1), (DType.FLOAT64, 2), (DType.BFLOAT16, 3)])
def test_paths_that_cross_windows_anyhow(device: str, dtype: DType, chunks: int) -> None:
    """Straight down (no frames to spare), nearly flat, through the corners of windows and strips."""
    sizes = [(1, 300), (31, 33), (64, 0), (65, 200), (130, 20)]
    batch = ctc_batch([item(labels, spare, seed) for seed, (labels, spare) in enumerate(sizes)], dtype)
    with windows(chunks):
        check_ctc(batch, gpu.align(batch, device))


@on_each_device
def test_long_items_among_short_ones_and_bad_ones(device: str) -> None:
    items = [item(3, 5, 0), item(60, 140, 1), (np.zeros((4, 6)), np.array([2], np.int32), 2, 0.0), item(40, 100, 2)]
    items[3][0][70, :] = np.nan
    items += [(np.zeros((2, 6)), np.array([1, 1], np.int32), 2, 0.0), item(2, 0, 3)]
    batch = ctc_batch(items, DType.FLOAT32, padding=1)
    with windows(2, kept_bytes=14 * 32 * 8):
        assert (gpu._in_windows(batch) > 0).tolist() == [False, True, False, True, False, False]
        result = gpu.align(batch, device)
    check_ctc(batch, result)
    assert result.statuses.tolist() == [
        Status.OK,
        Status.OK,
        Status.TARGET_IS_BLANK,
        Status.NOT_FINITE,
        Status.TOO_FEW_FRAMES,
        Status.OK,
    ]


def of_lengths(frames: int, labels: int) -> CtcBatch:
    """An item whose values are not there."""
    one = np.ones(1, np.int64)
    batch = ctc_batch([item(1, 1, 0)], DType.FLOAT32)
    return dataclasses.replace(batch, frames=frames * one, target_lengths=labels * one)


def test_two_hours_take_little_memory() -> None:
    """18 GB if all were kept."""
    assert 2e8 < gpu.scratch_bytes(of_lengths(360_000, 100_000))[0] < 4e8


def test_windows_are_not_for_items_that_need_more_in_them() -> None:
    """With few frames to spare, little is to be kept."""
    nearly_straight = of_lengths(602_600, 600_000)
    assert gpu_long.window_bytes(600_000, 602_600, DType.FLOAT32, gpu_long.WINDOW_CHUNKS) > 1.5e9
    assert gpu._in_windows(nearly_straight)[0] == 0
    assert 1e9 < gpu.scratch_bytes(nearly_straight)[0] < 1.2e9


@pytest.mark.interpreter
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
def test_no_strip_looks_beyond_the_borders(dtype: DType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even those to which paths come in later windows only, whose looks nobody would miss."""
    ends: list[tuple[int, int]] = []
    looks = 0
    lent = gpu_long.borders
    look = gpu_strip.look

    @contextmanager
    def noted(*arguments: Any) -> Iterator[Any]:
        with lent(*arguments) as memory:
            ends.append((memory.words.data_ptr(), memory.words.data_ptr() + 8 * arguments[1]))
            yield memory

    def checked(words: Any, plane: Any, t: Any, needed: Any, accumulator: Any) -> Any:
        nonlocal looks
        places = (words.handle.data.astype(np.int64) + 8 * t.handle.data)[needed.handle.data.astype(bool)]
        begin, end = ends[-1]
        if dtype is DType.FLOAT64:
            end -= 8 * int(plane.handle.data[0])
        assert ((places >= begin) & (places < end)).all()
        looks += len(places)
        return look(words, plane, t, needed, accumulator)

    monkeypatch.setattr(gpu_long, "borders", noted)
    monkeypatch.setattr(gpu_strip, "look", checked)
    batch = ctc_batch([item(130, 270, 5)], dtype)
    with windows(1):
        check_ctc(batch, gpu.align(batch, "cpu"))
    assert looks > 1000


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT16])
def test_windows_change_nothing(dtype: DType) -> None:
    rng = np.random.default_rng(4)
    targets = random_targets(rng, 5_000, 32, 0)
    batch = ctc_batch([(normal(rng, (20_000, 32)), targets, 0, -1.0)], dtype)
    whole = gpu.align(batch, "cuda")
    for chunks in (16, 77, 256):
        with windows(chunks):
            same_results(gpu.align(batch, "cuda"), whole)


@on_each_device
@pytest.mark.parametrize(("dtype", "turned"), [(torch.float16, False), (torch.float64, True)])
def test_padded_items_that_are_whole(
    device: str, dtype: torch.dtype, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a wildcard, a label out of range that int32 would wrap into it, and scores with gaps between frames."""
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(dyadic(rng, (3, 80, 7))).to(dtype).to(device)[:, ::2]
    targets = torch.from_numpy(np.stack([random_targets(rng, 33, 7, 0) for _ in range(3)])).long().to(device)
    targets[0, 5], targets[1, 2] = STAR, 2**32 + 3
    targets = targets.t().contiguous().t() if turned else targets
    frames, labels = (torch.full((3,), length, device=device) for length in (40, 33))
    expected = gpu.launch(scores, targets, frames, labels, star_score=-0.5)
    assert expected.statuses.tolist()[1:2] == [Status.TARGET_OUT_OF_RANGE]
    assert Status.OK in expected.statuses.tolist()
    enqueue, items = gpu_long.enqueue, []

    def counted(*args: Any) -> Any:
        items.append(args[0])
        return enqueue(*args)

    monkeypatch.setattr(gpu_long, "enqueue", counted)
    with windows(1):
        found = gpu.launch(scores, targets, frames, labels, star_score=-0.5, whole=True)
        assert len(items) == 3
        gpu.launch(scores, targets, frames, labels, star_score=-0.5)  # lengths that the device alone knows
        assert len(items) == 3
        host = 3 * [40]
        for args, count in (
            ((None, None), 6),
            ((host, None), 9),
            ((host, 3 * [33]), 12),
            ((frames, None), 12),
        ):
            again = forced_align_on_gpu(scores, targets, *args, 0, -0.5, check=False)
            assert len(items) == count
            assert again[2].tolist() == expected.statuses.tolist()
        forced_align_on_gpu(scores, targets, [40, 39, 40], None, 0, -0.5, check=False)
        assert len(items) == 12
    for one, other in zip(found, expected):
        assert torch.equal(one.nan_to_num(7), other.nan_to_num(7))
