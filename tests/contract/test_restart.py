"""A server that is restarted in the middle of a long job costs the job nothing but the time."""

import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from alignd_client import AlignClient
from alignd_client.aio import AsyncAlignClient
from support.blocking import Blocking
from support.server_process import ServerProcess

ITEMS = 3000


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["drained", "killed"])
@pytest.mark.parametrize(
    "connect", [AlignClient, lambda target, **o: Blocking(AsyncAlignClient(target, **o))], ids=["threads", "asyncio"]
)
def test_nothing_is_lost(connect: Callable[..., Any], how: signal.Signals) -> None:
    listen = f"127.0.0.1:{free_port()}"
    values = np.random.default_rng(0).standard_normal((20, 12, 40)).astype(np.float32)
    first = ServerProcess("--audio", "off", listen=listen)
    client = connect(listen, timeout=90.0)
    expected = [a.durations.tolist() for a in client.align_mas(values)]
    second: list[ServerProcess] = []

    def restart() -> None:
        first.process.send_signal(how)
        first.process.wait(60)
        second.append(ServerProcess("--audio", "off", listen=listen))

    restarting = threading.Thread(target=restart)
    try:
        found = []
        for number, alignment in enumerate(client.align_mas(values[i % 20] for i in range(ITEMS))):
            found.append(alignment.durations.tolist())
            if number == ITEMS // 4:
                restarting.start()
        restarting.join()
        assert found == [expected[i % 20] for i in range(ITEMS)]
    finally:
        client.close()
        for server in (first, *second):
            server.__exit__(None, None, None)
