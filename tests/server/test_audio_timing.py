"""CTC paths to words and tokens with times: a path worked out by hand, and what holds of every path and offset."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignd_server.audio.acoustic import ModelDescription, Transcript, TranscriptWord
from alignd_server.audio.timing import locate

FRAME = 0.02


def description(start_offset_s: float, end_offset_s: float) -> ModelDescription:
    return ModelDescription(
        name="test", language="en", sample_rate=16_000, frame_seconds=FRAME, license="Apache-2.0",
        start_offset_s=start_offset_s, end_offset_s=end_offset_s, max_seconds=30.0, vocabulary=tuple("ab|_"), blank=3,
    )  # fmt: skip


TWO_WORDS = Transcript(
    words=(TranscriptWord("AB", ("ab",), 0, 2), TranscriptWord("A", ("a",), 3, 4)),
    targets=np.array([0, 1, 2, 0], np.int32),
    symbols=("a", "b", None, "a"),
)
PATH = np.array([0, 0, 1, 1, 2, 3, 4, 4, 5, 6, 6, 7, 7, 7, 8], np.int32)
SCORES = -np.arange(15, dtype=np.float32)


def test_times_and_scores_of_a_path() -> None:
    words, tokens = locate(PATH, SCORES, TWO_WORDS, description(0.0, 0.0), 0.3)
    assert [(w.symbol, w.start, w.duration, w.score) for w in words] == [
        ("AB", 0.04, 0.08, -10 / 3),
        ("A", 0.22, 0.06, -12),
    ]
    assert [(t.symbol, t.start, t.duration, t.score) for t in tokens] == [
        ("a", 0.04, 0.04, -2.5),
        ("b", 0.10, 0.02, -5.0),
        ("a", 0.22, 0.06, -12.0),
    ]
    assert {item.confidence for item in words + tokens} == {None}


def test_a_mark_is_timed_with_the_token_before_it() -> None:
    marked = Transcript(TWO_WORDS.words, TWO_WORDS.targets, ("ab", "", None, "a"))
    words, tokens = locate(PATH, SCORES, marked, description(0.0, 0.0), 0.3)
    assert words == locate(PATH, SCORES, TWO_WORDS, description(0.0, 0.0), 0.3)[0]
    assert [(t.symbol, t.start, t.duration, t.score) for t in tokens] == [
        ("ab", 0.04, 0.08, -10 / 3),
        ("a", 0.22, 0.06, -12.0),
    ]


def test_offsets_shift_and_an_end_gives_way_to_the_next_start() -> None:
    words, tokens = locate(PATH, SCORES, TWO_WORDS, description(-0.03, 0.006), 0.3)
    assert [(t.start, round(t.start + t.duration, 6)) for t in tokens] == [(0.01, 0.07), (0.07, 0.126), (0.19, 0.286)]
    assert [(w.start, round(w.start + w.duration, 6)) for w in words] == [(0.01, 0.126), (0.19, 0.286)]


@st.composite
def paths(draw: st.DrawFn) -> tuple[npt.NDArray[np.int32], Transcript]:
    """Any transcript of distinct words on any path with a frame for each label."""
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    boundaries = draw(st.booleans())
    words: list[TranscriptWord] = []
    symbols: list[str | None] = []
    for length in lengths:
        if words and boundaries:
            symbols.append(None)
        words.append(TranscriptWord(f"w{len(words)}", ("w",), len(symbols), len(symbols) + length))
        symbols += ["a"] * length
    path: list[int] = []
    for state in range(2 * len(symbols) + 1):
        path += [state] * draw(st.integers(state % 2, 3))
    return np.array(path, np.int32), Transcript(tuple(words), np.zeros(len(symbols), np.int32), tuple(symbols))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(paths(), st.floats(-0.3, 0.3), st.floats(-0.3, 0.3), st.floats(0, FRAME))
def test_symbols_are_in_order_within_the_recording_and_longer_than_nothing(
    case: tuple[npt.NDArray[np.int32], Transcript], start_offset_s: float, end_offset_s: float, rest: float
) -> None:
    path, transcript = case
    seconds = max(1e-3, (len(path) - 1) * FRAME + rest)  # as in a model whose first frame is centred on sample 0
    model = description(start_offset_s, end_offset_s)
    words, tokens = locate(path, np.zeros(len(path)), transcript, model, seconds)
    assert [word.symbol for word in words] == [word.text for word in transcript.words]
    assert len(tokens) == sum(symbol is not None for symbol in transcript.symbols)
    for symbols in (words, tokens):
        ends = [symbol.start + symbol.duration for symbol in symbols]
        assert symbols[0].start >= 0
        assert ends[-1] <= seconds + 1e-6
        assert all(symbol.duration > 0 for symbol in symbols)
        assert all(end <= following.start + 1.5e-6 for end, following in zip(ends, symbols[1:], strict=False))


def test_a_word_runs_from_its_first_token_to_its_last() -> None:
    words, tokens = locate(PATH, SCORES, TWO_WORDS, description(-0.08, 0.006), 0.3)
    assert words[0].start == tokens[0].start
    assert words[0].start + words[0].duration == pytest.approx(tokens[1].start + tokens[1].duration)
    assert words[1].start == tokens[2].start
