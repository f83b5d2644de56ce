"""Alignment by attention maps by Triton against the reference: interpreted on the CPU, or for real with `-m gpu`."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from kernels.gpu_support import Launches, examples, garbage_in_new_memory, on_each_device, python_lines
from kernels.strategies import Scores, dyadic, normal, overflowing, same_results, with_bad_cells, with_minus_infinity
from kernels.test_attention import WAYS, attention_batch, batches, check, one_out_of_range, probabilities

from alignd_kernels import gpu_borders
from alignd_kernels.attention import cpu, gpu, gpu_batch, gpu_dtw
from alignd_kernels.attention.batch import MODES, AttentionBatch, AttentionResult
from alignd_kernels.dtypes import DType
from alignd_kernels.mas import gpu as mas_gpu
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.ragged import offsets_of
from alignd_kernels.status import Status

# Sums that leave float32's range are part of the tests; NumPy, under the interpreter, warns of them.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")

FEW = settings(max_examples=examples(4), deadline=None, derandomize=True)
EACH_WAY = pytest.mark.parametrize(("mode", "log"), WAYS)
EACH_MODE = pytest.mark.parametrize("mode", MODES)
KERNELS = (
    "attention_largest_kernel",
    "attention_heads_kernel",
    "attention_logarithms_kernel",
    "attention_cells_kernel",
    "attention_dtw_forward_kernel",
    "attention_walk_kernel",
    "attention_spans_kernel",
)


@pytest.fixture(autouse=True, scope="module")
def garbage() -> Iterator[None]:
    with garbage_in_new_memory():
        yield


def batch_of(
    shapes: Sequence[tuple[int, int, int]], mode: str, log: bool = False, dtype: DType = DType.FLOAT32, kind=None
) -> AttentionBatch:
    rng = np.random.default_rng(1)
    kind = kind or (probabilities if log or mode == "stepwise" else dyadic)
    return attention_batch([kind(rng, shape) for shape in shapes], dtype, mode, log, gap=1)


def check_cpu(batch: AttentionBatch, found: AttentionResult) -> None:
    """The CPU's results, bit for bit: float64 logarithms too. Sums of logarithms of "stepwise" are of 2 ulp each."""
    expected = cpu.align(batch)
    if batch.mode == "stepwise":
        eps = float(np.finfo(batch.dtype.accumulator).eps)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=4 * eps, atol=1e-12)
        expected = replace(expected, scores=found.scores)
    same_results(found, expected)


def some_of(batch: AttentionBatch, index: int) -> AttentionBatch:
    names = ("offsets", "heads", "tokens", "frames")
    return replace(batch, **{name: getattr(batch, name)[index : index + 1] for name in names})


@on_each_device
@FEW
@given(batch=batches(largest=9, max_items=2))
def test_equals_the_reference(device: str, batch: AttentionBatch) -> None:
    found = gpu.align(batch, device)
    check(batch, found)
    check_cpu(batch, found)


EDGES = [1, 31, 32, 33, 63, 64, 65]


@on_each_device
@EACH_MODE
def test_shapes_at_the_edges_of_strips_and_chunks(device: str, mode: str) -> None:
    """One token, one frame, more tokens than frames, as many: sides at the sizes at which kernels change their ways."""
    shapes = [(1, 2, n) for n in (1, 32, 33, 64, 65)] + [(2, n, 2) for n in (1, 31, 32, 33, 65)] + [(1, 33, 33)]
    batch = batch_of(shapes, mode)
    check(batch, gpu.align(batch, device))


@on_each_device
@EACH_WAY
@pytest.mark.parametrize("dtype", [DType.BFLOAT16, DType.FLOAT64])
def test_other_types(device: str, mode: str, log: bool, dtype: DType) -> None:
    batch = batch_of([(2, 3, 5) if mode != "dtw" else (2, 33, 2)], mode, log, dtype)
    found = gpu.align(batch, device)
    check(batch, found)
    check_cpu(batch, found)


@on_each_device
def test_a_tie_stays_on_the_token_then_goes_along_the_diagonal(device: str) -> None:
    batch = batch_of([(1, 3, 6), (1, 6, 3), (2, 34, 4)], "dtw", kind=lambda _, shape: np.zeros(shape))
    found = gpu.align(batch, device)
    assert found.starts[:3].tolist() == [0, 0, 0]
    assert found.ends[:9].tolist() == [1, 1, 6, 1, 1, 1, 1, 1, 3]
    assert found.heads.tolist() == [0, 0, 0]
    check(batch, found)


@on_each_device
def test_the_first_of_the_most_focused_heads_is_chosen(device: str) -> None:
    """Of more than a program's 32; and where rates are infinite, or no number."""
    rng = np.random.default_rng(2)
    many = rng.integers(0, 2, (35, 1, 2)) / 4
    many[[33, 34]] = 0.5
    beyond = np.full((4, 2, 2), 1e300)
    huge = np.full((3, 1, 2), 1.7e308)
    huge[0] = -1.0
    nan = np.full((3, 1, 4), 1.0)
    nan[0, 0] = 1.7e308, 1.7e308, -np.inf, 0.0
    batch = attention_batch([many, beyond, huge, nan], DType.FLOAT64, "dtw", False)
    found = gpu.align(batch, device)
    assert found.heads.tolist() == [33, 0, 0, 0]
    check(batch, found)


@on_each_device
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_bad_cell_is_found_wherever_it_is(device: str, bad: float) -> None:
    """In any head, also where no path goes: first and last cells of blocks of 128 frames and 8 tokens."""
    items = []
    for place in [(0, 0, 0), (1, 8, 128), (1, 7, 127), (0, 8, 0)]:
        item = np.zeros((2, 9, 129))
        item[place] = bad
        items.append(item)
    items.append(np.zeros((2, 9, 129)))
    batch = attention_batch(items, DType.BFLOAT16, "stepwise", False)
    found = gpu.align(batch, device)
    assert found.statuses.tolist() == [Status.NOT_FINITE] * 4 + [Status.OK]
    check(batch, found)


@on_each_device
@EACH_WAY
def test_bad_items_beside_good_ones(device: str, mode: str, log: bool) -> None:
    """What fails before the search, in it, and not at all."""
    rng = np.random.default_rng(3)
    good = probabilities(rng, (2, 4, 6))
    negative, nothing, out = good.copy(), np.full((2, 2, 3), -np.inf), np.full((1, 2, 3), 1.5)
    negative[:, 0, 0] = -0.5
    items = [good, good[:, :0], good[:0], good[:, :, :0], good[:, :, :2], np.full((1, 2, 3), np.nan)]
    items += [negative, nothing, out, good[:, :3]]
    batch = attention_batch(items, DType.FLOAT32, mode, log, gap=2)
    found = gpu.align(batch, device)
    check(batch, found)
    check_cpu(batch, found)
    assert set(found.statuses.tolist()) >= {
        *(Status.OK, Status.EMPTY, Status.NOT_FINITE),
        *([Status.TOO_FEW_FRAMES] if mode == "mas" else []),
        *([Status.MALFORMED] if mode == "stepwise" else [Status.NO_FINITE_PATH]),
    }


@on_each_device
@pytest.mark.parametrize("kind", [with_minus_infinity, overflowing, with_bad_cells])
def test_warping_over_infinities_and_sums_beyond_the_range(device: str, kind) -> None:
    batch = batch_of([(1, 3, 4), (1, 2, 7), (1, 5, 2), (1, 35, 2)], "dtw", kind=kind)
    check(batch, gpu.align(batch, device))


@on_each_device
def test_a_value_that_decides_and_is_no_probability(device: str) -> None:
    """Only where the walk comes by; what is not decided by may be anything finite."""
    rng = np.random.default_rng(4)
    items = [one_out_of_range(rng, (1, 3, 9)) for _ in range(6)]
    last = np.full((1, 2, 40), 1.0)
    last[0, 0, 0] = 7.0  # frame 0 decides nothing
    last[0, 0, 35] = 0.0
    last[0, 1] = -3.0  # the last token stays
    batch = attention_batch([*items, last], DType.FLOAT16, "stepwise", False)
    found = gpu.align(batch, device)
    assert found.statuses[-1] == Status.OK
    assert found.ends[-2:].tolist() == [35, 40]
    check(batch, found)


@on_each_device
@EACH_WAY
def test_a_batch_equals_its_items_alone(device: str, mode: str, log: bool) -> None:
    batch = batch_of([(2, 3, 5), (33, 1, 1), (1, 33, 2), (0, 2, 2)], mode, log, kind=probabilities)
    whole = gpu.align(batch, device)
    rates, tokens = offsets_of(batch.heads), offsets_of(batch.tokens)
    for b in range(len(batch)):
        alone = gpu.align(some_of(batch, b), device)
        one, own = slice(b, b + 1), slice(tokens[b], tokens[b + 1])
        expected = AttentionResult(
            whole.heads[one],
            whole.focus_rates[rates[b] : rates[b + 1]],
            whole.starts[own],
            whole.ends[own],
            whole.scores[one],
            whole.statuses[one],
            0,
        )
        same_results(alone, expected)


@on_each_device
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
def test_logarithms_are_the_cpus_to_the_last_bit(device: str, dtype: DType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subnormal numbers, zeros, those near 1 and negative ones among them."""
    rng = np.random.default_rng(5)
    least = -44.0 if dtype is DType.FLOAT32 else -320.0
    x = np.concatenate((rng.random(60), 1 + rng.standard_normal(60) * 1e-4, 10.0 ** rng.uniform(least, 38, 38)))
    x = np.concatenate((x, [0.0, -1.0])).astype(dtype.value).reshape(4, 40)
    watched = watch(monkeypatch, left_out="mas_forward_kernel")
    gpu.align(attention_batch([x[None]], dtype, "mas", True), device)
    found = watched["attention_logarithms_kernel"].arguments[-1]["cells"].cpu().numpy()
    good, ones = x.reshape(-1)[:-2], np.ones(158, np.int64)
    single = AttentionBatch(good, dtype, np.arange(158), ones, ones, ones, "dtw", True)  # each score is a logarithm
    np.testing.assert_array_equal(found, [*cpu.align(single).scores, -np.inf, np.nan])


@on_each_device
@EACH_MODE
def test_items_in_several_buffers(device: str, mode: str) -> None:
    rng = np.random.default_rng(6)
    items = [probabilities(rng, shape) for shape in ((2, 2, 3), (1, 1, 1))]
    plain = attention_batch(items, DType.FLOAT32, mode, False, gap=1)
    buffers = tuple(item.astype(np.float32).reshape(-1) for item in items)
    zeros = np.zeros(2, np.int64)
    several = replace(plain, values=buffers, offsets=zeros, sources=np.arange(2))
    same_results(gpu.align(several, device), gpu.align(plain, device))


@on_each_device
@EACH_MODE
@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.FLOAT64])
def test_read_only_unaligned_buffers_with_pitches(device: str, mode: str, dtype: DType) -> None:
    plain = batch_of([(2, 3, 5)], mode, dtype=dtype)
    padded = np.full((3, 4, 7), np.nan).astype(dtype.value).view(dtype.storage)
    padded[:2, :3, :5] = plain.values[:30].reshape(2, 3, 5)
    unaligned = np.frombuffer(b"x" + padded.tobytes(), padded.dtype, offset=1)
    one = np.ones(1, np.int64)
    batch = replace(plain, values=unaligned, head_pitches=28 * one, row_pitches=7 * one)
    same_results(gpu.align(batch, device), gpu.align(plain, device))


@on_each_device
@EACH_MODE
def test_no_items_and_negative_lengths(device: str, mode: str) -> None:
    assert len(gpu.align(batch_of([], mode), device).scores) == 0
    batch = batch_of([(1, 2, 3)] * 4, mode)
    batch = replace(
        batch, heads=np.array([-2, 1, 1, 1]), tokens=np.array([2, -3, 2, 2]), frames=np.array([3, 3, -1, 3])
    )
    found = gpu.align(batch, device)
    assert found.statuses.tolist() == [*[Status.EMPTY] * 3, Status.OK]
    assert (found.focus_rates.shape, found.starts.shape) == ((3,), (6,))
    assert not found.ends[:4].any()


PADDED = [(3, 5), (4, 7), (0, 7), (2, 2)]
"""Tokens and frames."""


def padded_maps(kind=probabilities) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[Scores]]:
    """Maps [4, 2, 4, 7] in a larger memory that is NaN elsewhere, heads before items; and the items."""
    rng = np.random.default_rng(7)
    items = [kind(rng, (2, S, T)) for S, T in PADDED]
    memory = torch.full((3, 8, 5, 12), float("nan"))  # [heads, items, tokens, frames]
    maps = memory.permute(1, 0, 2, 3)[1:5, :2, :4, 3:10]
    for index, ((S, T), item) in enumerate(zip(PADDED, items)):
        maps[index, :, :S, :T] = torch.from_numpy(item)
    tokens, frames = torch.tensor(PADDED).T
    return maps, tokens, frames, items


def on(device: str, tensor: torch.Tensor) -> torch.Tensor:
    """There, with the same strides."""
    if device == "cpu":
        return tensor
    base = tensor._base if tensor._base is not None else tensor
    return base.to(device).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


@on_each_device
@EACH_WAY
def test_a_padded_batch_in_any_strides(device: str, mode: str, log: bool) -> None:
    """Tensors on the device, of which the kernels read a part: no copy, no wait."""
    maps, tokens, frames, items = padded_maps()
    found = gpu.launch(on(device, maps), tokens.to(device), frames.to(device), mode, log)
    expected = gpu.align(attention_batch(items, DType.FLOAT32, mode, log), device)
    begins = offsets_of(tokens.numpy())
    for index, (S, _) in enumerate(PADDED):
        for name in ("starts", "ends"):
            row = np.pad(getattr(expected, name)[begins[index] : begins[index + 1]], (0, 4 - S))
            np.testing.assert_array_equal(getattr(found, name)[index].cpu(), row, name)
    np.testing.assert_array_equal(found.focus_rates.cpu(), expected.focus_rates.reshape(4, 2))
    for name in ("heads", "scores", "statuses"):
        np.testing.assert_array_equal(getattr(found, name).cpu(), getattr(expected, name), name)


@on_each_device
@EACH_MODE
def test_lengths_beyond_the_padded_size_are_caught(device: str, mode: str) -> None:
    maps = torch.full((5, 1, 3, 4), 0.75).to(device)
    tokens, frames = torch.tensor([3, 4, 2**40, 3, -1]).to(device), torch.tensor([4, 4, 4, 5, 4]).to(device)
    found = gpu.launch(maps, tokens, frames, mode)
    assert found.statuses.tolist() == [Status.OK, *[Status.INTERNAL] * 3, Status.EMPTY]
    assert not found.ends[1:].any()
    assert not found.focus_rates[1:].any()
    assert found.scores.isnan().tolist() == [False, *[True] * 4]


@on_each_device
@EACH_MODE
def test_a_padded_batch_of_nothing(device: str, mode: str) -> None:
    none = torch.zeros(0, dtype=torch.int64).to(device)
    found = gpu.launch(torch.zeros(0, 2, 3, 4).to(device), none, none, mode)
    assert [tuple(part.shape) for part in found] == [(0,), (0, 2), (0, 3), (0, 3), (0,), (0,)]
    two = torch.zeros(2, dtype=torch.int64).to(device)
    for shape in ((2, 0, 3, 4), (2, 1, 0, 4), (2, 1, 3, 0)):
        found = gpu.launch(torch.zeros(shape).to(device), two + shape[2], two + shape[3], mode)
        assert found.statuses.tolist() == [Status.EMPTY] * 2


@on_each_device
@EACH_MODE
def test_too_little_scratch_is_an_error_not_a_fault(device: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes_of = gpu_batch.sizes_of
    monkeypatch.setattr(gpu_batch, "sizes_of", lambda *of: sizes_of(*of)._replace(largest=0 * of[0]))
    found = gpu.align(batch_of([(1, 3, 4)], mode), device)
    assert found.statuses.tolist() == [Status.INTERNAL]
    assert not found.ends.any()


def watch(monkeypatch: pytest.MonkeyPatch, *, really: bool = True, left_out: str = "") -> dict[str, Launches]:
    """The kernels' launches, made but for what is left out. Borders are of this test alone: what is not launched draws
    no tickets."""
    monkeypatch.setattr(gpu_borders, "_kept", functools.cache(lambda device, stream: gpu_borders._Kept()))
    watched = {name: Launches(getattr(gpu, name), really) for name in KERNELS}
    for name, launches in watched.items():
        monkeypatch.setattr(gpu, name, launches)
    for name in ("mas_forward_kernel", "mas_trace_kernel"):
        watched[name] = Launches(getattr(mas_gpu, name), really and name != left_out)
        monkeypatch.setattr(mas_gpu, name, watched[name])
    return watched


@on_each_device
@EACH_WAY
def test_a_few_launches_for_a_batch_of_any_lengths(
    device: str, mode: str, log: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = watch(monkeypatch, really=False)
    gpu.align(batch_of([(3, 4, 200), (40, 70, 80), (0, 5, 5), (1, 2, 1)], mode, log), device)
    expected = {
        "attention_largest_kernel": [(3 * 2 + 40 + (mode != "mas"),)],  # 128 frames of a head
        "attention_heads_kernel": [(4 * 2,)],  # 32 heads of an item
    }
    if mode == "mas":
        expected["mas_forward_kernel"] = [(4 * 2,)]  # strips of 64 tokens
        expected["attention_spans_kernel"] = [(4,)]
        if log:
            expected["attention_logarithms_kernel"] = [(7 + 3 * 3,)]  # 32 tokens and 32 frames
    elif mode == "dtw":
        expected["attention_cells_kernel"] = [(8 + 3 * 4 + 1,)]  # 32 rows of a strip
        expected["attention_dtw_forward_kernel"] = [(4 * 3,)]  # strips of 32 tokens
    else:
        expected["attention_walk_kernel"] = [(4,)]
    assert {name: launches.grids for name, launches in watched.items() if launches.grids} == expected


@on_each_device
@EACH_WAY
def test_python_does_nothing_by_head_frame_token_or_item(
    device: str, mode: str, log: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(monkeypatch, really=False)
    small, large = batch_of([(1, 2, 3)], mode, log), batch_of([(5, 40, 60)] * 30, mode, log)
    gpu.align(large, device)  # a first launch compiles, and makes the borders' memory
    assert python_lines(lambda: gpu.align(small, device)) == python_lines(lambda: gpu.align(large, device))


@on_each_device
@EACH_WAY
def test_scratch_is_what_is_used(device: str, mode: str, log: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch(monkeypatch, really=False)
    for dtype in DType:
        batch = batch_of([(2, 70, 300), (1, 9, 9), (3, 1, 1)], mode, log, dtype)
        gpu.align(batch, device)
        used = {}
        for launches in watched.values():
            if launches.grids:
                used |= launches.arguments[-1]
        scratch = {
            "mas": ("largest", "durations", "cells", "bits", "moved", "paths", "on_path"),
            "dtw": ("largest", "cells", "bits", "on_path"),
            "stepwise": ("largest", "decided"),
        }[mode]
        sizes = {name: used[name].numel() * used[name].element_size() for name in scratch if name in used}
        size = np.dtype(dtype.accumulator).itemsize
        allocated = sum(sizes.values()) + 8 * (2 if dtype is DType.FLOAT64 else 1) * used.get("plane", 0)
        need = gpu.scratch_bytes(batch)
        spare = 32 * 32 * size if mode == "dtw" else 0  # what a kernel reads beyond the last cell
        assert need.sum() == allocated - spare
    kind = gpu_batch.aligned_type(DType.FLOAT32, log)
    one = np.ones(1, np.int64)
    search = mas_gpu.scratch_bytes(MasBatch(np.zeros(0, kind.storage), kind, one, 70 * one, 300 * one, 300 * one))
    own = {
        "mas": int(search[0]) + 4 * 70 + log * 4 * 70 * 300,
        "dtw": 32 * 4 * 3 * 331 + 256 * 3 * 11 + 8 * 2 * 300 + 4 * 370,
        "stepwise": 8 * 300,
    }[mode]
    need = gpu.scratch_bytes(batch_of([(2, 70, 300), (0, 4, 4), (1, 0, 3), (1, 3, 0)], mode, log))
    assert need.tolist() == [4 * 2 * 300 + own, 0, 0, 0]


@on_each_device
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
def test_border_memory_is_used_again(device: str, dtype: DType) -> None:
    """Whatever earlier launches have left in it: other shapes, items that failed, more of it or less."""
    for shapes in [[(1, 65, 2)], [(1, 5, 3), (1, 33, 2)], [(1, 65, 1)]]:
        batch = batch_of(shapes, "dtw", dtype=dtype)
        check(batch, gpu.align(batch, device))


@pytest.mark.interpreter
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
def test_a_border_that_never_comes_fails_its_item_alone(dtype: DType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PATIENCE", 3)
    monkeypatch.setattr(gpu_dtw, "hand_over", lambda *_: None)
    found = gpu.align(batch_of([(1, 5, 4), (2, 40, 3), (1, 2, 2)], "dtw", dtype=dtype), "cpu")
    assert found.statuses.tolist() == [Status.OK, Status.INTERNAL, Status.OK]
    assert not found.ends[5:45].any()
    assert not found.focus_rates[1:3].any()
    assert np.isnan(found.scores[1])


def test_devices_without_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="Triton kernels run on"):
        gpu.align(batch_of([(1, 3, 4)], "mas"), "meta")
    zeros = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"Triton kernels run on|frames must be contiguous"):
        gpu.launch(torch.zeros(2, 3, 4, 5).transpose(2, 3), zeros, zeros)


def same_as_cpu(batch: AttentionBatch) -> None:
    check_cpu(batch, gpu.align(batch, "cuda"))


@pytest.mark.gpu
@EACH_WAY
@pytest.mark.parametrize("dtype", DType)
def test_every_edge_equals_the_cpu_kernels(mode: str, log: bool, dtype: DType) -> None:
    edges = [1, 7, 8, 9, *EDGES[1:], 127, 128, 129, 1023, 1024, 1025, 4095, 4096, 4097]
    shapes = [(2, s, t) for s in edges for t in edges if s * t <= 2**18]
    same_as_cpu(batch_of([*shapes, (2, 1025, 1025), (1, 1025, 4097), (1, 4097, 1025)], mode, log, dtype))


@pytest.mark.gpu
@EACH_WAY
@pytest.mark.parametrize("dtype", DType)
def test_large_items_equal_the_cpu_kernels(mode: str, log: bool, dtype: DType) -> None:
    shapes = [(4, 300, 1500), (40, 60, 400), (2, 1030, 4100), (1, 900, 20)]
    kinds = [probabilities] if log or mode == "stepwise" else [dyadic, normal, with_minus_infinity]
    for kind in kinds:
        same_as_cpu(batch_of(shapes, mode, log, dtype, kind))


@pytest.mark.gpu
@EACH_WAY
def test_many_items_equal_the_cpu_kernels(mode: str, log: bool) -> None:
    rng = np.random.default_rng(8)
    same_as_cpu(batch_of([(int(h), int(s), int(t)) for h, s, t in rng.integers(0, (5, 60, 90), (2000, 3))], mode, log))


@pytest.mark.gpu
@EACH_WAY
def test_nothing_waits_before_the_results_are_asked_for(mode: str, log: bool) -> None:
    maps = torch.full((16, 4, 100, 500), 0.75, device="cuda")
    lengths = [torch.full((16,), n, device="cuda") for n in (100, 500)]
    gpu.launch(maps, *lengths, mode, log)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = gpu.launch(maps, *lengths, mode, log)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (found.statuses == Status.OK).all()


@pytest.mark.gpu
@EACH_MODE
def test_offsets_beyond_32_bits(mode: str) -> None:
    """Two items of 1.2 · 2³¹ values in half precision, of which the last head is the one."""
    maps = torch.zeros(2, 1000, 257, 10000, dtype=torch.float16, device="cuda")
    maps[:, -1] = 1.0
    lengths = torch.tensor([257, 257], device="cuda"), torch.tensor([10000, 10000], device="cuda")
    found = gpu.launch(maps, *lengths, mode)
    assert found.heads.tolist() == [999, 999]
    assert (found.statuses == Status.OK).all()
    assert (found.ends[:, -1] == 10000).all()


@pytest.mark.gpu
@EACH_WAY
def test_a_captured_graph_gives_new_answers_for_new_maps(mode: str, log: bool) -> None:
    rng = np.random.default_rng(9)
    shape = (3, 4, 71, 200)
    maps = torch.full(shape, 0.5, device="cuda")
    lengths = torch.tensor([71, 40, 1], device="cuda"), torch.tensor([200, 90, 9], device="cuda")
    gpu.launch(maps, *lengths, mode, log)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = gpu.launch(maps, *lengths, mode, log)
    for _ in range(3):
        maps.copy_(torch.from_numpy(probabilities(rng, shape)))
        graph.replay()
        expected = gpu.launch(maps, *lengths, mode, log)
        for one, other in zip(found, expected):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
