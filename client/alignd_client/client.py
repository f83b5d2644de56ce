"""The client for threads."""

from collections.abc import Iterable, Iterator
from typing import Any

from alignd.wire import ServerInfo
from alignd_client.audio import Audio, AudioFamily, only
from alignd_client.ctc import CtcFamily, ForcedAlignJob, Pairs, StarScore
from alignd_client.errors import AlignError, ClientClosedError
from alignd_client.family import Family, ItemT, OnError, ResultT, check_on_error
from alignd_client.mas import MasFamily, MaximumPathJob
from alignd_client.options import ClientOptions
from alignd_client.pipeline import Pipeline
from alignd_client.results import Alignment, AudioAlignment, CtcAlignment
from alignd_client.transport import GrpcTransport, Transport


class AlignClient:
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
            threads: of the CPU's kernels; None for one a core.
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

    def __reduce__(self) -> tuple[Any, ...]:
        return AlignClient._of, (self._transport, self._options)

    def maximum_path(self, value: Any, mask: Any, dtype: Any = None) -> Any:
        """Monotonic alignment search over a padded batch: super_monotonic_align's function of that name.

        Unlike it, `value` is left as it is, on any device, and what lies outside the mask may be anything.

        Args:
            value: [B, tokens, frames], float16, bfloat16, float32 or float64, NumPy or torch.
            mask: of the same shape, any dtype; each item's true cells are a rectangle at the origin.
            dtype: of the result; None for float32.

        Returns:
            Paths as 0 and 1, [B, tokens, frames], of `value`'s kind and on its device.

        Raises:
            InvalidItemsError: with every item that cannot be aligned.
            InvalidRequestError: for a mask that is no such rectangle or of another shape.
            AlignError: see `alignd_client.errors`.
        """
        job = MaximumPathJob(value, mask, dtype, self._transport.torch_device)
        return job.assemble(self._pipeline.stream(job.family, job.items))

    def forced_align(
        self,
        log_probs: Any,
        targets: Any,
        input_lengths: Any = None,
        target_lengths: Any = None,
        blank: int = 0,
        *,
        star_score: StarScore = 0.0,
    ) -> tuple[Any, Any]:
        """CTC forced alignment of a padded batch: torchaudio's function of that name, for any B.

        Args:
            log_probs: [B, frames, vocabulary], float16, bfloat16, float32 or float64, NumPy or torch.
            targets: integers [B, labels], NumPy, torch or lists; -1 is the wildcard.
            input_lengths: integers [B]; None for all frames.
            target_lengths: integers [B]; None for all labels.
            blank: its column.
            star_score: log-prob of a wildcard's frames, or "max" for the frame's largest non-blank one.

        Returns:
            The label of each frame [B, frames], in the dtype and on the device of `targets`, and its log-prob
            [B, frames], in those of `log_probs`. Past an item's length they hold blank and 0.

        Raises:
            InvalidItemsError: with every item that cannot be aligned.
            InvalidRequestError: for arguments that contradict each other.
            AlignError: see `alignd_client.errors`.
        """
        device = self._transport.torch_device
        job = ForcedAlignJob(log_probs, targets, input_lengths, target_lengths, blank, star_score, device)
        return job.assemble(self._pipeline.stream(job.family, job.items))

    def align_mas(self, values: Iterable[Any], *, on_error: OnError = "raise") -> Iterator[Alignment]:
        """Monotonic alignment search over utterances of any lengths (Kim et al. 2020, Glow-TTS).

        Args:
            values: arrays [tokens, frames] of log-scores, float16 to float64, NumPy or torch.
            on_error: "raise" or "return", see the class.
        """
        check_on_error(on_error)
        return self._results(MasFamily(self._transport.torch_device), values, on_error)

    def align_ctc(
        self,
        log_probs: Iterable[Any],
        targets: Iterable[Any],
        *,
        blank: int = 0,
        star_score: StarScore = 0.0,
        on_error: OnError = "raise",
    ) -> Iterator[CtcAlignment]:
        """CTC forced alignment over utterances of any lengths (Graves et al. 2006; Kürzinger et al. 2020).

        Args:
            log_probs: arrays [frames, vocabulary], float16 to float64, NumPy or torch.
            targets: as many sequences of integers [labels]; -1 is the wildcard.
            blank: its column.
            star_score: log-prob of a wildcard's frames, or "max" for the frame's largest non-blank one.
            on_error: "raise" or "return", see the class.
        """
        check_on_error(on_error)
        family = CtcFamily(blank, star_score, self._transport.torch_device)
        return self._results(family, Pairs(log_probs, targets), on_error)

    def align_audio(self, audio: Audio, transcript: str, model: str = "") -> AudioAlignment:
        """The words and tokens of a recording with their times in seconds.

        Args:
            audio: a path, the bytes of an encoded file (WAV, FLAC, OGG, MP3), or a file opened in mode "rb".
            transcript: what is said in it.
            model: a name from `server_info().models`; "" for the default.

        Raises:
            InvalidItemError: for audio or text that the model cannot handle.
            OSError: for a file that cannot be read.
            AlignError: see `alignd_client.errors`.
        """
        return only(self._pipeline.stream(AudioFamily(model), [(audio, transcript)]))

    def align_audios(
        self, recordings: Iterable[tuple[Audio, str]], *, model: str = "", on_error: OnError = "raise"
    ) -> Iterator[AudioAlignment]:
        """`align_audio` over pairs of audio and transcript. A file that cannot be read is an item that failed."""
        check_on_error(on_error)
        return self._results(AudioFamily(model), recordings, on_error)

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

    def _results(
        self, family: Family[ItemT, Any, Any, ResultT], raws: Iterable[Any], on_error: OnError
    ) -> Iterator[ResultT]:
        for answers in self._pipeline.stream(family, raws):
            yield from answers.settle(on_error)
