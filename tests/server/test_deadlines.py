"""Work that nobody waits for any more is never run, and huge work does not hold small work up."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from alignd import wire
from support import reference_answers, workloads
from support.http2 import RawCall
from support.raw import ask, call
from support.server_process import GatedServer, ServerProcess
from support.waiting import busy, eventually, holds_nothing

SMALL = workloads.small_mas(np.random.default_rng(1))
MESSAGE = wire.MAXIMUM_PATH.encode_request(SMALL)
METADATA = {wire.BYTES_METADATA: str(len(MESSAGE))}

pytestmark = pytest.mark.xdist_group("narrow_server")


def aligned(server: ServerProcess) -> float:
    return server.metric("alignd_items_total", op="mas")


def dropped(server: ServerProcess) -> float:
    """Requests not run because their deadline passed: found so by a worker, or told by gRPC's cancellation."""
    reasons = ("deadline", "cancelled")
    return sum(server.metric("alignd_rejected_total", op="mas", reason=reason) for reason in reasons)


@pytest.mark.parametrize("timeout", [-0.1, -1.0])
def test_a_deadline_that_has_passed(narrow_server: GatedServer, timeout: float) -> None:
    before = aligned(narrow_server)
    with pytest.raises(grpc.RpcError) as caught:
        call(narrow_server.target, wire.MAXIMUM_PATH, MESSAGE, timeout=timeout)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert ask(narrow_server.target, wire.MAXIMUM_PATH, SMALL).statuses[0].ok
    assert aligned(narrow_server) == before + 1


def test_a_deadline_that_has_passed_when_the_server_reads_it(narrow_server: GatedServer) -> None:
    """gRPC's clients do not send such calls."""
    before = aligned(narrow_server)
    with (
        busy(narrow_server),
        ThreadPoolExecutor(1) as pool,
        RawCall(narrow_server.target, wire.MAXIMUM_PATH.path, metadata=METADATA, timeout="1n") as late,
    ):
        late.send(MESSAGE, end=True)
        # What comes behind it waits too, and is answered after it, so the late call had its chance.
        other = pool.submit(ask, narrow_server.target, wire.MAXIMUM_PATH, SMALL)
        eventually(lambda: narrow_server.metric("alignd_queue_depth", op="mas") >= 1, "the other request to wait")
        narrow_server.open_gate()
        assert other.result().statuses[0].ok
    assert aligned(narrow_server) == before + 1


def test_a_deadline_that_passes_in_the_queue(narrow_server: GatedServer) -> None:
    server = narrow_server
    before, drops = aligned(server), dropped(server)
    with busy(server):
        with pytest.raises(grpc.RpcError) as caught:
            ask(server.target, wire.MAXIMUM_PATH, SMALL, timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        eventually(lambda: dropped(server) == drops + 1, "the request to be dropped")
        eventually(lambda: server.metric("alignd_queue_depth", op="mas") == 0, "the request to leave the queue")
    assert aligned(server) == before


def test_a_cancelled_call_leaves_the_queue(narrow_server: GatedServer) -> None:
    server = narrow_server
    before, drops = aligned(server), server.metric("alignd_rejected_total", op="mas", reason="cancelled")
    with busy(server), grpc.insecure_channel(server.target) as channel:
        future = channel.unary_unary(wire.MAXIMUM_PATH.path).future(MESSAGE, metadata=list(METADATA.items()))
        eventually(lambda: server.metric("alignd_queue_depth", op="mas") == 1, "the request to wait")
        future.cancel()
        eventually(lambda: server.metric("alignd_queue_depth", op="mas") == 0, "the request to leave the queue")
    assert aligned(server) == before
    assert server.metric("alignd_rejected_total", op="mas", reason="cancelled") == drops + 1


def test_a_call_cancelled_while_it_runs_gives_its_room_back(narrow_server: GatedServer) -> None:
    message = wire.FORCED_ALIGN.encode_request(workloads.held())
    begun = narrow_server.metric("alignd_queue_duration_seconds_count", op="ctc")
    narrow_server.close_gate()
    with grpc.insecure_channel(narrow_server.target) as channel:
        future = channel.unary_unary(wire.FORCED_ALIGN.path).future(message)
        eventually(
            lambda: narrow_server.metric("alignd_queue_duration_seconds_count", op="ctc") == begun + 1,
            "the work to begin",
        )
        future.cancel()
        narrow_server.open_gate()
        eventually(lambda: holds_nothing(narrow_server), "the room to be given back")
    assert ask(narrow_server.target, wire.MAXIMUM_PATH, SMALL).statuses[0].ok


def test_a_huge_item_does_not_hold_small_ones_up(server: GatedServer) -> None:
    """Past --max-batch-cells (its default here) an item goes through a lane of its own."""
    rng = np.random.default_rng(2)
    with busy(server):
        for _ in range(10):
            mas, ctc = workloads.small_mas(rng), workloads.small_ctc(rng)
            durations = ask(server.target, wire.MAXIMUM_PATH, mas).durations
            assert durations.tolist() == reference_answers.maximum_path(mas).durations.tolist()
            path = ask(server.target, wire.FORCED_ALIGN, ctc).paths
            assert path.tolist() == reference_answers.forced_align(ctc).paths.tolist()
