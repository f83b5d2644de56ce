"""Which items share a request."""

import pickle
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignd.wire import Limits
from alignd_client import ServerUnavailableError
from alignd_client.audio import AudioFamily
from alignd_client.ctc import CtcFamily
from alignd_client.mas import MasFamily
from alignd_client.packing import (
    COPIED_BYTES,
    MOST_BYTES,
    MOST_CELLS,
    MOST_ITEMS,
    PATIENCE_S,
    Packer,
    PackingLimits,
    Parcel,
)
from alignd_client.transport import GrpcTransport
from support.fake_server import FakeServer, unavailable

MAS = MasFamily()


def parcels(family: Any, raws: list[Any], limits: PackingLimits | None = None) -> list[Parcel[Any, Any, Any, Any]]:
    packer = Packer(family, limits or PackingLimits(), clock=lambda: 0.0)
    packed = [parcel for raw in raws for parcel in packer.push(raw)]
    return [*packed, *packer.flush()]


def counts(packed: list[Parcel[Any, Any, Any, Any]]) -> list[int]:
    return [len(parcel.items) for parcel in packed]


def test_four_to_eight_megabytes() -> None:
    quarter = np.zeros((1, 1 << 18), np.float32)
    assert counts(parcels(MAS, [quarter] * 9)) == [4, 4, 1]
    large = np.zeros((1, 1_800_000), np.float32)
    assert counts(parcels(MAS, [quarter, large, quarter])) == [2, 1]
    larger = np.zeros((1, 2_000_000), np.float32)
    assert counts(parcels(MAS, [quarter, larger, quarter])) == [1, 1, 1]


def test_what_a_slow_iterator_made_does_not_wait_for_company() -> None:
    now = 0.0
    packer = Packer(MAS, PackingLimits.in_process(), clock=lambda: now)
    assert not packer.push(np.zeros((1, 4), np.float32))
    now = PATIENCE_S / 2
    assert not packer.push(np.zeros((1, 4), np.float32))
    now = PATIENCE_S * 2
    assert counts(list(packer.push(np.zeros((1, 4), np.float32)))) == [3]
    assert not packer.push(np.zeros((1, 4), np.float32))
    now = PATIENCE_S * 4
    assert counts(list(packer.push(np.zeros((1, 4), np.float32)))) == [2]
    now = PATIENCE_S * 6  # nobody else is likely to come soon
    assert counts(list(packer.push(np.zeros((1, 4), np.float32)))) == [1]


def test_in_process_a_request_of_copies_is_bounded() -> None:
    item = np.zeros((1, COPIED_BYTES // 16), np.float32)
    packer = Packer(MAS, PackingLimits.in_process(), clock=lambda: 0.0)
    assert counts([parcel for _ in range(9) for parcel in packer.push(item)]) == [4, 4]
    packer = Packer(MAS, PackingLimits.in_process(), borrow=True)
    assert counts([parcel for _ in range(9) for parcel in packer.push(item)]) == []


def test_a_long_item_does_not_hold_small_ones() -> None:
    # Few bytes, many cells: [9000, 4] emissions under 300 labels.
    long = (np.zeros((9000, 4), np.float32), [1, 2] * 150)
    short = (np.zeros((9, 4), np.float32), [1, 2])
    assert MOST_CELLS < 9000 * 601
    assert counts(parcels(CtcFamily(), [short, short, long, short])) == [2, 1, 1]


def test_items_of_one_request_share_dtype_and_vocabulary() -> None:
    single, double = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float64)
    assert counts(parcels(MAS, [single, single, double, single])) == [2, 1, 1]
    pair, triple = ((np.zeros((4, vocabulary), np.float32), [1]) for vocabulary in (2, 3))
    assert counts(parcels(CtcFamily(), [pair, triple, triple])) == [1, 2]


def test_what_the_server_takes() -> None:
    value = np.zeros((1, 10), np.float32)
    assert counts(parcels(MAS, [value] * 5, PackingLimits(items=2))) == [2, 2, 1]
    assert counts(parcels(MAS, [value] * (MOST_ITEMS + 1))) == [MOST_ITEMS, 1]
    limits = PackingLimits.of(Limits(0, 0, 0, 0))
    assert (limits.message_bytes, limits.items) == (None, MOST_ITEMS)
    assert PackingLimits.of(Limits(100, 3, 0, 0)) == PackingLimits(100, 3)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40), st.booleans()), min_size=1, max_size=40),
    st.integers(2_000, 10_000),
)
def test_every_item_is_packed_once_in_order(shapes: list[tuple[int, int, bool]], limit: int) -> None:
    values = [np.full((S, T), i, np.float64 if double else np.float32) for i, (S, T, double) in enumerate(shapes)]
    packed = parcels(MAS, values, PackingLimits(limit))
    seen = 0
    for parcel in packed:
        assert parcel.first == seen
        if parcel.settled is not None:
            assert values[seen].nbytes > limit - 100
            seen += 1
            continue
        seen += len(parcel.items)
        request = parcel.request()
        message = MAS.rpc.encode_request(request)
        assert len(message) <= min(limit, MOST_BYTES)
        ends = np.cumsum(request.tokens * request.frames)
        assert [request.values[end - 1] for end in ends] == list(range(parcel.first, seen))
    assert seen == len(values)


@pytest.mark.parametrize("count", [1, 2])
def test_a_payload_is_held_once(count: int) -> None:
    """Neither items beside their request, nor a request beside its message: retries send the same bytes."""
    values = [np.zeros((2, 3000), np.float32), (np.zeros((4000, 3), np.float32), [1, 2]), (bytes(9), "a")]
    for family, raw in zip((MAS, CtcFamily(), AudioFamily()), values):
        parcel: Parcel[Any, Any, Any, Any] = parcels(family, [raw] * count)[0]
        request = parcel.request()
        assert parcel.items == []
        assert len(pickle.dumps(parcel.contents)) < 2000
        assert len(parcel.rpc.encode_request(request)) > 0


def test_a_request_is_dropped_when_it_is_encoded() -> None:
    with FakeServer() as server:
        request = parcels(MAS, [np.zeros((2, 3), np.float32)])[0].request()
        payload = weakref.ref(request.values)
        transport = GrpcTransport(server.target)
        server.faults["MaximumPath"].append(unavailable())
        call = transport.open(MAS.rpc, request)
        del request
        with pytest.raises(ServerUnavailableError):
            call.attempt(lambda: 20.0)
        assert payload() is None
        assert call.attempt(lambda: 20.0).statuses[0].ok
        transport.close()


@pytest.mark.parametrize("count", [1, 2])
def test_a_pack_of_owned_memory(count: int) -> None:
    value = np.zeros((2, 3), np.float32)
    (parcel,) = parcels(MAS, [value] * count)
    value[:] = 7
    assert not parcel.request().values.any()
