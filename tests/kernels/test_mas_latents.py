"""Monotonic alignment search from latents: lattices against plain loops, paths against the search of those lattices."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.gpu_support import garbage_in_new_memory, on_each_device
from kernels.strategies import stored
from kernels.subprocesses import WITHOUT_AVX_512, X86, run_script

from alignd_kernels.dtypes import DType, widen
from alignd_kernels.mas import cpu_latents, gaussian_cells, reference
from alignd_kernels.mas.batch import MasResult
from alignd_kernels.mas.latents import LatentBatch, Rows, groups_of, reason, reference_lattice
from alignd_kernels.ragged import offsets_of
from alignd_kernels.scratch import from_cache_line
from alignd_kernels.status import Status
from alignd_kernels.threads import WorkerPool

Array = npt.NDArray[Any]
Item = tuple[Array, Array, Array | None]
"""z [T, C], mean [S, C], log_sigma [S, C], float64."""


def batch_of(items: list[Item], dtype: DType = DType.FLOAT32) -> LatentBatch:
    def rows(place: int) -> Rows:
        flat = [np.ascontiguousarray(item[place]).reshape(-1) for item in items]
        offsets = offsets_of(np.array([len(one) for one in flat], np.int64))[:-1]
        return Rows(stored(np.concatenate(flat), dtype), offsets)

    sizes = [(len(mean), len(z), z.shape[1]) for z, mean, _ in items]
    tokens, frames, channels = np.array(sizes, np.int64).T
    log_sigmas = None if items[0][2] is None else rows(2)
    return LatentBatch(rows(0), rows(1), log_sigmas, dtype, tokens, frames, channels)


def item_of(S: int, T: int, C: int, seed: int, unit: bool = False) -> Item:
    rng = np.random.default_rng(seed)
    z, mean, log_sigma = (rng.standard_normal((n, C)) for n in (T, S, S))
    return z, mean, None if unit else log_sigma / 2


def exact_item(S: int, T: int, C: int, seed: int, unit: bool = False) -> Item:
    """On a grid on which every product and sum is exact in float32, and so in any order, but for what a token shares
    in all frames: deviations are powers of two, and the same for all tokens."""
    rng = np.random.default_rng(seed)
    z, mean = (rng.integers(-8, 9, (n, C)) / 4 for n in (T, S))
    return z, mean, None if unit else np.broadcast_to(rng.integers(-1, 2, C) * np.log(2), (S, C))


def parts(batch: LatentBatch, result: MasResult) -> list[tuple[list[int], float]]:
    ends = np.cumsum(batch.tokens)
    return list(zip([part.tolist() for part in np.split(result.durations, ends)], result.scores.tolist()))


def legal(S: int, T: int) -> npt.NDArray[np.bool_]:
    s, t = np.arange(S)[:, None], np.arange(T)
    found: npt.NDArray[np.bool_] = (s <= t) & (s >= S - T + t)
    return found


def computed(batch: LatentBatch, pool: WorkerPool | None = None) -> list[Array]:
    """Of each item [S, T]: its lattice as the search gets it, 0 where no path can be."""
    found = cpu_latents.lattices(batch, slice(0, len(batch)), pool)
    assert isinstance(found.values, np.ndarray)
    lattices = []
    for offset, S, T, pitch in zip(found.offsets, found.tokens, found.frames, found.pitches):
        rows = found.values[offset : offset + T * pitch].reshape(T, pitch)[:, :S].T if 0 < S <= T else np.zeros((S, T))
        lattices.append(np.where(legal(S, T), rows, 0).astype(found.values.dtype))
    return lattices


def bound(z: Array, mean: Array, log_sigma: Array | None, digits: int) -> Array:
    """The error that `cpu_latents.align` states and that of the plain loops in float64, [S, T]."""
    C, sigma = z.shape[1], np.ones(mean.shape) if log_sigma is None else np.exp(log_sigma)
    distance = np.abs(z - mean[:, None]) / sigma[:, None]
    constant = np.log(sigma).sum(1) + 0.5 * C * np.log(2 * np.pi)
    squares, shifts = (distance**2).sum(2), (distance * np.abs(mean / sigma)[:, None]).sum(2)
    stated = 2.0**-digits * (0.5 * (C + 10) * squares + shifts + 2 * np.abs(constant)[:, None])
    # A term of the loops is rounded five times before it is added, and C additions after that.
    terms = 0.5 * squares + np.abs(np.log(sigma)).sum(1)[:, None] + 0.5 * C * np.log(2 * np.pi)
    found: Array = stated + 2.0**-53 * (C + 5) * terms
    return found


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.integers(1, 70), st.integers(0, 20), st.integers(1, 9), st.booleans(), st.sampled_from(DType),
    st.sampled_from([0.0, 1e3]), st.integers(0, 1000),
)  # fmt: skip
def test_the_lattice_is_the_plain_one(
    S: int, more: int, C: int, unit: bool, dtype: DType, offset: float, seed: int
) -> None:
    """Within the error that is stated, also far from the origin, where squares would cancel."""
    z, mean, log_sigma = item_of(S, S + more, C, seed, unit)
    batch = batch_of([(z + offset, mean + offset, log_sigma)], dtype)
    sizes = {"latents": S + more, "means": S, "log_sigmas": S}
    rounded = [getattr(batch, name) for name in sizes]
    item = [None if one is None else widen(one.buffers, dtype).astype(float).reshape(-1, C) for one in rounded]
    (found,) = computed(batch)
    exact = np.where(legal(S, S + more), reference_lattice(*item), 0)  # type: ignore[arg-type]
    assert found.dtype == dtype.accumulator
    digits = 53 if dtype is DType.FLOAT64 else 24
    assert (np.abs(found - exact) <= bound(*item, digits)).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("threads", [None, 2])
def test_ragged_batches_are_searched_as_their_lattices(dtype: DType, threads: int | None) -> None:
    shapes = [(3, 9, 4), (1, 1, 1), (5, 5, 80), (15, 16, 2), (16, 40, 16), (33, 47, 3), (64, 65, 7), (65, 200, 5)]
    batch = batch_of([item_of(*shape, seed) for seed, shape in enumerate(shapes)], dtype)
    pool = WorkerPool(threads) if threads else None
    for (durations, score), lattice in zip(parts(batch, cpu_latents.align(batch, pool)), computed(batch, pool)):
        _, expected, total = reference.maximum_path(lattice, dtype.accumulator)
        assert durations == expected.tolist()
        assert score == total


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=5),
    st.booleans(), st.sampled_from(DType), st.integers(0, 1000),
)  # fmt: skip
def test_exact_items_have_the_references_paths(
    shapes: list[tuple[int, int, int]], unit: bool, dtype: DType, seed: int
) -> None:
    """Where nothing is rounded that tells one path from another; log 2 of the halves is that of all tokens alike."""
    items = [exact_item(S, S + more, C, seed + b, True) for b, (S, more, C) in enumerate(shapes)]
    if not unit:
        items = [(z, mean, np.zeros(mean.shape)) for z, mean, _ in items]
    batch = batch_of(items, dtype)
    for (durations, _), item in zip(parts(batch, cpu_latents.align(batch)), items):
        constant = reference_lattice(*item) + 0.5 * item[0].shape[1] * np.log(2 * np.pi)
        _, expected, _ = reference.maximum_path(np.round(constant * 32) / 32)
        assert durations == expected.tolist()


def test_items_alone_are_items_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [item_of(S, 3 * S, 5, S) for S in range(1, 40, 3)]
    batch = batch_of(items)
    whole = parts(batch, cpu_latents.align(batch))
    for cells in (1, 3000):
        monkeypatch.setattr(cpu_latents, "GROUP_CELLS", cells)
        assert parts(batch, cpu_latents.align(batch, WorkerPool(3))) == whole
    for item, (durations, score) in zip(items, whole):
        alone = cpu_latents.align(batch_of([item]))
        assert alone.durations.tolist() == durations
        assert alone.scores[0] == score


BAD: list[tuple[Item, Status]] = [
    (item_of(4, 3, 4, 1), Status.TOO_FEW_FRAMES),
    (item_of(0, 3, 4, 1), Status.EMPTY),
    (item_of(2, 0, 4, 1), Status.EMPTY),
    (item_of(2, 5, 0, 1), Status.EMPTY),
    ((np.full((5, 4), np.nan), *item_of(2, 5, 4, 1)[1:]), Status.NOT_FINITE),
    ((item_of(2, 5, 4, 1)[0], np.full((2, 4), np.nan), item_of(2, 5, 4, 1)[2]), Status.NOT_FINITE),
    ((*item_of(2, 5, 4, 1)[:2], np.full((2, 4), np.nan)), Status.NOT_FINITE),
    ((np.full((5, 4), 3e38), *item_of(2, 5, 4, 1)[1:]), Status.NO_FINITE_PATH),
    ((np.full((5, 4), np.inf), *item_of(2, 5, 4, 1)[1:]), Status.NO_FINITE_PATH),
    ((np.full((5, 4), -np.inf), *item_of(2, 5, 4, 1)[1:]), Status.NO_FINITE_PATH),
]


def check_bad_items(result: MasResult, exactly: bool) -> None:
    """Of [good, *BAD, good] with a good item of 3 tokens."""
    statuses = [Status(status) for status in result.statuses]
    for found, (_, wanted) in zip(statuses[1:-1], BAD):
        # With squares multiplied out, infinities become −inf or, beside the other product, NaN.
        infinite = (Status.NO_FINITE_PATH, Status.NOT_FINITE)
        assert found is wanted or (not exactly and found in infinite and wanted in infinite)
    assert statuses[0] is statuses[-1] is Status.OK
    assert np.isnan(result.scores[1:-1]).all()
    assert result.durations[:3].tolist() == result.durations[-3:].tolist()
    assert result.durations[:3].sum() == 9
    assert not result.durations[3:-3].any()


def test_items_without_a_path() -> None:
    good = item_of(3, 9, 4, 0)
    batch = batch_of([good, *(item for item, _ in BAD), good])
    check_bad_items(cpu_latents.align(batch), exactly=True)


def test_no_items_and_none_with_a_path() -> None:
    none = np.zeros(0, np.int64)
    rows = Rows(np.zeros(0, np.float32), none)
    result = cpu_latents.align(LatentBatch(rows, rows, rows, DType.FLOAT32, none, none, none))
    assert len(result.durations) == len(result.scores) == len(result.statuses) == 0
    result = cpu_latents.align(batch_of([item_of(4, 3, 2, 0)]))
    assert result.statuses.tolist() == [Status.TOO_FEW_FRAMES]


def test_values_beyond_the_band_and_an_infinite_deviation_change_nothing() -> None:
    """Where 1/σ is 0, an infinite latent makes a NaN, and only of cells that no path can visit here."""
    z, mean, log_sigma = item_of(3, 9, 4, 0)
    assert log_sigma is not None
    z[0], log_sigma[2] = np.inf, np.inf
    lattice = reference_lattice(z[1:], mean, log_sigma)
    assert np.isneginf(lattice[2]).all()
    result = cpu_latents.align(batch_of([(z, mean, log_sigma)]))
    assert result.statuses.tolist() == [Status.NO_FINITE_PATH]


def test_scratch_is_the_lattice_and_its_search() -> None:
    batch = batch_of([item_of(3, 9, 4, 0), item_of(5, 3, 4, 0), item_of(3, 9, 0, 0)])
    lattice, weights, search = 9 * 16, 2 * 32 * 4, cpu_latents.cpu.scratch_bytes
    need = cpu_latents.scratch_bytes(batch)
    assert need[0] == 4 * (lattice + weights) + search(cpu_latents.lattices(batch, slice(0, 1)))[0]
    assert need[1] == 0
    halves = cpu_latents.scratch_bytes(batch_of([item_of(3, 9, 4, 0)], DType.FLOAT16))
    assert halves[0] == need[0] + 4 * 9 * 4


@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 60))
def test_groups_cover_all_items_in_order(cells: list[int], most: int) -> None:
    groups = groups_of(cells, most)
    assert [b for group in groups for b in range(group.start, group.stop)] == list(range(len(cells)))
    assert all(sum(cells[group]) <= most or group.stop - group.start == 1 for group in groups)


def apart(items: list[Item], whole: LatentBatch) -> LatentBatch:
    """The same batch with a buffer for each item."""
    places, zeros = np.arange(len(items)), np.zeros(len(items), np.int64)
    rows = [Rows(tuple(stored(item[k].reshape(-1), whole.dtype) for item in items), zeros, places) for k in range(3)]  # type: ignore[union-attr]
    return LatentBatch(*rows, whole.dtype, whole.tokens, whole.frames, whole.channels)


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.BFLOAT16])
def test_several_buffers(dtype: DType) -> None:
    items = [item_of(3, 9, 4, seed) for seed in range(3)]
    whole = batch_of(items, dtype)
    assert parts(whole, cpu_latents.align(apart(items, whole))) == parts(whole, cpu_latents.align(whole))


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.FLOAT64])
def test_matrices_with_steps(dtype: DType) -> None:
    """As views of a padded array lie, channels first."""
    items = [item_of(3, 9, 4, seed) for seed in range(3)]
    whole = batch_of(items, dtype)

    def turned(k: int) -> Rows:
        flat = stored(np.stack([item[k].T for item in items]).reshape(-1), dtype)  # type: ignore[union-attr]
        rows = len(items[0][k])  # type: ignore[arg-type]
        return Rows(flat, np.arange(3) * rows * 4, steps=(1, rows))

    batch = LatentBatch(turned(0), turned(1), turned(2), dtype, whole.tokens, whole.frames, whole.channels)
    assert parts(batch, cpu_latents.align(batch)) == parts(whole, cpu_latents.align(whole))


@pytest.mark.parametrize("status", Status)
def test_every_status_has_a_reason(status: Status) -> None:
    sentence = reason(status, 9, 5, 3)
    assert len(sentence) > 5
    assert "\n" not in sentence
    assert "3 channels" in reason(Status.EMPTY, 9, 5, 3)


CHECKED = """
import numpy as np
from kernels.test_mas_latents import batch_of, bound, computed, item_of, legal
from alignd_kernels.mas import gaussian_cells
from alignd_kernels.mas.latents import reference_lattice

items = [item_of(S, T, C, S) for S, T, C in [(1, 1, 1), (3, 9, 4), (16, 40, 16), (17, 33, 2), (33, 47, 3), (65, 90, 5)]]
items = [tuple(part.astype(np.float32).astype(float) for part in item) for item in items]
for item, found in zip(items, computed(batch_of(items))):
    exact = np.where(legal(*found.shape), reference_lattice(*item), 0)
    assert (np.abs(found - exact) <= bound(*item, 24)).all()
assembly = "".join(gaussian_cells._fill.inspect_asm().values())
print("ymm" in assembly, "zmm" in assembly, "vfmadd" in assembly)
"""


@pytest.mark.skipif(not X86, reason="AVX2 is x86's")
@pytest.mark.parametrize("fused", [True, False])
def test_without_avx_512(tmp_path: Path, fused: bool) -> None:
    """Blocks of another size; and where there are no fused multiply-adds, a product and a sum."""
    machine = dict(WITHOUT_AVX_512)
    if not fused:
        machine["NUMBA_CPU_FEATURES"] = machine["NUMBA_CPU_FEATURES"].replace("+fma,", "")
    assert run_script(CHECKED, ALIGND_CACHE_DIR=str(tmp_path), **machine) == ["True", "False", str(fused)]


GUARDED = """
import numpy as np
from kernels.guarded import Guarded
from kernels.strategies import same_results
from kernels.test_mas_latents import batch_of, item_of
from alignd_kernels.dtypes import DType
from alignd_kernels.mas import cpu_latents
from alignd_kernels.mas.latents import LatentBatch, Rows

for at_end in (False, True):
    for dtype in (DType.FLOAT32, DType.FLOAT16):
        for S, T, C in ((1, 1, 1), (3, 9, 4), (15, 17, 2), (16, 16, 3), (17, 33, 5), (33, 47, 1), (65, 130, 2)):
            batch = batch_of([item_of(S, T, C, S)], dtype)
            expected = cpu_latents.align(batch)
            guarded = Guarded(at_end)
            given = (batch.latents, batch.means, batch.log_sigmas)
            rows = [Rows(guarded.copy(one.buffers), one.offsets) for one in given]
            inside = LatentBatch(*rows, dtype, batch.tokens, batch.frames, batch.channels)
            with guarded.everywhere():
                same_results(cpu_latents.align(inside), expected)
print("all right")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect is POSIX")
def test_nothing_is_read_or_written_beyond_an_array_and_scratch_need_not_be_clean() -> None:
    assert run_script(GUARDED) == ["all", "right"]


SHAPES = [(3, 9, 4), (2, 5, 4), (4, 3, 4), (1, 1, 1), (4, 11, 7), (3, 9, 0)]


@on_each_device
@pytest.mark.parametrize("unit", [False, True], ids=["sigmas", "unit"])
@pytest.mark.parametrize("dtype", DType)
def test_on_a_gpu(device: str, dtype: DType, unit: bool) -> None:
    """Torch's products and the Triton search, on a grid where both backends' lattices are the same but for rounding
    that no path depends on."""
    from alignd_kernels.mas import gpu_latents

    items = [exact_item(*shape, seed, unit) for seed, shape in enumerate(SHAPES)]
    batch = batch_of(items, dtype)
    host = cpu_latents.align(batch)
    with garbage_in_new_memory():
        found = gpu_latents.align(batch, device)
    assert found.statuses.tolist() == host.statuses.tolist()
    assert found.kernel_ns > 0
    np.testing.assert_allclose(found.scores, host.scores, rtol=1e-5)
    for b, item in enumerate(items[:2] if dtype is DType.FLOAT32 else []):
        alone = gpu_latents.align(batch_of([item], dtype), device)
        begin, end = offsets_of(batch.tokens)[b : b + 2]
        assert alone.durations.tolist() == found.durations[begin:end].tolist()
        np.testing.assert_array_equal(alone.scores, found.scores[b : b + 1])


@on_each_device
@pytest.mark.parametrize("unit", [False, True], ids=["sigmas", "unit"])
def test_far_from_the_origin_on_a_gpu(device: str, unit: bool) -> None:
    """There the squares of products would be a million times what is left of them."""
    from alignd_kernels.mas import gpu_latents

    items = [exact_item(*shape, seed, unit) for seed, shape in enumerate(SHAPES[:5])]
    far = batch_of([(z + 1000, mean + 1000, log_sigma) for z, mean, log_sigma in items])
    found, expected = gpu_latents.align(far, device), cpu_latents.align(batch_of(items))
    assert found.statuses.tolist() == expected.statuses.tolist()
    assert found.durations.tolist() == expected.durations.tolist()
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


@on_each_device
def test_buffers_and_tensors_are_staged_once_each(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignd_kernels.mas import gpu_latents

    items = [item_of(3, 9, 4, seed) for seed in range(3)]
    whole = batch_of(items, DType.BFLOAT16)
    separate = apart(items, whole)
    staged, seen = gpu_latents.staged, []

    def noting(buffers: Any, *args: Any, **options: Any) -> Any:
        seen.append(buffers)
        return staged(buffers, *args, **options)

    monkeypatch.setattr(gpu_latents, "staged", noting)
    expected = parts(whole, gpu_latents.align(whole, device))
    assert parts(whole, gpu_latents.align(separate, device)) == expected
    assert len(seen) == 6

    def there(rows: Rows | None) -> Rows:
        assert rows is not None
        tensors = tuple(
            torch.from_numpy(buffer.view(np.int16)).view(torch.bfloat16).to(device) for buffer in rows.buffers
        )
        return Rows(tensors, rows.offsets, rows.sources)  # type: ignore[arg-type]

    rows = [there(separate.latents), there(separate.means), there(separate.log_sigmas)]
    tensors = LatentBatch(*rows, whole.dtype, whole.tokens, whole.frames, whole.channels)
    assert parts(whole, gpu_latents.align(tensors, device)) == expected


@on_each_device
@pytest.mark.parametrize("unit", [False, True], ids=["sigmas", "unit"])
def test_items_that_share_latents_on_a_gpu(device: str, unit: bool) -> None:
    """One utterance and two texts: each takes the average of its own means off."""
    from alignd_kernels.mas import gpu_latents

    z, mean, log_sigma = item_of(3, 7, 4, 1, unit)
    other = (z, mean + 50, log_sigma)
    whole = batch_of([(z, mean, log_sigma), other])
    shared = replace(whole, latents=replace(whole.latents, offsets=np.zeros(2, np.int64)))
    assert parts(shared, gpu_latents.align(shared, device)) == parts(whole, gpu_latents.align(whole, device))


@on_each_device
def test_items_without_a_path_on_a_gpu(device: str) -> None:
    from alignd_kernels.mas import gpu_latents

    good = item_of(3, 9, 4, 0)
    batch = batch_of([good, *(item for item, _ in BAD), good])
    check_bad_items(gpu_latents.align(batch, device), exactly=False)


@on_each_device
def test_what_a_gpu_does_not_take_is_refused(device: str) -> None:
    from alignd_kernels.mas import gpu_latents

    batch = batch_of([item_of(3, 9, 4, 0)])
    stepped = Rows(batch.latents.buffers, batch.latents.offsets, steps=(1, 9))
    with pytest.raises(ValueError, match="row-major"):
        gpu_latents.align(replace(batch, latents=stepped), device)
    elsewhere = Rows(np.zeros(13, np.float32), np.ones(1, np.int64))
    with pytest.raises(ValueError, match="lie as the means do"):
        gpu_latents.align(replace(batch, log_sigmas=elsewhere), device)


@on_each_device
def test_scratch_on_a_gpu(device: str) -> None:
    from alignd_kernels.mas import gpu, gpu_latents
    from alignd_kernels.mas.batch import MasBatch

    batch = batch_of([item_of(3, 9, 4, 0), item_of(5, 3, 4, 0)], DType.FLOAT16)
    one, T = np.ones(1, np.int64), np.full(1, 9)
    search = gpu.scratch_bytes(MasBatch(np.zeros(0, np.float32), DType.FLOAT32, one, 3 * one, T, T))[0]
    assert gpu_latents.scratch_bytes(batch).tolist() == [
        4 * (3 * 9 + 8 * 3) * 4 + 4 * 3 * 9 + search,
        4 * (3 * 3 + 8 * 5) * 4,
    ]


@on_each_device
def test_products_are_exact_whatever_the_callers_settings(device: str) -> None:
    """Neither TF32 nor a surrounding autocast reaches them, and the settings are the caller's afterwards."""
    from alignd_kernels.mas import gpu_latents

    batch = batch_of([item_of(4, 12, 64, 3)])
    expected = parts(batch, gpu_latents.align(batch, device))
    matmul = torch.backends.cuda.matmul
    name, loose = ("fp32_precision", "tf32") if hasattr(matmul, "fp32_precision") else ("allow_tf32", True)
    before = getattr(matmul, name)
    try:
        setattr(matmul, name, loose)
        with torch.autocast(device, dtype=torch.bfloat16):
            assert parts(batch, gpu_latents.align(batch, device)) == expected
        assert getattr(matmul, name) == loose
    finally:
        setattr(matmul, name, before)


def test_scratch_is_for_the_items_that_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for one that has more tokens than frames, whatever its channels."""
    sizes: list[int] = []

    def counted(size: int, dtype: Any) -> Array:
        sizes.append(size)
        return from_cache_line(size, dtype)

    monkeypatch.setattr(gaussian_cells, "from_cache_line", counted)
    items = [item_of(3, 7, 4, 0), (np.zeros((1, 5000)), np.zeros((2, 5000)), np.zeros((2, 5000)))]
    result = cpu_latents.align(batch_of(items))
    assert result.statuses.tolist() == [Status.OK, Status.TOO_FEW_FRAMES]
    assert sizes
    assert max(sizes) < 5000
