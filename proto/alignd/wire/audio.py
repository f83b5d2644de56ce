"""AlignAudio: the words and tokens of one recording with their times."""

from dataclasses import dataclass

from alignd.v1 import alignment_pb2 as pb
from alignd.wire.rpc import (
    UNTIMED,
    ItemStatus,
    Rpc,
    Timing,
    decode_status,
    decode_timing,
    encode_status,
    encode_timing,
    parse_reply,
    parse_request,
)


@dataclass(frozen=True, slots=True)
class AudioRequest:
    """An encoded audio file (WAV, FLAC, OGG, MP3), what is said in it, and the model to use ("" for the default)."""

    audio: bytes
    transcript: str
    model: str = ""

    def __len__(self) -> int:
        return 1


@dataclass(frozen=True, slots=True)
class AlignedSymbol:
    """A word or token; times in seconds, `score` the mean log-prob of its frames, `confidence` 0–1 or None."""

    symbol: str
    start: float
    duration: float
    score: float
    confidence: float | None = None


@dataclass(slots=True)
class AudioReply:
    """`words` and `tokens` are empty and `score` NaN where `status` is not OK."""

    status: ItemStatus
    words: tuple[AlignedSymbol, ...]
    tokens: tuple[AlignedSymbol, ...]
    score: float
    audio_seconds: float
    model: str
    timing: Timing = UNTIMED


def _encode_request(request: AudioRequest) -> bytes:
    message = pb.AlignAudioRequest(audio=request.audio, transcript=request.transcript, model=request.model)
    return message.SerializeToString()


def _decode_request(data: bytes, max_items: int | None = None) -> AudioRequest:
    message = parse_request(pb.AlignAudioRequest, data)
    return AudioRequest(message.audio, message.transcript, message.model)


def _encode_symbol(symbol: AlignedSymbol) -> pb.AlignedSymbol:
    return pb.AlignedSymbol(
        symbol=symbol.symbol,
        start_seconds=symbol.start,
        duration_seconds=symbol.duration,
        score=symbol.score,
        confidence=symbol.confidence,
    )


def _decode_symbol(message: pb.AlignedSymbol) -> AlignedSymbol:
    confidence = message.confidence if message.HasField("confidence") else None
    return AlignedSymbol(message.symbol, message.start_seconds, message.duration_seconds, message.score, confidence)


def _encode_reply(reply: AudioReply) -> bytes:
    message = pb.AlignAudioResponse(
        status=encode_status(reply.status),
        words=[_encode_symbol(word) for word in reply.words],
        tokens=[_encode_symbol(token) for token in reply.tokens],
        score=reply.score,
        audio_seconds=reply.audio_seconds,
        model=reply.model,
        timing=encode_timing(reply.timing),
    )
    return message.SerializeToString()


def _decode_reply(data: bytes) -> AudioReply:
    message = parse_reply(pb.AlignAudioResponse, data)
    return AudioReply(
        decode_status(message.status),
        tuple(_decode_symbol(word) for word in message.words),
        tuple(_decode_symbol(token) for token in message.tokens),
        message.score,
        message.audio_seconds,
        message.model,
        decode_timing(message.timing),
    )


ALIGN_AUDIO: Rpc[AudioRequest, AudioReply] = Rpc(
    "AlignAudio", _encode_request, _decode_request, _encode_reply, _decode_reply
)
