"""Recordings through every door."""

import io
from pathlib import Path
from typing import Any

import pytest

from alignd_client import AlignmentItem, InvalidItemError, ItemCode

AUDIO = bytes(1000)


@pytest.mark.parametrize("form", ["bytes", "bytearray", "memoryview", "path", "str", "file"])
def test_forms_of_audio(client: Any, tmp_path: Path, form: str) -> None:
    path = tmp_path / "speech.wav"
    path.write_bytes(AUDIO)
    audio = {
        "bytes": AUDIO,
        "bytearray": bytearray(AUDIO),
        "memoryview": memoryview(AUDIO),
        "path": path,
        "str": str(path),
        "file": io.BytesIO(AUDIO),
    }[form]
    result = client.align_audio(audio, "ab cde", "odd")
    assert result.status.ok
    assert result.model == "odd"
    assert result.audio_seconds == 1.0
    assert result.words == (AlignmentItem("ab", 0.0, 0.4, -0.5), AlignmentItem("cde", 0.4, pytest.approx(0.6), -0.5))
    assert [token.symbol for token in result.tokens] == list("abcde")
    assert [token.confidence for token in result.tokens] == [0.9] * 5
    assert result.words[1].end == 1.0
    assert result.score == -2.5


def test_an_error_of_one_recording_names_no_index(client: Any) -> None:
    with pytest.raises(InvalidItemError, match=r"^the audio is empty") as caught:
        client.align_audio(b"", "text")
    assert caught.value.index is None
    assert caught.value.code is ItemCode.AUDIO_UNREADABLE
    assert caught.value.field == "audio"


def test_a_file_that_is_not_there(client: Any) -> None:
    with pytest.raises(FileNotFoundError):
        client.align_audio("/nowhere/speech.wav", "text")


def test_a_path_that_no_file_can_have(client: Any) -> None:
    with pytest.raises(ValueError, match=r"^'utf-8' codec can't encode .* surrogates not allowed$"):
        client.align_audio("speech\ud800.wav", "text")
    pairs = [("speech\ud800.wav", "one"), (AUDIO, "two"), (AUDIO, "thr\ud800ee"), (AUDIO, "four")]
    results = list(client.align_audios(pairs, on_error="return"))
    codes = [ItemCode.MALFORMED, ItemCode.OK, ItemCode.MALFORMED, ItemCode.OK]
    assert [result.status.code for result in results] == codes
    assert "the transcript holds U+D800, half of a character" in results[2].status.message


def test_many_recordings(client: Any) -> None:
    recordings = [(AUDIO, "one"), ("/nowhere/speech.wav", "two"), (b"", "three"), (AUDIO, "four")]
    results = list(client.align_audios(recordings, on_error="return"))
    codes = [result.status.code for result in results]
    assert codes == [ItemCode.OK, ItemCode.AUDIO_UNREADABLE, ItemCode.AUDIO_UNREADABLE, ItemCode.OK]
    assert "nowhere" in results[1].status.message
    assert [[word.symbol for word in result.words] for result in results] == [["one"], [], [], ["four"]]
    iterator = client.align_audios(recordings)
    assert next(iterator).status.ok
    with pytest.raises(FileNotFoundError):
        next(iterator)


@pytest.mark.parametrize(
    ("audio", "transcript", "words"),
    [
        (io.StringIO("speech"), "text", "mode 'rb'"),
        ([0.0, 0.1], "text", "WAV header"),
        (AUDIO, b"text", "bytes"),
        (AUDIO, None, "NoneType"),
    ],
)
def test_arguments_that_are_no_recording(client: Any, audio: Any, transcript: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        client.align_audio(audio, transcript)
