"""Encoded audio to the samples that an acoustic model takes."""

import io
import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from alignd_server.audio.containers import mp3_declares_frames, mp3_has_one_rate, ogg_is_whole, wav_missing_bytes
from alignd_server.audio.errors import LongAudioError, SilentAudioError, UnreadableAudioError, require

FORMATS: Final = {"WAV": "WAV", "WAVEX": "WAV", "FLAC": "FLAC", "OGG": "OGG", "MP3": "MP3"}
"""libsndfile's names of what is taken, and ours."""

SILENCE_DBFS: Final = -60.0
SAMPLE_RATES: Final = (2_000, 192_000)
MAX_CHANNELS: Final = 32
"""Beyond both nobody records speech, but a few kilobytes can hold it: 30 s of silence in FLAC."""

BLOCK_VALUES: Final = 1 << 18
"""Samples of all channels that are decoded at a time."""

MP3_FRAME: Final = 1152
"""Samples of an MP3 frame. Encoders disagree on whether the padding counts, so less than one is not called missing."""

MISLEADING: Final = "possibly a pipe?"  # libsndfile's word for MP3 data without a valid frame

FloatSamples = npt.NDArray[np.float32]


def decode(data: bytes, sample_rate: int, max_seconds: float = math.inf) -> FloatSamples:
    """Samples of an encoded recording: channels mixed to mono, resampled (soxr, high quality).

    Memory is allocated for what is decoded, never for what a header declares: a block of it, and the result.

    Args:
        data: a WAV, FLAC, OGG (Vorbis, Opus) or MP3 file.
        sample_rate: of the result, in Hz.
        max_seconds: a longer recording is refused, as soon as it is seen to be longer.

    Returns:
        float32 [n], at full scale ±1; inter-sample peaks may exceed it.

    Raises:
        UnreadableAudioError: the bytes are empty, no audio, truncated, without samples, or hold NaN or infinity.
        LongAudioError: the recording is longer than `max_seconds`.
        SilentAudioError: the peak is below -60 dBFS.
        MissingExtraError: soundfile or soxr is not installed.
    """
    with _opened(data) as file:
        container = _check_header(file, data)
        mono = _Mono(int(file.samplerate), sample_rate)
        failure = _read(file, mono, max_seconds)
        declared = int(file.frames)
    if failure is not None or _ends_early(container, data, declared, mono.decoded):
        lengths = f": {mono.decoded} samples of {declared}" if mono.decoded < declared < 1 << 40 else ""
        raise UnreadableAudioError(f"the {container} file is truncated or damaged{lengths}")
    if mono.decoded == 0:
        raise UnreadableAudioError(f"the {container} file holds no samples (or its header says so)")
    if not math.isfinite(mono.peak):
        raise UnreadableAudioError("the audio holds samples that are not finite (NaN or infinity)")
    if mono.peak < 10 ** (SILENCE_DBFS / 20):
        level = f"{20 * math.log10(mono.peak):.0f} dBFS" if mono.peak > 0 else "digital zero"
        raise SilentAudioError(
            f"the audio is silent: its peak, mixed to mono, is {level}, below {SILENCE_DBFS:.0f} dBFS"
        )
    samples = mono.result()
    if len(samples) == 0:
        raise UnreadableAudioError(f"the audio is too short: less than a sample at {sample_rate} Hz")
    return samples


class _Mono:
    """A recording's samples, block by block: mixed to mono and, where the rates differ, resampled.

    Attributes:
        decoded: samples of one channel so far, at the file's rate.
        peak: of the mix, before it is resampled; NaN if any sample is.
    """

    def __init__(self, rate: int, sample_rate: int) -> None:
        self.decoded = 0
        self.peak = 0.0
        self._resampler = None
        if rate != sample_rate:
            self._resampler = require("soxr").ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
        self._blocks: list[FloatSamples] = []

    def add(self, values: FloatSamples) -> None:
        """The next samples, [n, channels] with n ≥ 1."""
        mix = values.mean(axis=1, dtype=np.float32)
        self.decoded += len(mix)
        self.peak = float(np.maximum(self.peak, np.max(np.abs(mix))))
        self._blocks.append(mix if self._resampler is None else self._resampler.resample_chunk(mix))

    def result(self) -> FloatSamples:
        """All samples; no more can be added."""
        if self._resampler is not None:
            self._blocks.append(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        return np.concatenate(self._blocks)


def _opened(data: bytes) -> Any:
    if not data:
        raise UnreadableAudioError("the audio is empty (0 bytes)")
    soundfile = require("soundfile")
    try:
        return soundfile.SoundFile(io.BytesIO(data))
    except soundfile.LibsndfileError as error:
        detail = "" if MISLEADING in error.error_string else f" ({error.error_string.rstrip('.')})"
        raise UnreadableAudioError(
            f"the audio is not a WAV, FLAC, OGG or MP3 file, or is damaged at its start{detail}"
        ) from None


def _check_header(file: Any, data: bytes) -> str:
    """What can be told before anything is decoded. Returns the container's name."""
    container = FORMATS.get(file.format)
    if container is None:
        raise UnreadableAudioError(f"the audio is a file of type {file.format}; WAV, FLAC, OGG and MP3 are taken")
    low, high = SAMPLE_RATES
    if not low <= file.samplerate <= high:
        raise UnreadableAudioError(f"the audio's sample rate is {file.samplerate} Hz; {low} to {high} are taken")
    if file.channels > MAX_CHANNELS:
        raise UnreadableAudioError(f"the audio has {file.channels} channels; up to {MAX_CHANNELS} are taken")
    missing = wav_missing_bytes(data) if container == "WAV" else 0
    if missing:
        raise UnreadableAudioError(f"the WAV file is truncated: {missing} bytes of its data are missing")
    if container == "OGG" and not ogg_is_whole(data):
        raise UnreadableAudioError("the OGG file is truncated: it lacks the page that ends its stream")
    if container == "MP3" and not mp3_declares_frames(data) and not mp3_has_one_rate(data):
        raise UnreadableAudioError(
            "the MP3 file has a variable bit rate and does not state its length, so it cannot be decoded to its end"
        )
    return container


def _read(file: Any, mono: _Mono, max_seconds: float) -> Exception | None:
    """Decode to the end. Returns the failure that came before it, if one did."""
    # soundfile would otherwise seek after each block, which fails on a FLAC stream of unknown length.
    file.seekable = lambda: False
    block = np.empty((BLOCK_VALUES // file.channels, file.channels), np.float32)
    limit = max_seconds * file.samplerate
    while True:
        try:
            values = file.read(out=block)
        except RuntimeError as error:
            return error
        if len(values) == 0:
            return None
        if mono.decoded + len(values) > limit:
            raise LongAudioError(f"the audio is longer than {max_seconds:g} s, the most that is taken")
        mono.add(values)


def _ends_early(container: str, data: bytes, declared: int, decoded: int) -> bool:
    match container:
        case "FLAC":
            unknown = declared >= 1 << 62
            return not unknown and decoded < declared
        case "MP3":
            return mp3_declares_frames(data) and decoded + MP3_FRAME < declared
    return False
