"""Many items through one transport, in order, a bounded number of requests at once: for asyncio."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Generic, TypeVar

from alignd.wire import GET_SERVER_INFO, ServerInfo, ServerInfoRequest
from alignd_client.aio_transport import AsyncCall, AsyncTransport, run
from alignd_client.errors import AlignError, ClientClosedError
from alignd_client.family import Answers, Family, ItemT, ResultT
from alignd_client.options import ClientOptions
from alignd_client.packing import Packer, PackingLimits, Parcel

T = TypeVar("T")


async def as_async(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    """Either kind of iterable as the asynchronous one."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            await asyncio.sleep(0)  # so that what is in flight makes progress meanwhile
            yield item


class AsyncPipeline:
    """What `AsyncAlignClient` does to reach its transport."""

    def __init__(self, transport: AsyncTransport, options: ClientOptions) -> None:
        self._transport = transport
        self._options = options
        self._limits: PackingLimits | None = options.limits(transport.remote)
        self._closed = False

    async def server_info(self) -> ServerInfo:
        self._check_open()
        call = self._transport.open(GET_SERVER_INFO, ServerInfoRequest())
        return await run(self._transport, call, self._options.retry, self._options.timeout)

    async def health(self) -> str:
        self._check_open()
        return await self._transport.health(self._options.health_timeout)

    async def close(self) -> None:
        self._closed = True
        await self._transport.close()

    async def stream(
        self, family: Family[ItemT, Any, Any, ResultT], raws: Iterable[Any] | AsyncIterable[Any]
    ) -> AsyncGenerator[Answers[ResultT], None]:
        """What becomes of the items, in order. An error of the iterable's own comes after what it gave before."""
        self._check_open()
        feed = _Feed(self, family, raws)
        window: deque[_Pending[ItemT, ResultT]] = deque()
        try:
            while feed.more or window:
                # An answer that is there goes out before more is read: the iterable may be slow.
                while feed.more and len(window) < self._options.max_in_flight and not (window and window[0].done()):
                    window.extend(self._send(parcel) for parcel in await feed.read())
                if window:
                    answers = await self._wait(window[0])
                    window.popleft()
                    yield answers
            if feed.failure is not None:
                raise feed.failure
        finally:
            await asyncio.gather(*(pending.cancelled() for pending in window), return_exceptions=True)

    async def gather(self, family: Family[ItemT, Any, Any, ResultT], raws: Iterable[Any]) -> list[Answers[ResultT]]:
        async with aclosing(self.stream(family, raws)) as stream:
            return [answers async for answers in stream]

    async def limits(self) -> PackingLimits:
        """Asks the server, the first time."""
        if self._limits is None:
            self._limits = PackingLimits.of((await self.server_info()).limits)
        return self._limits

    def _send(self, parcel: Parcel[ItemT, Any, Any, ResultT]) -> "_Pending[ItemT, ResultT]":
        if parcel.settled is not None:
            return _Pending(parcel)
        self._check_open()
        call = self._transport.open(parcel.rpc, parcel.request())
        return _Pending(parcel, asyncio.ensure_future(self._work(parcel, call)))

    async def _work(self, parcel: Parcel[ItemT, Any, Any, ResultT], call: AsyncCall[Any]) -> Any:
        reply = await run(self._transport, call, self._options.retry, self._options.timeout)
        if self._transport.remote:
            parcel.check(reply)
        return reply

    async def _wait(self, pending: "_Pending[ItemT, ResultT]") -> Answers[ResultT]:
        try:
            return await pending.answers()
        except (AlignError, asyncio.CancelledError):
            # A cancelled call is our doing, where closing cancelled it; a cancelled wait is the caller's.
            if pending.done():
                self._check_open()
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosedError


class _Feed(Generic[ItemT, ResultT]):
    """The caller's iterable as parcels."""

    def __init__(
        self,
        pipeline: AsyncPipeline,
        family: Family[ItemT, Any, Any, ResultT],
        raws: Iterable[Any] | AsyncIterable[Any],
    ) -> None:
        self._pipeline = pipeline
        self._family = family
        self._borrow = family.borrows(raws)
        self._raws = raws
        self._source: AsyncIterator[Any] | None = None
        self._parcels: deque[Parcel[ItemT, Any, Any, ResultT]] = deque()
        self._packer: Packer[ItemT, Any, Any, ResultT] | None = None
        self.more = True
        self.failure: Exception | None = None

    async def _begin(self) -> AsyncIterator[Any]:
        """As `pipeline._Feed._begin`."""
        stack = self._family.stack(self._raws)
        parcels = (await self._opened()).parcels(stack) if stack else None
        self._parcels.extend(parcels or ())
        return as_async(() if parcels else self._raws)

    async def _opened(self) -> Packer[ItemT, Any, Any, ResultT]:
        """Not before there is an item: to align nothing, no server is needed."""
        if self._packer is None:
            self._packer = Packer(self._family, await self._pipeline.limits(), borrow=self._borrow)
        return self._packer

    async def read(self) -> Sequence[Parcel[ItemT, Any, Any, ResultT]]:
        """Reads one item; returns the parcels that it completes. At the end `more` is false and `failure` says why."""
        try:
            if self._source is None:
                self._source = await self._begin()
            if self._parcels:
                parcel = self._parcels.popleft()
                self.more = bool(self._parcels)
                await asyncio.sleep(0)  # as in `as_async`
                return (parcel,)
            raw = await self._source.__anext__()
            packer = await self._opened()
            if self._family.blocks:
                return await asyncio.to_thread(packer.push, raw)
            return packer.push(raw)
        except StopAsyncIteration:
            self.more = False
        except Exception as error:
            self.more, self.failure = False, error
        return self._packer.flush() if self._packer else ()


class _Pending(Generic[ItemT, ResultT]):
    """A parcel on its way, or one that was settled without being sent."""

    def __init__(self, parcel: Parcel[ItemT, Any, Any, ResultT], task: "asyncio.Task[Any] | None" = None) -> None:
        self._parcel = parcel
        self._task = task

    def done(self) -> bool:
        return self._task is None or self._task.done()

    async def answers(self) -> Answers[ResultT]:
        if self._parcel.settled is not None:
            return self._parcel.settled
        assert self._task is not None
        return self._parcel.answers(await self._task)

    async def cancelled(self) -> None:
        """Cancels it, and waits until the server has been told."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
