"""The public functions on a GPU's tensors: with the Triton kernels interpreted, and for real where there is a GPU."""

import os
import subprocess
import sys

import numpy as np
import pytest
from kernels.strategies import dyadic

import alignd_kernels as ak

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

SCRIPT = """
import numpy as np, torch, alignd_kernels as ak
from kernels.test_gpu_padded import alignments, lattices, raised
from alignd_kernels.mas.gpu_padded import maximum_path_on_gpu
from alignd_kernels.ctc.gpu_padded import forced_align_on_gpu

value, mask = lattices()
assert torch.equal(maximum_path_on_gpu(value, mask, torch.int8, True), ak.maximum_path(value, mask, torch.int8))
message = raised(lambda: maximum_path_on_gpu(value, 1 - mask, None, True))
assert "item 1 is not a prefix rectangle" in message, message
assert maximum_path_on_gpu(value, 1 - mask, None, False)[1].tolist() == [ak.Status.EMPTY] + 2 * [ak.Status.INTERNAL]
value[1, 0, 0] = np.nan
assert "NaN" in raised(lambda: maximum_path_on_gpu(value, mask, None, True))

for dtype, star, score in ((torch.float64, "max", np.nan), (torch.float64, -0.7, -0.7), (torch.bfloat16, -0.7, -0.7)):
    log_probs, targets, frames, labels = alignments(dtype)
    found = forced_align_on_gpu(log_probs, targets, frames, labels.tolist(), 0, score, True)
    for one, other in zip(found, ak.forced_align(log_probs, targets, frames, labels, star_score=star)):
        assert one.dtype == other.dtype and torch.equal(one, other), (one, other)
message = raised(lambda: forced_align_on_gpu(log_probs, targets, None, None, 0, 0.0, True))
assert "item 2: target 9 is out of range" in message, message
narrow = torch.ones(1, 1, dtype=torch.uint8)
message = raised(lambda: forced_align_on_gpu(torch.zeros(1, 6, 300), narrow, None, None, 299, 0.0, True))
assert "blank is 299, which the targets' dtype torch.uint8" in message, message
message = raised(lambda: forced_align_on_gpu(log_probs, targets, torch.tensor([9, 10, 9]), None, 0, 0.0, True))
assert "input_lengths[1] is 10" in message, message
*_, statuses = forced_align_on_gpu(log_probs, targets, None, None, 0, 0.0, False)
assert statuses.tolist() == [ak.Status.OK, ak.Status.OK, ak.Status.TARGET_OUT_OF_RANGE]
"""


def lattices() -> tuple[torch.Tensor, torch.Tensor]:
    value = torch.from_numpy(dyadic(np.random.default_rng(0), (3, 7, 15)))
    mask = torch.zeros(3, 7, 15)
    for item, (tokens, frames) in enumerate([(7, 15), (3, 9), (1, 4)]):
        mask[item, :tokens, :frames] = 1
    return value, mask


def alignments(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    log_probs = torch.from_numpy(dyadic(np.random.default_rng(1), (3, 9, 5))).to(dtype)
    targets = torch.tensor([[1, ak.STAR, 2], [3, 3, 1], [4, 9, 9]])
    return log_probs, targets, torch.tensor([9, 7, 3]), torch.tensor([3, 3, 1])


def raised(call) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    raise AssertionError("nothing was raised")


@pytest.mark.interpreter
def test_interpreted_on_the_cpu() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.interpreter
@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
def test_scores_of_no_floating_point_type(dtype: torch.dtype) -> None:
    """As on the CPU, whatever the family."""
    from alignd_kernels.ctc.gpu_padded import forced_align_on_gpu
    from alignd_kernels.ctc.gpu_sum_padded import ctc_posteriors_on_gpu
    from alignd_kernels.mas.gpu_padded import maximum_path_on_gpu
    from alignd_kernels.mas.gpu_soft_padded import mas_posteriors_on_gpu
    from alignd_kernels.transducer.gpu_padded import transducer_align_on_gpu

    x, targets = torch.zeros(1, 2, 2, dtype=dtype), torch.ones(1, 1, dtype=torch.int64)
    for call in (
        lambda: maximum_path_on_gpu(x, torch.ones(x.shape), None, True),
        lambda: mas_posteriors_on_gpu(x, torch.ones(x.shape), True),
        lambda: forced_align_on_gpu(x, targets, None, None, 0, 0.0, True),
        lambda: ctc_posteriors_on_gpu(x, targets, None, None, 0, 0.0, True),
        lambda: transducer_align_on_gpu(x[:, :, None], None, None, None, 0, modified=False, check=True),
    ):
        with pytest.raises(TypeError, match=f"scores must be .*, not {str(dtype)[6:]}"):
            call()


@pytest.mark.gpu
def test_results_stay_on_the_gpu() -> None:
    value, mask = lattices()
    path = ak.maximum_path(value.cuda(), mask.cuda())
    assert path.is_cuda
    assert torch.equal(path.cpu(), ak.maximum_path(value, mask))
    log_probs, targets, frames, labels = alignments(torch.float32)
    found = ak.forced_align(log_probs.cuda(), targets.cuda(), frames.cuda(), labels)
    for one, other in zip(found, ak.forced_align(log_probs, targets, frames, labels)):
        assert one.is_cuda
        assert torch.equal(one.cpu(), other)


@pytest.mark.gpu
def test_arguments_on_different_devices_are_refused() -> None:
    value, mask = lattices()
    with pytest.raises(ValueError, match="mask is on cpu, but value is on cuda"):
        ak.maximum_path(value.cuda(), mask)
