"""`alignd_server.engine` and `.errors` in small: the client's tests of its in-process door need no server package."""

import sys
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from alignd import wire
from support import reference_answers


class EngineError(Exception):
    pass


class OverloadedError(EngineError):
    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(EngineError):
    pass


class UnavailableError(EngineError):
    pass


class DeviceLostError(UnavailableError):
    pass


class NotServedError(EngineError):
    pass


class FakeEngine:
    """Answers through the reference, on one thread; `faults` are raised first, one a request."""

    def __init__(self, device: str, threads: int | None) -> None:
        self.device = device
        self.threads = threads
        self.healthy = True
        self.faults: deque[Exception] = deque()
        self.submitted: list[str] = []
        self.requests: list[Any] = []
        self.waited: list[bool] = []
        self.gate = threading.Event()  # answers wait for it
        self.gate.set()
        self.delay_s = 0.0
        self.answered = 0
        self.closed = threading.Event()
        self._pool = ThreadPoolExecutor(1)

    def info(self) -> wire.ServerInfo:
        return reference_answers.server_info()

    def submit(self, name: str, request: Any, timeout: float | None = None, *, waits: bool = False) -> "Future[Any]":
        self.submitted.append(name)
        self.requests.append(request)
        self.waited.append(waits)
        fault = self.faults.popleft() if self.faults else None
        if isinstance(fault, OverloadedError):  # refused at the door; others come out of the future
            raise fault
        return self._pool.submit(self._answer, name, request, fault)

    def _answer(self, name: str, request: Any, fault: Exception | None) -> Any:
        assert self.gate.wait(30)
        time.sleep(self.delay_s)
        self.answered += 1
        if fault is not None:
            raise fault
        rpc = reference_answers.RPCS[name]
        # The engine takes what the wire can say: an array of another type or a bad length must not pass here either.
        request = rpc.decode_request(rpc.encode_request(request))
        return reference_answers.ANSWERS[name](request)

    def close(self) -> None:
        self.closed.set()
        self._pool.shutdown()


def install(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    """Puts the fakes in the server's place. Returns the list of engines that will have been made."""
    made: list[FakeEngine] = []

    def create_engine(device: str = "auto", *, threads: int | None = None, limits: Any = None) -> FakeEngine:
        made.append(FakeEngine(device, threads))
        return made[-1]

    package, engine, errors = (ModuleType(f"alignd_server{name}") for name in ("", ".engine", ".errors"))
    engine.create_engine = create_engine  # type: ignore[attr-defined]
    engine.EngineLimits = SimpleNamespace  # type: ignore[attr-defined]
    for error in (
        EngineError,
        OverloadedError,
        DeadlineExceededError,
        UnavailableError,
        DeviceLostError,
        NotServedError,
    ):
        setattr(errors, error.__name__, error)
    package.__path__ = []
    package.errors, package.engine = errors, engine  # type: ignore[attr-defined]
    for module in (package, engine, errors):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return made
