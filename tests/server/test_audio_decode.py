"""Encoded audio to samples: formats, channels and rates, and every way in which a file can be no whole recording."""

import io
import math
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr

from alignd_kernels.status import Status
from alignd_server.audio.decode import BLOCK_VALUES, decode
from alignd_server.audio.errors import AudioError

RATE = 16_000
RECORDING = (Path(__file__).parents[1] / "data" / "dashwood.flac").read_bytes()
SPEECH = soundfile.read(io.BytesIO(RECORDING), dtype="float32")[0]
FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("WAVEX", "PCM_24"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]
LOSS = {"VORBIS": 0.05, "OPUS": 0.15, "MPEG_LAYER_III": 0.05}  # a shift by one sample would be 0.5


def tone(seconds: float = 2.0, rate: int = RATE, amplitude: float = 0.3) -> npt.NDArray[np.float32]:
    """Three partials, the highest at 2.2 kHz."""
    t = np.arange(round(seconds * rate)) / rate
    partials = np.sin(2 * np.pi * np.outer([220.0, 700.0, 2200.0], t))
    wave: npt.NDArray[np.float32] = (amplitude / 3 * partials.sum(axis=0)).astype(np.float32)
    return wave


def encoded(samples: npt.NDArray[np.float32], form: str, subtype: str | None = None, rate: int = RATE) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=form, subtype=subtype)
    return stream.getvalue()


def refusal(data: bytes, max_seconds: float = math.inf) -> AudioError:
    with pytest.raises(AudioError) as caught:
        decode(data, RATE, max_seconds)
    assert caught.value.field == "audio"
    assert str(caught.value) == caught.value.message
    return caught.value


@pytest.mark.parametrize(("form", "subtype"), FORMATS)
def test_each_format_gives_the_samples_that_were_encoded(form: str, subtype: str) -> None:
    samples = tone()
    decoded = decode(encoded(samples, form, subtype), RATE)
    assert decoded.dtype == np.float32
    assert len(decoded) == len(samples)
    inner = slice(2000, -2000)  # lossy encoders blur the edges
    error = np.sqrt(np.mean((decoded - samples)[inner] ** 2)) / np.sqrt(np.mean(samples[inner] ** 2))
    assert error < LOSS.get(subtype, 1e-3)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_rates_are_converted_without_a_delay(rate: int) -> None:
    decoded = decode(encoded(tone(rate=rate), "WAV", "FLOAT", rate), RATE)
    assert abs(len(decoded) - 2 * RATE) <= 1
    n = min(len(decoded), 2 * RATE)
    assert np.max(np.abs(decoded[:n] - tone()[:n])[200:-200]) < 1e-3


def test_channels_are_averaged() -> None:
    left, right = tone(), tone(amplitude=0.1)[::-1]
    decoded = decode(encoded(np.stack([left, right], axis=1), "WAV", "FLOAT"), RATE)
    np.testing.assert_allclose(decoded, (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize(("form", "subtype"), FORMATS)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_file_that_is_cut_is_told(form: str, subtype: str, kept: float) -> None:
    whole = encoded(SPEECH, form, subtype)
    error = refusal(whole[: int(len(whole) * kept)])
    assert error.status is Status.AUDIO_UNREADABLE
    assert "truncated" in error.message or "damaged" in error.message


@pytest.mark.parametrize(("form", "subtype"), [f for f in FORMATS if f[0] != "MP3"])
def test_a_file_that_lacks_its_last_byte_is_told(form: str, subtype: str) -> None:
    assert refusal(encoded(tone(), form, subtype)[:-1]).status is Status.AUDIO_UNREADABLE


def mp3_without_a_length(mode: str) -> bytes:
    """The recording, without the first frame, which holds no sound but says how many follow."""
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", RATE, 1, format="MP3", bitrate_mode=mode, compression_level=0.5) as file:
        file.write(SPEECH)
    data = stream.getvalue()
    return data[data.index(data[:2], 4) :]


def test_a_cut_mp3_without_a_length_yields_what_there_is() -> None:
    """Nothing in such a file tells its length."""
    data = mp3_without_a_length("CONSTANT")
    assert len(SPEECH) <= len(decode(data, RATE)) < len(SPEECH) + 4 * 1152
    assert abs(len(decode(data[: len(data) // 2], RATE)) - len(SPEECH) / 2) < 4 * 1152


def test_an_mp3_that_would_be_read_to_a_guessed_end_is_refused() -> None:
    data = mp3_without_a_length("VARIABLE")
    assert len(soundfile.read(io.BytesIO(data))[0]) < 0.9 * len(SPEECH), "the defect that is guarded against"
    error = refusal(data)
    assert "variable bit rate" in error.message


@pytest.mark.parametrize(
    "data",
    [b"hello " * 99, b"\x89PNG\r\n" + bytes(500), b"\xff\xfb\x90\x00" + bytes(2000), b"RIFF", b"\0", RECORDING[4:]],
    ids=["text", "png", "an mp3 header alone", "four bytes", "one byte", "beheaded"],
)  # fmt: skip
def test_what_is_not_audio_is_refused(data: bytes) -> None:
    assert refusal(data).status is Status.AUDIO_UNREADABLE


def test_random_bytes_are_refused() -> None:
    data = np.random.default_rng(1).integers(0, 256, 5000, dtype=np.uint8).tobytes()
    assert refusal(data).status is Status.AUDIO_UNREADABLE


def test_empty_bytes_are_refused() -> None:
    error = refusal(b"")
    assert error.status is Status.AUDIO_UNREADABLE
    assert "empty" in error.message


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG"])
def test_a_file_without_samples_is_refused(form: str) -> None:
    assert refusal(encoded(np.zeros(0, np.float32), form)).status is Status.AUDIO_UNREADABLE


def test_another_container_is_refused_by_name() -> None:
    assert "AIFF" in refusal(encoded(tone(), "AIFF")).message


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_samples_that_are_not_finite_are_refused(bad: float) -> None:
    samples = tone()
    samples[777] = bad
    error = refusal(encoded(samples, "WAV", "FLOAT"))
    assert error.status is Status.AUDIO_UNREADABLE
    assert "not finite" in error.message


def noise(dbfs: float) -> npt.NDArray[np.float32]:
    values = np.random.default_rng(2).uniform(-1, 1, RATE)
    scaled: npt.NDArray[np.float32] = (values / np.max(np.abs(values)) * 10 ** (dbfs / 20)).astype(np.float32)
    return scaled


@pytest.mark.parametrize("samples", [np.zeros(RATE, np.float32), noise(-70.0), noise(-60.5)], ids=["0", "-70", "-60.5"])
def test_silence_is_refused(samples: npt.NDArray[np.float32]) -> None:
    error = refusal(encoded(samples, "WAV", "FLOAT"))
    assert error.status is Status.AUDIO_SILENT
    assert "-60 dBFS" in error.message


def test_quiet_sound_is_taken() -> None:
    assert len(decode(encoded(noise(-59.5), "WAV", "FLOAT"), RATE)) == RATE


def test_channels_that_cancel_are_silent() -> None:
    assert refusal(encoded(np.stack([tone(), -tone()], axis=1), "WAV", "FLOAT")).status is Status.AUDIO_SILENT


def lying_flac(samples: int) -> bytes:
    """A FLAC file of 1 s whose header declares another number of samples."""
    data = bytearray(encoded(tone(1.0), "FLAC", "PCM_16"))
    data[21] = data[21] & 0xF0 | samples >> 32
    data[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(data)


def test_a_header_that_declares_terabytes_is_refused_without_allocating_them() -> None:
    error = refusal(lying_flac(2**36 - 1))
    assert error.status is Status.AUDIO_UNREADABLE
    assert "16000 samples of 68719476735" in error.message


def test_a_flac_stream_of_unknown_length_is_decoded() -> None:
    assert len(decode(lying_flac(0), RATE)) == RATE


def wav(declared: int, payload: bytes, rate: int = RATE, channels: int = 1) -> bytes:
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * channels * 2 & 0xFFFFFFFF, channels * 2, 16)
    return b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + form + b"data" + struct.pack("<I", declared) + payload


PAYLOAD = (tone(1.0) * 32767).astype("<i2").tobytes()


def test_a_wav_written_to_a_pipe_is_decoded_to_its_end() -> None:
    """ffmpeg and sox leave the length of the data at its maximum where they cannot seek back."""
    for unknown in (0xFFFFFFFF, 0x7FFFFFFF):
        assert len(decode(wav(unknown, PAYLOAD), RATE)) == RATE


def test_a_wav_that_declares_more_than_it_has_is_refused() -> None:
    assert "4 bytes of its data are missing" in refusal(wav(len(PAYLOAD) + 4, PAYLOAD)).message


@pytest.mark.parametrize(("rate", "channels"), [(0, 1), (1, 1), (2**31, 1), (192_001, 1), (384_000, 1), (RATE, 0)])
def test_a_senseless_header_is_refused(rate: int, channels: int) -> None:
    assert refusal(wav(len(PAYLOAD), PAYLOAD, rate, channels)).status is Status.AUDIO_UNREADABLE


def test_many_channels_are_mixed_and_too_many_are_refused() -> None:
    samples = (tone(0.5) * 32767).astype("<i2")
    most, more = np.repeat(samples, 32).tobytes(), np.repeat(samples, 33).tobytes()
    assert len(decode(wav(len(most), most, channels=32), RATE)) == RATE // 2
    error = refusal(wav(len(more), more, channels=33))
    assert error.status is Status.AUDIO_UNREADABLE
    assert "33 channels; up to 32 are taken" in error.message


@pytest.mark.parametrize("rate", [2_000, 11_025, 44_100, 192_000])
@pytest.mark.parametrize("count", [1, 2, 100, 300_001])
def test_the_samples_are_those_of_resampling_all_at_once(rate: int, count: int) -> None:
    """However many blocks the recording is decoded in."""
    samples = noise(-6.0)[np.arange(count) % RATE]
    samples[0] = 0.5
    whole = soxr.resample(samples, rate, RATE, quality="HQ")
    data = encoded(samples, "WAV", "FLOAT", rate)
    if len(whole):
        np.testing.assert_array_equal(decode(data, RATE), whole)
    else:
        assert "too short" in refusal(data).message


def test_a_small_file_takes_little_memory() -> None:
    """As much as a block and the result, not as much as its samples at its own rate, of all channels or of one."""
    t = np.arange(20 * 192_000) / 192_000
    channels = np.zeros((len(t), 8), np.float32)
    channels[:, 0] = np.where(t < 0.1, np.sin(2 * np.pi * 220 * t), 0)
    data = encoded(channels, "FLAC", "PCM_16", 192_000)
    assert len(data) < 100_000
    decode(data, RATE)  # the packages are loaded
    tracemalloc.start()
    samples = decode(data, RATE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(samples) == 20 * RATE
    assert peak < 2 * samples.nbytes + 8 * BLOCK_VALUES


def test_a_longer_recording_than_is_taken_is_refused_by_the_limit() -> None:
    error = refusal(RECORDING, max_seconds=7.0)
    assert error.status is Status.AUDIO_TOO_LONG
    assert "longer than 7 s" in error.message
    assert len(decode(RECORDING, RATE, max_seconds=7.1)) == 113_600


def test_a_long_silence_costs_no_memory_before_it_is_refused() -> None:
    """A small file of an hour: refused after the first blocks."""
    hour = encoded(np.zeros(RATE * 3600, np.float32), "FLAC", "PCM_16")
    assert len(hour) < 1_000_000
    assert "longer than 30 s" in refusal(hour, max_seconds=30).message
