"""The default model on a real recording, without an engine: decoding, emissions, the reference's path, times."""

import io
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from alignd.wire import AlignedSymbol
from alignd_kernels.ctc import reference
from alignd_kernels.status import Status
from alignd_server.audio import AudioError, HamaModel, Utterance, listen, timed
from alignd_server.audio.hama_model import _reported

DATA = Path(__file__).parents[1] / "data"
RECORDING = (DATA / "dashwood.flac").read_bytes()
TRANSCRIPT = (DATA / "dashwood.txt").read_text()
SAMPLES, RATE = soundfile.read(io.BytesIO(RECORDING), dtype="float32")

# Starts of the words in seconds, as pocketsphinx 5.1.1 has them (a GMM-HMM aligner, independent of hama; its en-us
# model, set_align_text and then set_alignment, 10 ms frames).
STARTS = [0.20, 0.37, 0.63, 0.98, 1.58, 1.84, 2.25, 2.71, 2.89, 3.44, 4.00, 4.33, 4.52, 4.79, 4.94, 5.46, 5.56, 5.75,
          6.04, 6.14, 6.35, 6.61]  # fmt: skip
SPEECH_ENDS = 6.79

Symbols = tuple[AlignedSymbol, ...]


@pytest.fixture(scope="module")
def model() -> HamaModel:
    return HamaModel()


def path_of(utterance: Utterance) -> reference.CtcAlignment:
    return reference.forced_align(
        utterance.log_probs, utterance.transcript.targets, utterance.description.blank, accumulator=np.float32
    )


def aligned(model: HamaModel, audio: bytes, transcript: str) -> tuple[Symbols, Symbols]:
    utterance = listen(model, audio, transcript)
    alignment = path_of(utterance)
    assert alignment.status is Status.OK
    return timed(utterance, alignment.path, alignment.frame_scores)


@pytest.fixture(scope="module")
def symbols(model: HamaModel) -> tuple[Symbols, Symbols]:
    return aligned(model, RECORDING, TRANSCRIPT)


def refusal(model: HamaModel, audio: bytes, transcript: str) -> AudioError:
    with pytest.raises(AudioError) as caught:
        listen(model, audio, transcript)
    return caught.value


def encoded(samples: npt.NDArray[np.float32], form: str, rate: int = RATE) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=form)
    return stream.getvalue()


def test_the_words_come_in_order_as_they_are_written(symbols: tuple[Symbols, Symbols]) -> None:
    words, tokens = symbols
    assert [word.symbol for word in words] == TRANSCRIPT.replace(".", "").split()
    for items in symbols:
        ends = [item.start + item.duration for item in items]
        assert all(end <= following.start + 1e-6 for end, following in zip(ends, items[1:], strict=False))
    assert [token.symbol for token in tokens[:3]] == ["æ", "n", "d"]
    assert "<wb>" not in {token.symbol for token in tokens}


def test_the_words_start_where_an_independent_aligner_has_them(symbols: tuple[Symbols, Symbols]) -> None:
    errors = np.abs([word.start - start for word, start in zip(symbols[0], STARTS, strict=True)])
    assert errors.max() < 0.150
    assert errors.mean() < 0.040


def test_the_words_cover_the_speech(symbols: tuple[Symbols, Symbols]) -> None:
    words = symbols[0]
    assert abs(words[0].start - STARTS[0]) < 0.1
    assert abs(words[-1].start + words[-1].duration - SPEECH_ENDS) < 0.1
    inside = np.zeros(len(SAMPLES), bool)
    for word in words:
        inside[round(word.start * RATE) : round((word.start + word.duration) * RATE)] = True
    energy = SAMPLES.astype(np.float64) ** 2
    assert energy[inside].sum() > 0.9 * energy.sum()


def test_a_true_transcript_scores_well_and_a_wrong_one_does_not(
    model: HamaModel, symbols: tuple[Symbols, Symbols]
) -> None:
    wrong, _ = aligned(model, RECORDING, "Yesterday the quick brown fox jumped over seven lazy dogs in Sussex")
    assert min(word.score for word in symbols[0]) > -0.5
    assert np.mean([word.score for word in wrong]) < -3


def test_a_title_has_the_sounds_that_are_heard(model: HamaModel) -> None:
    np.testing.assert_array_equal(
        model.prepare("Mr. Mrs. etc.").targets, model.prepare("mister missus etcetera").targets
    )
    assert [s for s in model.prepare("mister").symbols if s] == ["m", "ɝ", "ɹ", "ə"]


@pytest.mark.parametrize("form", ["WAV", "OGG", "MP3"])
def test_stereo_at_44_1_khz_gives_the_same_words(model: HamaModel, symbols: tuple[Symbols, Symbols], form: str) -> None:
    high = soxr.resample(SAMPLES, RATE, 44_100, quality="VHQ")
    stereo = encoded(np.stack([1.2 * high, 0.8 * high], axis=1), form, 44_100)
    words, _ = aligned(model, stereo, TRANSCRIPT)
    frame = model.describe().frame_seconds
    for word, expected in zip(words, symbols[0], strict=True):
        assert word.symbol == expected.symbol
        assert abs(word.start - expected.start) <= frame + 1e-6
        assert abs(word.start + word.duration - expected.start - expected.duration) <= frame + 1e-6


def test_emissions_are_log_probs_of_the_described_shape(model: HamaModel) -> None:
    described = model.describe()
    assert described.vocabulary[described.blank] == "<blank>"
    log_probs = model.emissions(SAMPLES)
    assert log_probs.dtype == np.float32
    assert log_probs.flags.c_contiguous
    assert log_probs.shape == (len(SAMPLES) // 320 + 1, len(described.vocabulary))
    np.testing.assert_allclose(np.exp(log_probs.astype(np.float64)).sum(axis=1), 1, atol=1e-5)


def test_the_boundary_stands_between_words_and_within_none_but_those_of_several(model: HamaModel) -> None:
    transcript = model.prepare("In 1995, naïve men.")
    assert [word.text for word in transcript.words] == ["In", "1995", "naïve", "men"]
    boundaries = [i for i, symbol in enumerate(transcript.symbols) if symbol is None]
    assert {model.describe().vocabulary[transcript.targets[i]] for i in boundaries} == {"<wb>"}
    outside = [i for i in boundaries if not any(w.start <= i < w.end for w in transcript.words)]
    assert outside == [word.end for word in transcript.words[:-1]]
    assert len(boundaries) - len(outside) == len(transcript.words[1].spoken) - 1 == 2
    vocabulary = model.describe().vocabulary
    for target, symbol in zip(transcript.targets, transcript.symbols, strict=True):
        assert symbol in (None, vocabulary[target])


@pytest.mark.parametrize(
    ("said", "sounds", "symbols"),
    [
        ("do", ["d", "̪", "o"], ["d̪", "o"]),
        ("Apache", ["a", "p", "a", "t", "͡", "ʃ", "e"], ["a", "p", "a", "t͡ʃ", "e"]),
        ("do do", ["d", "̪", "o", "<wb>", "d", "̪", "o"], ["d̪", "o", "d̪", "o"]),
        ("€5", ["f", "aɪ", "v", "<wb>", "j", "ʊ", "ɹ", "oʊ", "z"], ["f", "aɪ", "v", "j", "ʊ", "ɹ", "oʊ", "z"]),
    ],
)
def test_a_mark_is_a_target_and_never_a_token(
    model: HamaModel, said: str, sounds: list[str], symbols: list[str]
) -> None:
    transcript = model.prepare(said)
    assert [model.describe().vocabulary[target] for target in transcript.targets] == sounds
    assert [symbol for symbol in transcript.symbols if symbol] == symbols


def test_a_mark_before_a_letter_is_named_with_it() -> None:
    assert _reported(["̪", "d", "o", "<wb>", "̪", "d"]) == ("̪d", "", "o", None, "̪d", "")


def test_an_abbreviation_is_one_word_of_the_transcript(model: HamaModel) -> None:
    short, long = model.prepare("Dr. Bell, e.g."), model.prepare("doctor bell for example")
    np.testing.assert_array_equal(short.targets, long.targets)
    assert [(word.text, word.start, word.end) for word in short.words] == [
        ("Dr", long.words[0].start, long.words[0].end),
        ("Bell", long.words[1].start, long.words[1].end),
        ("e.g", long.words[2].start, long.words[3].end),
    ]


def test_punctuation_and_case_change_nothing_that_is_said(model: HamaModel) -> None:
    plain, marked = model.prepare("sussex"), model.prepare("“Sussex.”")
    np.testing.assert_array_equal(plain.targets, marked.targets)
    np.testing.assert_array_equal(model.prepare("naive").targets, model.prepare("naïve").targets)


def test_each_letter_can_be_said_alone(model: HamaModel) -> None:
    assert len(model.prepare(" ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ")).words) == 26


@pytest.mark.parametrize("word", ["привет", "supercalifragilisticexpialidocious", "b" * 10_000])
def test_a_word_that_cannot_be_pronounced_is_refused_by_name(model: HamaModel, word: str) -> None:
    error = refusal(model, RECORDING, f"and {word}")
    assert error.status is Status.TEXT_UNSUPPORTED
    assert f"“{word[:39]}" in error.message


def test_a_long_word_can_be_hyphenated(model: HamaModel) -> None:
    (word,) = model.prepare("supercali-fragilistic-expiali-docious").words
    assert word.text == "supercali-fragilistic-expiali-docious"
    assert word.end - word.start > 30


def test_a_phoneme_without_a_column_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = HamaModel()
    monkeypatch.delitem(model._column, "ʌ")
    error = refusal(model, RECORDING, "Sussex")
    assert error.status is Status.TEXT_UNSUPPORTED
    assert "“sussex” has the phoneme “ʌ”" in error.message


@settings(derandomize=True, deadline=None, max_examples=150)
@given(text=st.text(max_size=12) | st.text("abz5$.,'-\u2011\u00ad& ", max_size=8))
def test_any_text_is_prepared_or_is_an_audio_error(model: HamaModel, text: str) -> None:
    prepared, field = None, "transcript"
    try:
        prepared = model.prepare(text)
    except AudioError as error:
        field = error.field
    assert field == "transcript"
    if prepared is not None:
        assert all(word.start < word.end for word in prepared.words)
        assert len(prepared.targets) == len(prepared.symbols) == prepared.words[-1].end


@pytest.mark.parametrize("transcript", ["", " ... "])
def test_an_empty_transcript_is_refused(model: HamaModel, transcript: str) -> None:
    error = refusal(model, RECORDING, transcript)
    assert (error.status, error.field) == (Status.EMPTY, "transcript")


def test_of_two_faults_the_one_that_costs_least_is_told(model: HamaModel) -> None:
    assert refusal(model, b"no audio", "привет").status is Status.TEXT_UNSUPPORTED
    assert refusal(model, b"no audio", TRANSCRIPT).status is Status.AUDIO_UNREADABLE


def test_a_transcript_longer_than_its_audio_has_too_few_frames(model: HamaModel) -> None:
    utterance = listen(model, encoded(SAMPLES[: RATE // 2], "WAV"), TRANSCRIPT)
    assert path_of(utterance).status is Status.TOO_FEW_FRAMES


@pytest.mark.parametrize("times", [20, 10_000])
def test_a_transcript_that_no_recording_can_hold_is_refused_at_once(model: HamaModel, times: int) -> None:
    error = refusal(model, RECORDING, TRANSCRIPT * times)
    assert (error.status, error.field) == (Status.TOO_FEW_FRAMES, "transcript")


class Counted:
    """A model's pronunciations, and how many were asked for."""

    def __init__(self, model: HamaModel) -> None:
        self.calls = 0
        self._pronounce = model._phonemes

    def __call__(self, spoken: str) -> tuple[str, ...]:
        self.calls += 1
        return self._pronounce(spoken)


@pytest.mark.parametrize(
    ("text", "calls"),
    [("a-" * 20_000 + "a", 0), ("a " * 751, 0), ("fragilistic-" * 700 + "a", 150), ("fragilistic " * 700, 150)],
    ids=["parts of a word", "words", "sounds of a word's parts", "sounds of words"],
)
def test_no_pronunciation_is_sought_that_no_recording_can_hold(
    model: HamaModel, monkeypatch: pytest.MonkeyPatch, text: str, calls: int
) -> None:
    counted = Counted(model)
    monkeypatch.setattr(model, "_phonemes", counted)
    with pytest.raises(AudioError, match="more than 1500 sounds"):
        model.prepare(text)
    assert counted.calls <= calls


def test_audio_beyond_what_the_model_hears_is_refused(model: HamaModel) -> None:
    """The package answers with the first 1,500 frames of anything, without a word."""
    seconds = model.describe().max_seconds
    longest = np.resize(SAMPLES, round(seconds * RATE))
    assert len(longest) == 480_000
    assert len(model.emissions(longest)) == 1500
    error = refusal(model, encoded(np.resize(SAMPLES, len(longest) + RATE), "FLAC"), TRANSCRIPT)
    assert (error.status, error.field) == (Status.AUDIO_TOO_LONG, "audio")
    assert "30 s" in error.message
    with pytest.raises(AudioError, match="30 s"):
        model.emissions(np.resize(SAMPLES, len(longest) + 1))


def test_threads_share_a_model_and_agree(model: HamaModel) -> None:
    expected = model.emissions(SAMPLES[:RATE])
    answers: list[bool] = []

    def work(word: str) -> None:
        prepared = model.prepare(f"{word} {word}")
        answers.append(np.array_equal(model.emissions(SAMPLES[:RATE]), expected) and len(prepared.words) == 2)

    threads = [threading.Thread(target=work, args=(word,)) for word in ("power", "leisure", "power", "prudent")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 4
