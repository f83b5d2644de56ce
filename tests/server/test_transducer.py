"""Transducer lattices through a real socket: right, and never silently wrong."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from alignd import wire
from alignd.v1 import alignment_pb2 as pb
from alignd.wire import DataType, ItemCode, TransducerRequest
from alignd_kernels.dtypes import DType
from alignd_kernels.transducer import cpu, reference
from alignd_kernels.transducer.batch import reduced
from alignd_server.engine import create_engine
from support import reference_answers
from support.raw import ask, stored
from support.refusals import assert_malformed, refusal
from support.server_process import ServerProcess

ALIGN, POSTERIORS = wire.TRANSDUCER_ALIGN, wire.TRANSDUCER_POSTERIORS
BOTH = pytest.mark.parametrize("rpc", [ALIGN, POSTERIORS], ids=lambda rpc: rpc.name)
MODIFIED = pytest.mark.parametrize("modified", [False, True], ids=["standard", "modified"])

FloatArray = npt.NDArray[np.floating]


def request_of(
    items: Sequence[FloatArray], modified: bool = False, data_type: DataType = DataType.FLOAT32
) -> TransducerRequest:
    """Of arcs [T, U + 1, 2]."""
    frames, labels = (np.array([item.shape[axis] for item in items], np.int64) for axis in (0, 1))
    values = np.concatenate([item.ravel() for item in items])
    return TransducerRequest(stored(values, data_type), data_type, frames, labels - 1, modified)


def grid(frames: int, labels: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Multiples of 1/8, which every data type holds exactly."""
    return np.random.default_rng(seed).integers(-15, 1, (frames, labels + 1, 2)).astype(np.float32) / 8


def poisoned(arcs: npt.NDArray[np.float32], place: tuple[int, ...], value: float) -> npt.NDArray[np.float32]:
    changed = arcs.copy()
    changed[place] = value
    return changed


def takeable(frames: int, labels: int, modified: bool) -> set[tuple[int, ...]]:
    """Arcs (t, u, kind) of all paths, by walking every one of them."""
    found: set[tuple[int, ...]] = set()

    def walk(t: int, u: int, taken: tuple[tuple[int, ...], ...]) -> None:
        if t == frames:
            if u == labels:
                found.update(taken)
            return
        walk(t + 1, u, (*taken, (t, u, 0)))
        if u < labels:
            walk(t + 1 if modified else t, u + 1, (*taken, (t, u, 1)))

    walk(0, 0, ())
    return found


@pytest.mark.parametrize("data_type", DataType)
@MODIFIED
def test_only_arcs_that_a_path_can_take_matter(server: ServerProcess, data_type: DataType, modified: bool) -> None:
    T, U = 4, 3
    clean, taken = grid(T, U), takeable(T, U, modified)
    places = list(np.ndindex(clean.shape))
    poisons = [float("nan") if sum(place) % 2 else float("inf") for place in places]
    items = [clean, *(poisoned(clean, place, poison) for place, poison in zip(places, poisons))]
    paths = ask(server.target, ALIGN, request_of(items, modified, data_type))
    nodes = ask(server.target, POSTERIORS, request_of(items, modified, data_type))
    expected = reference_answers.transducer_align(request_of([clean], modified, data_type))
    starts, posteriors = paths.emission_frames.reshape(-1, U), nodes.posteriors.reshape(-1, T, U + 1)
    assert starts[0].tolist() == expected.emission_frames.tolist()
    for item, place in enumerate(places, 1):
        for reply in (paths, nodes):
            code, field, message = reply.statuses[item]
            assert (code is ItemCode.NOT_FINITE) == (place in taken)
            if place in taken:
                assert field == "arcs"
                assert "NaN or +inf" in message
                assert "3 labels, 4 frames" in message
                assert np.isnan(reply.scores[item])
            else:
                assert reply.scores[item] == reply.scores[0]
        assert starts[item].tolist() == ([0] * U if place in taken else starts[0].tolist())
        assert posteriors[item].tolist() == (np.zeros((T, U + 1)) if place in taken else posteriors[0]).tolist()


@BOTH
@MODIFIED
def test_items_of_many_sizes_are_the_references(server: ServerProcess, rpc: Any, modified: bool) -> None:
    rng = np.random.default_rng(5)
    items = [grid(T, U, seed) for seed, (T, U) in enumerate(zip(rng.integers(1, 40, 25), rng.integers(0, 20, 25)))]
    request = request_of(items, modified)
    found, expected = ask(server.target, rpc, request), getattr(reference_answers, NAMES[rpc.name])(request)
    assert [status.code for status in found.statuses] == [status.code for status in expected.statuses]
    assert any(not status.ok for status in found.statuses) == modified  # more labels than frames
    if rpc is ALIGN:
        assert found.emission_frames.tolist() == expected.emission_frames.tolist()
        np.testing.assert_array_equal(found.scores, expected.scores)
    else:
        # The sums' own tolerance is the kernels' matter; here it is told that these are they.
        np.testing.assert_allclose(found.posteriors, expected.posteriors, atol=1e-4)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


NAMES = {"TransducerAlign": "transducer_align", "TransducerPosteriors": "transducer_posteriors"}


@BOTH
@pytest.mark.parametrize(
    ("item", "modified", "code", "field", "words"),
    [
        (np.zeros((0, 3, 2)), False, ItemCode.EMPTY, "frames", ["2 labels", "0 frames"]),
        (np.zeros((0, 1, 2)), True, ItemCode.EMPTY, "frames", ["0 labels", "0 frames"]),
        (np.zeros((2, 4, 2)), True, ItemCode.TOO_FEW_FRAMES, "frames", ["frames (2)", "3 labels", "one in a frame"]),
        (np.full((2, 4, 2), -np.inf), False, ItemCode.NO_FINITE_PATH, "arcs", ["-inf", "3 labels, 2 frames"]),
    ],
    ids=["no frames", "nothing", "U > T", "all -inf"],
)
def test_items_without_a_path(
    server: ServerProcess, rpc: Any, item: FloatArray, modified: bool, code: ItemCode, field: str, words: list[str]
) -> None:
    good = [grid(6, 3, 1), grid(3, 2, 2)]
    reply = ask(server.target, rpc, request_of([good[0], item, good[1]], modified))
    assert reply.statuses[1][:2] == (code, field)
    assert all(word in reply.statuses[1].message for word in words), reply.statuses[1].message
    assert np.isnan(reply.scores[1])
    assert reply.statuses[0] is reply.statuses[2] is wire.OK
    for place, arcs in zip((0, 2), good):
        assert reply.scores[place] == ask(server.target, rpc, request_of([arcs], modified)).scores[0]


def message(**fields: Any) -> bytes:
    """An honest request of one item (T = 3, U = 1), but for `fields`."""
    honest: dict[str, Any] = {"frames": [3], "labels": [1], "data_type": 3, "arcs": b"\0" * 48}
    return pb.TransducerAlignRequest(**(honest | fields)).SerializeToString()


BIG = 1 << 31
MALFORMED: list[tuple[bytes, str, str]] = [
    (b"", "frames", "no items"),
    (b"\xff" * 50, "", "Request message"),
    (message(frames=[3, 3]), "labels", "1 lengths for 2 items"),
    (message(frames=[-3]), "frames", "-3"),
    (message(labels=[-1]), "labels", "-1"),
    (message(data_type=0), "data_type", "0 names no type"),
    (message(topology=7), "topology", "7 names no topology"),
    (message(arcs=b"\0" * 47), "arcs", "47 bytes, but the lengths ask for 12 × 4 = 48"),
    (message(labels=[BIG]), "arcs", f"48 bytes, but the lengths ask for {6 * (BIG + 1)}"),
    (message(labels=[2**63 - 1]), "labels", "more than can be addressed"),
    (message(frames=[2**62], labels=[2**61]), "frames", "overflow"),
    (message(frames=[0], labels=[BIG], arcs=b""), "labels", f"0 frames and {BIG} labels"),
]


@BOTH
@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: f"{case[1]}-{case[2]}")
def test_malformed_requests(server: ServerProcess, rpc: Any, case: tuple[bytes, str, str]) -> None:
    data, field, words = case
    assert_malformed(refusal(server.target, rpc, data), field, [words])
    assert ask(server.target, ALIGN, request_of([grid(3, 1)])).statuses[0].ok


def test_what_prometheus_reads(server: ServerProcess) -> None:
    items = [grid(4, 2), np.zeros((0, 1, 2), np.float32)]
    names = ("transducer", "transducer_posteriors")
    before = [server.metric("alignd_items_total", op=name, status="ok") or 0 for name in names]
    for rpc in (ALIGN, POSTERIORS):
        ask(server.target, rpc, request_of(items))
    for name, earlier in zip(names, before):
        assert server.metric("alignd_items_total", op=name, status="ok") == earlier + 1
        assert server.metric("alignd_items_total", op=name, status="empty") >= 1
        labels = {"op": name, "backend": "numba", "dtype": "float32"}
        assert server.metric("alignd_kernel_duration_seconds_count", **labels) >= 1


def test_parts_join_and_merged_requests_are_answered_as_alone() -> None:
    engine = create_engine("cpu", threads=2, audio=False)
    try:
        items = [grid(T, U, T) for T, U in ((5, 2), (0, 1), (7, 0), (3, 9), (6, 6))]
        request = request_of(items)
        for rpc in (ALIGN, POSTERIORS):
            operation: Any = engine._operations[rpc.name]
            array = operation.ragged.outputs[0].name
            whole = engine.submit(rpc.name, request).result(30)
            parts = [operation.take(request, start, stop) for start, stop in ((0, 2), (2, 3), (3, 5))]
            alone = [engine.submit(rpc.name, part).result(30) for part in parts]
            joined = operation.join(alone)
            merged = operation.run(parts, engine.devices[0], alone=False).replies
            for one, other in zip(merged, alone, strict=True):
                assert getattr(one, array).tolist() == getattr(other, array).tolist()
            assert getattr(whole, array).tolist() == getattr(joined, array).tolist()
            np.testing.assert_array_equal(whole.scores, joined.scores)
            assert whole.statuses == joined.statuses
            assert operation.key(request) != operation.key(replace(request, modified=True))
    finally:
        engine.close(10)


def test_one_item_over_the_budget_is_refused_with_the_figure() -> None:
    engine = create_engine("cpu", threads=2, memory_bytes=100_000, audio=False)
    try:
        request = request_of([grid(3, 3), grid(1500, 900), grid(3, 3)])
        frames, labels = request.frames, request.labels
        need = cpu.scratch_bytes(reduced(np.zeros(0, "f4"), DType.FLOAT32, frames, frames, labels)).tolist()
        assert 2 * need[0] < 100_000 < need[1]
        reply = engine.submit("TransducerAlign", request, waits=True).result(30)
        assert [status.code for status in reply.statuses] == [ItemCode.OK, ItemCode.OUT_OF_MEMORY, ItemCode.OK]
        found = 4 * int(labels[1])  # an emission frame for each label
        assert f"needs {need[1] + found} bytes of memory" in reply.statuses[1].message
    finally:
        engine.close(10)


def test_the_reference_walks_what_is_walked_here() -> None:
    """`takeable` and the reference's rule are two derivations of one thing."""
    for T, U, modified in ((3, 2, False), (3, 2, True), (2, 2, True), (1, 3, False)):
        legal = {
            (t, u, kind)
            for t in range(T)
            for u in range(U + 1)
            if reference.legal(t, u, T, U, modified)
            for kind, _ in reference.arcs_from(t, u, T, U, modified)
        }
        assert legal == takeable(T, U, modified)
