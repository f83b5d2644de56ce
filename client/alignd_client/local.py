"""The engine in this process as a door like the server's.

The one place where the client reaches for the server's distribution, when it is called for and not before.
"""

import asyncio
import sys
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from alignd.wire import GET_SERVER_INFO, MalformedRequestError, Rpc
from alignd_client.errors import (
    AlignError,
    ClientClosedError,
    DeadlineExceededError,
    OverloadedError,
    ServerError,
    ServerUnavailableError,
    invalid_request,
)
from alignd_client.per_process import PerProcess
from alignd_client.presence import Presence
from alignd_client.retry import Remaining

Request = TypeVar("Request")
Reply = TypeVar("Reply")

_TARGET = "in process"


class Engine:
    """`alignd_server.engine`'s engine, one in each process, with this package's errors."""

    def __init__(self, device: str, threads: int | None) -> None:
        self._arguments = device, threads
        self._closed = False
        self._engine: PerProcess[Any] = PerProcess(self._create)
        # Here and not on first use: a missing package or device should be known where it was asked for.
        devices: Sequence[Any] = getattr(self._engine.get(), "devices", ())
        self.torch_device: str | None = devices[0].torch_device if len(devices) == 1 else None
        """Where kernels take tensors as they lie. Of several devices any may take a request."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Engine, self._arguments

    def submit(
        self, rpc: Rpc[Request, Reply], request: Request, timeout: float | None, waits: bool = False
    ) -> "Future[Reply]":
        engine = self._engine.get()
        if rpc is GET_SERVER_INFO:
            future: Future[Reply] = Future()
            future.set_result(engine.info())
            return future
        future = engine.submit(rpc.name, request, timeout=timeout, waits=waits)
        return future

    def health(self) -> str:
        # A lost device comes back in a new process alone: until then every request fails.
        return "SERVING" if getattr(self._engine.get(), "healthy", True) else "NOT_SERVING"

    def close(self) -> None:
        self._closed = True
        engine = self._engine.take()
        if engine is not None:
            engine.close()

    def _create(self) -> Any:
        if self._closed:  # meanwhile, by another thread
            raise ClientClosedError
        device, threads = self._arguments
        try:
            from alignd_server.engine import EngineLimits, create_engine
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("alignd_server"):
                raise
            raise ImportError(
                "alignment in process needs the server's package: pip install 'alignd-client[local]'"
            ) from None
        # What waits lies in the caller's own memory, and slots bound it.
        limits = EngineLimits(max_queue_items=sys.maxsize, max_queue_bytes=sys.maxsize)
        return create_engine(device=device, threads=threads, limits=limits)


def translated(error: BaseException, timeout: float | None) -> BaseException:
    """An engine's error as this package's."""
    from alignd_server import errors

    if isinstance(error, MalformedRequestError):
        return invalid_request(error)
    if isinstance(error, errors.OverloadedError):
        return OverloadedError(str(error), error.retry_after_s)
    if isinstance(error, errors.DeadlineExceededError | FutureTimeoutError | asyncio.TimeoutError):
        return DeadlineExceededError(timeout, str(error))
    if isinstance(error, errors.DeviceLostError):
        # Final here, where a server would be started again by what supervises it.
        return ServerError(f"{error}: only a new process can use the device again")
    if isinstance(error, errors.UnavailableError):
        return ServerUnavailableError(_TARGET, str(error), reached=True)
    if isinstance(error, errors.EngineError):
        return ServerError(str(error), "UNIMPLEMENTED" if isinstance(error, errors.NotServedError) else "")
    return error  # an interrupt, or a defect, that should be seen whole


class LocalTransport:
    """See `transport.Transport`."""

    remote = False
    target = _TARGET

    def __init__(self, engine: Engine, max_in_flight: int) -> None:
        self.presence = Presence(reached=True)
        self.torch_device = engine.torch_device
        self._engine = engine
        self._max_in_flight = max_in_flight
        # A child has none of its parent's requests in flight.
        self._slots = PerProcess(lambda: slots(max_in_flight))

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalTransport, (self._engine, self._max_in_flight)

    def open(self, rpc: Rpc[Request, Reply], request: Request) -> "LocalCall[Request, Reply]":
        return LocalCall(self._engine, self._slots.get(), rpc, request)

    def health(self, timeout: float | None) -> str:
        return self._engine.health()

    def close(self) -> None:
        self.presence.close()
        self._engine.close()


class Slot:
    """Leave for one request to be in flight: given back by `release`, or when nothing holds it any more, as after an
    interrupt at any place.

    Not a semaphore: the collector may close an iterator, and so give a slot back, while its thread is taking another
    one. A `SimpleQueue` may be put into then.
    """

    def __init__(self, home: "weakref.ref[SimpleQueue[Slot]]") -> None:
        self._home = [home]

    def release(self) -> None:
        """More than once does nothing more."""
        if not self._home:
            return
        try:
            where = self._home.pop()
        except IndexError:  # another thread was faster
            return
        home = where()
        if home is not None:
            home.put(Slot(where))

    __del__ = release


def slots(count: int) -> "SimpleQueue[Slot]":
    home: SimpleQueue[Slot] = SimpleQueue()
    for _ in range(count):
        home.put(Slot(weakref.ref(home)))
    return home


class LocalCall(Generic[Request, Reply]):
    """See `transport.Call`."""

    def __init__(self, engine: Engine, slots: "SimpleQueue[Slot]", rpc: Rpc[Request, Reply], request: Request) -> None:
        self._engine = engine
        self._slots = slots
        self._rpc = rpc
        self._request = request
        self._begun = False
        self._running: Future[Reply] | None = None
        self._cancelled = False
        self._pause: threading.Event | None = None

    def begin(self, remaining: Remaining, *, waits: bool) -> bool:
        if waits:
            return True
        try:
            slot = self._slots.get_nowait()
        except Empty:
            return False
        self._begun = True
        try:
            self._submit(slot, remaining)
        except AlignError as error:
            self._running = Future()
            self._running.set_exception(error)
            return not error.retryable  # who tries again must be able to wait
        return True

    def done(self) -> bool:
        return self._running is not None and self._running.done()

    def attempt(self, remaining: Remaining) -> Reply:
        begun, self._begun = self._begun, False
        running = self._running if begun else None
        if running is None:
            try:
                slot = self._slots.get_nowait()
            except Empty:
                slot = self._slot(remaining)
            running = self._submit(slot, remaining, waits=True)
        # Late or not, what is there is there.
        return self._result(running, None if running.done() else remaining())

    def _slot(self, remaining: Remaining) -> Slot:
        while True:
            try:
                return self._slots.get(timeout=remaining())  # which raises once the time is over
            except Empty:
                continue

    def _submit(self, slot: Slot, remaining: Remaining, waits: bool = False) -> "Future[Reply]":
        """With a slot, which the end of the work gives back, or this if there is no work."""
        timeout = None
        try:
            if self._cancelled:  # while it waited
                raise CancelledError
            timeout = remaining()
            self._running = running = self._engine.submit(self._rpc, self._request, timeout, waits)
            if running.done():
                slot.release()
            else:
                running.add_done_callback(lambda _: slot.release())
        except BaseException as error:
            slot.release()
            if isinstance(error, AlignError | CancelledError) or not isinstance(error, Exception):
                raise
            raise translated(error, timeout) from None
        if self._cancelled:
            running.cancel()
        return running

    def _result(self, running: "Future[Reply]", timeout: float | None) -> Reply:
        try:
            return running.result(timeout)
        except (CancelledError, AlignError):
            raise
        except BaseException as error:  # a deadline or an interrupt: the engine need not go on
            running.cancel()
            raise translated(error, timeout) from None

    def pause(self, seconds: float) -> None:
        self._pause = threading.Event()  # few calls ever pause
        if not self._cancelled:
            self._pause.wait(seconds)
        if self._cancelled:
            raise CancelledError

    def cancel(self) -> None:
        self._cancelled = True
        if self._pause is not None:
            self._pause.set()
        if self._running is not None:
            self._running.cancel()


class AsyncLocalTransport:
    """See `aio_transport.AsyncTransport`."""

    remote = False
    target = _TARGET

    def __init__(self, engine: Engine) -> None:
        self.presence = Presence(reached=True)
        self.torch_device = engine.torch_device
        self._engine = engine

    def __reduce__(self) -> tuple[Any, ...]:
        return AsyncLocalTransport, (self._engine,)

    def open(self, rpc: Rpc[Request, Reply], request: Request) -> "AsyncLocalCall[Request, Reply]":
        return AsyncLocalCall(self._engine, rpc, request)

    async def health(self, timeout: float | None) -> str:
        return self._engine.health()

    async def close(self) -> None:
        self.presence.close()
        await asyncio.to_thread(self._engine.close)


class AsyncLocalCall(Generic[Request, Reply]):
    """See `aio_transport.AsyncCall`."""

    def __init__(self, engine: Engine, rpc: Rpc[Request, Reply], request: Request) -> None:
        self._engine = engine
        self._rpc = rpc
        self._request = request

    async def attempt(self, remaining: Remaining) -> Reply:
        timeout = remaining()
        try:
            running = self._engine.submit(self._rpc, self._request, timeout)
            return await asyncio.wait_for(asyncio.wrap_future(running), timeout)
        except (AlignError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise translated(error, timeout) from None
