"""`transducer_posteriors` on a GPU's tensors: with Triton interpreted, and for real where there is a GPU."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from kernels.gpu_support import garbage_in_new_memory
from kernels.strategies import dyadic

import alignd_kernels as ak
from alignd_kernels.status import Status
from alignd_kernels.transducer.gpu_sum_padded import transducer_posteriors_on_gpu

# What is read beyond a strip's last row may be anything; NumPy, under the interpreter, warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero) encountered:RuntimeWarning")

FRAMES, LABELS = [5, 3, 2], [3, 0, 2]
TOPOLOGIES = pytest.mark.parametrize("modified", [False, True], ids=["standard", "modified"])


@pytest.fixture(autouse=True)
def garbage() -> Iterator[None]:
    with garbage_in_new_memory():
        yield


def padded(dtype: Any = torch.float32) -> tuple[Any, Any, Any, Any]:
    """Log-probs [B, T, U + 1, V] in strides of their own and NaN around, targets, frames and labels."""
    memory = torch.full((6, 3, 5, 6), torch.nan, dtype=dtype)
    for b, (T, U) in enumerate(zip(FRAMES, LABELS)):
        memory[:T, b, : U + 1, :5] = torch.from_numpy(dyadic(np.random.default_rng(b), (T, U + 1, 5)))
    targets = torch.tensor([[1, 4, 2], [9, 9, 9], [3, 3, -7]])
    return memory.transpose(0, 1)[:, :5, :4, :5], targets, torch.tensor(FRAMES), torch.tensor(LABELS)


def packed(log_probs: Any, targets: Any, frames: Any, labels: Any) -> tuple[Any, Any, Any, Any]:
    sizes = list(enumerate(zip(frames.tolist(), labels.tolist())))
    nodes = [log_probs[b, :T, : U + 1].reshape(-1, log_probs.shape[-1]) for b, (T, U) in sizes]
    return torch.cat(nodes), torch.cat([targets[b, :U] for b, (_, U) in sizes]), frames, labels


def forms() -> dict[str, tuple[Any, ...]]:
    log_probs, targets, *lengths = padded()
    end_to_end = packed(log_probs, targets, *lengths)
    return {
        "padded": (log_probs, targets, *lengths),
        "packed": end_to_end,
        "reduced": (log_probs[..., :2], None, *lengths),
        "packed and reduced": (end_to_end[0][:, :2], None, *lengths),
        "columns that are not contiguous": (log_probs[..., ::2], targets.clamp(1, 2), *lengths),
    }


def close(found: Any, expected: Any, on_gpu: bool = False) -> None:
    # Each errs by what it states: 16 (T + U + 1) halves of an ulp relative, of at most 1, and 8 (T + U + 1).
    for one, other, allowed in zip(found, expected, (2 * 16 * 9 * 2.0**-24, 2 * 8 * 9 * 2.0**-24), strict=True):
        assert one.dtype == other.dtype
        assert one.is_cuda == on_gpu
        np.testing.assert_allclose(one.cpu(), other, rtol=0, atol=allowed)


@pytest.mark.interpreter
@pytest.mark.parametrize(
    ("form", "modified"),
    # The standard topology takes the interpreter twice as long.
    [("padded", False), ("packed and reduced", False), *((form, True) for form in forms())],
)
def test_posteriors_equal_the_cpus(form: str, modified: bool) -> None:
    log_probs, targets, frames, labels = forms()[form]
    expected = ak.transducer_posteriors(log_probs, targets, frames, labels, modified=modified)
    found = transducer_posteriors_on_gpu(log_probs, targets, frames.tolist(), labels, 0, modified=modified, check=True)
    assert expected[0].any()
    close(found, expected)


@pytest.mark.interpreter
def test_statuses_are_returned_without_a_check() -> None:
    log_probs, targets, *_ = padded()
    log_probs = log_probs.nan_to_num()
    nodes, scores, statuses = transducer_posteriors_on_gpu(
        log_probs, targets, torch.tensor([5, 6, 0]), torch.tensor([3, 0, 1]), 0, modified=False, check=False
    )
    assert statuses.tolist() == [Status.OK, Status.INTERNAL, Status.EMPTY]
    assert scores.isnan().tolist() == [False, True, True]
    assert nodes.flatten(1).any(1).tolist() == [True, False, False]


BAD: dict[str, tuple[str, dict[str, Any], type[Exception], str]] = {
    "no frames": ("padded", {"frames": [5, 0, 2]}, ak.InvalidItemsError, "item 1: empty item"),
    "out of range": ("padded", {"labels": [3, 0, 3]}, ak.InvalidItemsError, "item 2: target -7 is out of range"),
    "too few": ("padded", {"frames": [5, 3, 1]}, ak.InvalidItemsError, "item 2: too few frames"),
    "packed": ("packed", {"targets": torch.tensor([1, 4, 2, 3, 9])}, ak.InvalidItemsError, "item 2: target 9 is out"),
    "long": ("padded", {"frames": torch.tensor([5, 6, 2])}, ValueError, r"input_lengths\[1\] is 6"),
    "many": ("padded", {"labels": torch.tensor([3, 0, 4])}, ValueError, r"target_lengths\[2\] is 4"),
    "rows": ("packed", {"frames": [5, 4, 2]}, ValueError, "packed log_probs must have 30 rows"),
    "a number": ("packed", {"frames": 5}, ValueError, "input_lengths must be of shape"),
    "no lengths": ("packed", {"labels": None}, ValueError, "need target_lengths"),
    "another device": ("padded", {"targets": np.ones((3, 3), np.int64)}, ValueError, "targets is on the host"),
    "integers": ("padded", {"log_probs": torch.zeros(3, 5, 4, 5).int()}, TypeError, "scores must be .*, not int32"),
    "float targets": ("padded", {"targets": torch.ones(3, 3)}, TypeError, "targets must be integers"),
}


@pytest.mark.interpreter
@pytest.mark.parametrize("name", BAD)
def test_bad_items_and_arguments(name: str) -> None:
    form, changed, error, message = BAD[name]
    given = dict(zip(("log_probs", "targets", "frames", "labels"), forms()[form])) | changed
    with pytest.raises(error, match=message):
        transducer_posteriors_on_gpu(*given.values(), 0, modified=True, check=True)


@pytest.mark.gpu
@TOPOLOGIES
@pytest.mark.parametrize("form", forms())
def test_posteriors_stay_on_the_gpu(form: str, modified: bool) -> None:
    arguments = forms()[form]
    there = [part if part is None else part.cuda() for part in arguments]
    close(
        ak.transducer_posteriors(*there, modified=modified),
        ak.transducer_posteriors(*arguments, modified=modified),
        on_gpu=True,
    )


@pytest.mark.gpu
def test_nothing_waits_without_a_check() -> None:
    log_probs, targets, frames, labels = (part.cuda() for part in padded())

    def call() -> Any:
        return ak.transducer_posteriors(log_probs, targets, frames, labels, check=False)

    call()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found[2].tolist() == [Status.OK] * 3
