"""Monotonic alignment search from latents: lattices against plain loops, paths against the search of those lattices."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignd_kernels.dtypes import DType
from alignd_kernels.mas import cpu_latents, reference
from alignd_kernels.mas.batch import MasResult
from alignd_kernels.mas.latents import (
    LatentBatch,
    Rows,
    gaussians,
    groups_of,
    lattice,
    lattice_bytes,
    reference_lattice,
)
from alignd_kernels.ragged import offsets_of
from alignd_kernels.status import Status
from alignd_kernels.threads import WorkerPool

Array = npt.NDArray[Any]
Item = tuple[Array, Array, Array | None]


def batch_of(items: list[Item], dtype: DType = DType.FLOAT32) -> LatentBatch:
    def rows(place: int) -> Rows:
        flat = [np.ascontiguousarray(item[place]).reshape(-1) for item in items]
        offsets = offsets_of(np.array([len(one) for one in flat], np.int64))[:-1]
        return Rows(np.concatenate(flat).view(dtype.storage), offsets)

    sizes = [(len(mean), len(z), z.shape[1]) for z, mean, _ in items]
    tokens, frames, channels = np.array(sizes, np.int64).T
    log_sigmas = None if items[0][2] is None else rows(2)
    return LatentBatch(rows(0), rows(1), log_sigmas, dtype, tokens, frames, channels)


def item_of(S: int, T: int, C: int, seed: int, unit: bool = False) -> Item:
    rng = np.random.default_rng(seed)
    z, mean, log_sigma = (rng.standard_normal((n, C)).astype(np.float32) for n in (T, S, S))
    return z, mean, None if unit else log_sigma / 2


def parts(batch: LatentBatch, result: MasResult) -> list[tuple[list[int], float]]:
    ends = np.cumsum(batch.tokens)
    return list(zip([part.tolist() for part in np.split(result.durations, ends)], result.scores.tolist()))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(0, 20), st.integers(1, 40), st.booleans(), st.integers(0, 1000))
def test_the_lattice_is_the_plain_one(S: int, more: int, C: int, unit: bool, seed: int) -> None:
    """Within the rounding of the sum of squares that the difference is made of."""
    z, mean, log_sigma = item_of(S, S + more, C, seed, unit)
    found = lattice(z, mean, log_sigma)
    exact = reference_lattice(z, mean, log_sigma)
    inverse = np.ones(mean.shape) if log_sigma is None else np.exp(-2 * log_sigma.astype(float))
    squares = inverse @ (z.astype(float) ** 2).T + (inverse * mean.astype(float) ** 2).sum(1)[:, None]
    rest = 0.0 if log_sigma is None else np.abs(log_sigma.astype(float)).sum(1)[:, None]
    assert found.dtype == np.float32
    assert (np.abs(found - exact) <= (C + 4) * 2.0**-24 * (squares + rest + C)).all()


@pytest.mark.parametrize("threads", [None, 2])
def test_ragged_batches_are_searched_as_their_lattices(threads: int | None) -> None:
    shapes = [(3, 9, 4), (1, 1, 1), (5, 5, 80), (4, 30, 16), (7, 40, 3)]
    items = [item_of(*shape, seed) for seed, shape in enumerate(shapes)]
    batch = batch_of(items)
    pool = WorkerPool(threads) if threads else None
    for (durations, score), item in zip(parts(batch, cpu_latents.align(batch, pool)), items):
        _, expected, total = reference.maximum_path(lattice(*item), np.float32)
        assert durations == expected.tolist()
        assert score == total


def test_items_alone_are_items_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [item_of(S, 3 * S, 5, S) for S in range(1, 9)]
    whole = parts(batch_of(items), cpu_latents.align(batch_of(items)))
    monkeypatch.setattr(cpu_latents, "GROUP_CELLS", 100)
    assert parts(batch_of(items), cpu_latents.align(batch_of(items))) == whole
    for item, (durations, score) in zip(items, whole):
        alone = cpu_latents.align(batch_of([item]))
        assert alone.durations.tolist() == durations
        assert alone.scores[0] == score


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16, DType.FLOAT64])
def test_other_types_are_widened(dtype: DType) -> None:
    items = [item_of(4, 12, 6, seed) for seed in range(3)]
    kind = getattr(torch, dtype.value)
    narrow = [tuple(torch.from_numpy(array).to(kind) for array in item) for item in items]
    half = dtype.storage.itemsize == 2

    def bits(tensor: torch.Tensor) -> Array:
        return tensor.view(torch.int16).numpy().view(np.uint16) if half else tensor.numpy()

    stored = [tuple(map(bits, item)) for item in narrow]
    batch = batch_of(stored, dtype)  # type: ignore[arg-type]
    wide = torch.float64 if dtype is DType.FLOAT64 else torch.float32
    for (durations, score), item in zip(parts(batch, cpu_latents.align(batch)), narrow):
        z, mean, log_sigma = (array.to(wide).numpy() for array in item)
        _, expected, total = reference.maximum_path(lattice(z, mean, log_sigma), dtype.accumulator)
        assert durations == expected.tolist()
        assert score == total


def test_items_without_a_path() -> None:
    good = item_of(3, 9, 4, 0)
    bad: list[tuple[Item, Status]] = [
        (item_of(4, 3, 4, 1), Status.TOO_FEW_FRAMES),
        (item_of(0, 3, 4, 1), Status.EMPTY),
        (item_of(2, 0, 4, 1), Status.EMPTY),
        (item_of(2, 5, 0, 1), Status.EMPTY),
        ((np.full((5, 4), np.nan, np.float32), *item_of(2, 5, 4, 1)[1:]), Status.NOT_FINITE),
        ((np.full((5, 4), 3e38, np.float32), *item_of(2, 5, 4, 1)[1:]), Status.NO_FINITE_PATH),
    ]
    items = [good, *(item for item, _ in bad), good]
    result = cpu_latents.align(batch_of(items))
    statuses = [Status(status) for status in result.statuses]
    assert statuses[0] is statuses[-1] is Status.OK
    # Where the square overflows, the lattice is −inf or, beside the other product, NaN.
    assert statuses[-2] in (Status.NO_FINITE_PATH, Status.NOT_FINITE)
    assert statuses[1:-2] == [status for _, status in bad[:-1]]
    assert np.isnan(result.scores[1:-1]).all()
    assert result.durations[: len(good[1])].tolist() == result.durations[-len(good[1]) :].tolist()
    assert not result.durations[len(good[1]) : -len(good[1])].any()


def test_scratch_is_the_lattice_and_its_search() -> None:
    batch = batch_of([item_of(3, 9, 4, 0), item_of(5, 3, 4, 0)])
    need = cpu_latents.scratch_bytes(batch)
    assert need[0] > lattice_bytes(batch)[0] == 4 * (2 * 27 + 3 * 3 * 4 + 2 * 9 * 4)
    assert need[1] == 0


@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 60))
def test_groups_cover_all_items_in_order(cells: list[int], most: int) -> None:
    groups = groups_of(cells, most)
    assert [b for group in groups for b in range(group.start, group.stop)] == list(range(len(cells)))
    assert all(sum(cells[group]) <= most or group.stop - group.start == 1 for group in groups)


def test_several_buffers() -> None:
    items = [item_of(3, 9, 4, seed) for seed in range(3)]
    whole = batch_of(items)
    places, zeros = np.array([0, 1, 2]), np.zeros(3, np.int64)
    rows = [Rows(tuple(item[k].reshape(-1) for item in items), zeros, places) for k in range(3)]  # type: ignore[union-attr]
    apart = LatentBatch(*rows, whole.dtype, whole.tokens, whole.frames, whole.channels)
    assert parts(apart, cpu_latents.align(apart)) == parts(whole, cpu_latents.align(whole))
    assert [array.tolist() for array in gaussians(apart, 2) if array is not None] == [x.tolist() for x in items[2]]  # type: ignore[union-attr]


def test_on_the_gpus_side() -> None:
    """Torch's products and the Triton search, in the interpreter on the CPU."""
    from alignd_kernels.mas import gpu_latents

    items = [item_of(3, 9, 4, 0), item_of(2, 5, 4, 1), item_of(4, 3, 4, 2), item_of(5, 40, 4, 3)]
    for unit in (False, True):
        batch = batch_of([(z, mean, None if unit else sigma) for z, mean, sigma in items])
        host, device = cpu_latents.align(batch), gpu_latents.align(batch, "cpu")
        assert device.statuses.tolist() == host.statuses.tolist()
        assert device.durations.tolist() == host.durations.tolist()
        np.testing.assert_allclose(device.scores, host.scores, rtol=1e-5)
        assert (gpu_latents.scratch_bytes(batch) >= lattice_bytes(batch) * (batch.tokens <= batch.frames)).all()
