"""Monotonic alignment search from latents through every door."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from alignd_client import InvalidItemError, InvalidItemsError, InvalidRequestError, ItemCode
from alignd_kernels.mas import reference
from alignd_kernels.mas.latents import reference_lattice

SHAPES = [(3, 9), (1, 1), (4, 4), (2, 7), (6, 20)]
C = 8

Gaussians = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]


def latents(dtype: Any = np.float32) -> list[Gaussians]:
    """On a coarse grid, so that another order of summing makes no other path."""
    rng = np.random.default_rng(4)

    def grid(*shape: int) -> npt.NDArray[Any]:
        return (rng.integers(-16, 17, shape) / 8).astype(dtype)

    return [(grid(T, C), grid(S, C), (rng.integers(-1, 2, (S, C)) * np.log(2)).astype(dtype)) for S, T in SHAPES]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("unit", [False, True], ids=["sigmas", "unit"])
def test_ragged_items_match_the_reference(client: Any, dtype: Any, unit: bool) -> None:
    items = [(z, mean) if unit else (z, mean, log_sigma) for z, mean, log_sigma in latents(dtype)]
    for item, found in zip(items, client.align_latents(items), strict=True):
        z, mean, *rest = item
        _, durations, score = reference.maximum_path(reference_lattice(z, mean, rest[0] if rest else None))
        assert found.status.ok
        assert found.durations.tolist() == durations.tolist()
        assert found.score == pytest.approx(score, rel=1e-5)
        assert len(found.path) == len(z)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tensors(client: Any, dtype: torch.dtype) -> None:
    items = [tuple(torch.from_numpy(array).to(dtype).requires_grad_() for array in item[:2]) for item in latents()]
    expected = [found.durations.tolist() for found in client.align_latents([item[:2] for item in latents()])]
    results = list(client.align_latents(items))
    assert all(isinstance(found.durations, torch.Tensor) for found in results)
    assert [found.durations.tolist() for found in results] == expected


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["NumPy", "torch"])
def test_padded_batch(client: Any, kind: Any) -> None:
    frames, tokens = [9, 4, 7], [3, 4, 1]
    rng = np.random.default_rng(6)
    z, mean, log_sigma = ((rng.integers(-8, 9, (3, n, C)) / 8).astype(np.float32) for n in (9, 4, 4))
    path = client.maximum_path_from_latents(kind(z), kind(mean), kind(log_sigma), frames, torch.tensor(tokens))
    assert isinstance(path, type(kind(z)))
    path = np.asarray(path)
    assert path.shape == (3, 4, 9)
    assert path.dtype == np.float32
    for b, (T, S) in enumerate(zip(frames, tokens)):
        lattice = reference_lattice(z[b, :T], mean[b, :S], log_sigma[b, :S])
        _, durations, _ = reference.maximum_path(lattice)
        assert path[b].sum(1)[:S].tolist() == durations.tolist()
        assert path[b].sum() == T
        assert not path[b, S:].any()
        assert not path[b, :, T:].any()


def test_the_lattice_does_not_travel(client: Any) -> None:
    from alignd_client.latents import LatentsFamily

    z, mean = np.zeros((2000, 80), np.float32), np.zeros((400, 80), np.float32)
    assert LatentsFamily().prepare((z, mean), True).nbytes < 400 * 2000 * 4 / 4


BAD: dict[str, tuple[Any, ItemCode, str]] = {
    "no frames": ((np.zeros((0, C), "f4"), np.zeros((2, C), "f4")), ItemCode.EMPTY, "at least one of each"),
    "no tokens": ((np.zeros((2, C), "f4"), np.zeros((0, C), "f4")), ItemCode.EMPTY, "at least one of each"),
    "no channels": ((np.zeros((2, 0), "f4"), np.zeros((1, 0), "f4")), ItemCode.EMPTY, "at least one of each"),
    "more tokens": ((np.zeros((2, C), "f4"), np.zeros((3, C), "f4")), ItemCode.TOO_FEW_FRAMES, ""),
    "NaN": ((np.full((3, C), np.nan, "f4"), np.zeros((2, C), "f4")), ItemCode.NOT_FINITE, ""),
    "other channels": ((np.zeros((3, C), "f4"), np.zeros((2, 5), "f4")), ItemCode.MALFORMED, "their channels differ"),
    "other sigmas": (
        (np.zeros((3, C), "f4"), np.zeros((2, C), "f4"), np.zeros((1, C), "f4")),
        ItemCode.MALFORMED,
        "its mean's shape",
    ),
    "other dtypes": ((np.zeros((3, C), "f4"), np.zeros((2, C), "f8")), ItemCode.MALFORMED, "float64, but z is float32"),
    "an array": (np.zeros((3, C), "f4"), ItemCode.MALFORMED, "must be (z, mean)"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_item_fails_alone(client: Any, name: str) -> None:
    item, code, words = BAD[name]
    good = latents()[0][:2]
    one, bad, other = client.align_latents([good, item, good], on_error="return")
    assert one.status.ok
    assert other.status.ok
    assert bad.status.code is code
    assert words in bad.status.message
    assert np.isnan(bad.score)
    assert len(bad.durations) == 0


def test_errors_name_what_is_wrong(client: Any) -> None:
    good = latents()[0]
    with pytest.raises(InvalidItemError, match="item 1"):
        list(client.align_latents([good, (good[0][:2], *good[1:])]))
    z, mean = np.zeros((2, 5, C), np.float32), np.zeros((2, 3, C), np.float32)
    with pytest.raises(InvalidItemsError, match="1 of 2"):
        client.maximum_path_from_latents(z, mean, None, [5, 2])
    for arguments, words in (
        ((z, mean[:, :, :3]), "does not go with z's"),
        ((z, mean[:1]), "does not go with z's"),
        ((z, mean, mean[:, :2]), "is not that of mean"),
        ((z, mean, None, [6, 5]), "item 0 has 6"),
        ((z, mean, None, None, [3, 4]), "item 1 has 4"),
    ):
        with pytest.raises(InvalidRequestError, match=words):
            client.maximum_path_from_latents(*arguments)
