"""The engine with its real operations: requests merged, cut and joined, admission by the kernels' own figures."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numba.core.caching import NullCache

from alignd.wire import (
    CtcRequest,
    DataType,
    ItemCode,
    MasReply,
    MasRequest,
)
from alignd.wire.arrays import pieces
from alignd_kernels.compile_cache import kernel
from alignd_kernels.dtypes import DType
from alignd_kernels.mas import cpu as mas_cpu
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.ragged import offsets_of
from alignd_server.engine import Engine, create_engine


@pytest.fixture(scope="module")
def real() -> Iterator[Engine]:
    engine = create_engine("cpu", audio=False)
    yield engine
    engine.close(10)


def mas_request(rng: np.random.Generator, items: int, paths: bool = True) -> MasRequest:
    tokens = rng.integers(1, 9, items)
    frames = tokens + rng.integers(0, 20, items)
    values = rng.standard_normal(int((tokens * frames).sum())).astype("f4")
    return MasRequest(values, DataType.FLOAT32, tokens, frames, paths)


def same(one: MasReply, other: MasReply) -> bool:
    arrays = ("durations", "paths", "scores")
    equal = all(np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in arrays)
    return equal and one.statuses == other.statuses


def test_taking_parts_and_joining_their_replies_is_the_whole(real: Engine) -> None:
    rng = np.random.default_rng(0)
    operation: Any = real._operations["MaximumPath"]
    request = mas_request(rng, 7)
    request.frames[3] = 0  # an item that fails
    request = replace(request, values=rng.standard_normal(int((request.tokens * request.frames).sum())).astype("f4"))
    whole = real.submit("MaximumPath", request).result(30)
    parts = [operation.take(request, start, stop) for start, stop in ((0, 2), (2, 5), (5, 7))]
    joined = operation.join([real.submit("MaximumPath", part).result(30) for part in parts])
    assert same(whole, joined)
    assert whole.statuses[3].code is ItemCode.EMPTY
    assert len(whole.paths) == request.frames.sum()


def test_ctc_parts_join_too(real: Engine) -> None:
    rng = np.random.default_rng(1)
    operation: Any = real._operations["ForcedAlign"]
    frames, labels = np.array([9, 1, 12]), np.array([3, 2, 4])
    request = CtcRequest(
        rng.standard_normal(22 * 5).astype("f4"),
        DataType.FLOAT32,
        frames,
        5,
        rng.integers(1, 5, 9).astype("i4"),
        labels,
    )
    whole = real.submit("ForcedAlign", request).result(30)
    replies = [real.submit("ForcedAlign", operation.take(request, i, i + 1)).result(30) for i in range(3)]
    joined = operation.join(replies)
    for name in ("durations", "paths", "frame_scores", "scores"):
        assert np.array_equal(getattr(whole, name), getattr(joined, name), equal_nan=True), name
    assert whole.statuses == joined.statuses
    assert [status.code for status in whole.statuses] == [ItemCode.OK, ItemCode.TOO_FEW_FRAMES, ItemCode.OK]


def test_merged_requests_are_answered_as_alone(real: Engine) -> None:
    rng = np.random.default_rng(2)
    operation: Any = real._operations["MaximumPath"]
    requests = [mas_request(rng, int(rng.integers(1, 6))) for _ in range(20)]
    together = operation.run(requests, real.devices[0], alone=False).replies
    for request, reply in zip(requests, together):
        assert same(reply, real.submit("MaximumPath", request).result(30))


def in_pieces(request: MasRequest, bounds: list[int]) -> MasRequest:
    """The same, its values in arrays of their own: items between the bounds."""
    ends = offsets_of(request.tokens * request.frames)
    values: Any = request.values
    edges = [0, *bounds, len(request)]
    return replace(request, values=tuple(values[ends[a] : ends[b]].copy() for a, b in itertools.pairwise(edges)))


def test_a_payload_in_pieces_is_answered_as_in_one(real: Engine) -> None:
    rng = np.random.default_rng(3)
    operation: Any = real._operations["MaximumPath"]
    for bounds in ([], [1], [3, 3, 8], [2, 4, 6], list(range(1, 9))):
        request = mas_request(rng, 9)
        request.frames[4] = 0  # lies nowhere
        values = rng.standard_normal(int((request.tokens * request.frames).sum())).astype("f4")
        request = replace(request, values=values)
        pieced = in_pieces(request, bounds)
        assert operation.payload_bytes(pieced) == operation.payload_bytes(request)
        assert operation.cost(pieced, real.devices[0]) == operation.cost(request, real.devices[0])
        together = operation.run([request, pieced, request], real.devices[0], alone=False).replies
        assert all(same(reply, real.submit("MaximumPath", request).result(30)) for reply in together)
        for start, stop in ((0, 2), (2, 7), (4, 5), (7, 9)):
            one, other = (operation.take(whole, start, stop) for whole in (request, pieced))
            assert np.array_equal(np.concatenate(pieces(other.values)), one.values)
            assert same(*operation.run([one, other], real.devices[0], alone=True).replies)


def test_one_item_over_the_budget_is_refused_with_its_kernels_figure() -> None:
    """The formula of the kernels is what is compared with the budget; the item's neighbours are answered."""
    engine = create_engine("cpu", threads=2, memory_bytes=100_000, audio=False)
    try:
        sizes = np.array([3, 1000, 3])
        values = np.zeros(int((sizes * 2 * sizes).sum()), "f4")
        request = MasRequest(values, DataType.FLOAT32, sizes, 2 * sizes)
        batch = MasBatch(values, DType.FLOAT32, sizes, sizes, 2 * sizes, 2 * sizes)
        need = mas_cpu.scratch_bytes(batch).tolist()
        assert 2 * need[0] < 100_000 < need[1]
        cost = engine._operations["MaximumPath"].cost(request, engine.devices[0])
        assert (cost.scratch_bytes, cost.largest_scratch_bytes) == (sum(need), need[1])
        reply = engine.submit("MaximumPath", request, waits=True).result(10)
        assert [status.code for status in reply.statuses] == [ItemCode.OK, ItemCode.OUT_OF_MEMORY, ItemCode.OK]
        assert f"needs {need[1]} bytes of memory" in reply.statuses[1].message
        assert "budget of 100000" in reply.statuses[1].message
    finally:
        engine.close(10)


def test_later_compilations_are_seen(real: Engine) -> None:
    def compiled() -> float:
        return real.metrics.registry.get_sample_value("alignd_kernel_compile_seconds") or 0.0

    def late(values):  # type: ignore[no-untyped-def]
        values[0] = 3.0

    before = compiled()
    function: Any = kernel(late)
    function._cache = NullCache()  # or the next run of this test would load it
    assert compiled() == before
    function(np.zeros(1))
    assert compiled() > before
