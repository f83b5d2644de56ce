"""English abbreviations and Roman numerals: what is said for them where they stand, or that nothing certain is."""

import re
from dataclasses import dataclass
from typing import Final

ALWAYS: Final = {
    "mr": "mister", "mrs": "missus", "messrs": "messers", "jr": "junior", "vs": "versus", "etc": "etcetera",
    "e.g": "for example", "i.e": "that is", "ltd": "limited", "blvd": "boulevard", "approx": "approximately",
    "dept": "department",
}  # fmt: skip
"""In any case, with a full stop or without."""

STOPPED: Final = {
    "Feb": "february", "Apr": "april", "Aug": "august", "Sep": "september", "Sept": "september", "Oct": "october",
    "Nov": "november", "Dec": "december", "Ave": "avenue",
}  # fmt: skip
"""Spelt so, with a full stop."""

BEFORE_A_NUMBER: Final = {"no": "number", "nos": "numbers", "vol": "volume", "jan": "january", "mar": "march"}
"""In any case, with a full stop, before digits; elsewhere they are words of their own."""

TITLES: Final = {
    "Dr": "doctor", "St": "saint", "Ms": "miz", "Mt": "mount", "Lt": "lieutenant", "Sgt": "sergeant",
    "Capt": "captain",
}  # fmt: skip
"""Before a name; elsewhere, and in another case, they may be anything ("Main St.", "5 ms")."""

STOPPED_TITLES: Final = {
    "Prof": "professor", "Col": "colonel", "Gen": "general", "Gov": "governor", "Rev": "reverend",
    "Sen": "senator", "Rep": "representative",
}  # fmt: skip
"""With a full stop before a name; without one they are words of their own."""

UNCERTAIN: Final = frozenset({"ft"})
"""Never certain: feet, fort, featuring."""

STREETS: Final = frozenset({"Dr", "St"})
"""Titles that end the names of streets too: "Main St. Bridge"."""

LEADS: Final = re.compile(
    "a|about|and|are|as|ask|at|but|by|call|dear|did|does|for|from|good|hello|her|hi|his|if|in|into|is|meet|mount|my|near|no|"
    "of|on|or|our|over|poor|see|so|thanks?|that|the|then|these|this|to|visit|was|well|were|when|with|yes"
)
"""Words that are capital at the beginning of a sentence and no part of the name of a street or king."""

PARTICLES: Final = re.compile("van|von|del?|della|d[iau]|l[ea]|[ea]l|bin|ibn")
"""What a name may begin with in lower case."""

ROMAN: Final = "(?=[IVXLCDM])M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})"
CAPITAL_NUMERAL: Final = re.compile(rf"({ROMAN})(?:'?s|'S|st|nd|rd|th)?")
SMALL_NUMERAL: Final = re.compile(rf"(?:(?i:{ROMAN}))(?:'s)?")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a word stands.

    Attributes:
        stopped: a full stop follows it.
        before: the word before, with its punctuation; "" at the beginning.
        gap: the punctuation between them; "" for space alone.
        after: the word after; "" if there is none or punctuation stands between, a full stop excepted.
    """

    stopped: bool
    before: str
    gap: str
    after: str

    @property
    def before_a_name(self) -> bool:
        return (self.after[:1].isupper() and len(self.after) > 1) or PARTICLES.fullmatch(self.after) is not None

    @property
    def after_a_name(self) -> bool:
        """Perhaps: after a capital word, not a letter, that is none of the usual ones."""
        if self.gap or self.before.endswith(".") or len(self.before) < 2:
            return False
        return self.before[0].isupper() and not LEADS.fullmatch(self.before.lower())


def expansion(text: str, place: Place) -> str | None:
    """What is said for an abbreviation, given without its last full stop; "" if it may be several things, None if it
    is none."""
    small = text.lower()
    if small in ALWAYS:
        return ALWAYS[small]
    if place.stopped and text in STOPPED:
        return STOPPED[text]
    if place.stopped and small in BEFORE_A_NUMBER and place.after[:1].isdigit():
        return BEFORE_A_NUMBER[small]
    if small == "sr":  # or señor, or sister
        named = place.before[:1].isupper() and place.gap in ("", ",")
        return "senior" if named and not place.before_a_name else ""
    if text.capitalize() in TITLES or (place.stopped and text in STOPPED_TITLES):
        if not place.before_a_name or (text in STREETS and _in_a_street(place)):
            return ""
        return TITLES.get(text, STOPPED_TITLES.get(text, ""))
    return "" if small in UNCERTAIN else None


def _in_a_street(place: Place) -> bool:
    return place.after_a_name or (not place.gap and place.before[:1].isdigit())


def may_be_roman(text: str, place: Place) -> bool:
    """Whether it may be a Roman numeral from II up, or has one between hyphens.

    One letter is a numeral only where a king's would stand, and I never; without I, V or X it is letters ("CD").
    """
    whole = CAPITAL_NUMERAL.fullmatch(text)
    if whole and whole[1] in ("V", "X"):
        return place.after_a_name
    return any(_is_numeral(part) for part in text.split("-"))


def _is_numeral(text: str) -> bool:
    if capital := CAPITAL_NUMERAL.fullmatch(text):
        return len(capital[1]) > 1 and not {*"IVX"}.isdisjoint(capital[1]) and capital[1] != "MIX"
    return re.match("[ivx]{2}", text) is not None and SMALL_NUMERAL.fullmatch(text) is not None
