"""Monotonic alignment search through every door."""

import math
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch

from alignd_client import InvalidItemError, InvalidItemsError, InvalidRequestError, ItemCode
from alignd_kernels.mas import reference

SHAPES = [(1, 1), (3, 7), (5, 5), (2, 30), (11, 13)]


def scores(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """On a dyadic grid, where sums are exact in float32 and values in every half."""
    return (np.random.default_rng(seed).integers(-8, 8, shape) / 4).astype(np.float32)


def path_of(value: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    _, durations, _ = reference.maximum_path(value)
    return np.repeat(np.arange(len(value)), durations)


def test_ragged_items_match_the_reference(client: Any) -> None:
    values = [scores(*shape, seed=i) for i, shape in enumerate(SHAPES)]
    results = list(client.align_mas(values))
    assert len(results) == len(values)
    for value, result in zip(values, results):
        _, durations, score = reference.maximum_path(value)
        assert result.status.ok
        assert result.durations.dtype == result.path.dtype == np.int32
        np.testing.assert_array_equal(result.durations, durations)
        np.testing.assert_array_equal(result.path, path_of(value))
        assert result.score == score


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_kinds_and_dtypes(client: Any, kind: str, dtype: str) -> None:
    value = scores(4, 9)
    if kind == "torch":
        given: Any = torch.from_numpy(value).to(getattr(torch, dtype))
    elif dtype == "bfloat16":
        given = value.astype(ml_dtypes.bfloat16)
    else:
        given = value.astype(dtype)
    (result,) = client.align_mas([given])
    expected = torch.Tensor if kind == "torch" else np.ndarray
    assert isinstance(result.path, expected)
    assert isinstance(result.durations, expected)
    np.testing.assert_array_equal(np.asarray(result.path), path_of(value))
    path = client.maximum_path(given[None], np.ones((1, 4, 9)))
    assert isinstance(path, expected)
    assert str(path.dtype).removeprefix("torch.") == "float32"


def read_only(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    value = value.copy()
    value.flags.writeable = False
    return value


@pytest.mark.parametrize(
    "arrange",
    [
        lambda value: value[::-1].copy()[::-1],
        lambda value: value[:, ::-1].copy()[:, ::-1],
        lambda value: np.asfortranarray(value),
        lambda value: np.repeat(np.repeat(value, 2, 0), 3, 1)[::2, ::3],
        read_only,
        lambda value: value.astype(">f4"),
        lambda value: torch.from_numpy(value.T.copy()).T,
        lambda value: torch.from_numpy(value.copy()).requires_grad_(),
    ],
    ids=["negative rows", "negative columns", "fortran", "sliced", "read-only", "big-endian", "tensor.T", "gradient"],
)
def test_any_layout(client: Any, arrange: Any) -> None:
    value = scores(4, 9, seed=3)
    arranged = arrange(value)
    (result,) = client.align_mas([arranged])
    np.testing.assert_array_equal(np.asarray(result.path), path_of(value))


def test_drop_in_is_zero_one_and_leaves_the_argument_alone(client: Any) -> None:
    value = scores(3, 6, 12)
    mask = np.zeros((3, 6, 12), np.int64)
    sizes = [(6, 12), (1, 4), (4, 4)]
    for b, (S, T) in enumerate(sizes):
        mask[b, :S, :T] = 1
    before = value.copy()
    value[1, 2:, 5:] = np.nan  # outside the mask
    path = client.maximum_path(value, mask)
    assert path.shape == value.shape
    assert path.dtype == np.float32
    assert set(np.unique(path)) == {0, 1}
    for b, (S, T) in enumerate(sizes):
        np.testing.assert_array_equal(path[b, :S, :T].argmax(0), path_of(value[b, :S, :T]))
        assert path[b].sum() == T
    np.testing.assert_array_equal(value[mask == 1], before[mask == 1])


@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.float32, torch.bfloat16, torch.int32])
def test_drop_in_of_tensors(client: Any, mask_dtype: torch.dtype) -> None:
    value = torch.from_numpy(scores(2, 3, 8))
    mask = torch.ones(2, 3, 8).to(mask_dtype)
    path = client.maximum_path(value, mask, dtype=torch.int64)
    assert path.dtype == torch.int64
    assert path.device == value.device
    np.testing.assert_array_equal(path[1].argmax(0).numpy(), path_of(value[1].numpy()))


def test_drop_in_of_nothing(client: Any) -> None:
    assert client.maximum_path(np.zeros((0, 3, 8), np.float32), np.ones((0, 3, 8))).shape == (0, 3, 8)
    assert list(client.align_mas([])) == []


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (np.zeros((5, 4), np.float32), ItemCode.TOO_FEW_FRAMES),
        (np.full((2, 4), np.nan, np.float32), ItemCode.NOT_FINITE),
        (np.full((2, 4), np.inf, np.float32), ItemCode.NOT_FINITE),
        (np.full((2, 4), -np.inf, np.float32), ItemCode.NO_FINITE_PATH),
        (np.zeros((2, 0), np.float32), ItemCode.EMPTY),
        (np.zeros((0, 2), np.float32), ItemCode.EMPTY),
    ],
)
def test_a_bad_item_among_good_ones(client: Any, value: npt.NDArray[Any], code: ItemCode) -> None:
    good = scores(2, 6)
    results = list(client.align_mas([good, value, good], on_error="return"))
    assert [result.status.ok for result in results] == [True, False, True]
    bad = results[1]
    assert bad.status.code is code
    assert bad.status.message
    assert len(bad.path) == len(bad.durations) == 0
    assert math.isnan(bad.score)

    iterator = iter(client.align_mas([good, value, good]))
    assert next(iterator).status.ok
    with pytest.raises(InvalidItemError, match=r"item 1.*" + code.name) as caught:
        next(iterator)
    field = "frames" if code is ItemCode.EMPTY else "values"
    assert (caught.value.index, caught.value.code, caught.value.field) == (1, code, field)
    assert isinstance(caught.value, ValueError)


def test_a_nan_that_no_path_can_visit(client: Any) -> None:
    value = scores(3, 5)
    expected = path_of(value)
    value[1, 0] = value[2, 1] = value[0, 4] = np.nan
    (result,) = client.align_mas([value])
    np.testing.assert_array_equal(result.path, expected)


def test_drop_in_lists_every_bad_item(client: Any) -> None:
    value = scores(4, 5, 9)
    value[1] = np.nan
    mask = np.ones_like(value)
    mask[3, :, 4:] = 0
    with pytest.raises(InvalidItemsError, match="2 of 4 items") as caught:
        client.maximum_path(value, mask)
    assert caught.value.indices == [1, 3]
    assert [error.code for error in caught.value.errors] == [ItemCode.NOT_FINITE, ItemCode.TOO_FEW_FRAMES]


def hole(mask: npt.NDArray[Any]) -> npt.NDArray[Any]:
    mask[1, 2, 3] = 0
    return mask


def shifted(mask: npt.NDArray[Any]) -> npt.NDArray[Any]:
    mask[1, 0] = 0
    return mask


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (hole(np.ones((2, 4, 6))), "item 1.*rectangle"),
        (shifted(np.ones((2, 4, 6))), "item 1.*rectangle"),
        (np.ones((2, 6, 4)), r"\[2, 6, 4\]"),
        (np.ones((2, 1, 4, 6)), "4-D.*squeeze"),
        (torch.ones(2, 1, 4, 6), "4-D.*squeeze"),
    ],
)
def test_masks_that_are_none(client: Any, mask: Any, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words) as caught:
        client.maximum_path(scores(2, 4, 6), mask)
    assert caught.value.field == "mask"


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (np.zeros((2, 3), np.int64), TypeError, "int64"),
        (torch.zeros(2, 3, dtype=torch.int32), TypeError, "int32"),
        (np.zeros((2, 3), np.complex64), TypeError, "complex64"),
        ([[0.0, 1.0]], TypeError, "list"),
        (None, TypeError, "NoneType"),
        (np.zeros(3, np.float32), ValueError, "2-D.*1-D"),
        (np.zeros((1, 2, 3), np.float32), ValueError, "squeeze"),
    ],
)
def test_arguments_that_are_no_scores(client: Any, value: Any, error: type[Exception], words: str) -> None:
    good = scores(2, 6)
    iterator = iter(client.align_mas([good, value]))
    assert next(iterator).status.ok  # what came before it is not lost
    with pytest.raises(error, match=words):
        next(iterator)


def test_the_drop_ins_dtype_is_of_the_values_kind(client: Any) -> None:
    with pytest.raises(TypeError, match=r"torch"):
        client.maximum_path(torch.zeros(1, 2, 3), torch.ones(1, 2, 3), dtype=np.float32)
    with pytest.raises(TypeError, match=r"NumPy"):
        client.maximum_path(np.zeros((1, 2, 3), np.float32), np.ones((1, 2, 3)), dtype=torch.float32)


def test_on_error_is_checked_at_once(client: Any) -> None:
    with pytest.raises(ValueError, match="on_error"):
        client.align_mas([], on_error="ignore")


def test_a_buffer_that_is_reused_for_every_item(client: Any) -> None:
    buffer = np.zeros((3, 8), np.float32)
    values = [scores(3, 8, seed=seed) for seed in range(6)]

    def refill() -> Any:
        for value in values:
            buffer[:] = value
            yield buffer

    for value, result in zip(values, client.align_mas(refill())):
        np.testing.assert_array_equal(result.path, path_of(value))


@pytest.mark.parametrize("bad", [None, np.zeros((1, 2, 3), np.float32), np.zeros((2, 3), np.int64)])
def test_what_is_no_item_stops_no_other(client: Any, bad: Any) -> None:
    good = scores(2, 5)
    results = list(client.align_mas([good, bad, good], on_error="return"))
    assert [result.status.code for result in results] == [ItemCode.OK, ItemCode.MALFORMED, ItemCode.OK]
    assert results[1].status.message
    with pytest.raises((TypeError, ValueError), match=r"^item 1: each item must be"):
        list(client.align_mas([good, bad, good]))
