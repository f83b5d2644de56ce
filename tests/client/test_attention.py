"""Attention maps through every door."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from alignd_client import InvalidItemError, InvalidRequestError, ItemCode
from alignd_kernels.attention import reference

SHAPES = [(4, 3, 9), (1, 1, 1), (2, 5, 5), (3, 2, 12)]


def maps(dtype: Any = np.float32) -> list[npt.NDArray[Any]]:
    """Multiples of 1/32 between 0 and 1, exact in every dtype; one head of each is sharper than the others."""
    rng = np.random.default_rng(9)
    found = [(rng.integers(1, 16, shape) / 32).astype(dtype) for shape in SHAPES]
    for item, x in enumerate(found):
        x[item % len(x), 0] += dtype(0.5)
    return found


@pytest.mark.parametrize("mode", ["mas", "dtw", "stepwise"])
@pytest.mark.parametrize("log", [False, True])
def test_ragged_items_match_the_reference(client: Any, mode: Any, log: bool) -> None:
    if log and mode == "stepwise":
        with pytest.raises(InvalidRequestError, match="log"):
            list(client.align_attention(maps(), mode=mode, log=True))
        return
    for x, found in zip(maps(), client.align_attention(maps(), mode=mode, log=log), strict=True):
        _, head, rates, starts, ends, score = reference.align(x, mode, log, np.float32)
        assert found.status.ok
        assert found.head == head
        assert found.focus_rates.tolist() == pytest.approx(rates.tolist(), rel=1e-6)
        assert found.starts.tolist() == starts.tolist()
        assert found.ends.tolist() == ends.tolist()
        assert found.durations.tolist() == (ends - starts).tolist()
        assert found.score == pytest.approx(score, rel=1e-6)
        if mode == "dtw":
            assert found.path is None
        else:
            assert found.path.tolist() == np.repeat(np.arange(len(starts)), ends - starts).tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors(client: Any, dtype: torch.dtype) -> None:
    tensors = [torch.from_numpy(x).to(dtype).requires_grad_() for x in maps()]
    expected = [found.starts.tolist() for found in client.align_attention(maps())]
    results = list(client.align_attention(tensors))
    assert [found.starts.tolist() for found in results] == expected
    for found in results:
        for array in (found.starts, found.ends, found.durations, found.path, found.focus_rates):
            assert isinstance(array, torch.Tensor)


def test_half_precision_is_half_as_much_to_send() -> None:
    from alignd_client.attention import AttentionFamily

    family, whole = AttentionFamily(), maps()[0]
    assert family.prepare(whole.astype(np.float16), True).nbytes == family.prepare(whole, True).nbytes / 2


BAD: dict[str, tuple[Any, ItemCode]] = {
    "no heads": (np.zeros((0, 2, 3), "f4"), ItemCode.EMPTY),
    "no tokens": (np.zeros((1, 0, 3), "f4"), ItemCode.EMPTY),
    "no frames": (np.zeros((1, 2, 0), "f4"), ItemCode.EMPTY),
    "NaN": (np.full((1, 2, 3), np.nan, "f4"), ItemCode.NOT_FINITE),
    "infinite": (np.full((1, 2, 3), np.inf, "f4"), ItemCode.NOT_FINITE),
    "no way": (np.full((1, 2, 3), -np.inf, "f4"), ItemCode.NO_FINITE_PATH),
    "more tokens": (np.zeros((1, 4, 3), "f4"), ItemCode.TOO_FEW_FRAMES),
    "one head too few": (np.zeros((2, 3), "f4"), ItemCode.MALFORMED),
    "integers": (np.zeros((1, 2, 3), int), ItemCode.MALFORMED),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_item_fails_alone(client: Any, name: str) -> None:
    item, code = BAD[name]
    one, bad, other = client.align_attention([maps()[0], item, maps()[0]], on_error="return")
    assert one.status.ok
    assert other.status.ok
    assert bad.status.code is code
    assert bad.head == -1
    assert len(bad.starts) == len(bad.ends) == len(bad.durations) == len(bad.focus_rates) == 0
    assert np.isnan(bad.score)


def test_errors_name_what_is_wrong(client: Any) -> None:
    with pytest.raises(InvalidRequestError, match='must be "mas", "dtw" or "stepwise"'):
        client.align_attention(maps(), mode="best")
    with pytest.raises(InvalidRequestError, match="log: must be True or False, not 'yes'"):
        client.align_attention(maps(), log="yes")
    with pytest.raises(InvalidItemError, match="item 1"):
        list(client.align_attention([maps()[0], np.full((1, 2, 3), np.nan, "f4")]))


@pytest.mark.parametrize(("starts", "ends", "head"), [([0, 3], [3, 5], 0), ([0, 2], [3, 4], 0), ([0, 2], [2, 4], 7)])
def test_a_server_that_answers_nonsense_is_not_believed(
    connect: Any, monkeypatch: pytest.MonkeyPatch, starts: list[int], ends: list[int], head: int
) -> None:
    from alignd import wire
    from support import reference_answers

    spans = [np.array(part, np.int32) for part in (starts, ends)]
    reply = wire.AttentionReply((wire.OK,), np.array([head], np.int32), np.ones(1, np.float32), *spans, np.zeros(1))
    monkeypatch.setitem(reference_answers.ANSWERS, "AlignAttention", lambda request: reply)
    with pytest.raises(Exception, match=r"spans leave their item|sum to the frames"):
        list(connect().align_attention([np.zeros((1, 2, 4), np.float32)]))
