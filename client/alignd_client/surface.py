"""What the methods of a family stand on: each family's file has them twice, for threads and for asyncio, and the two
clients are made of them."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from contextlib import aclosing
from typing import Any

from alignd_client.aio_pipeline import AsyncPipeline
from alignd_client.aio_transport import AsyncTransport
from alignd_client.family import Family, ItemT, OnError, ResultT, check_on_error
from alignd_client.pipeline import Pipeline
from alignd_client.transport import Transport


class Methods:
    """Of the client for threads."""

    _transport: Transport
    _pipeline: Pipeline

    def _results(
        self, family: Family[ItemT, Any, Any, ResultT], raws: Iterable[Any], on_error: OnError
    ) -> Iterator[ResultT]:
        check_on_error(on_error)  # now, not when the first result is asked for
        return self._settled(family, raws, on_error)

    def _settled(
        self, family: Family[ItemT, Any, Any, ResultT], raws: Iterable[Any], on_error: OnError
    ) -> Iterator[ResultT]:
        for answers in self._pipeline.stream(family, raws):
            yield from answers.settle(on_error)


class AsyncMethods:
    """Of the client for asyncio."""

    _transport: AsyncTransport
    _pipeline: AsyncPipeline

    def _results(
        self, family: Family[ItemT, Any, Any, ResultT], raws: Iterable[Any] | AsyncIterable[Any], on_error: OnError
    ) -> AsyncGenerator[ResultT, None]:
        check_on_error(on_error)
        return self._settled(family, raws, on_error)

    async def _settled(
        self, family: Family[ItemT, Any, Any, ResultT], raws: Iterable[Any] | AsyncIterable[Any], on_error: OnError
    ) -> AsyncGenerator[ResultT, None]:
        async with aclosing(self._pipeline.stream(family, raws)) as stream:
            async for answers in stream:
                for result in answers.settle(on_error):
                    yield result
