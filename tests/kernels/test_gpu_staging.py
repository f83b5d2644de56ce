"""How the scores of a batch get to the kernels' memory, and what they have found back."""

import numpy as np
import pytest
import torch
from kernels.gpu_support import on_each_device

from alignd_kernels import gpu_copies
from alignd_kernels.ctc import gpu_sum as ctc_sum
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_copies import staged, to_device, to_host, together
from alignd_kernels.mas import gpu
from alignd_kernels.mas import gpu_sum as mas_sum
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.status import Status
from alignd_kernels.transducer import gpu_sum as transducer_sum

OFFSETS, SOURCES = np.array([0, 2, 1]), np.array([0, 0, 1])


@on_each_device
def test_arrays_come_to_lie_end_to_end(device: str) -> None:
    arrays = np.array([1, 2, 3], np.float32), np.array([4, 5], np.float32)
    there, offsets = staged(arrays, SOURCES, OFFSETS, torch.device(device), torch.float32)
    assert there.device.type == device
    assert there.tolist() == [1, 2, 3, 4, 5]
    assert offsets.tolist() == [0, 2, 4]


@on_each_device
def test_a_tensor_on_the_device_is_taken_as_it_is(device: str) -> None:
    tensor = torch.zeros(3, dtype=torch.bfloat16, device=device)
    there, offsets = staged(tensor, None, OFFSETS, torch.device(device), torch.bfloat16)
    assert there is tensor
    assert offsets is OFFSETS


@on_each_device
@pytest.mark.parametrize("first", [0, 1])
def test_several_tensors_are_taken_where_they_lie(device: str, first: int) -> None:
    memory = torch.tensor([1.0, 2, 3, 0, 4, 5], device=device)
    pieces = [memory[:3], memory[4:]]
    order = [first, 1 - first]
    sources = np.array([order.index(source) for source in SOURCES])
    there, offsets = staged(tuple(pieces[i] for i in order), sources, OFFSETS, torch.device(device), torch.float32)
    assert there.data_ptr() == pieces[first].data_ptr()
    begin = 4 * first
    assert (offsets + begin).tolist() == [0, 2, 5]
    joined, offsets = staged(tuple(pieces), SOURCES, OFFSETS, torch.device(device), torch.float32, joined=True)
    assert joined.tolist() == [1, 2, 3, 4, 5]
    assert offsets.tolist() == [0, 2, 4]


@on_each_device
def test_kernels_read_tensors_of_their_own_memory(device: str) -> None:
    """From the last allocated to the first, so that offsets are of either sign."""
    values = np.random.default_rng(0).standard_normal((3, 4 * 9)).astype(np.float32)
    tensors = tuple(torch.from_numpy(row.copy()).to(device) for row in values)
    order = np.array([2, 0, 1])

    def batch(buffers: object, sources: np.ndarray) -> MasBatch:
        one = np.ones(len(sources), np.int64)
        return MasBatch(buffers, DType.FLOAT32, 0 * one, 4 * one, 9 * one, 9 * one, sources=sources)

    found = gpu.align(batch(tensors, order), device)
    apart = [gpu.align(batch((tensors[b],), np.zeros(1, np.int64)), device) for b in order]
    assert found.statuses.tolist() == 3 * [Status.OK]
    assert found.scores.tolist() == [float(each.scores[0]) for each in apart]
    assert found.durations.tolist() == np.concatenate([each.durations for each in apart]).tolist()


@on_each_device
def test_tensors_elsewhere_or_of_another_type_are_refused(device: str) -> None:
    tensor = torch.zeros(3, device=device)
    with pytest.raises(ValueError, match=r"torch\.float32 on .*, not of torch\.float64"):
        staged(tensor, None, OFFSETS, torch.device(device), torch.float64)
    with pytest.raises(ValueError, match="on meta, not of"):
        staged((tensor, tensor.to("meta")), SOURCES, OFFSETS, torch.device(device), torch.float32)
    with pytest.raises(ValueError, match="needs `sources`"):
        staged((tensor, tensor), None, OFFSETS, torch.device(device), torch.float32)


def test_tensors_in_the_middle_of_an_element_are_refused() -> None:
    memory = np.zeros(20, np.uint8)
    pieces = tuple(torch.from_numpy(memory[begin : begin + 8].view(np.float32)) for begin in (0, 10))
    with pytest.raises(ValueError, match=r"torch\.float32 that begins in the middle of an element"):
        staged(pieces, np.array([0, 1]), OFFSETS[:2], torch.device("cpu"), torch.float32)


@on_each_device
def test_tensors_with_gaps_are_refused(device: str) -> None:
    for tensor in (torch.zeros(6, device=device)[::2], torch.zeros(2, 3, device=device)):
        with pytest.raises(ValueError, match="1-D and contiguous"):
            staged(tensor, None, OFFSETS, torch.device(device), torch.float32)


@on_each_device
def test_arrays_of_several_types_are_one_copy(device: str) -> None:
    arrays = np.arange(6).reshape(2, 3)[:, ::2], np.zeros(0, np.float64), np.array([np.nan, 1], np.float32)
    there = to_device(torch.device(device), *arrays)
    assert len({tensor.untyped_storage().data_ptr() for tensor in there}) == 1
    for tensor, array in zip(there, arrays):
        assert tensor.is_contiguous()
        assert tensor.data_ptr() % 16 == 0
        np.testing.assert_array_equal(tensor.cpu().numpy(), array)
        assert tensor.cpu().numpy().dtype == array.dtype
    assert to_device(torch.device(device)) == ()


@on_each_device
def test_what_lies_together_comes_back_in_one_copy(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, apart = ((5, torch.int32), (0, torch.float32), (3, torch.float64)), torch.arange(7.0, device=device)[2:6]
    tensors = [*together(torch.device(device), *counts, cleared=True), apart]
    assert [tensor.tolist() for tensor in tensors[:3]] == [5 * [0], [], 3 * [0.0]]
    tensors[0].copy_(torch.arange(5))
    tensors[2].copy_(torch.tensor([0.5, float("-inf"), 2]))
    for wanted in (tensors, tensors[2:], [apart.view(2, 2), tensors[0]]):
        found = to_host(wanted)
        copies = gpu_copies._copies(wanted, pinned=device == "cuda")  # which `to_host` needs on a GPU alone
        assert len({copy.untyped_storage().data_ptr() for copy in copies}) == 2
        for array, copy, tensor in zip(found, copies, wanted):
            np.testing.assert_array_equal(array, tensor.cpu().numpy())
            if device == "cpu":
                np.testing.assert_array_equal(copy.numpy(), array)


def test_parts_of_other_types_come_back_from_wherever_they_begin() -> None:
    memory = torch.arange(48, dtype=torch.uint8)
    wanted = [memory[5:9], memory[16:32].view(torch.int32), memory[40:]]
    copies = gpu_copies._copies(wanted, pinned=False)
    assert len({copy.untyped_storage().data_ptr() for copy in copies}) == 1
    assert [copy.tolist() for copy in copies] == [part.tolist() for part in wanted]
    with pytest.raises(AssertionError):
        gpu_copies._copies([memory.view(6, 8).t()], pinned=False)


@on_each_device
def test_costs_are_no_part_of_something_else(device: str) -> None:
    """Losses return them, and a view that a function of autograd returns cannot be changed in place."""
    one = torch.ones(1, dtype=torch.int64, device=device)
    scores = torch.zeros(1, 1, 1, 2, device=device)
    sums = [
        mas_sum.costs_on_gpu(scores[0], one, one),
        ctc_sum.costs_on_gpu(scores[0], one[None], one, one),
        transducer_sum.costs_on_gpu(scores, one[None, :0], one, 0 * one),
    ]
    assert [found.costs._is_view() for found in sums] == [False, False, False]
