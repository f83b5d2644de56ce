"""What the writers write."""

import json
import re
from itertools import pairwise

import pytest

from alignd.wire import OK
from alignd_client import AlignmentItem, AudioAlignment, formats

WORDS = (
    AlignmentItem("And", 0.25, 0.25, -0.5),
    AlignmentItem('"Mr."', 0.75, 0.5, -1.25, 0.75),
    AlignmentItem("Dash wood", 2.5, 0.5, float("nan")),
)
TOKENS = (AlignmentItem("æ", 0.25, 0.125, -0.25), AlignmentItem("n", 0.375, 0.125, -0.75))
ALIGNMENT = AudioAlignment(WORDS, TOKENS, -12.5, 3.5, "hama", OK)
NOTHING = AudioAlignment((), (), float("nan"), 1.0, "hama", OK)


def test_table() -> None:
    assert formats.table(ALIGNMENT) == (
        "   start       end    score  word\n"
        "   0.250     0.500   -0.500  And\n"
        '   0.750     1.250   -1.250  "Mr."\n'
        "   2.500     3.000      nan  Dash wood\n"
    )
    assert formats.table(ALIGNMENT, tokens=True).splitlines()[1] == "   0.250     0.375   -0.250  æ"


def test_json() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = formats.to_json(ALIGNMENT, name="speech", tokens=True)
    value = json.loads(text, parse_constant=refuse)
    assert value["audio"] == "speech"
    assert value["audio_seconds"] == 3.5
    assert value["words"][1] == {
        "symbol": '"Mr."',
        "start": 0.75,
        "end": 1.25,
        "duration": 0.5,
        "score": -1.25,
        "confidence": 0.75,
    }
    assert value["words"][2]["score"] is None
    assert value["tokens"][0]["symbol"] == "æ"
    assert "æ" in text
    assert "tokens" not in json.loads(formats.to_json(ALIGNMENT))
    assert json.loads(formats.to_json(NOTHING), parse_constant=refuse)["words"] == []


def test_ctm() -> None:
    assert formats.ctm(ALIGNMENT, name="my speech").splitlines() == [
        "my_speech 1 0.250 0.250 And",
        'my_speech 1 0.750 0.500 "Mr." 0.750',
        "my_speech 1 2.500 0.500 Dash_wood",
    ]
    assert formats.ctm(NOTHING) == ""


def intervals(text: str, tier: int = 1) -> list[tuple[float, float, str]]:
    section = text.split(f"item [{tier}]:")[1].split("    item [")[0]
    found = re.findall(r'xmin = ([\d.]+)\s+xmax = ([\d.]+)\s+text = "((?:[^"]|"")*)"', section)
    (size,) = re.findall(r"intervals: size = (\d+)", section)
    assert len(found) == int(size)
    return [(float(start), float(end), text.replace('""', '"')) for start, end, text in found]


def test_textgrid() -> None:
    text = formats.textgrid(ALIGNMENT, tokens=True)
    assert text.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 3.500000\n')
    assert "size = 2\n" in text
    assert intervals(text) == [
        (0.0, 0.25, ""),
        (0.25, 0.5, "And"),
        (0.5, 0.75, ""),
        (0.75, 1.25, '"Mr."'),
        (1.25, 2.5, ""),
        (2.5, 3.0, "Dash wood"),
        (3.0, 3.5, ""),
    ]
    assert [symbol for _, _, symbol in intervals(text, 2)] == ["", "æ", "n", ""]
    assert intervals(formats.textgrid(NOTHING)) == [(0.0, 1.0, "")]


@pytest.mark.parametrize(
    "places",
    [
        [(0.0, 1.0), (0.5, 1.0), (1.2, 2.0)],
        [(-0.1, 0.5), (0.5, 3.0)],
        [(0.5, 0.5), (0.5, 0.5), (0.6, 0.5)],
        [(0.0, 2.0), (0.5, 0.2), (2.5, 1.5)],
    ],
)
def test_a_tier_has_neither_gaps_nor_overlaps(places: list[tuple[float, float]]) -> None:
    words = tuple(AlignmentItem(str(i), start, duration, 0.0) for i, (start, duration) in enumerate(places))
    tier = intervals(formats.textgrid(AudioAlignment(words, (), 0.0, 3.0, "", OK)))
    assert tier[0][0] == 0.0
    assert tier[-1][1] >= 3.0
    assert all(before[1] == after[0] for before, after in pairwise(tier))
    assert all(start < end for start, end, _ in tier)
    assert [symbol for _, _, symbol in tier if symbol] == [str(i) for i in range(len(places))]


def test_srt() -> None:
    assert formats.srt(ALIGNMENT) == (
        '1\n00:00:00,250 --> 00:00:01,250\nAnd "Mr."\n\n2\n00:00:02,500 --> 00:00:03,000\nDash wood\n'
    )
    assert formats.srt(ALIGNMENT, tokens=True).count("-->") == 2
    assert formats.srt(NOTHING) == ""


def test_srt_breaks_lines_and_sentences() -> None:
    words = tuple(AlignmentItem("word", 3600 + i * 0.5, 0.5, 0.0) for i in range(20))
    captions = formats.srt(AudioAlignment(words, (), 0.0, 3610.0, "", OK)).split("\n\n")
    lines = [caption.splitlines()[2] for caption in captions]
    assert max(map(len, lines)) <= 42
    assert sum(len(line.split()) for line in lines) == 20
    assert captions[0].splitlines()[1].startswith("01:00:00,000 --> 01:00:0")
    ended = (AlignmentItem("End.", 0.0, 0.5, 0.0), AlignmentItem("Begin", 0.5, 0.5, 0.0))
    assert formats.srt(AudioAlignment(ended, (), 0.0, 1.0, "", OK)).count("-->") == 2


def captions(transcript: str, words: str) -> list[str]:
    """Of words of a fifth of a second each, as a server has them: without punctuation."""
    items = tuple(AlignmentItem(word, i * 0.2, 0.2, 0.0) for i, word in enumerate(words.split()))
    text = formats.srt(AudioAlignment(items, (), 0.0, 9.0, "", OK), transcript=transcript)
    return [block.splitlines()[2] for block in text.split("\n\n") if block]


@pytest.mark.parametrize(
    ("transcript", "words", "lines"),
    [
        ("And Mr. J. Dash,\n he had it.", "And Mr J Dash he had it", ["And Mr. J. Dash, he had it."]),
        (
            'She said: "Go!" — “Now?” he asked…',
            "She said Go Now he asked",
            ['She said: "Go!" — “Now?”', "he asked…"],
        ),
        ("¿Well—that is—all)", "Well that is all", ["¿Well—that is—all)"]),
        ("It's co\u00adop -5 (no no) no.", "It's coop -5 no no no", ["It's coop -5 (no no) no."]),
        ("Another one.", "Something else", ["Something else"]),
        ("One two.", "One", ["One"]),
        ("Zero one.", "one", ["one"]),
        ("", "One two", ["One two"]),
    ],
)
def test_captions_stand_as_the_transcript_has_them(transcript: str, words: str, lines: list[str]) -> None:
    assert captions(transcript, words) == lines


def test_punctuation_counts_in_a_line() -> None:
    lines = captions(" ".join(["word,"] * 20), " ".join(["word"] * 20))
    assert max(map(len, lines)) <= 42
    assert " ".join(lines) == " ".join(["word,"] * 20)
