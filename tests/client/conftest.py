"""The client's doors: over a real socket to a small server, and in process over a small engine; threads and asyncio."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from alignd_client import AlignClient
from alignd_client.aio import AsyncAlignClient
from support import fake_engine
from support.blocking import Blocking
from support.fake_server import FakeServer

MakeClient = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(params=["threads", "asyncio"])
def connect(request: pytest.FixtureRequest, server: FakeServer, closing: ExitStack) -> MakeClient:
    """Makes clients of the server: `connect(**options)`, or of another target."""

    def make(target: str | None = None, **options: Any) -> Any:
        target = target or server.target
        if request.param == "threads":
            return closing.enter_context(AlignClient(target, **options))
        return closing.enter_context(Blocking(AsyncAlignClient(target, **options)))

    return make


@pytest.fixture(params=["threads", "asyncio", "threads in process", "asyncio in process"])
def client(request: pytest.FixtureRequest, closing: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every door, which all must answer the same."""
    if request.param.endswith("in process"):
        fake_engine.install(monkeypatch)
        client: Any = AlignClient.in_process if request.param.startswith("threads") else AsyncAlignClient.in_process
        client = client(device="cpu", threads=1)
    else:
        server = closing.enter_context(FakeServer())
        client = AlignClient(server.target) if request.param == "threads" else AsyncAlignClient(server.target)
    return closing.enter_context(client if isinstance(client, AlignClient) else Blocking(client))
