"""One request at a time over gRPC, for asyncio."""

import asyncio
import os
import weakref
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
from alignd_client.errors import AlignError, ClientClosedError, ForkError
from alignd_client.faults import error_of
from alignd_client.presence import Presence
from alignd_client.retry import Attempts, Remaining, RetryPolicy
from alignd_client.transport import decode

Request = TypeVar("Request")
Reply = TypeVar("Reply")
Reply_co = TypeVar("Reply_co", covariant=True)


_started_in: int | None = None
"""The process that started gRPC's asyncio."""


def _import_aio() -> Any:
    """gRPC's asyncio, which one thread drives that no forked child has.

    Raises:
        ForkError: in such a child, where calls would never be answered.
    """
    global _started_in
    aio = import_grpc("grpc.aio")
    if _started_in is None:
        _started_in = os.getpid()
        # Held for good: whoever drops the last channel waits for that thread, and a forked child would for ever.
        aio.init_grpc_aio()
    if _started_in != os.getpid():
        raise ForkError
    return aio


class AsyncCall(Protocol[Reply_co]):
    """One request, attempted once or more."""

    async def attempt(self, remaining: Remaining) -> Reply_co:
        """Raises `AlignError`."""
        ...


class AsyncTransport(Protocol):
    """As `transport.Transport`."""

    remote: bool
    target: str
    presence: Presence
    torch_device: str | None

    def open(self, rpc: Rpc[Request, Reply], request: Request) -> AsyncCall[Reply]: ...

    async def health(self, timeout: float | None) -> str: ...

    async def close(self) -> None: ...


async def run(transport: AsyncTransport, call: AsyncCall[Reply], policy: RetryPolicy, timeout: float | None) -> Reply:
    """Attempts a call until it succeeds, or its error is final. Raises `AlignError`."""
    attempts = Attempts(policy, timeout)
    while True:
        loss = transport.presence.loss
        try:
            reply = await call.attempt(attempts.remaining)
        except AlignError as error:
            transport.presence.note(error, loss)
            delay = attempts.delay_after(error, reached=transport.presence.reached)
        else:
            transport.presence.note(None, loss)
            return reply
        await asyncio.sleep(delay)


class AsyncGrpcTransport:
    """A channel to a server, opened on first use in each event loop, to which gRPC binds it."""

    remote = True
    torch_device: str | None = None

    def __init__(self, target: str | None) -> None:
        self.target = resolve_target(target)
        self.presence = Presence()
        self._closed = False
        self._channels: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any]
        self._channels = weakref.WeakKeyDictionary()

    def __reduce__(self) -> tuple[Any, ...]:
        return AsyncGrpcTransport, (self.target,)

    def open(self, rpc: Rpc[Request, Reply], request: Request) -> "AsyncGrpcCall[Request, Reply]":
        return AsyncGrpcCall(self, rpc, request)

    async def health(self, timeout: float | None) -> str:
        grpc = import_grpc()
        try:
            return decode_health(await self.channel().unary_unary(HEALTH_PATH)(HEALTH_REQUEST, timeout=timeout))
        except grpc.RpcError as failure:
            raise error_of(failure, self.target, 0) from None

    async def close(self) -> None:
        self._closed = True
        self.presence.close()
        channel = self._channels.pop(asyncio.get_running_loop(), None)
        if channel is not None:
            await channel.close()

    def channel(self) -> Any:
        if self._closed:  # meanwhile, by another task
            raise ClientClosedError
        aio = _import_aio()
        loop = asyncio.get_running_loop()
        channel = self._channels.get(loop)
        if channel is None:
            channel = self._channels[loop] = aio.insecure_channel(self.target, options=channel_options(self.target))
        return channel


class AsyncGrpcCall(Generic[Request, Reply]):
    """See `AsyncCall`."""

    def __init__(self, transport: AsyncGrpcTransport, rpc: Rpc[Request, Reply], request: Request) -> None:
        self._transport = transport
        self._rpc = rpc
        self._request: Request | None = request
        self._data: bytes | None = None

    async def attempt(self, remaining: Remaining) -> Reply:
        grpc = import_grpc()
        if self._data is None:
            assert self._request is not None
            # In a thread: copying tens of megabytes is no work for an event loop.
            self._data = await asyncio.to_thread(self._rpc.encode_request, self._request)
            self._request = None  # all attempts send the same bytes
        metadata = ((BYTES_METADATA, str(len(self._data))),)
        method = self._transport.channel().unary_unary(self._rpc.path)
        try:
            reply = await method(self._data, timeout=remaining(), metadata=metadata)
        except grpc.RpcError as failure:
            raise error_of(failure, self._transport.target, len(self._data)) from None
        return decode(self._rpc, reply)
