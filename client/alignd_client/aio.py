"""The client for asyncio. What a method does, takes and raises is written at its namesake in `AlignClient`."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any

from alignd.wire import ServerInfo
from alignd_client.aio_pipeline import AsyncPipeline, as_async
from alignd_client.aio_transport import AsyncGrpcTransport, AsyncTransport
from alignd_client.audio import Audio, AudioFamily, only
from alignd_client.ctc import CtcFamily, ForcedAlignJob, Pairs, StarScore, miscounted
from alignd_client.errors import AlignError, ClientClosedError
from alignd_client.family import Family, ItemT, OnError, ResultT, check_on_error
from alignd_client.mas import MasFamily, MaximumPathJob
from alignd_client.options import ClientOptions
from alignd_client.results import Alignment, AudioAlignment, CtcAlignment

Items = Iterable[Any] | AsyncIterable[Any]


class AsyncAlignClient:
    """`AlignClient` for asyncio: the same arguments, results and errors.

    The `align_*` methods take iterables of either kind and return asynchronous iterators. One that is left before its
    end goes on in the background until it is collected: `contextlib.aclosing` ends it at once. A client may be used
    from one event loop after another. gRPC's asyncio does not survive a fork: a child raises `ForkError`, unless it is
    the first to use it.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        timeout: float | None = 60.0,
        max_in_flight: int = 8,
        max_message_bytes: int | None = None,
    ) -> None:
        self._set_up(AsyncGrpcTransport(target), ClientOptions(timeout, max_in_flight, max_message_bytes))

    @classmethod
    def in_process(
        cls,
        device: str = "auto",
        *,
        threads: int | None = None,
        timeout: float | None = None,
        max_in_flight: int = 8,
    ) -> "AsyncAlignClient":
        """See `AlignClient.in_process`. Blocks while the engine starts."""
        from alignd_client.local import AsyncLocalTransport, Engine

        return cls._of(AsyncLocalTransport(Engine(device, threads)), ClientOptions(timeout, max_in_flight))

    @classmethod
    def _of(cls, transport: AsyncTransport, options: ClientOptions) -> "AsyncAlignClient":
        client = cls.__new__(cls)
        client._set_up(transport, options)
        return client

    def _set_up(self, transport: AsyncTransport, options: ClientOptions) -> None:
        self._transport = transport
        self._options = options
        self._pipeline = AsyncPipeline(transport, options)

    def __reduce__(self) -> tuple[Any, ...]:
        return AsyncAlignClient._of, (self._transport, self._options)

    async def maximum_path(self, value: Any, mask: Any, dtype: Any = None) -> Any:
        """See `AlignClient.maximum_path`."""
        job = MaximumPathJob(value, mask, dtype, self._transport.torch_device)
        return job.assemble(await self._pipeline.gather(job.family, job.items))

    async def forced_align(
        self,
        log_probs: Any,
        targets: Any,
        input_lengths: Any = None,
        target_lengths: Any = None,
        blank: int = 0,
        *,
        star_score: StarScore = 0.0,
    ) -> tuple[Any, Any]:
        """See `AlignClient.forced_align`."""
        device = self._transport.torch_device
        job = ForcedAlignJob(log_probs, targets, input_lengths, target_lengths, blank, star_score, device)
        return job.assemble(await self._pipeline.gather(job.family, job.items))

    def align_mas(self, values: Items, *, on_error: OnError = "raise") -> AsyncGenerator[Alignment, None]:
        """See `AlignClient.align_mas`."""
        check_on_error(on_error)
        return self._results(MasFamily(self._transport.torch_device), values, on_error)

    def align_ctc(
        self,
        log_probs: Items,
        targets: Items,
        *,
        blank: int = 0,
        star_score: StarScore = 0.0,
        on_error: OnError = "raise",
    ) -> AsyncGenerator[CtcAlignment, None]:
        """See `AlignClient.align_ctc`."""
        check_on_error(on_error)
        family = CtcFamily(blank, star_score, self._transport.torch_device)
        return self._results(family, _pairs(log_probs, targets), on_error)

    async def align_audio(self, audio: Audio, transcript: str, model: str = "") -> AudioAlignment:
        """See `AlignClient.align_audio`."""
        return only(await self._pipeline.gather(AudioFamily(model), [(audio, transcript)]))

    def align_audios(
        self,
        recordings: Iterable[tuple[Audio, str]] | AsyncIterable[tuple[Audio, str]],
        *,
        model: str = "",
        on_error: OnError = "raise",
    ) -> AsyncGenerator[AudioAlignment, None]:
        """See `AlignClient.align_audios`."""
        check_on_error(on_error)
        return self._results(AudioFamily(model), recordings, on_error)

    async def server_info(self) -> ServerInfo:
        """See `AlignClient.server_info`."""
        return await self._pipeline.server_info()

    async def health_status(self) -> str:
        """See `AlignClient.health_status`."""
        return await self._pipeline.health()

    async def health(self) -> bool:
        """See `AlignClient.health`."""
        try:
            return await self.health_status() == "SERVING"
        except ClientClosedError:
            raise
        except AlignError:
            return False

    async def close(self) -> None:
        """See `AlignClient.close`."""
        await self._pipeline.close()

    async def __aenter__(self) -> "AsyncAlignClient":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _results(
        self, family: Family[ItemT, Any, Any, ResultT], raws: Iterable[Any] | AsyncIterable[Any], on_error: OnError
    ) -> AsyncGenerator[ResultT, None]:
        async with aclosing(self._pipeline.stream(family, raws)) as stream:
            async for answers in stream:
                for result in answers.settle(on_error):
                    yield result


def _pairs(log_probs: Items, targets: Items) -> Pairs | AsyncIterator[tuple[Any, Any]]:
    if isinstance(log_probs, AsyncIterable) or isinstance(targets, AsyncIterable):
        return _async_pairs(log_probs, targets)
    return Pairs(log_probs, targets)


async def _async_pairs(log_probs: Items, targets: Items) -> AsyncIterator[tuple[Any, Any]]:
    """As `ctc.Pairs`."""
    end = object()
    others = as_async(targets)
    count = 0
    async for one in as_async(log_probs):
        other = await anext(others, end)
        if other is end:
            raise miscounted("targets", "log_probs", count)
        yield one, other
        count += 1
    if await anext(others, end) is not end:
        raise miscounted("log_probs", "targets", count)
