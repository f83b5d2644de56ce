"""English transcripts: which words are said, and how numbers and symbols are read.

Nothing is dropped but punctuation. What has no certain reading is refused by name, for a wrong guess would give every
later word wrong times; the caller writes it out instead ("10:30" as "ten thirty").
"""

import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from alignd_server.audio.abbreviations import Place, expansion, may_be_roman
from alignd_server.audio.errors import EmptyTranscriptError, TextUnsupportedError, require

APOSTROPHES: Final = str.maketrans(dict.fromkeys("’‘ʼ＇`´", "'"))
HYPHENS: Final = str.maketrans(dict.fromkeys("‐‑", "-"))

ANNOTATIONS: Final = re.compile(r"\[[^\]]*\]?|\{[^}]*\}?|<[^>]*>?|[\]}>]")
"""What transcribers write of sounds that are no words: "[laughter]". Round brackets hold speech as well."""

SEPARATORS: Final = re.compile(r'((?:[\s;!?()"“”„«»‹›¿¡…—–]+|--+|\.{2,}|(?<!\d)[,:]+|[,:]+(?!\d))+)')
"""Between two words. A comma or colon within a number is none."""

EDGES: Final = ".,:'-’‘‚ʼ＇`´‐‑"
"""Punctuation at a word's ends."""

SPOKEN_SYMBOLS: Final = {"&": "and", "%": "percent", "@": "at", "+": "plus", "=": "equals"}
"""Symbols that have one reading when they stand alone."""

LETTER_NAMES: Final = "bee see dee ee eff gee aitch jay kay ell em en pee cue ar ess tee you vee double-you ex why zee"
LETTERS: Final = dict(zip("bcdefghjklmnpqrstuvwxyz", LETTER_NAMES.split()))
"""Names of letters that stand alone. "a", "i" and "o" are words of their own."""

CURRENCIES: Final = {"$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "penny"), "¥": ("yen", "")}
PLURALS: Final = {"dollar": "dollars", "cent": "cents", "euro": "euros", "pound": "pounds", "penny": "pence"}
AMOUNT: Final = re.compile(rf"[{''.join(CURRENCIES)}]?[0-9]")
DASHES: Final = frozenset({"--", *"-‐‑‒–—―−"})
MAGNITUDES: Final = frozenset({"hundred", "thousand", "million", "billion", "trillion"})
SEVERAL_NUMBERS: Final = re.compile(rf"[\d%]'*-['-]*(?:[{''.join(CURRENCIES)}\d]|(?:{'|'.join(MAGNITUDES)})\b)")
"""What is said between them, or what follows them, is not written: "5-10", "$5-million"."""

WORD: Final = re.compile(r"[a-z][a-z']*")
INITIALS: Final = re.compile(r"(?:[a-z]\.)+[a-z]?")
# No leading zeros: "007" and telephone numbers are read digit by digit, or not, as the speaker likes.
WHOLE: Final = "[1-9][0-9]{0,2}(?:,[0-9]{3})+|[1-9][0-9]*|0"
NUMBER: Final = re.compile(rf"(?P<sign>[-−+]?)(?P<whole>{WHOLE})(?:\.(?P<fraction>[0-9]+))?")
ORDINAL: Final = re.compile(rf"({WHOLE})(st|nd|rd|th)")
MAX_DIGITS: Final = 15  # of a number, its fraction included
YEARS: Final = range(1100, 2100)


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word: `text` as the transcript spells it, without the punctuation around it; `spoken`: what is said, in
    `[a-z']+`."""

    text: str
    spoken: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What stands between two separators: `text` without the punctuation around it, `raw` with it, after a `gap`: what
    else than space separates it from the chunk before."""

    text: str
    raw: str
    gap: str


def english_words(transcript: str) -> list[SpokenWord]:
    """The words of a transcript.

    Punctuation at a word's ends is dropped and accents are folded ("naïve" is said as "naive"). Numbers are read out:
    "3.5", "1,000", "21st", "-5", "50%", "$3.50"; a bare number from 1100 to 2099 is read as a year ("1995" as
    "nineteen ninety-five"), any other as a cardinal. A hyphenated word is one word. Of abbreviations those are read
    that `abbreviations` lists, each as one word of several that are said ("etc.").

    Raises:
        EmptyTranscriptError: there is no word in it.
        TextUnsupportedError: a word is not English in Latin letters, or has no certain reading; something stands in
            square, curly or angle brackets.
        MissingExtraError: it has numbers and num2words is not installed.
    """
    if annotation := ANNOTATIONS.search(transcript):
        raise TextUnsupportedError(
            f"the transcript's {_named(annotation[0])} stands in brackets that mark what is not speech: leave it out, "
            "or write what is said without brackets"
        )
    chunks = _chunks(transcript)
    if not chunks:
        raise EmptyTranscriptError
    none = _Chunk("", "", "")
    for before, chunk in pairwise(chunks):
        if _is_range(before, chunk):
            raise TextUnsupportedError(
                f"the transcript's {_named(before.text + chunk.gap + chunk.text)} may be read in several ways: write "
                "what is said between the numbers"
            )
    neighbours = zip([none, *chunks], chunks, [*chunks[1:], none], strict=False)
    return [
        SpokenWord(chunk.text, _spoken(chunk.text, _place(before, chunk, after))) for before, chunk, after in neighbours
    ]


def _chunks(transcript: str) -> list[_Chunk]:
    chunks: list[_Chunk] = []
    gap = ""
    pieces = ["", *SEPARATORS.split(transcript)]
    for separator, piece in zip(pieces[::2], pieces[1::2], strict=True):
        raw = _without_format_characters(piece)
        text = raw.strip(EDGES)
        gap += separator.strip()
        if not text:  # punctuation alone
            gap += raw
            continue
        minus = raw.lstrip(EDGES.replace("-", ""))[:1] == "-" and AMOUNT.match(text)
        chunks.append(_Chunk(f"-{text}" if minus else text, raw, gap))
        gap = ""
    return chunks


def _is_range(before: _Chunk, chunk: _Chunk) -> bool:
    """Numbers with a dash between them, which may stand for "to", "minus", a pause or nothing."""
    return chunk.gap in DASHES and bool(re.search(r"[0-9]%?$", before.text) and AMOUNT.match(chunk.text.lstrip("-")))


def _place(before: _Chunk, chunk: _Chunk, after: _Chunk) -> Place:
    stopped = chunk.raw.rstrip(EDGES.replace(".", "")).endswith(".")
    return Place(stopped, before.raw, chunk.gap, "" if after.gap else after.raw)


def _without_format_characters(text: str) -> str:
    """Without soft hyphens, zero-width spaces and the like, which are not said."""
    return "".join(c for c in text if unicodedata.category(c) != "Cf")


def _spoken(text: str, place: Place) -> tuple[str, ...]:
    plain = text.translate(APOSTROPHES).translate(HYPHENS)
    expanded = expansion(plain, place)
    if expanded:
        return tuple(expanded.split())
    if expanded is not None:
        raise TextUnsupportedError(
            f"the transcript's {_named(text)} may stand for several words, and what stands around it does not tell "
            "for which: write it out"
        )
    if may_be_roman(plain, place):
        raise TextUnsupportedError(
            f"the transcript's {_named(text)} may be a Roman numeral: write it out in words as it is said, or put full "
            "stops after letters (“C.V.”)"
        )
    spoken = _plainly(unicodedata.normalize("NFD", plain.lower()), place)
    if spoken is None:
        raise TextUnsupportedError(
            f"the transcript's {_named(text)} cannot be read: English words in Latin letters and plain numbers are "
            "taken; write anything else out in words"
        )
    return spoken


def _plainly(plain: str, place: Place) -> tuple[str, ...] | None:
    """What is said for a lower-case word, or for its parts between hyphens."""
    plain = re.sub(r"(?<=[a-z])[\u0300-\u036f]+", "", plain)
    more = place.after.strip(EDGES).lower() in MAGNITUDES and not {*CURRENCIES}.isdisjoint(plain)
    if more or SEVERAL_NUMBERS.search(plain):
        return None
    whole = _reading(plain)
    if whole is not None:
        return whole
    # A part of apostrophes alone, or between two hyphens of different kinds, is punctuation.
    parts = [_reading(part) for part in (part.strip("'") for part in plain.split("-")) if part]
    return None if None in parts else tuple(word for part in parts if part is not None for word in part) or None


def _reading(plain: str) -> tuple[str, ...] | None:
    """What is said for lower-case text without accents; None if it has no certain reading."""
    if plain in LETTERS:
        return tuple(LETTERS[plain].split("-"))
    if WORD.fullmatch(plain):
        return (plain,)
    if INITIALS.fullmatch(plain):
        return tuple(word for c in plain if c != "." for word in LETTERS.get(c, c).split("-"))
    if plain in SPOKEN_SYMBOLS:
        return (SPOKEN_SYMBOLS[plain],)
    if sum(c.isdigit() for c in plain) > MAX_DIGITS or not plain.isprintable():
        return None
    return _number(plain)


def _number(plain: str) -> tuple[str, ...] | None:
    if ordinal := ORDINAL.fullmatch(plain):
        value = int(ordinal[1].replace(",", ""))
        return _words(value, "ordinal") if ordinal[2] == _suffix(value) else None
    if plain.endswith("%"):
        number = NUMBER.fullmatch(plain[:-1])
        return None if number is None else (*_quantity(number), "percent")
    minus = plain[0] in "-−"
    if (currency := plain[minus : minus + 1]) in CURRENCIES:
        number = NUMBER.fullmatch(plain[minus + 1 :])
        money = None if number is None else _money(number, *CURRENCIES[currency])
        return None if money is None else (*(("minus",) if minus else ()), *money)
    number = NUMBER.fullmatch(plain)
    if number is None:
        return None
    if len(plain) == 4 and plain == number["whole"] and int(plain) in YEARS:
        return _words(int(plain), "year")
    return _quantity(number)


def _quantity(number: re.Match[str]) -> tuple[str, ...]:
    sign = {"-": ("minus",), "−": ("minus",), "+": ("plus",)}.get(number["sign"], ())
    whole = _words(int(number["whole"].replace(",", "")), "cardinal")
    if number["fraction"] is None:
        return (*sign, *whole)
    digits = (word for digit in number["fraction"] for word in _words(int(digit), "cardinal"))
    return (*sign, *whole, "point", *digits)


def _money(number: re.Match[str], unit: str, hundredth: str) -> tuple[str, ...] | None:
    def of(count: int, name: str) -> tuple[str, ...]:
        return (*_words(count, "cardinal"), name if count == 1 else PLURALS.get(name, name))

    fraction = number["fraction"]
    if number["sign"] or (fraction is not None and (len(fraction) != 2 or not hundredth)):
        return None
    whole = of(int(number["whole"].replace(",", "")), unit)
    return whole if fraction is None or int(fraction) == 0 else (*whole, *of(int(fraction), hundredth))


def _words(value: int, to: str) -> tuple[str, ...]:
    said = require("num2words").num2words(value, lang="en", to=to)
    return tuple(re.findall(r"[a-z]+", said))


def _suffix(value: int) -> str:
    if value % 100 in (11, 12, 13):
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")


def _named(text: str) -> str:
    """The word in quotes, short, with what cannot be printed escaped."""
    shown = text if len(text) <= 40 else text[:39] + "…"
    return f"“{shown}”" if shown.isprintable() else ascii(shown)
