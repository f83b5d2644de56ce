"""The client for asyncio. What a method does, takes and raises is written at its namesake in `AlignClient`."""

from typing import Any

from alignd.wire import ServerInfo
from alignd_client.aio_pipeline import AsyncPipeline
from alignd_client.aio_transport import AsyncGrpcTransport, AsyncTransport
from alignd_client.attention import AsyncAttentionMethods
from alignd_client.audio import AsyncAudioMethods
from alignd_client.ctc import AsyncCtcMethods
from alignd_client.errors import AlignError, ClientClosedError
from alignd_client.latents import AsyncLatentsMethods
from alignd_client.mas import AsyncMasMethods
from alignd_client.options import ClientOptions
from alignd_client.transducer import AsyncTransducerMethods


class AsyncAlignClient(
    AsyncMasMethods,
    AsyncLatentsMethods,
    AsyncCtcMethods,
    AsyncTransducerMethods,
    AsyncAttentionMethods,
    AsyncAudioMethods,
):
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

    def __repr__(self) -> str:
        return f"<AsyncAlignClient {self._transport.target}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return AsyncAlignClient._of, (self._transport, self._options)

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
