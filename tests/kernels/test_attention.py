"""Alignment by attention maps, by Numba and as users call it, against the reference."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.strategies import GENERATORS, KINDS, Scores, dyadic, normal, same_results, stored
from kernels.subprocesses import run_script

import alignd_kernels as ak
from alignd_kernels import attention
from alignd_kernels.attention import cpu, reference
from alignd_kernels.attention.batch import MODES, AttentionBatch, AttentionResult
from alignd_kernels.dtypes import DType, widen
from alignd_kernels.mas import cpu as mas_cpu
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.ragged import offsets_of
from alignd_kernels.status import InvalidItemsError, Status
from alignd_kernels.threads import WorkerPool

SETTINGS = settings(max_examples=150, deadline=None, derandomize=True)
FEW = settings(SETTINGS, max_examples=30)
WAYS = [("mas", False), ("mas", True), ("dtw", False), ("dtw", True), ("stepwise", False)]


def probabilities(rng: np.random.Generator, shape: tuple[int, ...]) -> Scores:
    """From 0 to 1 on a coarse grid, both ends and one half among them; they do not sum to one."""
    return rng.integers(0, 9, shape) / 8


def one_out_of_range(rng: np.random.Generator, shape: tuple[int, ...]) -> Scores:
    return np.where(
        rng.random(shape) < 0.5 / max(np.prod(shape), 1), rng.choice([-0.125, 1.5]), probabilities(rng, shape)
    )


def attention_batch(items: Sequence[Scores], dtype: DType, mode: str, log: bool, gap: int = 0) -> AttentionBatch:
    """Items end to end, NaN in `gap` elements between them."""
    heads, tokens, frames = np.array([item.shape for item in items], np.int64).reshape(-1, 3).T.copy()
    offsets = offsets_of(heads * tokens * frames + gap)
    flat = np.full(offsets[-1], np.nan)
    for item, offset in zip(items, offsets):
        flat[offset : offset + item.size] = item.reshape(-1)
    return AttentionBatch(stored(flat, dtype), dtype, offsets[:-1], heads, tokens, frames, mode, log)


@st.composite
def batches(draw: st.DrawFn, largest: int = 40, max_items: int = 5) -> AttentionBatch:
    rng = draw(GENERATORS)
    mode, log = draw(st.sampled_from(WAYS))
    kinds = KINDS if mode != "stepwise" and not log else (probabilities, one_out_of_range)
    kind = draw(st.sampled_from(kinds))
    side = st.one_of(st.integers(0, 3), st.integers(1, largest))
    heads = st.one_of(st.integers(0, 3), st.sampled_from([8, 9, 17]))
    shapes = draw(st.lists(st.tuples(heads, side, side), max_size=max_items))
    items = [kind(rng, shape) for shape in shapes]
    return attention_batch(items, draw(st.sampled_from(DType)), mode, log, draw(st.integers(0, 3)))


def check(batch: AttentionBatch, result: AttentionResult) -> None:
    """The result is the reference's, bit for bit; but float64 logarithms, whose last place is the library's affair."""
    rates, tokens = offsets_of(batch.heads), offsets_of(batch.tokens)
    assert result.focus_rates.shape == (rates[-1],)
    assert result.starts.shape == result.ends.shape == (tokens[-1],)
    for b in range(len(batch)):
        shape = int(batch.heads[b]), int(batch.tokens[b]), int(batch.frames[b])
        maps = widen(batch.values[batch.offsets[b] :][: np.prod(shape)], batch.dtype).reshape(shape)
        with np.errstate(over="ignore", invalid="ignore"):
            expected = reference.align(maps, batch.mode, batch.log, batch.dtype.accumulator)
        context = f"item {b}, {shape}, {batch.dtype}, {batch.mode}, log={batch.log}"
        assert result.statuses[b] == expected.status, context
        assert result.heads[b] == expected.head, context
        np.testing.assert_array_equal(result.focus_rates[rates[b] : rates[b + 1]], expected.focus_rates, context)
        inexact = batch.mode == "stepwise" or (batch.log and batch.dtype is DType.FLOAT64)
        relative = 4 * float(np.finfo(batch.dtype.accumulator).eps) if inexact else 0
        np.testing.assert_allclose(
            result.scores[b], expected.score, rtol=relative, atol=1e-12 * inexact, err_msg=context
        )
        if batch.log and batch.dtype is DType.FLOAT64:
            continue  # a tie may go either way there; its score has been looked at
        np.testing.assert_array_equal(result.starts[tokens[b] : tokens[b + 1]], expected.starts, context)
        np.testing.assert_array_equal(result.ends[tokens[b] : tokens[b + 1]], expected.ends, context)


@SETTINGS
@given(batches())
def test_equals_the_reference(batch: AttentionBatch) -> None:
    check(batch, cpu.align(batch))


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("mode", MODES)
def test_shapes_at_the_edges_of_strips_and_tiles(dtype: DType, mode: str) -> None:
    rng = np.random.default_rng(1)
    sizes = [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97]
    kind = probabilities if mode == "stepwise" else dyadic
    items = [kind(rng, (2, S, T)) for S in sizes for T in (1, 8, 16, 31, 33, 63, 65, 130)]
    batch = attention_batch(items, dtype, mode, False)
    check(batch, cpu.align(batch))


@FEW
@given(batches(max_items=8))
def test_a_batch_equals_its_items_alone(batch: AttentionBatch) -> None:
    whole = cpu.align(batch)
    rates, tokens = offsets_of(batch.heads), offsets_of(batch.tokens)
    for b in range(len(batch)):
        one = slice(b, b + 1)
        names = ("offsets", "heads", "tokens", "frames")
        alone = cpu.align(replace(batch, **{name: getattr(batch, name)[one] for name in names}))
        own = slice(tokens[b], tokens[b + 1])
        expected = (whole.heads[one], whole.focus_rates[rates[b] : rates[b + 1]], whole.starts[own], whole.ends[own])
        found = (alone.heads, alone.focus_rates, alone.starts, alone.ends)
        for have, want in zip(
            (*found, alone.scores, alone.statuses), (*expected, whole.scores[one], whole.statuses[one])
        ):
            np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize(("mode", "log"), WAYS)
def test_threads_and_several_buffers_change_nothing(mode: str, log: bool) -> None:
    rng = np.random.default_rng(2)
    items = [probabilities(rng, (int(h), int(s), int(t))) for h, s, t in rng.integers(1, (20, 60, 90), (30, 3))]
    batch = attention_batch(items, DType.FLOAT32, mode, log)
    expected = cpu.align(batch)
    with WorkerPool(3) as pool:
        same_results(cpu.align(batch, pool), expected)
    buffers = tuple(item.astype(np.float32).reshape(-1) for item in items)
    zeros = np.zeros(len(items), np.int64)
    same_results(cpu.align(replace(batch, values=buffers, offsets=zeros, sources=np.arange(len(items)))), expected)


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16])
def test_halves_are_in_order_as_integers(dtype: DType) -> None:
    """Each finite half beside its neighbour in order: the rate of a map of one frame is the larger one. Of bfloat16 but
    those of which two leave float32's range, so that no path has a score."""
    every = np.arange(2**16, dtype=np.uint16)
    finite = every[np.abs(widen(every, dtype)) < 1.7e38]
    order = finite[np.argsort(widen(finite, dtype), kind="stable")]
    pairs = np.stack((order[1:], order[:-1]), 1)
    ones = np.ones(len(pairs), np.int64)
    batch = AttentionBatch(pairs.reshape(-1), dtype, 2 * np.arange(len(pairs)), ones, 2 * ones, ones, "dtw")
    np.testing.assert_array_equal(cpu.align(batch).focus_rates, widen(order[1:], dtype))
    bad = every[~(widen(every, dtype) < np.inf)]
    ones = np.ones(len(bad), np.int64)
    result = cpu.align(AttentionBatch(bad, dtype, np.arange(len(bad)), ones, ones, ones, "dtw"))
    assert set(result.statuses.tolist()) == {Status.NOT_FINITE}


def test_logarithms_are_correctly_rounded_and_those_of_float64_within_two_places() -> None:
    rng = np.random.default_rng(3)
    x = np.concatenate((rng.random(5000), 1 + rng.standard_normal(5000) * 1e-4, 10.0 ** rng.uniform(-320, 300, 5000)))
    ones = np.ones(len(x), np.int64)
    for dtype, places in ((DType.FLOAT32, 0), (DType.FLOAT64, 2)):
        y = x[(x < 1e38) & (x > 1e-44)].astype(np.float32) if dtype is DType.FLOAT32 else x
        one = ones[: len(y)]
        scores = cpu.align(AttentionBatch(y, dtype, np.arange(len(y)), one, one, one, "dtw", True)).scores
        exact = np.log(y.astype(np.float64)).astype(y.dtype)
        assert np.max(np.abs(scores - exact) / np.spacing(np.abs(exact))) <= places


def test_offsets_past_2_31_elements() -> None:
    size = (1 << 31) + 5000  # bytes that are never touched cost no memory
    far = np.zeros(size, np.uint16)
    item = stored(dyadic(np.random.default_rng(4), (2, 20, 40)), DType.FLOAT16).reshape(-1)
    far[size - item.size :] = item
    one = np.ones(1, np.int64)
    for mode in ("mas", "dtw"):
        near = AttentionBatch(item, DType.FLOAT16, one - 1, 2 * one, 20 * one, 40 * one, mode)
        same_results(cpu.align(replace(near, values=far, offsets=one * (size - item.size))), cpu.align(near))


def test_no_items_and_negative_lengths() -> None:
    assert len(cpu.align(attention_batch([], DType.FLOAT32, "dtw", False)).scores) == 0
    batch = replace(attention_batch([np.zeros((1, 2, 3))] * 2, DType.FLOAT32, "dtw", False), heads=np.array([-2, 1]))
    result = cpu.align(batch)
    assert result.statuses.tolist() == [Status.EMPTY, Status.OK]
    assert result.focus_rates.shape == (1,)


@pytest.mark.parametrize(("mode", "log"), WAYS)
def test_scratch_is_stated(mode: str, log: bool) -> None:
    items = [np.ones((3, 64, 200)), np.ones((0, 5, 5)), np.ones((1, 9, 4))]
    need = cpu.scratch_bytes(attention_batch(items, DType.FLOAT32, mode, log))
    one = np.ones(1, np.int64)
    warp = 8 * 2 * 231 + 4 * (64 + 2 * 200 + 2176)
    search = mas_cpu.scratch_bytes(
        MasBatch(np.zeros(0, np.float32), DType.FLOAT32, one, 64 * one, 200 * one, 200 * one)
    )
    own = {"mas": search[0], "dtw": warp, "stepwise": 0}[mode]
    assert need[0] == 8 * 200 * 4 + log * 64 * 200 * 4 + own
    assert need[1] == 0
    assert (need[2] == 0) == (mode == "mas")


def test_what_log_does_is_said_where_logarithms_were_given() -> None:
    assert "log=True, which takes the logarithm of probabilities itself" in attention.reason(
        Status.NOT_FINITE, 2, 5, 3, "mas"
    )


@pytest.mark.parametrize("status", Status)
def test_every_status_has_a_reason(status: Status) -> None:
    assert attention.reason(status, 2, 5, 3, "mas")


@pytest.mark.parametrize(("mode", "log", "message"), [("viterbi", False, "mode must be"), ("stepwise", True, "log")])
def test_a_mode_that_there_is_not(mode: Any, log: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention.align(attention_batch([np.zeros((1, 2, 3))], DType.FLOAT32, mode, log))
    with pytest.raises(ValueError, match=message):
        ak.align_attention(np.zeros((1, 2, 3)), mode=mode, log=log)


GUARDED = """
from dataclasses import replace
import numpy as np
from kernels.guarded import Guarded
from kernels.strategies import same_results
from kernels.test_attention import WAYS, attention_batch, probabilities
from alignd_kernels.attention import cpu
from alignd_kernels.dtypes import DType

rng = np.random.default_rng(0)
cpu.warm_up()
for dtype in DType:
    for mode, log in WAYS:
        for shape in ((1, 1, 1), (2, 9, 5), (3, 16, 40), (1, 33, 65), (9, 40, 70), (1, 66, 3)):
            plain = attention_batch([probabilities(rng, shape)], dtype, mode, log)
            expected = cpu.align(plain)
            for at_end in (False, True):
                guarded = Guarded(at_end)
                batch = replace(plain, values=guarded.copy(plain.values))
                with guarded.everywhere():
                    same_results(cpu.align(batch), expected)
print("all right")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect is POSIX")
def test_nothing_is_read_or_written_beyond_an_array_and_scratch_need_not_be_clean() -> None:
    assert run_script(GUARDED) == ["all", "right"]


TOKENS, FRAMES = np.array([5, 3, 1]), np.array([11, 4, 9])


def padded_maps(dtype: Any = np.float32) -> np.ndarray:
    maps = np.full((3, 2, 5, 11), np.nan, dtype)
    for b, (S, T) in enumerate(zip(TOKENS, FRAMES)):
        maps[b, :, :S, :T] = probabilities(np.random.default_rng(b), (2, S, T))
    return maps


@pytest.mark.parametrize(("mode", "log"), [way for way in WAYS if not way[1]])
@pytest.mark.parametrize("layout", ["plain", "heads first", "transposed", "strided"])
def test_padded_is_the_references(mode: Any, log: bool, layout: str) -> None:
    maps = padded_maps()
    given_maps = {
        "plain": maps,
        "heads first": np.ascontiguousarray(maps.transpose(1, 0, 2, 3)).transpose(1, 0, 2, 3),
        "transposed": np.ascontiguousarray(maps.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2),
        "strided": np.repeat(maps, 2, axis=3)[..., ::2],
    }[layout]
    found = ak.align_attention(given_maps, TOKENS, FRAMES, mode, log=log)
    assert (found.path is None) == (mode == "dtw")
    for b, (S, T) in enumerate(zip(TOKENS, FRAMES)):
        expected = reference.align(maps[b, :, :S, :T], mode, log, np.float32)
        assert (found.heads[b], found.statuses[b]) == (expected.head, Status.OK)
        np.testing.assert_array_equal(found.focus_rates[b], expected.focus_rates)
        np.testing.assert_array_equal(found.starts[b, :S], expected.starts)
        np.testing.assert_array_equal(found.ends[b, :S], expected.ends)
        np.testing.assert_array_equal(found.durations, found.ends - found.starts)
        np.testing.assert_allclose(found.scores[b], expected.score, rtol=2.0**-22)
        assert not found.ends[b, S:].any()
        if found.path is not None:
            durations = expected.ends - expected.starts
            np.testing.assert_array_equal(found.path[b, :T], np.repeat(np.arange(S), durations))
            assert not found.path[b, T:].any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_torch_tensors_and_one_item(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    maps = padded_maps()
    tensor = torch.from_numpy(maps).to(getattr(torch, dtype)).requires_grad_()
    found = ak.align_attention(tensor, torch.from_numpy(TOKENS), torch.from_numpy(FRAMES))
    plain = ak.align_attention(maps, TOKENS, FRAMES)
    alone = ak.align_attention(tensor[1], 3, 4)
    for name in ("heads", "focus_rates", "durations", "starts", "ends", "path", "statuses"):
        value = getattr(found, name)
        assert isinstance(value, torch.Tensor)
        np.testing.assert_array_equal(value.numpy(), getattr(plain, name), name)
        np.testing.assert_array_equal(getattr(alone, name).numpy(), value[1].numpy(), name)


def test_every_bad_item_is_listed() -> None:
    maps = padded_maps()
    maps[0, 1, 0, 0] = np.nan
    with pytest.raises(InvalidItemsError) as caught:
        ak.align_attention(maps, [5, 3, 0], FRAMES, "dtw")
    assert caught.value.statuses == {0: Status.NOT_FINITE, 2: Status.EMPTY}
    found = ak.align_attention(maps, [5, 3, 0], FRAMES, "dtw", check=False)
    assert found.statuses.tolist() == [Status.NOT_FINITE, Status.OK, Status.EMPTY]
    assert np.isnan(found.scores[[0, 2]]).all()
    with pytest.raises(InvalidItemsError, match="head"):
        ak.align_attention(np.zeros((1, 0, 2, 3), np.float32))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((np.zeros((2, 3)),), ValueError),
        ((np.zeros((1, 1, 2, 3), int),), TypeError),
        ((np.zeros((2, 1, 2, 3)), [3, 2]), ValueError),
        ((np.zeros((2, 1, 2, 3)), [2]), ValueError),
        ((np.zeros((2, 1, 2, 3)), [1.0, 2.0]), TypeError),
    ],
)
def test_wrong_arguments(arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        ak.align_attention(*arguments)


def test_devices_without_kernels_are_refused() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    batch = attention_batch([normal(np.random.default_rng(0), (1, 2, 3))], DType.FLOAT32, "mas", False)
    with pytest.raises(ValueError, match="Triton kernels run on"):
        attention.align(batch, "meta")
    with pytest.raises(ValueError, match="Triton kernels run on"):
        ak.align_attention(torch.zeros(1, 1, 2, 3, device="meta"))
