"""What /metrics exposes after some traffic: every name and label that the documents, rules and dashboards lean on."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from alignd import wire
from alignd_server import __version__
from support import workloads
from support.raw import ask, call
from support.server_process import ServerProcess
from support.waiting import eventually

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RPC_LABELS = {"grpc_type", "grpc_service", "grpc_method"}
HISTOGRAMS = {
    "alignd_kernel_duration_seconds": {"op", "backend", "device", "dtype"},
    "alignd_queue_duration_seconds": {"op"},
    "alignd_batch_items": {"op"},
    "alignd_batch_cells": {"op"},
    "grpc_server_handling_seconds": RPC_LABELS,
}
OTHERS = {
    "alignd_queue_depth": {"op"},
    "alignd_queue_bytes": set(),
    "alignd_rejected_total": {"op", "reason"},
    "alignd_items_total": {"op", "status"},
    "alignd_kernel_compile_seconds": set(),
    "alignd_build_info": {"version"},
    "grpc_server_started_total": RPC_LABELS,
    "grpc_server_handled_total": RPC_LABELS | {"grpc_code"},
}
BAD_MAS = wire.MasRequest(np.zeros(6, "f4"), wire.DataType.FLOAT32, np.array([3]), np.array([2]))


@pytest.fixture(scope="module")
def scraped() -> Iterator[dict[str, list[Sample]]]:
    """Samples by name, after three good items of each family, a bad one and a malformed request."""
    rng = np.random.default_rng(8)
    with ServerProcess("--audio", "off") as server:
        for _ in range(3):
            ask(server.target, wire.MAXIMUM_PATH, workloads.small_mas(rng))
            ask(server.target, wire.FORCED_ALIGN, workloads.small_ctc(rng))
        ask(server.target, wire.MAXIMUM_PATH, BAD_MAS)
        ask(server.target, wire.GET_SERVER_INFO, wire.ServerInfoRequest())
        with pytest.raises(grpc.RpcError):
            call(server.target, wire.MAXIMUM_PATH, b"")
        # A call is counted after its reply has left.
        eventually(lambda: server.metric("grpc_server_handled_total") == 9, "all calls to be counted")
        samples: dict[str, list[Sample]] = {}
        for family in text_string_to_metric_families(server.metrics()):
            assert family.documentation, family.name
            for sample in family.samples:
                samples.setdefault(sample.name, []).append(sample)
        yield samples


def value(samples: dict[str, list[Sample]], name: str, **labels: str) -> float:
    """Of the one sample with exactly these labels."""
    (found,) = (sample.value for sample in samples[name] if sample.labels == labels)
    return found


def expected_names() -> dict[str, set[str]]:
    histograms = {name + end: labels for name, labels in HISTOGRAMS.items() for end in ("_count", "_sum")}
    buckets = {f"{name}_bucket": labels | {"le"} for name, labels in HISTOGRAMS.items()}
    return {**histograms, **buckets, **OTHERS}


@pytest.mark.parametrize(("name", "labels"), expected_names().items())
def test_every_metric_is_there_with_its_labels(scraped: dict[str, list[Sample]], name: str, labels: set[str]) -> None:
    assert {frozenset(sample.labels) for sample in scraped[name]} == {frozenset(labels)}


def test_what_the_alerts_ask_for_is_exposed(scraped: dict[str, list[Sample]]) -> None:
    asked = set[str]()
    for file in DEPLOY.glob("*.yml"):
        asked |= set(re.findall(r"\b(?:alignd|grpc_server)_[a-z_]*[a-z]\b(?!:)", file.read_text(encoding="utf-8")))
    assert asked
    assert asked <= scraped.keys()


def test_items_by_outcome(scraped: dict[str, list[Sample]]) -> None:
    assert value(scraped, "alignd_items_total", op="mas", status="ok") == 3
    assert value(scraped, "alignd_items_total", op="mas", status="too_few_frames") == 1
    assert value(scraped, "alignd_items_total", op="ctc", status="ok") == 3
    assert value(scraped, "alignd_rejected_total", op="mas", reason="malformed") == 1


def test_kernels_and_batches(scraped: dict[str, list[Sample]]) -> None:
    labels = {"backend": "numba", "device": "cpu", "dtype": "float32"}
    assert value(scraped, "alignd_kernel_duration_seconds_count", op="mas", **labels) == 4
    assert value(scraped, "alignd_kernel_duration_seconds_count", op="ctc", **labels) == 3
    assert 0 < value(scraped, "alignd_kernel_duration_seconds_sum", op="mas", **labels) < 10
    assert value(scraped, "alignd_batch_items_sum", op="mas") == 4
    assert value(scraped, "alignd_queue_duration_seconds_count", op="mas") == 4
    bad_cells = 6
    rng = np.random.default_rng(8)
    cells = {"mas": bad_cells, "ctc": 0}
    for _ in range(3):
        mas, ctc = workloads.small_mas(rng), workloads.small_ctc(rng)
        cells["mas"] += int(mas.tokens[0] * mas.frames[0])
        cells["ctc"] += int(ctc.frames[0] * (2 * ctc.target_lengths[0] + 1))
    for op, expected in cells.items():
        assert value(scraped, "alignd_batch_cells_sum", op=op) == expected


@pytest.mark.parametrize("name", ["alignd_kernel_duration_seconds", "alignd_queue_duration_seconds"])
def test_buckets_begin_at_ten_microseconds(scraped: dict[str, list[Sample]], name: str) -> None:
    bounds = sorted({float(sample.labels["le"]) for sample in scraped[f"{name}_bucket"]})
    assert bounds[0] == 1e-5
    assert bounds[-2] > 5.0
    assert all(high <= 2.001 * low for low, high in itertools.pairwise(bounds[:-1]))


def rpc(method: str, **more: str) -> dict[str, str]:
    return {"grpc_type": "unary", "grpc_service": wire.SERVICE, "grpc_method": method, **more}


def test_rpcs_by_method_and_code(scraped: dict[str, list[Sample]]) -> None:
    handled = "grpc_server_handled_total"
    assert value(scraped, handled, **rpc("MaximumPath", grpc_code="OK")) == 4
    assert value(scraped, handled, **rpc("MaximumPath", grpc_code="INVALID_ARGUMENT")) == 1
    assert value(scraped, handled, **rpc("ForcedAlign", grpc_code="OK")) == 3
    assert value(scraped, handled, **rpc("GetServerInfo", grpc_code="OK")) == 1
    assert value(scraped, "grpc_server_started_total", **rpc("MaximumPath")) == 5
    assert value(scraped, "grpc_server_handling_seconds_count", **rpc("MaximumPath")) == 5


def test_the_gauges(scraped: dict[str, list[Sample]]) -> None:
    assert value(scraped, "alignd_build_info", version=__version__) == 1
    assert value(scraped, "alignd_queue_bytes") == 0
    assert value(scraped, "alignd_queue_depth", op="mas") == 0
    assert value(scraped, "alignd_queue_depth", op="ctc") == 0
    assert value(scraped, "alignd_kernel_compile_seconds") >= 0


@pytest.mark.parametrize("data_type", wire.DataType)
def test_kernels_are_told_apart_by_dtype(server: ServerProcess, data_type: wire.DataType) -> None:
    def count() -> float:
        return server.metric("alignd_kernel_duration_seconds_count", op="mas", dtype=data_type.value)

    before = count()
    zeros: Any = np.zeros(6, data_type.storage)
    ask(server.target, wire.MAXIMUM_PATH, wire.MasRequest(zeros, data_type, np.array([2]), np.array([3])))
    assert count() == before + 1
