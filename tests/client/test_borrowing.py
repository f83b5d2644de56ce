"""What is given whole is read where it lies; what an iterator gives is copied; results own their memory."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from alignd.wire.arrays import pieces
from alignd_client import AlignClient, InvalidItemError, ItemCode, MessageTooLargeError
from alignd_client.arrays import JOINED_BYTES
from alignd_client.ctc import CtcFamily, Pairs
from alignd_client.mas import MasFamily
from alignd_client.packing import LOCAL_ITEMS, Packer, PackingLimits
from alignd_kernels.mas import reference
from support import fake_engine
from support.fake_engine import FakeEngine

MAS = MasFamily()

LARGE = (8, JOINED_BYTES // 32)
"""Shape of an item in float32 that is worth an address of its own."""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    return fake_engine.install(monkeypatch)


@pytest.fixture
def local(engine: list[FakeEngine]) -> Iterator[AlignClient]:
    with AlignClient.in_process("cpu") as client:
        yield client


def scores(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(seed).integers(-8, 8, shape) / 4).astype(np.float32)


def paths(values: Any) -> list[list[int]]:
    return [np.repeat(np.arange(len(value)), reference.maximum_path(value)[1]).tolist() for value in values]


def payload(request: Any) -> Any:
    return request.values if hasattr(request, "values") else request.log_probs


def test_one_array_of_items_is_one_piece_of_every_request(local: AlignClient, engine: list[FakeEngine]) -> None:
    x = scores(LOCAL_ITEMS + 6, 2, 6)
    assert [result.path.tolist() for result in local.align_mas(x)] == paths(x)
    first, second = (payload(request) for request in engine[0].requests)
    assert first.ctypes.data == x.ctypes.data
    assert second.ctypes.data == x[len(x) // 2 :].ctypes.data
    assert len(first) == len(second)


@pytest.mark.parametrize("kind", ["list", "tuple", "strided stack", "tensors"])
def test_large_arrays_of_a_sequence_are_read_where_they_lie(
    local: AlignClient, engine: list[FakeEngine], kind: str
) -> None:
    x = scores(6, *LARGE)
    given: Any = {"list": list(x), "tuple": tuple(x), "strided stack": x[::2], "tensors": list(torch.from_numpy(x))}
    results = list(local.align_mas(given[kind]))
    assert [np.asarray(result.path).tolist() for result in results] == paths(x[::2] if kind == "strided stack" else x)
    (request,) = engine[0].requests
    assert [piece.ctypes.data for piece in pieces(payload(request))] == [
        a.data_ptr() if kind == "tensors" else a.ctypes.data for a in given[kind]
    ]


def test_small_arrays_are_joined_and_large_ones_stay_between_them(local: AlignClient, engine: list[FakeEngine]) -> None:
    values = [scores(2, 5), scores(2, 7), scores(*LARGE), scores(3, 4), scores(*LARGE).T[:6].copy(order="F")]
    assert [result.path.tolist() for result in local.align_mas(values)] == paths(values)
    (request,) = engine[0].requests
    found = pieces(payload(request))
    assert [piece.size for piece in found] == [10 + 14, values[2].size, 12 + values[4].size]
    assert [np.shares_memory(piece, values[2]) for piece in found] == [False, True, False]


@pytest.mark.parametrize("shape", [(2, 6), LARGE])
def test_what_an_iterator_gives_is_copied(local: AlignClient, engine: list[FakeEngine], shape: tuple[int, int]) -> None:
    values = [scores(*shape, seed=seed) for seed in range(5)]
    buffer = np.zeros(shape, np.float32)

    def refill() -> Iterator[Any]:
        for value in values:
            buffer[:] = value
            yield buffer

    assert [result.path.tolist() for result in local.align_mas(refill())] == paths(values)
    for request in engine[0].requests:
        assert not any(np.shares_memory(piece, buffer) for piece in pieces(payload(request)))


class Lazy(Sequence[npt.NDArray[np.float32]]):
    """As a dataset that reads each item into the same buffer when it is asked for."""

    def __init__(self, values: list[npt.NDArray[np.float32]]) -> None:
        self._values = values
        self._buffer = np.zeros(values[0].shape, np.float32)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        self._buffer[:] = self._values[index]
        return self._buffer


@pytest.mark.parametrize("shape", [(2, 6), LARGE])
def test_what_a_sequence_makes_on_demand_is_copied(local: AlignClient, shape: tuple[int, int]) -> None:
    values = [scores(*shape, seed=seed) for seed in range(5)]
    assert [result.path.tolist() for result in local.align_mas(Lazy(values))] == paths(values)


def test_targets_are_always_copied() -> None:
    """A kernel takes them for columns once they are checked."""
    for targets in (np.ones((3, 2), np.int32), list(np.ones((3, 2), np.int32))):
        family, log_probs = CtcFamily(), np.zeros((3, 9, 4), np.float32)
        pairs = Pairs(log_probs, targets)
        packer = Packer(family, PackingLimits.in_process(), borrow=family.borrows(pairs))
        stack = family.stack(pairs)
        pushed = () if stack else [parcel for pair in pairs for parcel in packer.push(pair)]
        parcels = packer.parcels(stack) if stack else [*pushed, *packer.flush()]
        assert parcels
        request = parcels[0].request()
        for row in targets:
            row[:] = 77
        assert request.targets.tolist() == [1] * 6
        assert isinstance(targets, list) or np.shares_memory(payload(request), log_probs)


def test_dtypes_and_kinds_may_change_from_item_to_item(client: Any) -> None:
    x = scores(7, 3, 8)
    given = [
        x[0],
        x[1].astype(np.float64),
        torch.from_numpy(x[2]),
        x[3].astype(np.float16),
        x[4],
        x[5].T.copy().T,
        x[6],
    ]
    results = list(client.align_mas(given))
    assert [np.asarray(result.path).tolist() for result in results] == paths(x)
    assert [isinstance(result.durations, torch.Tensor) for result in results] == [i == 2 for i in range(7)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_stack_is_answered_as_its_items(client: Any, dtype: torch.dtype) -> None:
    x = torch.from_numpy(scores(5, 3, 8)).to(dtype)
    for stack, items in ((x, list(x)), (x[:, :, 1:], list(x[:, :, 1:]))):
        found = [result.path.tolist() for result in client.align_mas(stack)]
        assert found == [result.path.tolist() for result in client.align_mas(items)]
        assert found == paths(stack.to(torch.float32).numpy())
    y = np.tile(np.array([1, 2]), (5, 1))
    emissions = -x.abs().transpose(1, 2).contiguous()
    for targets in (y, y.tolist(), torch.from_numpy(y), y.astype(np.uint8)):
        found = [result.labels.tolist() for result in client.align_ctc(emissions, targets)]
        assert found == [result.labels.tolist() for result in client.align_ctc(list(emissions), list(y))]


def test_a_bad_item_of_a_stack_is_told_by_its_index(client: Any) -> None:
    x = scores(4, 3, 8)
    x[2] = np.nan
    found = list(client.align_mas(x, on_error="return"))
    assert [result.status.code for result in found] == [ItemCode.OK, ItemCode.OK, ItemCode.NOT_FINITE, ItemCode.OK]
    with pytest.raises(InvalidItemError) as caught:
        list(client.align_mas(x))
    assert caught.value.index == 2


@pytest.mark.parametrize(
    ("stack", "code"),
    [
        (np.zeros((3, 2, 4), np.int64), ItemCode.MALFORMED),
        (np.zeros((3, 2), np.float32), ItemCode.MALFORMED),
        (np.zeros((3, 0, 4), np.float32), ItemCode.EMPTY),
        (np.zeros((3, 2, 4, 1), np.float32), ItemCode.MALFORMED),
    ],
)
def test_a_stack_of_what_are_no_items_fails_item_by_item(client: Any, stack: Any, code: ItemCode) -> None:
    assert [result.status.code for result in client.align_mas(stack, on_error="return")] == [code] * 3


def test_counts_of_a_stack_and_its_targets(client: Any) -> None:
    with pytest.raises(ValueError, match="1 of them and more log_probs"):
        list(client.align_ctc(np.zeros((2, 6, 3), np.float32), np.ones((1, 2), int)))
    found = client.align_ctc(np.zeros((2, 6, 3), np.float32), np.ones((2, 2), int), blank=3, on_error="return")
    assert [result.status.field for result in found] == ["blank", "blank"]


def test_results_own_their_memory(client: Any) -> None:
    for mas in client.align_mas(scores(3, 4, 9)):
        assert mas.durations.base is None
        mas.durations[:] = 7  # is the caller's
        assert mas.status.ok
    for ctc in client.align_ctc(-(scores(3, 9, 4) ** 2), [[1, 2]] * 3):
        assert all(array.base is None for array in (ctc.durations, ctc.path, ctc.frame_scores, ctc.targets))


def parts(stack: Any, limits: PackingLimits) -> list[int] | None:
    found = Packer(MAS, limits, borrow=True).parcels(stack)
    return None if found is None else [item.count for parcel in found for item in parcel.items]


def test_how_much_of_a_stack_a_request_takes() -> None:
    def stack(*shape: int) -> Any:
        return MAS.stack(np.broadcast_to(np.float32(0), shape).copy())

    assert parts(stack(10, 2, 5), PackingLimits(items=4)) == [4, 4, 2]
    assert parts(stack(7, 1, 1 << 18), PackingLimits()) == [4, 3]  # 4 MB
    assert parts(stack(2, 1, 2_000_000), PackingLimits()) == [1, 1]  # 8 MB each
    assert parts(stack(300, 1, 1 << 17), PackingLimits.in_process()) == [150, 150]  # of 255, 128 MB
    limits = PackingLimits(message_bytes=1000)
    halves = MAS.stack(np.zeros((300, 1, 1 << 17), np.float16))
    assert parts(halves, PackingLimits.in_process()) == [300]
    assert parts(stack(4, 10, 10), limits) == [2, 2]
    assert parts(stack(4, 10, 100), limits) is None


def test_items_over_the_limit_in_a_stack(local: AlignClient) -> None:
    packer = Packer(MAS, PackingLimits(message_bytes=1000))
    x = np.zeros((2, 10, 100), np.float32)
    settled = [parcel.settled for item in x for parcel in packer.push(item)]
    assert [type(answers.errors[0]) for answers in settled if answers] == [MessageTooLargeError] * 2
    assert [result.status.ok for result in local.align_mas(x)] == [True, True]  # no message, no limit
