"""Sums over monotonic paths by Triton against the reference, interpreted on the CPU or, with `-m gpu`, for real."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from kernels.gpu_support import Launches, examples, garbage_in_new_memory, on_each_device, python_lines
from kernels.strategies import (
    GENERATORS,
    dyadic,
    mas_batch,
    mas_batches,
    mas_item,
    normal,
    stored,
    with_bad_cells,
    with_minus_infinity,
)
from kernels.test_mas_soft import lost_by_logarithms, matrices, turned, ulp

from alignd_kernels import gpu_borders
from alignd_kernels.dtypes import DType
from alignd_kernels.mas import cpu_sum, gpu_sum, gpu_sum_backward, gpu_sum_forward, soft_reference
from alignd_kernels.mas.batch import MasBatch, row_major
from alignd_kernels.mas.soft_batch import MasCosts, MasPosteriors
from alignd_kernels.status import Status

# A lost item's garbage may be anything; NumPy, under the interpreter, warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero) encountered:RuntimeWarning")

# Without shrinking, for which the interpreter is too slow.
FEW = settings(max_examples=examples(3), deadline=None, derandomize=True, phases=[Phase.generate])
SMALL = {"max_tokens": 6, "max_frames": 20, "max_items": 2}
KINDS = [dyadic, normal, with_minus_infinity, with_bad_cells]


@pytest.fixture(autouse=True, scope="module")
def garbage() -> Iterator[None]:
    with garbage_in_new_memory():
        yield


def laid(batch: MasBatch, frames_first: bool) -> MasBatch:
    return turned(batch) if frames_first else batch


def each_of(batch: MasBatch, statuses: np.ndarray) -> Iterator[tuple[int, np.ndarray, str, float, float]]:
    """Of each item, whose status is the reference's: its scores, what to say of it, and the tolerances of sums and of
    cells that `gpu_sum` states, which are `cpu_sum`'s, with what the reference's own logarithms lose."""
    plain = row_major(batch)
    for b in range(len(batch)):
        value = mas_item(plain, b).astype(np.float64)
        context = f"item {b}, {value.shape}, {batch.dtype}, frames first: {batch.frames_first}"
        status, T = soft_reference.posteriors(value)[0], value.shape[1]
        assert statuses[b] == status, context
        theirs = lost_by_logarithms(value) if status is Status.OK and batch.dtype is DType.FLOAT64 else 0.0
        yield b, value, context, 4 * T * ulp(batch.dtype) + theirs, 8 * T * ulp(batch.dtype) + theirs


def check_posteriors(batch: MasBatch, device: str) -> MasPosteriors:
    """They are the reference's; so are contents and statuses of items that failed."""
    found = gpu_sum.posteriors(batch, device)
    assert found.posteriors.dtype == batch.dtype.accumulator
    posteriors = matrices(found.posteriors, batch)
    for b, value, context, of_sums, of_cells in each_of(batch, found.statuses):
        _, expected, total = soft_reference.posteriors(value)
        np.testing.assert_allclose(found.scores[b], total, 1e-15, of_sums, err_msg=context)
        np.testing.assert_allclose(posteriors[b], expected, 0, of_cells, err_msg=context)
    return found


def check_costs(batch: MasBatch, device: str) -> MasCosts:
    """The same of costs and their gradients."""
    found = gpu_sum.costs(batch, device)
    assert found.gradients is not None
    assert found.costs.dtype == found.gradients.dtype == batch.dtype.accumulator
    gradients = matrices(found.gradients, batch)
    for b, value, context, of_sums, of_cells in each_of(batch, found.statuses):
        cost, slope = soft_reference.cost(value)
        np.testing.assert_allclose(found.costs[b], cost, ulp(batch.dtype), of_sums, err_msg=context)
        np.testing.assert_allclose(gradients[b], slope, 0, of_cells, err_msg=context)
    return found


@on_each_device
@FEW
@given(batch=mas_batches(kinds=KINDS, **SMALL), frames_first=st.booleans())
def test_equals_the_reference(device: str, batch: MasBatch, frames_first: bool) -> None:
    check_posteriors(laid(batch, frames_first), device)
    check_costs(laid(batch, frames_first), device)


@on_each_device
@pytest.mark.parametrize("frames_first", [False, True])
def test_shapes_at_the_edges_of_strips_and_chunks(device: str, frames_first: bool) -> None:
    edges = [(1, 16), (2, 17), (33, 33)] if frames_first else [(1, 1), (31, 31), (32, 32), (33, 34)]
    if device == "cuda":
        edges += [(1, 15), (2, 17), (32, 48), (33, 34), (33, 64), (63, 65), (64, 64), (65, 65), (65, 97), (129, 193)]
    rng = np.random.default_rng(1)
    check_costs(laid(mas_batch([dyadic(rng, shape) for shape in edges], DType.FLOAT32, 1, 1), frames_first), device)


@on_each_device
@pytest.mark.parametrize("dtype", DType)
def test_all_types(device: str, dtype: DType) -> None:
    rng = np.random.default_rng(2)
    batch = mas_batch([normal(rng, (3, 9)), dyadic(rng, (33, 34))][dtype is DType.FLOAT32 :], dtype, 1)
    check_costs(laid(batch, dtype in (DType.FLOAT16, DType.FLOAT64)), device)


@on_each_device
def test_long_items_lose_no_digits(device: str) -> None:
    """The sum leaves the range of exponentials in the third frame."""
    rng = np.random.default_rng(3)
    frames = 60 if device == "cpu" else 2000
    check_posteriors(mas_batch([rng.standard_normal((3, frames)) * 3 - 30], DType.FLOAT32), device)


@on_each_device
@pytest.mark.parametrize("shift", [-1000.0, 1000.0])
def test_unlikely_beginnings_are_kept(device: str, shift: float) -> None:
    """The only way to the end is e^-1000 below another, which ends nowhere: no common scale of a frame would do."""
    value = np.full((3, 20), shift)
    value[1, 1:12] += 100
    value[1:, 12:] = -np.inf
    value[2, 3:] = 0
    check_posteriors(mas_batch([value], DType.FLOAT32), device)


@on_each_device
@pytest.mark.parametrize("frames_first", [False, True])
def test_bad_items_beside_good_ones(device: str, frames_first: bool) -> None:
    rng = np.random.default_rng(4)
    good, bad, blocked = (dyadic(rng, (3, 5)) for _ in range(3))
    bad[1, 2] = np.nan
    blocked[:, 3] = -np.inf
    wide = np.full((33, 34), np.inf)
    items = [good, bad, blocked, wide, good[:, :2], good[:0], good[:, :0], good]
    lost = check_costs(laid(mas_batch(items, DType.FLOAT32), frames_first), device)
    names = "OK NOT_FINITE NO_FINITE_PATH NOT_FINITE TOO_FEW_FRAMES EMPTY EMPTY OK"
    assert lost.statuses.tolist() == [Status[name] for name in names.split()]
    check_posteriors(laid(mas_batch(items[1:3], DType.FLOAT32), frames_first), device)
    alone = gpu_sum.costs(laid(mas_batch([good], DType.FLOAT32), frames_first), device)
    np.testing.assert_array_equal(lost.gradients[-15:], alone.gradients)
    np.testing.assert_array_equal(lost.costs[[0, -1]], alone.costs[[0, 0]])


@on_each_device
def test_one_bad_cell_on_a_path_is_found_wherever_it_is(device: str) -> None:
    """Each cell of one small lattice in turn, as a batch; in front of it, others are impossible."""
    good = dyadic(np.random.default_rng(5), (3, 4))
    cells = np.argwhere(np.ones_like(good))
    items = np.repeat(good[None], len(cells), 0)
    items[::3, :, 0] = -np.inf
    items[np.arange(len(cells)), *cells.T] = np.resize([np.nan, np.inf], len(cells))
    found = gpu_sum.costs(mas_batch(list(items), DType.FLOAT32), device, gradients=False)
    legal = {*soft_reference.visitable(3, 4)}
    wanted = np.array([tuple(cell) in legal for cell in cells.tolist()])
    np.testing.assert_array_equal(found.statuses == Status.NOT_FINITE, wanted)


@on_each_device
@FEW
@given(batch=mas_batches(kinds=[dyadic, normal], **SMALL), rng=GENERATORS, frames_first=st.booleans())
def test_what_stands_outside_the_band_changes_nothing(
    device: str, batch: MasBatch, rng: np.random.Generator, frames_first: bool
) -> None:
    values = batch.values.copy()
    for b in range(len(batch)):
        S, T, pitch = int(batch.tokens[b]), int(batch.frames[b]), int(batch.pitches[b])
        rows = values[batch.offsets[b] :][: S * pitch].reshape(S, pitch)[:, :T]
        legal = np.zeros((S, T), bool)
        for cell in soft_reference.visitable(S, T):
            legal[cell] = True
        rows[...] = np.where(legal, rows, stored(rng.choice([np.nan, np.inf, 1e30], rows.shape), batch.dtype))
    spoilt = dataclasses.replace(batch, values=values)
    found, expected = (gpu_sum.posteriors(laid(one, frames_first), device) for one in (spoilt, batch))
    np.testing.assert_array_equal(found.posteriors, expected.posteriors)
    np.testing.assert_array_equal(found.scores, expected.scores)


@on_each_device
@FEW
@given(batch=mas_batches(kinds=KINDS, **SMALL), frames_first=st.booleans())
def test_a_batch_equals_its_items_alone(device: str, batch: MasBatch, frames_first: bool) -> None:
    batch = laid(batch, frames_first)
    whole = gpu_sum.costs(batch, device)
    assert whole.gradients is not None
    for b, matrix in enumerate(matrices(whole.gradients, batch)):
        own = {name: getattr(batch, name)[b : b + 1] for name in ("offsets", "tokens", "frames", "pitches")}
        one = dataclasses.replace(batch, **own)
        alone = gpu_sum.costs(one, device)
        assert alone.gradients is not None
        np.testing.assert_array_equal(matrices(alone.gradients, one)[0], matrix)
        np.testing.assert_array_equal(alone.costs, whole.costs[b : b + 1])


@on_each_device
def test_no_items_negative_lengths_several_buffers_and_no_gradients(device: str) -> None:
    empty = mas_batch([], DType.FLOAT32)
    assert len(gpu_sum.posteriors(empty, device).scores) == len(gpu_sum.costs(empty, device).costs) == 0
    one = mas_batch([dyadic(np.random.default_rng(b), (4, 9)) for b in range(3)], DType.FLOAT32)
    parts = tuple(one.values[b * 36 : (b + 1) * 36].copy() for b in range(3))
    apart = dataclasses.replace(one, values=parts, offsets=np.zeros(3, np.int64), sources=np.arange(3))
    none = dataclasses.replace(apart, tokens=np.array([-1, 4, 4]))
    whole, found = gpu_sum.costs(one, device), gpu_sum.costs(none, device)
    assert found.statuses.tolist() == [Status.EMPTY, Status.OK, Status.OK]
    np.testing.assert_array_equal(found.gradients, whole.gradients[36:])
    alone = gpu_sum.costs(none, device, gradients=False)
    assert alone.gradients is None
    np.testing.assert_array_equal(alone.costs, found.costs)


LIMITS = [
    (-5e6, Status.OK),
    (-7e6, Status.NO_FINITE_PATH),
    (-3e38, Status.NO_FINITE_PATH),
    (5e6, Status.OK),
    (7e6, Status.NO_FINITE_PATH),
    (3e38, Status.NO_FINITE_PATH),
]


@on_each_device
def test_sums_that_no_exponent_holds_are_told(device: str) -> None:
    """As the CPU kernels tell them; float64 holds more. The items beside them are not touched."""
    batch = mas_batch([np.full((1, 1), value) for value, _ in LIMITS], DType.FLOAT32)
    found = gpu_sum.posteriors(batch, device)
    assert found.statuses.tolist() == [status for _, status in LIMITS] == cpu_sum.posteriors(batch).statuses.tolist()
    assert found.posteriors.tolist() == [float(status is Status.OK) for _, status in LIMITS]
    fine = [b for b, (_, status) in enumerate(LIMITS) if status is Status.OK]
    np.testing.assert_allclose(found.scores[fine], [LIMITS[b][0] for b in fine], ulp(DType.FLOAT32))
    double = mas_batch([np.full((1, 1), value) for value in (-4e7, 4e7, 3e300)], DType.FLOAT64)
    found = gpu_sum.posteriors(double, device)
    assert found.statuses.tolist() == [Status.OK, Status.OK, Status.NO_FINITE_PATH]
    np.testing.assert_allclose(found.scores[:2], [-4e7, 4e7], 1e-15)


@pytest.mark.interpreter
def test_what_is_lifted_out_of_reach_is_told() -> None:
    """A path that has been cut off must not come back: e^-1.5e8 is, and e^1.5e8 would lift it again."""
    down, up = np.full((1, 3), -1.5e8), np.full((1, 3), 1.0)
    down[0, 1:] = 7.5e7
    up[0, 1] = 3e7
    found = gpu_sum.posteriors(mas_batch([down, up], DType.FLOAT64), "cpu")
    assert found.statuses.tolist() == [Status.NO_FINITE_PATH, Status.NO_FINITE_PATH]


@pytest.mark.interpreter
@pytest.mark.parametrize("module", [gpu_sum_forward, gpu_sum_backward])
def test_a_border_that_never_comes_fails_its_item_alone(module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_sum, "PATIENCE", 3)
    monkeypatch.setattr(module, "hand_over", lambda *_: None)
    batch = mas_batch([np.zeros((1, 2)), np.zeros((33, 34)), np.zeros((1, 1))], DType.FLOAT32)
    found, lost = gpu_sum.posteriors(batch, "cpu"), gpu_sum.costs(batch, "cpu")
    for result in (found, lost):
        assert result.statuses.tolist() == [Status.OK, Status.INTERNAL, Status.OK]
    assert np.isnan(lost.costs).tolist() == np.isnan(found.scores).tolist() == [False, True, False]
    assert np.isnan(matrices(lost.gradients, batch)[1]).all()
    assert [int(one.sum()) for one in matrices(found.posteriors, batch)] == [2, 0, 1]


KERNELS = ("mas_sum_forward_kernel", "mas_sum_backward_kernel")


def watched(monkeypatch: pytest.MonkeyPatch) -> list[Launches]:
    """Stand-ins for the kernels. Borders are of this test alone: what is not launched draws no tickets."""
    monkeypatch.setattr(gpu_borders, "_kept", functools.cache(lambda device, stream: gpu_borders._Kept()))
    launches = [Launches(getattr(gpu_sum, name), really=False) for name in KERNELS]
    for name, launch in zip(KERNELS, launches):
        monkeypatch.setattr(gpu_sum, name, launch)
    return launches


@on_each_device
def test_scratch_is_what_is_used(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, _ = watched(monkeypatch)
    words = []
    borders = gpu_sum.borders
    monkeypatch.setattr(gpu_sum, "borders", lambda *of: words.append(of[1]) or borders(*of))
    for dtype in DType:
        batch = mas_batch([np.zeros((160, 800)), np.zeros((3, 2)), np.zeros((0, 5)), np.zeros((7, 7))], dtype)
        for one in (batch, turned(batch)):
            gpu_sum.posteriors(one, device)
            need, size = gpu_sum.scratch_bytes(one), np.dtype(dtype.accumulator).itemsize
            frames = 16 if size == 4 else 8
            waste = 2 * 32 * frames * (30 // frames + 2)  # two items have no path: one strip each, of one frame
            assert need.sum() == size * (forward.arguments[-1]["shares"].numel() - waste) + 8 * words[-1]
            assert need[1:3].tolist() == [0, 0]
            assert need[0] < 1.2 * size * 160 * 800
    gpu_sum.costs(batch, device, gradients=False)
    assert forward.arguments[-1]["shares"].numel() == 0


@on_each_device
def test_two_launches_and_no_python_by_frame_token_or_item(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, backward = watched(monkeypatch)
    small, large = (mas_batch([np.zeros(shape)] * n, DType.FLOAT32) for shape, n in [((1, 2), 1), ((90, 400), 30)])
    gpu_sum.posteriors(large, device)  # a first launch compiles, and makes the borders' memory
    assert forward.grids == backward.grids == [(3 * 30,)]  # strips of 32 tokens
    lines = [python_lines(lambda batch=batch: gpu_sum.posteriors(batch, device)) for batch in (small, large)]
    assert lines[0] == lines[1]


# tensors on the device


def padded_of(batch: MasBatch, layout: str, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores [B, S, T] in strides of their own, NaN around; tokens and frames."""
    B, S, T = len(batch), int(batch.tokens.max()), int(batch.frames.max())
    order = {"frames": (1, 0, 2), "tokens": (2, 0, 1), "neither": (1, 2, 0)}[layout]  # the last one is contiguous
    sizes = np.array([B, S + 1, T + 2])[list(order)].tolist()
    value = torch.full(sizes, float("nan")).permute([order.index(axis) for axis in range(3)])[:, :S, 1 : T + 1]
    for b in range(B):
        item = torch.from_numpy(mas_item(batch, b))
        value[b, : item.shape[0], : item.shape[1]] = item
    lengths = torch.from_numpy(batch.tokens), torch.from_numpy(batch.frames)
    return value.to(device), lengths[0].to(device), lengths[1].to(device)


@on_each_device
@pytest.mark.parametrize("layout", ["frames", "tokens", "neither"])
def test_padded_tensors_on_the_device(device: str, layout: str) -> None:
    rng = np.random.default_rng(6)
    bad = dyadic(rng, (2, 5))
    bad[1, 3] = np.inf
    batch = mas_batch([dyadic(rng, (4, 9)), bad, dyadic(rng, (3, 2)), dyadic(rng, (0, 3))], DType.FLOAT32)
    value, tokens, frames = padded_of(batch, layout, device)
    found = gpu_sum.posteriors_on_gpu(value, tokens, frames)
    lost = gpu_sum.costs_on_gpu(value, tokens, frames)
    expected, wanted = gpu_sum.posteriors(batch, device), gpu_sum.costs(batch, device)
    np.testing.assert_array_equal(found.scores.cpu(), expected.scores)
    np.testing.assert_array_equal(lost.costs.cpu(), wanted.costs)
    for sums, flat in ((found, expected.posteriors), (lost, wanted.gradients)):
        assert sums.found.shape == value.shape
        np.testing.assert_array_equal(sums.statuses.cpu(), expected.statuses)
        own = np.zeros(value.shape, np.float32)
        for b, matrix in enumerate(matrices(flat, batch)):
            own[b, : matrix.shape[0], : matrix.shape[1]] = matrix
        np.testing.assert_array_equal(sums.found.cpu(), own)


@on_each_device
def test_lengths_beyond_the_tensors_are_caught(device: str) -> None:
    value = torch.zeros(6, 2, 4, device=device)
    tokens = torch.tensor([2, 3, 2, 2**40, -1, 2], device=device)
    frames = torch.tensor([4, 4, 5, 2**41, 3, -(2**40)], device=device)
    found = gpu_sum.costs_on_gpu(value, tokens, frames)
    names = "OK INTERNAL INTERNAL INTERNAL EMPTY EMPTY"
    assert found.statuses.tolist() == [Status[name] for name in names.split()]
    assert found.costs.isnan().tolist() == [False, True, True, True, True, True]
    assert not found.found[1:].any()
    empty = gpu_sum.costs_on_gpu(value[:0], tokens[:0], frames[:0])
    assert [len(empty.costs), empty.found.shape] == [0, (0, 2, 4)]
    nothing = gpu_sum.posteriors_on_gpu(torch.zeros(1, 0, 4, device=device), tokens[:1], frames[:1])
    assert nothing.statuses.tolist() == [Status.INTERNAL]


@pytest.mark.gpu
@pytest.mark.parametrize("frames_first", [False, True])
@pytest.mark.parametrize("dtype", DType)
def test_large_items_equal_the_cpu_kernels(dtype: DType, frames_first: bool) -> None:
    rng = np.random.default_rng(7)
    shapes = [(300, 1500), (700, 3000), (900, 900), (1, 4000), (40, 41)]
    batch = laid(mas_batch([dyadic(rng, shape) for shape in shapes], dtype), frames_first)
    found, expected = gpu_sum.costs(batch, "cuda"), cpu_sum.costs(batch)
    np.testing.assert_array_equal(found.statuses, expected.statuses)
    np.testing.assert_allclose(found.costs, expected.costs, ulp(dtype), 2 * 4 * 4000 * ulp(dtype))
    np.testing.assert_allclose(found.gradients, expected.gradients, 0, 2 * 8 * 4000 * ulp(dtype))


@pytest.mark.gpu
def test_repeats_give_the_same_bits() -> None:
    rng = np.random.default_rng(8)
    batch = mas_batch([normal(rng, shape) for shape in [(300, 900), (20, 200), (500, 531)]], DType.FLOAT32)
    first = gpu_sum.costs(batch, "cuda")
    for _ in range(200):
        again = gpu_sum.costs(batch, "cuda")
        np.testing.assert_array_equal(again.gradients, first.gradients)
        np.testing.assert_array_equal(again.costs, first.costs)


@pytest.mark.gpu
def test_nothing_waits_before_the_results_are_asked_for() -> None:
    value = torch.zeros(16, 100, 500, device="cuda")
    lengths = [torch.full((16,), n, device="cuda") for n in (100, 500)]

    def both() -> list[torch.Tensor]:
        return [gpu_sum.costs_on_gpu(value, *lengths).found, gpu_sum.posteriors_on_gpu(value, *lengths).found]

    both()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = both()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(result[0], -result[1])


@pytest.mark.gpu
def test_offsets_beyond_32_bits() -> None:
    """The second item's scores begin past 2³¹ elements; shares and posteriors end past 2³¹ bytes."""
    S, T = 64, 6_000_000
    memory = torch.full((2**31 + S * T,), -1.0, dtype=torch.float16, device="cuda")
    value = memory.as_strided((2, S, T), (2**31, T, 1))
    value[:] = 0.1 * torch.randn((S, 1), device="cuda").half()
    lengths = torch.tensor([S, S], device="cuda"), torch.tensor([T, T], device="cuda")
    found = gpu_sum.posteriors_on_gpu(value, *lengths)
    assert found.statuses.tolist() == [Status.OK, Status.OK]
    assert torch.equal(found.found[0], found.found[1])
