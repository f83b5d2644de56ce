"""Words and tokens of a recording (`AlignAudio`): the family, and the clients' methods."""

import os
from collections.abc import AsyncGenerator, AsyncIterable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from alignd.wire import ALIGN_AUDIO, AlignedSymbol, AudioReply, AudioRequest, ItemStatus, Rpc
from alignd_client.errors import AlignError, InvalidItemError
from alignd_client.family import Answers, Contents, OnError
from alignd_client.results import AlignmentItem, AudioAlignment
from alignd_client.surface import AsyncMethods, Methods

Audio = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""A path, an encoded file's bytes, or a file opened for reading bytes."""


@dataclass(frozen=True, slots=True)
class AudioItem:
    """One recording as an encoded file, and what is said in it."""

    audio: bytes
    transcript: str

    @property
    def count(self) -> int:
        return 1

    @property
    def key(self) -> Hashable:
        return None

    @property
    def nbytes(self) -> int:
        return len(self.audio) + 4 * len(self.transcript)

    @property
    def cells(self) -> int:
        return 0  # known to the server alone

    def part(self, start: int, stop: int) -> "AudioItem":
        return self


class AudioFamily:
    """Takes pairs of audio and transcript."""

    rpc: Rpc[AudioRequest, AudioReply] = ALIGN_AUDIO
    items_per_request = 1
    blocks = True

    def __init__(self, model: str = "") -> None:
        if not isinstance(model, str):
            raise TypeError(f"model must be a name from server_info().models, not {model!r}")
        self.model = model

    def borrows(self, raws: Any) -> bool:
        return False

    def stack(self, raws: Any) -> AudioItem | None:
        return None

    def prepare(self, raw: Any, borrow: bool) -> AudioItem:
        try:
            audio, transcript = raw
        except (TypeError, ValueError):
            raise TypeError(f"each item must be a pair (audio, transcript), not {type(raw).__name__}") from None
        if not isinstance(transcript, str):
            raise TypeError(f"a transcript must be a str, not {type(transcript).__name__}")
        try:
            transcript.encode()
        except UnicodeEncodeError as error:
            code = f"U+{ord(transcript[error.start]):04X}"
            raise ValueError(
                f"the transcript holds {code}, half of a character, which is no text: decode it anew"
            ) from None
        return AudioItem(read_audio(audio), transcript)

    def refuse(self, item: AudioItem) -> ItemStatus | None:
        return None

    def pack(self, items: Sequence[AudioItem]) -> tuple[AudioRequest, Contents]:
        return AudioRequest(items[0].audio, items[0].transcript, self.model), None

    def check(self, contents: Contents, reply: AudioReply) -> None:
        """Its words and times are the server's to know."""

    def unpack(self, contents: Contents, reply: AudioReply) -> list[AudioAlignment]:
        if not reply.status.ok:
            return [replace(self.failed(None, reply.status), audio_seconds=reply.audio_seconds, model=reply.model)]
        words, tokens = (tuple(map(_item, symbols)) for symbols in (reply.words, reply.tokens))
        return [AudioAlignment(words, tokens, reply.score, reply.audio_seconds, reply.model, reply.status)]

    def failed(self, item: AudioItem | None, status: ItemStatus) -> AudioAlignment:
        return AudioAlignment((), (), float("nan"), 0.0, self.model, status)


def _item(symbol: AlignedSymbol) -> AlignmentItem:
    return AlignmentItem(symbol.symbol, symbol.start, symbol.duration, symbol.score, symbol.confidence)


def read_audio(audio: Any) -> bytes:
    """The encoded file's bytes. Raises `OSError` where it cannot be read and `TypeError` for what is no audio."""
    if isinstance(audio, str | os.PathLike):
        with open(audio, "rb") as file:
            return file.read()
    if isinstance(audio, bytes | bytearray | memoryview):
        return bytes(audio)
    if hasattr(audio, "read"):
        data = audio.read()
        if isinstance(data, bytes):
            return data
        raise TypeError("a file with audio must be opened for reading bytes (mode 'rb')")
    raise TypeError(f"audio must be a path, bytes or a file, not {type(audio).__name__}: samples need a WAV header")


def only(stream: Iterable[Answers[AudioAlignment]]) -> AudioAlignment:
    """The result of a call about one recording, whose error names no index."""
    (answers,) = stream
    error = answers.errors.get(0)
    if isinstance(error, InvalidItemError):
        raise InvalidItemError(None, error.code, error.field, error.reason)
    if isinstance(error, TypeError | ValueError) and not isinstance(error, AlignError):
        raise type(error)(str(error).removeprefix("item 0: "))
    if error is not None:
        raise error
    return answers.results[0]


class AudioMethods(Methods):
    """Of `AlignClient`."""

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
        return self._results(AudioFamily(model), recordings, on_error)


class AsyncAudioMethods(AsyncMethods):
    """Of `AsyncAlignClient`."""

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
        return self._results(AudioFamily(model), recordings, on_error)
