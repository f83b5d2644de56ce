"""The client for threads. What it does of each family stands in the family's file."""

from typing import Any

from alignd.wire import ServerInfo
from alignd_client.attention import AttentionMethods
from alignd_client.audio import AudioMethods
from alignd_client.ctc import CtcMethods
from alignd_client.errors import AlignError, ClientClosedError
from alignd_client.latents import LatentsMethods
from alignd_client.mas import MasMethods
from alignd_client.options import ClientOptions
from alignd_client.pipeline import Pipeline
from alignd_client.transducer import TransducerMethods
from alignd_client.transport import GrpcTransport, Transport


class AlignClient(MasMethods, LatentsMethods, CtcMethods, TransducerMethods, AttentionMethods, AudioMethods):
    """Aligns token sequences with frames, by a server or in this process.

    One client serves any number of threads. It opens its connection on first use, in each process anew, so it may be
    made before a fork, sent to workers by pickle, or kept in a data set that a loader copies. (A fork waits up to five
    seconds for calls in flight. Setting GRPC_ENABLE_FORK_SUPPORT to 0 takes the support for forks away.)

    The `align_*` methods take any iterable and return a lazy iterator over results in the same order: they read ahead
    only as far as `max_in_flight` requests reach, so that both ends may be longer than memory. Arrays that are given
    whole (one stacked array, a list or tuple) are read where they lie, and must not be changed until their results are
    out. What anything else gives is copied: it may use one buffer for all its items. In process, on one GPU, scores in
    tensors on that GPU stay there, and what the caller's current stream has yet to compute is waited for there; others
    go through host memory. Progress is the caller's to show:
    `for a in tqdm(client.align_mas(items), total=len(items))`. With `on_error="raise"` an item that cannot be aligned
    raises its `InvalidItemError` when it is reached, which ends the iterator, as exceptions do; long work wants
    `on_error="return"`, where it comes out as a result whose `status` says why.

    All alignments are pure functions, so the client tries again by itself, inside the timeout, when the server is
    overloaded or away. What it raises is described in `alignd_client.errors`.

    Args:
        target: "host:port"; None for the variable ALIGND_TARGET, else localhost:50051.
        timeout: seconds for one request, retries included; None for no limit. Long work consists of many requests.
        max_in_flight: requests on their way at once, over all threads.
        max_message_bytes: the server's limit; None to ask the server once.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        timeout: float | None = 60.0,
        max_in_flight: int = 8,
        max_message_bytes: int | None = None,
    ) -> None:
        self._set_up(GrpcTransport(target), ClientOptions(timeout, max_in_flight, max_message_bytes))

    @classmethod
    def in_process(
        cls,
        device: str = "auto",
        *,
        threads: int | None = None,
        timeout: float | None = None,
        max_in_flight: int = 8,
    ) -> "AlignClient":
        """The same surface over an engine in this process. Needs `pip install 'alignd-client[local]'`.

        Args:
            device: "cpu", "cuda:N" or "auto".
            threads: of the CPU's kernels, which share a batch; None for one a core. Threads of your own that wait for
                results work too, each for itself.
            timeout: as for a server.
            max_in_flight: as for a server.

        Raises:
            ImportError: where the server's package is not installed.
        """
        from alignd_client.local import Engine, LocalTransport

        return cls._of(LocalTransport(Engine(device, threads), max_in_flight), ClientOptions(timeout, max_in_flight))

    @classmethod
    def _of(cls, transport: Transport, options: ClientOptions) -> "AlignClient":
        client = cls.__new__(cls)
        client._set_up(transport, options)
        return client

    def _set_up(self, transport: Transport, options: ClientOptions) -> None:
        self._transport = transport
        self._options = options
        self._pipeline = Pipeline(transport, options)

    def __repr__(self) -> str:
        return f"<AlignClient {self._transport.target}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return AlignClient._of, (self._transport, self._options)

    def server_info(self) -> ServerInfo:
        """Version, devices, operations, models and limits."""
        return self._pipeline.server_info()

    def health_status(self) -> str:
        """grpc.health.v1's word for the server: SERVING, NOT_SERVING, … Tried once. Raises `AlignError`."""
        return self._pipeline.health()

    def health(self) -> bool:
        """Whether the server is there and ready to align. Tried once, for at most 5 seconds."""
        try:
            return self.health_status() == "SERVING"
        except ClientClosedError:
            raise
        except AlignError:
            return False

    def close(self) -> None:
        """Ends what is in flight and closes the connection. Later calls raise `ClientClosedError`."""
        self._pipeline.close()

    def __enter__(self) -> "AlignClient":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
