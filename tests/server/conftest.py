"""Servers that tests of the gRPC door share: one of each kind for a session (and worker of pytest-xdist)."""

from collections.abc import Iterator

import pytest

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
