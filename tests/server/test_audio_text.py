"""English transcripts to spoken words: what is read how, and what is refused by name."""

import re
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignd_kernels.status import Status
from alignd_server.audio.errors import AudioError
from alignd_server.audio.text import english_words


def spoken(transcript: str) -> str:
    return " | ".join(" ".join(word.spoken) for word in english_words(transcript))


@pytest.mark.parametrize(
    ("transcript", "said"),
    [
        ("Sussex.", "sussex"),
        ("“Don’t!” she said—‘never’…", "don't | she | said | never"),
        ("naïve café", "naive | cafe"),
        ("1995", "nineteen ninety five"),
        ("2005", "two thousand and five"),
        ("1,995", "one thousand nine hundred and ninety five"),
        ("1995.5", "one thousand nine hundred and ninety five point five"),
        ("995", "nine hundred and ninety five"),
        ("3.05", "three point zero five"),
        ("-5", "minus five"),
        ("1,000,000", "one million"),
        ("21st", "twenty first"),
        ("111th", "one hundred and eleventh"),
        ("50%", "fifty percent"),
        ("$5", "five dollars"),
        ("$1.01", "one dollar one cent"),
        ("£2.50", "two pounds fifty pence"),
        ("€1,200", "one thousand two hundred euros"),
        ("€1.20", "one euro twenty cents"),
        ("¥5", "five yen"),
        ("-$5 −£1", "minus five dollars | minus one pound"),
        ("salt & pepper", "salt | and | pepper"),
        ("cold-hearted", "cold hearted"),
        ("rock-'n'-roll", "rock en roll"),
        ("rock-'-roll", "rock roll"),
        ("b-'-6", "bee six"),
        ("a\u2011-b", "a bee"),
        ("a-\u00ad-b", "a bee"),
        ("O'Brien's", "o'brien's"),
        ("rock 'n' roll", "rock | en | roll"),
        ("U.S.A.", "you ess a"),
        ("plan B, W", "plan | bee | double you"),
        ("I am a man", "i | am | a | man"),
        ("one,two", "one | two"),
        ("then--(now)", "then | now"),
        ("a\u00adb\u200bc", "abc"),
        ("re\u0301sume\u0301", "resume"),
    ],
)
def test_readings(transcript: str, said: str) -> None:
    assert spoken(transcript) == said


@pytest.mark.parametrize(
    ("transcript", "said"),
    [
        ("Dr. Smith", "doctor | smith"),
        ("Mr. Bell, Mrs Bell and Ms. Bell", "mister | bell | missus | bell | and | miz | bell"),
        ("In St. Louis, St John's", "in | saint | louis | saint | john's"),
        ("Yes, Dr. van Gogh", "yes | doctor | van | gogh"),
        ("cats vs. dogs, etc., went", "cats | versus | dogs | etcetera | went"),
        ("ETC", "etcetera"),
        ("e.g. this, i.e. that", "for example | this | that is | that"),
        ("No. 5, nos. 6", "number | five | numbers | six"),
        ("No, 5. No. I am no 5", "no | five | no | i | am | no | five"),
        ("Prof. Lee, my prof. Then Gen Z", "professor | lee | my | prof | then | gen | zee"),
        ("Bell Jr. and Bell, Sr., went", "bell | junior | and | bell | senior | went"),
        ("Dec. 25 and Jan. 5, Jan. went", "december | twenty five | and | january | five | jan | went"),
        ("the X, plan V, CD, MIX CIVIL DID, Xi, mix", "the | ex | plan | vee | cd | mix | civil | did | xi | mix"),
        ("hi (laughs)", "hi | laughs"),
    ],
)
def test_abbreviations_are_read_where_their_place_is_certain(transcript: str, said: str) -> None:
    assert spoken(transcript) == said


@pytest.mark.parametrize(
    ("transcript", "name"),
    [
        ("on Main St.", "St"),
        ("on Main St. Bridge", "St"),
        ("on 5th St. Bridge", "St"),
        ("Rodeo Dr. Shops", "Dr"),
        ("the Dr. said", "Dr"),
        ("DR SMITH", "DR"),
        ("5 ms", "ms"),
        ("a Dr. (Smith)", "Dr"),
        ("Sr. Mary", "Sr"),
        ("Hello Sr. Mary", "Sr"),
        ("Gen. Z", "Gen"),
        ("the Prof. said", "Prof"),
        ("Ft. Worth", "Ft"),
        ("Henry VIII", "VIII"),
        ("Henry VIII’s", "VIII’s"),
        ("the XIth", "XIth"),
        ("World War II", "II"),
        ("Henry V was", "V"),
        ("Malcolm X", "X"),
        ("chapter iv", "iv"),
        ("the Mark-II", "Mark-II"),
        ("$5 million", "$5"),
        ("$5-million", "$5-million"),
        ("¥5.50", "¥5.50"),
        ("$-5", "$-5"),
        ("pages 5-10", "5-10"),
        ("5-'-6", "5-'-6"),
        ("pages 5–10", "5–10"),
        ("1990—1995", "1990—1995"),
        ("5% - 10%", "5%-10%"),
        ("$5--$6", "$5--$6"),
        ("[laughter] hi", "[laughter]"),
        ("hi <laugh>", "<laugh>"),
        ("{noise}", "{noise}"),
        ("hi [noise", "[noise"),
        ("hi noise]", "]"),
    ],
)
def test_what_has_no_certain_reading_where_it_stands_is_refused_by_name(transcript: str, name: str) -> None:
    with pytest.raises(AudioError, match=f"“{re.escape(name)}”") as caught:
        english_words(transcript)
    assert (caught.value.status, caught.value.field) == (Status.TEXT_UNSUPPORTED, "transcript")


def test_dashes_that_part_no_numbers_are_punctuation() -> None:
    spoken = [word for one in english_words("in 1990 – then 5 — no, - 6") for word in one.spoken]
    assert spoken == ["in", "nineteen", "ninety", "then", "five", "no", "six"]


def test_no_transcript_takes_long() -> None:
    """A search that goes back to each of its steps takes a minute for this one."""
    begun = time.process_time()
    (word,) = english_words("5" + "'-" * 49_990 + "a")
    assert word.spoken == ("five", "a")
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("transcript", "texts"),
    [
        ("And Mr. John Dashwood,", ["And", "Mr", "John", "Dashwood"]),
        ("“naïve” in 1995!", ["naïve", "in", "1995"]),
        ("$5 -5 cold-hearted 'tis", ["$5", "-5", "cold-hearted", "tis"]),
        ("Dr. Bell, e.g., and St. Bell, etc.", ["Dr", "Bell", "e.g", "and", "St", "Bell", "etc"]),
    ],
)
def test_words_keep_the_spelling_of_the_transcript(transcript: str, texts: list[str]) -> None:
    assert [word.text for word in english_words(transcript)] == texts


@pytest.mark.parametrize(
    "word",
    ["привет", "日本語", "안녕", "😀", "#", "*", "m²", "½", "straße", "B2B", "5:30", "007", "22th", "1,00", "٣", "a/b",
     "me@x.com", "12345678901234567", "$1.5", "Τ"],
)  # fmt: skip
def test_what_has_no_certain_reading_is_refused_by_name(word: str) -> None:
    with pytest.raises(AudioError) as caught:
        english_words(f"she said {word}, twice")
    assert caught.value.status is Status.TEXT_UNSUPPORTED
    assert caught.value.field == "transcript"
    assert f"“{word}”" in caught.value.message


def test_what_cannot_be_printed_is_named_by_its_code() -> None:
    with pytest.raises(AudioError, match=r"a\\x00b"):
        english_words("a\x00b")


@pytest.mark.parametrize("transcript", ["", "  \n\t", "...", "—", "- ' , !", "\u200b"])
def test_a_transcript_without_words_is_empty(transcript: str) -> None:
    with pytest.raises(AudioError) as caught:
        english_words(transcript)
    assert caught.value.status is Status.EMPTY
    assert caught.value.field == "transcript"


PARTS = "ab5$%.,:'’-\u2010\u2011\u2212\u00ad\u200b\u0301&@ "
"""What readings are made of; any character at all would seldom put two of these together."""


@settings(derandomize=True, deadline=None, max_examples=1000)
@given(st.text(max_size=30) | st.text(PARTS, max_size=8))
def test_any_text_gives_pronounceable_words_or_an_audio_error(transcript: str) -> None:
    words, status = [], Status.OK
    try:
        words = english_words(transcript)
    except AudioError as error:
        status = error.status
    assert status in ((Status.OK,) if words else (Status.EMPTY, Status.TEXT_UNSUPPORTED))
    for word in words:
        assert word.spoken
        assert all(part.strip("abcdefghijklmnopqrstuvwxyz'") == "" and part[0] != "'" for part in word.spoken)
        assert all(c in transcript for c in word.text)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.integers(0, 10**13 - 1), st.sampled_from(["{}", "{:,}", "-{}", "{}%", "${}", "{}.25"]))
def test_any_number_is_read(value: int, form: str) -> None:
    (word,) = english_words(form.format(value))
    assert all(part.isalpha() and part.isascii() for part in word.spoken)


def test_importing_the_audio_stage_loads_no_package_for_audio() -> None:
    loaded = "[m for m in ('hama', 'soundfile', 'soxr', 'num2words', 'grpc', 'numba', 'torch') if m in sys.modules]"
    code = f"import sys, alignd_server.audio; print({loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("hama", "HamaModel()"),
        ("soundfile", "decode(b'RIFF', 16000)"),
        ("num2words", "english_words('21')"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(package: str, call: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from alignd_server.audio import HamaModel, MissingExtraError, decode\n"
        "from alignd_server.audio.text import english_words\n"
        f"try: {call}\n"
        "except MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"AlignAudio needs the package {package}: pip install 'alignd-server[audio]'\n"
