"""Monotonic alignment search by Triton at the edges of strips, chunks and launches, and of large items and batches."""

from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from kernels.gpu_support import garbage_in_new_memory, on_each_device
from kernels.mas_gpu_support import way_back
from kernels.strategies import check_mas, dyadic, mas_batch, normal, same_results, with_minus_infinity

from alignd_kernels.dtypes import DType
from alignd_kernels.mas import cpu, gpu
from alignd_kernels.status import Status


@pytest.fixture(autouse=True, scope="module")
def garbage() -> Iterator[None]:
    with garbage_in_new_memory():
        yield


EDGES = [(1, 1), (1, 33), (31, 31), (31, 40), (32, 32), (32, 33), (33, 64), (63, 65), (64, 64), (65, 65), (65, 97)]
EDGES += [
    (1, 31),
    (1, 32),
    (2, 63),
    (2, 64),
    (2, 65),
    (15, 16),
    (16, 17),
    (17, 127),
    (127, 128),
    (128, 129),
    (129, 193),
]


@on_each_device
@pytest.mark.parametrize(("dtype", "launches"), [(DType.FLOAT32, 1), (DType.FLOAT32, 2), (DType.FLOAT64, 2)])
def test_shapes_at_the_edges_of_strips_and_chunks(device: str, dtype: DType, launches: int) -> None:
    rng = np.random.default_rng(1)
    batch = mas_batch([with_minus_infinity(rng, (1, 1)), *(dyadic(rng, shape) for shape in EDGES)], dtype, gap=1)
    with way_back(launches):
        check_mas(batch, gpu.align(batch, device))


@on_each_device
def test_many_chunks(device: str) -> None:
    """Past 32 chunks the way back is a launch of its own, and its programs a group of chunks each."""
    rng = np.random.default_rng(15)
    batch = mas_batch([dyadic(rng, (2, 1057))], DType.FLOAT32)
    same_results(gpu.align(batch, device), cpu.align(batch))


@on_each_device
def test_many_strips(device: str) -> None:
    """Without frames to spare, so that each is in few chunks."""
    rng = np.random.default_rng(17)
    batch = mas_batch([dyadic(rng, (1025, 1026))], DType.FLOAT32)
    same_results(gpu.align(batch, device), cpu.align(batch))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DType)
def test_every_edge_of_strips_and_chunks(dtype: DType) -> None:
    rng = np.random.default_rng(16)
    edges = [1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025, 4095, 4096, 4097]
    shapes = [(s, t) for s in edges for t in edges if s <= t and s * t <= 2**22]
    batch = mas_batch([dyadic(rng, shape) for shape in shapes], dtype, gap=1)
    same_results(gpu.align(batch, "cuda"), cpu.align(batch))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DType)
def test_large_items_equal_the_cpu_kernels(dtype: DType) -> None:
    rng = np.random.default_rng(5)
    shapes = [(512, 2048), (1, 3000), (2048, 2048), (700, 701), (160, 800), (1500, 6000)]
    batch = mas_batch([kind(rng, shape) for shape in shapes for kind in (dyadic, normal)], dtype, padding=3)
    same_results(gpu.align(batch, "cuda"), cpu.align(batch))


@pytest.mark.gpu
def test_many_items_equal_the_cpu_kernels() -> None:
    rng = np.random.default_rng(6)
    shapes = rng.integers(0, 150, (3000, 2))
    batch = mas_batch([dyadic(rng, (int(s), int(s + more))) for s, more in shapes], DType.FLOAT32)
    same_results(gpu.align(batch, "cuda"), cpu.align(batch))


@pytest.mark.gpu
def test_offsets_beyond_32_bits() -> None:
    """Three items of 2³⁰ scores each, in half precision; the last one begins past 2³¹ elements."""
    value = torch.zeros(3, 4096, 2**18, dtype=torch.float16, device="cuda")
    value[2].copy_(torch.arange(2**18, device="cuda") % 7 - 3)
    tokens = torch.tensor([4096, 1, 4096], device="cuda")
    frames = torch.tensor([2**18] * 3, device="cuda")
    found = gpu.launch(value, tokens, frames)
    assert found.statuses.tolist() == [Status.OK] * 3
    # All rows are alike, so every path is as good, and ties stay: the last token has all frames that it can.
    assert found.durations[2].tolist() == [1] * 4095 + [2**18 - 4095]
    assert found.scores[2].item() == float(value[2, 0].double().sum())
