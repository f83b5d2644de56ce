"""How the scores of a batch get to the kernels' memory."""

import numpy as np
import pytest
import torch
from kernels.gpu_support import on_each_device

from alignd_kernels.gpu_common import staged

OFFSETS, SOURCES = np.array([0, 2, 1]), np.array([0, 0, 1])


@on_each_device
def test_buffers_come_to_lie_end_to_end(device: str) -> None:
    arrays = np.array([1, 2, 3], np.float32), np.array([4, 5], np.float32)
    tensors = tuple(torch.from_numpy(array).to(device) for array in arrays)
    for buffers in (arrays, tensors):
        there, offsets = staged(buffers, SOURCES, OFFSETS, torch.device(device), torch.float32)
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
def test_tensors_elsewhere_or_of_another_type_are_refused(device: str) -> None:
    tensor = torch.zeros(3, device=device)
    with pytest.raises(ValueError, match=r"torch\.float32 on .*, not of torch\.float64"):
        staged(tensor, None, OFFSETS, torch.device(device), torch.float64)
    with pytest.raises(ValueError, match="on meta, not of"):
        staged((tensor, tensor.to("meta")), SOURCES, OFFSETS, torch.device(device), torch.float32)
    with pytest.raises(ValueError, match="needs `sources`"):
        staged((tensor, tensor), None, OFFSETS, torch.device(device), torch.float32)


@on_each_device
def test_tensors_with_gaps_are_refused(device: str) -> None:
    for tensor in (torch.zeros(6, device=device)[::2], torch.zeros(2, 3, device=device)):
        with pytest.raises(ValueError, match="1-D and contiguous"):
            staged(tensor, None, OFFSETS, torch.device(device), torch.float32)
