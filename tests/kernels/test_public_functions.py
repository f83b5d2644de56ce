"""maximum_path and forced_align as users call them: NumPy and torch, layouts, errors."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.strategies import GENERATORS, dyadic, normal, random_targets

import alignd_kernels as ak
from alignd_kernels import ctc, mas
from alignd_kernels.ctc import reference as ctc_reference
from alignd_kernels.mas import reference as mas_reference

SETTINGS = settings(max_examples=50, deadline=None, derandomize=True)
torch = pytest.importorskip("torch")

TORCH_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


def rectangles(tokens: list[int], frames: list[int], shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((len(tokens), *shape), np.float32)
    for item, (S, T) in enumerate(zip(tokens, frames)):
        mask[item, :S, :T] = 1
    return mask


def expected_path(value: np.ndarray, tokens: list[int], frames: list[int]) -> np.ndarray:
    path = np.zeros(value.shape, np.float32)
    for item, (S, T) in enumerate(zip(tokens, frames)):
        _, durations, _ = mas_reference.maximum_path(value[item, :S, :T], np.float32)
        path[item, np.repeat(np.arange(S), durations), np.arange(T)] = 1
    return path


@pytest.fixture
def value() -> np.ndarray:
    return dyadic(np.random.default_rng(0), (3, 7, 15)).astype(np.float32)


TOKENS, FRAMES = [7, 3, 1], [15, 9, 4]
MASK = rectangles(TOKENS, FRAMES, (7, 15))


@SETTINGS
@given(GENERATORS, st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12)), min_size=1, max_size=5))
def test_maximum_path_is_the_references(rng: np.random.Generator, sizes: list[tuple[int, int]]) -> None:
    tokens, frames = [S for S, _ in sizes], [S + more for S, more in sizes]
    shape = (max(tokens) + 1, max(frames) + 2)
    value = dyadic(rng, (len(sizes), *shape)).astype(np.float32)
    mask = rectangles(tokens, frames, shape)
    value[mask == 0] = np.nan
    path = ak.maximum_path(value, mask)
    assert path.dtype == np.float32
    np.testing.assert_array_equal(path, expected_path(value, tokens, frames))


@pytest.mark.parametrize("dtype", TORCH_TYPES)
def test_maximum_path_takes_torch_and_every_dtype(value: np.ndarray, dtype: str) -> None:
    tensor = torch.from_numpy(value).to(TORCH_TYPES[dtype]).requires_grad_()
    path = ak.maximum_path(tensor, torch.from_numpy(MASK))
    assert isinstance(path, torch.Tensor)
    assert path.dtype == torch.float32
    assert not path.requires_grad
    np.testing.assert_array_equal(path.numpy(), expected_path(value, TOKENS, FRAMES))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_maximum_path_takes_every_dtype_of_numpy(value: np.ndarray, dtype: str) -> None:
    path = ak.maximum_path(value.astype(dtype), MASK)
    np.testing.assert_array_equal(path, expected_path(value, TOKENS, FRAMES))
    big_endian = value.astype(np.dtype(dtype).newbyteorder(">"))
    np.testing.assert_array_equal(ak.maximum_path(big_endian, MASK), path)


def test_maximum_path_returns_the_dtype_asked_for(value: np.ndarray) -> None:
    assert ak.maximum_path(value, MASK, np.int8).dtype == np.int8
    path = ak.maximum_path(torch.from_numpy(value), torch.from_numpy(MASK), dtype=torch.bfloat16)
    assert path.dtype == torch.bfloat16
    assert path.sum() == sum(FRAMES)


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint16, np.int32, np.int64, np.float16, np.float64, np.complex64])
def test_masks_of_any_dtype(value: np.ndarray, kind: Any) -> None:
    expected = expected_path(value, TOKENS, FRAMES)
    np.testing.assert_array_equal(ak.maximum_path(value, MASK.astype(kind)), expected)
    if np.dtype(kind).kind == "f":
        np.testing.assert_array_equal(ak.maximum_path(value, np.where(MASK > 0, 2.5, -0.0).astype(kind)), expected)


def test_a_bfloat16_mask(value: np.ndarray) -> None:
    path = ak.maximum_path(torch.from_numpy(value), torch.from_numpy(MASK).bfloat16())
    np.testing.assert_array_equal(path.numpy(), expected_path(value, TOKENS, FRAMES))


def layouts(array: np.ndarray) -> dict[str, np.ndarray]:
    transposed = np.ascontiguousarray(array.transpose(0, 2, 1)).transpose(0, 2, 1)
    reversed_ = np.ascontiguousarray(array[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    strided = np.full((*array.shape[:2], 2 * array.shape[2]), np.nan, array.dtype)[:, :, ::2]
    strided[...] = array
    read_only = array.copy()
    read_only.flags.writeable = False
    return {"transposed": transposed, "reversed": reversed_, "strided": strided, "read only": read_only}


@pytest.mark.parametrize("layout", ["transposed", "reversed", "strided", "read only"])
def test_layouts_and_the_callers_arrays_stay(value: np.ndarray, layout: str) -> None:
    expected = expected_path(value, TOKENS, FRAMES)
    given_value, given_mask = layouts(value)[layout], layouts(MASK)[layout]
    np.testing.assert_array_equal(ak.maximum_path(given_value, given_mask), expected)
    np.testing.assert_array_equal(given_value, value)
    np.testing.assert_array_equal(given_mask, MASK)
    log_probs = value.transpose(0, 2, 1)
    targets = np.array([[1, 2], [3, 3], [6, 1]])
    plain = ak.forced_align(np.ascontiguousarray(log_probs), targets)
    for one, other in zip(ak.forced_align(layouts(log_probs)[layout], targets), plain):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("item", "token", "frame", "bit"),
    [(0, 3, 7, 0), (1, 3, 0, 1), (1, 0, 9, 1), (2, 6, 14, 1), (1, 2, 8, 0), (2, 0, 1, 0)],
)
def test_a_mask_that_is_no_rectangle_is_named(value: np.ndarray, item: int, token: int, frame: int, bit: int) -> None:
    mask = MASK.copy()
    mask[item, token, frame] = bit
    with pytest.raises(ValueError, match=f"item {item} is not a prefix rectangle"):
        ak.maximum_path(value, mask)


def test_a_mask_of_four_dimensions_is_told_to_squeeze(value: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"mask\.squeeze\(1\)"):
        ak.maximum_path(value, MASK[:, None])


def test_wrong_arguments_of_maximum_path(value: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must have the shape of value"):
        ak.maximum_path(value, MASK[:2])
    with pytest.raises(ValueError, match="must be \\[batch, tokens, frames\\]"):
        ak.maximum_path(value[0], MASK[0])
    with pytest.raises(TypeError, match="int64"):
        ak.maximum_path(value.astype(np.int64), MASK)


def test_every_bad_item_is_listed(value: np.ndarray) -> None:
    mask = rectangles([7, 7, 0], [15, 6, 0], (7, 15))
    value[0, 2, 5] = np.nan
    with pytest.raises(ak.InvalidItemsError) as raised:
        ak.maximum_path(value, mask)
    assert raised.value.statuses == {0: ak.Status.NOT_FINITE, 1: ak.Status.TOO_FEW_FRAMES, 2: ak.Status.EMPTY}
    assert "more tokens (7) than frames (6): every token needs at least one frame" in str(raised.value)
    assert "scores are [tokens, frames]" in str(raised.value)
    path, statuses = ak.maximum_path(value, mask, check=False)
    assert statuses.tolist() == [ak.Status.NOT_FINITE, ak.Status.TOO_FEW_FRAMES, ak.Status.EMPTY]
    assert not path.any()


def test_failed_items_do_not_disturb_good_ones(value: np.ndarray) -> None:
    mask = rectangles([3, 7, 2], [9, 6, 8], (7, 15))
    path, statuses = ak.maximum_path(torch.from_numpy(value), torch.from_numpy(mask), check=False)
    assert statuses.tolist() == [ak.Status.OK, ak.Status.TOO_FEW_FRAMES, ak.Status.OK]
    expected = expected_path(value, [3, 0, 2], [9, 0, 8])
    np.testing.assert_array_equal(path.numpy(), expected)


@pytest.mark.parametrize("shape", [(0, 4, 5), (0, 0, 0)])
def test_no_items(shape: tuple[int, ...]) -> None:
    assert ak.maximum_path(np.zeros(shape, np.float32), np.zeros(shape)).shape == shape
    paths, scores = ak.forced_align(np.zeros((0, 5, 4), np.float32), np.zeros((0, 2), np.int64))
    assert paths.shape == scores.shape == (0, 5)


@SETTINGS
@given(
    GENERATORS,
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 9)), min_size=1, max_size=5),
    st.sampled_from([0.0, -0.5, "max"]),
    st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_forced_align_is_the_references(rng, sizes, star_score, dtype) -> None:
    V, blank = 5, int(rng.integers(5))
    labels = [random_targets(rng, length, V, blank, stars=0.2) for length, _ in sizes]
    frames = [2 * length + spare for length, spare in sizes]
    T, L = max(frames) + 1, max(length for length, _ in sizes) + 1
    log_probs = normal(rng, (len(sizes), T, V)).astype(dtype)
    targets = np.full((len(sizes), L), 99)
    for item, own in enumerate(labels):
        targets[item, : len(own)] = own
    lengths = [length for length, _ in sizes]
    paths, scores = ak.forced_align(
        log_probs, targets, np.array(frames), np.array(lengths), blank, star_score=star_score
    )
    assert paths.dtype == targets.dtype
    assert scores.dtype == dtype
    star = np.nan if star_score == "max" else star_score
    accumulator = np.float64 if dtype == np.float64 else np.float32
    for item, own in enumerate(labels):
        x = log_probs[item, : frames[item]].astype(accumulator)
        expected = ctc_reference.forced_align(x, own, blank, star, accumulator)
        states = expected.path
        ids = np.where(states % 2 == 1, own[np.minimum(states // 2, len(own) - 1)], blank)
        np.testing.assert_array_equal(paths[item, : frames[item]], ids)
        assert (paths[item, frames[item] :] == blank).all()
        emission = ctc_reference.emissions(x, own, blank, star)[np.arange(frames[item]), states]
        np.testing.assert_array_equal(scores[item, : frames[item]], emission.astype(dtype))
        assert not scores[item, frames[item] :].any()


@pytest.mark.parametrize("dtype", TORCH_TYPES)
@pytest.mark.parametrize("target_type", [torch.int32, torch.int64])
def test_forced_align_takes_torch(dtype: str, target_type: torch.dtype) -> None:
    rng = np.random.default_rng(1)
    log_probs = torch.from_numpy(dyadic(rng, (2, 12, 6))).to(TORCH_TYPES[dtype]).requires_grad_()
    targets = torch.tensor([[1, 2, 2], [5, 1, 3]], dtype=target_type)
    paths, scores = ak.forced_align(log_probs, targets, torch.tensor([12, 9]), torch.tensor([3, 2]))
    assert paths.dtype == target_type
    assert scores.dtype == log_probs.dtype
    expected, _ = ak.forced_align(log_probs.detach().double().numpy(), targets.numpy(), [12, 9], [3, 2])
    np.testing.assert_array_equal(paths.numpy(), expected)
    gathered = log_probs.detach().gather(2, paths.long()[:, :, None])[:, :, 0]
    gathered[1, 9:] = 0
    assert torch.equal(scores, gathered)


def test_bad_items_of_forced_align() -> None:
    log_probs = np.zeros((6, 4, 5), np.float32)
    log_probs[5, 1, 0] = np.nan
    targets = np.array([[1, 0], [1, 5], [-1, -1], [1, 2], [3, -2], [1, 2]])
    with pytest.raises(ak.InvalidItemsError) as raised:
        ak.forced_align(log_probs, targets)
    assert raised.value.statuses == {
        0: ak.Status.TARGET_IS_BLANK,
        1: ak.Status.TARGET_OUT_OF_RANGE,
        2: ak.Status.ADJACENT_STARS,
        4: ak.Status.TARGET_OUT_OF_RANGE,
        5: ak.Status.NOT_FINITE,
    }
    assert "target 5 is out of range: the vocabulary has columns 0 … 4" in str(raised.value)
    paths, scores, statuses = ak.forced_align(log_probs, targets, check=False)
    assert statuses.tolist() == [7, 6, 8, 1, 6, 4]
    assert not paths[[0, 1, 2, 4, 5]].any()
    assert not scores.any()


@pytest.mark.parametrize("huge", [2**31, 2**32 + 1, -(2**40)])
def test_targets_beyond_32_bits_are_out_of_range(huge: int) -> None:
    with pytest.raises(ak.InvalidItemsError, match="out of range"):
        ak.forced_align(np.zeros((1, 4, 5), np.float32), np.array([[huge]]))
    paths, _ = ak.forced_align(np.zeros((1, 4, 5), np.float32), np.array([[3]], np.uint64))
    assert paths.dtype == np.uint64


@pytest.mark.parametrize("blank", [-1, 5])
def test_blank_outside_the_vocabulary(blank: int) -> None:
    with pytest.raises(ValueError, match=r"blank is -?\d; it must be within \[0, 5\)"):
        ak.forced_align(np.zeros((1, 4, 5), np.float32), np.array([[1]]), blank=blank)


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_a_blank_that_the_paths_cannot_hold(make: Any) -> None:
    log_probs = make(np.zeros((1, 6, 300), np.float32))
    log_probs[..., 299] = 1
    for narrow in ("uint8", "int8"):
        targets = make(np.array([[1, 2]], narrow))
        with pytest.raises(ValueError, match=f"blank is 299, which the targets' dtype {narrow}"):
            ak.forced_align(log_probs, targets, blank=299)
    paths, _ = ak.forced_align(log_probs, make(np.array([[1, 2]], np.int16)), blank=299)
    assert 299 in paths


def test_lengths_are_checked() -> None:
    log_probs, targets = np.zeros((2, 4, 5), np.float32), np.array([[1, 2], [3, 4]])
    with pytest.raises(ValueError, match=r"input_lengths\[1\] is 5; it must be from 0 to 4"):
        ak.forced_align(log_probs, targets, [4, 5])
    with pytest.raises(ValueError, match=r"target_lengths\[0\] is -1"):
        ak.forced_align(log_probs, targets, None, [-1, 2])
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        ak.forced_align(log_probs, targets, [4])
    with pytest.raises(TypeError, match="must be integers"):
        ak.forced_align(log_probs, targets, [4.0, 4.0])
    with pytest.raises(TypeError, match="must be integers"):
        ak.forced_align(log_probs, targets.astype(float))
    with pytest.raises(ValueError, match="2 items, but targets 1"):
        ak.forced_align(log_probs, targets[:1])
    with pytest.raises(ValueError, match="star_score"):
        ak.forced_align(log_probs, targets, star_score=float("nan"))


@pytest.mark.parametrize("status", ak.Status)
def test_every_status_has_a_reason(status: ak.Status) -> None:
    for sentence in (mas.reason(status, 9, 5), ctc.reason(status, 5, np.array([1, 1, 9]), 4)):
        assert len(sentence) > 5
        assert "\n" not in sentence
    assert "9" in mas.reason(ak.Status.TOO_FEW_FRAMES, 9, 5)
    assert "at least 4 are needed" in ctc.reason(ak.Status.TOO_FEW_FRAMES, 3, np.array([1, 1, 2]), 4)


def test_importing_costs_neither_numba_nor_torch() -> None:
    code = (
        "import sys, alignd_kernels, alignd_kernels.mas, alignd_kernels.ctc, alignd_kernels.threads\n"
        "assert alignd_kernels.compile_seconds() == 0\n"
        "print([name for name in ('numba', 'torch', 'triton', 'scipy') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_numpy_callers_need_no_torch() -> None:
    code = (
        "import sys, numpy as np, alignd_kernels as ak\n"
        "ak.maximum_path(np.zeros((1, 2, 3), np.float32), np.ones((1, 2, 3)))\n"
        "ak.forced_align(np.zeros((1, 4, 3), np.float32), np.array([[1]]))\n"
        "print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_errors_cross_processes() -> None:
    with pytest.raises(ak.InvalidItemsError) as raised:
        ak.maximum_path(np.zeros((2, 3, 2)), np.ones((2, 3, 2)))
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (str(copy), copy.statuses) == (str(raised.value), raised.value.statuses)


def test_a_mask_of_foreign_byte_order() -> None:
    mask = np.ones((1, 3, 4), ">f4")
    mask[:, :, 3] = mask[:, 2] = -0.0
    assert ak.maximum_path(np.zeros((1, 3, 4), np.float32), mask).sum() == 3


@pytest.mark.parametrize("level", ["", "numba"])
def test_a_cache_that_strangers_can_write_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    from alignd_kernels.compile_cache import cache_folder

    base = tmp_path / "shared"
    (base / level).mkdir(parents=True)
    monkeypatch.setenv("ALIGND_CACHE_DIR", str(base))
    assert cache_folder.__wrapped__().is_relative_to(base)
    (base / level).chmod(0o777)
    assert not cache_folder.__wrapped__().is_relative_to(base)


def test_lists_of_labels() -> None:
    log_probs = np.log(np.full((2, 6, 4), 0.25, np.float32))
    with pytest.raises(ak.InvalidItemsError, match="0 targets"):
        ak.forced_align(log_probs[:1], [[]])
    with pytest.raises(ValueError, match="targets must be of one length, padded"):
        ak.forced_align(log_probs, [[1, 2], [1]])
    with pytest.raises(ValueError, match="star_score must be a number or \"max\", not 'min'"):
        ak.forced_align(log_probs[:1], [[ak.STAR]], star_score="min")  # type: ignore[arg-type]
    emissions, targets, columns = ak.ctc_target_columns(log_probs[0].tolist(), [3, 1, 3])
    assert (np.shape(emissions), list(targets), list(columns)) == ((6, 3), [2, 1, 2], [0, 1, 3])
