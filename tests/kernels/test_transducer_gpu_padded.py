"""`transducer_align` and `rnnt_loss` on a GPU's tensors: with Triton interpreted, and for real where there is a GPU."""

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
import torch, alignd_kernels as ak
from kernels.test_transducer_gpu_padded import alignments, packed, raised
from alignd_kernels.transducer.gpu_padded import transducer_align_on_gpu as on_gpu

def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other), (one, other)

log_probs, targets, frames, labels = alignments()
for modified in (False, True):
    expected = ak.transducer_align(log_probs, targets, frames, labels, modified=modified)
    same(on_gpu(log_probs, targets, frames, labels.tolist(), 0, modified=modified, check=True), expected)
    flat = packed(log_probs, targets, frames, labels)
    same(on_gpu(*flat, 0, modified=modified, check=True), expected)
two = log_probs[..., :2]
same(on_gpu(two, None, None, None, 0, modified=False, check=True), ak.transducer_align(two))
two = flat[0][:, :2]
same(on_gpu(two, None, *flat[2:], 0, modified=False, check=True), ak.transducer_align(two, None, *flat[2:]))
targets[2, 0] = 9
message = raised(lambda: on_gpu(log_probs, targets, frames, labels, 0, modified=False, check=True))
assert "item 2: target 9 is out of range" in message, message
*_, statuses = on_gpu(log_probs, targets, frames, labels, 0, modified=False, check=False)
assert statuses.tolist() == [ak.Status.OK, ak.Status.OK, ak.Status.TARGET_OUT_OF_RANGE]
message = raised(lambda: on_gpu(log_probs, targets, torch.tensor([9, 10, 9]), None, 0, modified=False, check=True))
assert "input_lengths[1] is 10" in message, message
message = raised(lambda: on_gpu(flat[0][:-1], *flat[1:], 0, modified=False, check=True))
assert "packed log_probs must have" in message, message
message = raised(lambda: on_gpu(flat[0], flat[1][:-1], *flat[2:], 0, modified=False, check=True))
assert "targets must be the items' end to end" in message, message
message = raised(lambda: on_gpu(flat[0], flat[1], None, flat[3], 0, modified=False, check=True))
assert "need input_lengths" in message, message
"""


def alignments() -> tuple[torch.Tensor, ...]:
    log_probs = torch.from_numpy(dyadic(np.random.default_rng(1), (3, 9, 4, 5))).float()
    targets = torch.tensor([[1, 4, 2], [3, 3, 1], [4, 2, 2]])
    return log_probs, targets, torch.tensor([9, 7, 3]), torch.tensor([3, 3, 1])


def packed(log_probs: torch.Tensor, targets: torch.Tensor, *lengths: torch.Tensor) -> list[torch.Tensor]:
    frames, labels = (each.tolist() for each in lengths)
    nodes = [item[:T, : U + 1].reshape(-1, item.shape[-1]) for item, T, U in zip(log_probs, frames, labels)]
    return [torch.cat(nodes), torch.cat([row[:U] for row, U in zip(targets, labels)]), *lengths]


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


@pytest.mark.gpu
def test_results_stay_on_the_gpu() -> None:
    given = alignments()
    for arguments in (given, packed(*given)):
        found = ak.transducer_align(*(part.cuda() for part in arguments))
        for one, other in zip(found, ak.transducer_align(*arguments), strict=True):
            assert one.is_cuda
            assert torch.equal(one.cpu(), other)


@pytest.mark.gpu
@pytest.mark.parametrize("compact", [False, True])
def test_losses_and_gradients_equal_the_cpu_ones(compact: bool) -> None:
    given = alignments()
    arguments = packed(*given) if compact else given
    results = []
    for device in ("cpu", "cuda"):
        log_probs, *rest = (part.detach().to(device) for part in arguments)
        log_probs.requires_grad_()
        loss = ak.rnnt_loss(log_probs, *rest, compact=compact, fastemit_lambda=0.1, reduction="mean")
        loss.backward()
        results.append((loss.detach().cpu(), log_probs.grad.cpu()))
        costs = ak.rnnt_loss(log_probs, *rest, compact=compact, reduction="none")
        costs.div_(2).sum().backward()  # in place, as of any function
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
