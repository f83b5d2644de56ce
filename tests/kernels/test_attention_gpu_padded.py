"""`align_attention` on a GPU's tensors: with Triton interpreted, and for real where there is a GPU."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from kernels.gpu_support import garbage_in_new_memory, on_each_device
from kernels.test_attention import FRAMES, TOKENS, WAYS, padded_maps

import alignd_kernels as ak
from alignd_kernels.attention import padded
from alignd_kernels.attention.padded import AttentionAlignments
from alignd_kernels.status import InvalidItemsError, Status

LENGTHS = torch.from_numpy(TOKENS), torch.from_numpy(FRAMES)


@pytest.fixture(autouse=True)
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's tensors lie in host memory: take the GPU's way with those that are not NumPy's."""
    monkeypatch.setattr(padded, "on_gpu", lambda array: isinstance(array, torch.Tensor))


def check(found: AttentionAlignments, expected: AttentionAlignments, device: str, mode: str) -> None:
    for name in (field.name for field in fields(expected)):
        one, other = getattr(found, name), getattr(expected, name)
        if other is None:
            assert one is None
            continue
        assert one.device.type == device
        assert one.cpu().numpy().dtype == other.dtype
        # Of stepwise walks sums of other logarithms, each of 2 ulp.
        relative = 4 * 2.0**-23 if (name, mode) == ("scores", "stepwise") else 0
        np.testing.assert_allclose(one.cpu().numpy(), other, rtol=relative, err_msg=name)


@on_each_device
@pytest.mark.parametrize(("mode", "log"), WAYS)
def test_equals_the_cpus(device: str, mode: Any, log: bool) -> None:
    maps = padded_maps()
    expected = ak.align_attention(maps, TOKENS, FRAMES, mode, log=log, check=False)
    with garbage_in_new_memory():
        found = ak.align_attention(torch.from_numpy(maps).to(device), *LENGTHS, mode, log=log, check=False)
    check(found, expected, device, mode)


@on_each_device
@pytest.mark.parametrize("layout", ["heads first", "transposed", "strided"])
def test_strides_as_they_are(device: str, layout: str) -> None:
    maps = padded_maps()
    tensor = torch.from_numpy(maps).to(device).requires_grad_()
    given = {
        "heads first": tensor.transpose(0, 1).contiguous().transpose(0, 1),
        "transposed": tensor.transpose(2, 3).contiguous().transpose(2, 3),
        "strided": tensor.repeat_interleave(2, dim=3)[..., ::2],
    }[layout]
    lengths = (length.to(device) for length in LENGTHS)
    expected = ak.align_attention(maps, TOKENS, FRAMES, "stepwise")
    check(ak.align_attention(given, *lengths, "stepwise"), expected, device, "stepwise")


@on_each_device
def test_one_item_without_the_axis_of_items(device: str) -> None:
    maps = padded_maps()
    expected = ak.align_attention(maps[1], 3, 4)
    tensor = torch.from_numpy(maps[1]).to(device)
    for tokens, frames in ((3, 4), (torch.tensor(3).to(device), torch.tensor([4]))):
        check(ak.align_attention(tensor, tokens, frames), expected, device, "mas")
    whole = ak.align_attention(maps[1, :, :3, :4])
    check(ak.align_attention(tensor[:, :3, :4]), whole, device, "mas")


@on_each_device
def test_every_bad_item_is_listed(device: str) -> None:
    maps = padded_maps()
    maps[0, 1, 0, 0] = np.nan
    tensor = torch.from_numpy(maps).to(device)
    with pytest.raises(InvalidItemsError, match="NaN") as caught:
        ak.align_attention(tensor, [5, 3, 0], FRAMES, "stepwise")
    assert caught.value.statuses == {0: Status.NOT_FINITE, 2: Status.EMPTY}
    found = ak.align_attention(tensor, torch.tensor([5, 3, 6]).to(device), FRAMES, "stepwise", check=False)
    assert found.statuses.tolist() == [Status.NOT_FINITE, Status.OK, Status.INTERNAL]
    assert not found.path[[0, 2]].any()
    with pytest.raises(InvalidItemsError, match="head"):
        ak.align_attention(torch.zeros(1, 0, 2, 3).to(device))


@on_each_device
def test_lengths_beyond_the_tensor(device: str) -> None:
    tensor = torch.zeros(2, 1, 2, 3).to(device)
    with pytest.raises(ValueError, match=r"token_lengths\[0\] is 3"):
        ak.align_attention(tensor, [3, 2], None, "stepwise")
    there = torch.tensor([3, 4]).to(device)
    with pytest.raises(ValueError, match=r"frame_lengths\[1\] is 4"):
        ak.align_attention(tensor, None, there, "stepwise")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((torch.zeros(2, 3),), ValueError),
        ((torch.zeros(1, 1, 2, 3, dtype=torch.int64),), TypeError),
        ((torch.zeros(2, 1, 2, 3), [2]), ValueError),
        ((torch.zeros(2, 1, 2, 3), torch.tensor([1.0, 2.0])), TypeError),
        ((torch.zeros(2, 1, 2, 3), None, None, "viterbi"), ValueError),
    ],
)
def test_wrong_arguments(arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        ak.align_attention(*arguments)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(("mode", "log"), WAYS)
def test_results_stay_on_the_gpu(mode: Any, log: bool, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.from_numpy(padded_maps()).to(getattr(torch, dtype))
    found = ak.align_attention(tensor.cuda(), *LENGTHS, mode, log=log, check=False)
    monkeypatch.undo()
    expected = ak.align_attention(tensor, *LENGTHS, mode, log=log, check=False)
    arrays = (getattr(expected, field.name) for field in fields(expected))
    check(found, AttentionAlignments(*(None if array is None else array.numpy() for array in arrays)), "cuda", mode)
