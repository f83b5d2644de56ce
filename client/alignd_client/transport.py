"""One request at a time over gRPC, for threads."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

from alignd.wire import BYTES_METADATA, Rpc
from alignd_client.channel import (
    HEALTH_PATH,
    HEALTH_REQUEST,
    channel_options,
    decode_health,
    import_grpc,
    resolve_target,
)
from alignd_client.errors import AlignError, ClientClosedError, ServerError
from alignd_client.faults import error_of
from alignd_client.fork_gate import GATE
from alignd_client.per_process import PerProcess
from alignd_client.presence import Presence
from alignd_client.retry import Attempts, Remaining

Request = TypeVar("Request")
Reply = TypeVar("Reply")
Reply_co = TypeVar("Reply_co", covariant=True)


class Call(Protocol[Reply_co]):
    """One request, attempted once or more."""

    def begin(self, remaining: Remaining, *, waits: bool) -> bool:
        """Starts the first attempt without waiting, for `attempt` to go on with; False where it needs a thread.

        Args:
            waits: `attempt` follows at once, which may as well do all of it.
        """
        ...

    def done(self) -> bool:
        """Whether what was begun is over."""
        ...

    def attempt(self, remaining: Remaining) -> Reply_co:
        """Raises `AlignError`, or `CancelledError` once cancelled."""
        ...

    def pause(self, seconds: float) -> None:
        """Waits between attempts. Raises `CancelledError` once cancelled."""
        ...

    def cancel(self) -> None:
        """From any thread."""
        ...


class Transport(Protocol):
    """A door to an engine. Thread-safe; pickling one makes an equal one that shares nothing."""

    remote: bool
    """Whether requests travel in messages, of limited size, and replies come from somebody else's code."""
    target: str
    """Where it leads."""
    presence: Presence
    torch_device: str | None
    """Where its requests take tensors as they lie, as torch calls it; None where all go through host memory."""

    def open(self, rpc: Rpc[Request, Reply], request: Request) -> Call[Reply]: ...

    def health(self, timeout: float | None) -> str: ...

    def close(self) -> None: ...


def run(transport: Transport, call: Call[Reply], attempts: Attempts) -> Reply:
    """Attempts a call until it succeeds, or its error is final. Raises `AlignError`."""
    while True:
        loss = transport.presence.loss
        try:
            reply = call.attempt(attempts.remaining)
        except AlignError as error:
            transport.presence.note(error, loss)
            delay = attempts.delay_after(error, reached=transport.presence.reached)
        else:
            transport.presence.note(None, loss)
            return reply
        call.pause(delay)


class GrpcTransport:
    """A channel to a server, opened on first use in each process."""

    remote = True
    torch_device: str | None = None

    def __init__(self, target: str | None) -> None:
        self.target = resolve_target(target)
        self.presence = Presence()
        self._closed = False
        self._channel: PerProcess[Any] = PerProcess(self._open_channel)

    def __reduce__(self) -> tuple[Any, ...]:
        return GrpcTransport, (self.target,)

    def open(self, rpc: Rpc[Request, Reply], request: Request) -> "GrpcCall[Request, Reply]":
        return GrpcCall(self, rpc, request)

    def health(self, timeout: float | None) -> str:
        grpc = import_grpc()
        with GATE.call(), self._closed_meanwhile():
            check = self._channel.get().unary_unary(HEALTH_PATH)
            try:
                return decode_health(check(HEALTH_REQUEST, timeout=timeout))
            except grpc.RpcError as failure:
                raise error_of(failure, self.target, 0) from None

    def close(self) -> None:
        self._closed = True
        self.presence.close()
        channel = self._channel.take()
        if channel is not None:
            channel.close()

    def start(self, path: str, data: bytes, timeout: float | None) -> Any:
        """The future of one attempt."""
        method = self._channel.get().unary_unary(path)
        with self._closed_meanwhile():
            return method.future(data, timeout=timeout, metadata=((BYTES_METADATA, str(len(data))),))

    @contextmanager
    def _closed_meanwhile(self) -> Iterator[None]:
        """Around what fails, be it with a bare ValueError of gRPC's, as another thread has closed the channel."""
        try:
            yield
        except (ValueError, AlignError):
            if self._closed:
                raise ClientClosedError from None
            raise

    def _open_channel(self) -> Any:
        if self._closed:  # meanwhile, by another thread
            raise ClientClosedError
        channel = import_grpc().insecure_channel(self.target, options=channel_options(self.target))
        GATE.install()
        return channel


class GrpcCall(Generic[Request, Reply]):
    """See `Call`."""

    def __init__(self, transport: GrpcTransport, rpc: Rpc[Request, Reply], request: Request) -> None:
        self._transport = transport
        self._rpc = rpc
        self._request: Request | None = request
        self._data: bytes | None = None
        self._running: Any = None
        self._cancelled = threading.Event()

    def begin(self, remaining: Remaining, *, waits: bool) -> bool:
        return False  # encoding, forks and retries all need one that waits

    def done(self) -> bool:
        return False

    def attempt(self, remaining: Remaining) -> Reply:
        if self._data is None:
            assert self._request is not None
            self._data = self._rpc.encode_request(self._request)
            self._request = None  # all attempts send the same bytes
        with GATE.call():
            reply = self._exchange(self._data, remaining())
        return decode(self._rpc, reply)

    def _exchange(self, data: bytes, timeout: float | None) -> bytes:
        grpc = import_grpc()
        running = self._running = self._transport.start(self._rpc.path, data, timeout)
        if self._cancelled.is_set():  # before there was anything to cancel
            running.cancel()
        try:
            reply: bytes = running.result()
            return reply
        except grpc.FutureCancelledError:
            raise CancelledError from None
        except grpc.RpcError as failure:
            raise error_of(failure, self._transport.target, len(data)) from None
        except BaseException:  # an interrupt: the server need not go on
            running.cancel()
            raise
        finally:
            self._running = None

    def pause(self, seconds: float) -> None:
        if self._cancelled.wait(seconds):
            raise CancelledError

    def cancel(self) -> None:
        self._cancelled.set()
        running = self._running
        if running is not None:
            running.cancel()


def decode(rpc: Rpc[Any, Reply], data: bytes) -> Reply:
    """Raises `ServerError` for what is no reply."""
    try:
        return rpc.decode_reply(data)
    except ValueError as error:
        raise ServerError(str(error)) from error
