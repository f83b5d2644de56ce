"""Servers that tests of the gRPC door share, one of each kind for a session (and worker of pytest-xdist); and engines
with an operation that misbehaves."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from alignd_server.device import Device
from alignd_server.engine import Engine, EngineLimits
from support.fake_operation import CPU, FakeOperation
from support.server_process import GatedServer


@pytest.fixture(scope="session")
def server() -> Iterator[GatedServer]:
    """A server with the default limits."""
    with GatedServer("--audio", "off") as process:
        yield process


@pytest.fixture(scope="session")
def narrow_server() -> Iterator[GatedServer]:
    """One thread, one lane for all that tests send, and little room: queued work waits, and is soon too much."""
    flags = ["--threads", "1", "--max-batch-cells", str(10**12), "--max-message-bytes", "4000000"]
    flags += ["--max-queue-bytes", "6000000", "--max-queue-items", "100"]
    with GatedServer("--audio", "off", *flags) as process:
        yield process


@pytest.fixture
def operation() -> FakeOperation:
    return FakeOperation()


@pytest.fixture
def make(operation: FakeOperation) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def build(devices: Sequence[Device] = (CPU,), **limits: Any) -> Engine:
        engine = Engine(devices, [operation], EngineLimits(**{"max_batch_cells": 999, **limits}))
        engines.append(engine)
        return engine

    yield build
    operation.gate.set()
    for engine in engines:
        engine.close(10)
