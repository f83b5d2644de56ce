"""An `AudioAlignment` as text: table, JSON, CTM, TextGrid, SRT.

Written by hand: each is a page of lines, and the command `alignd` stays light. Times are in seconds. All take the same:
the alignment, `tokens`, the recording's `name` and its `transcript`, where they have a use for them.
"""

import json
import math
import unicodedata
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final

from alignd_client.results import AlignmentItem, AudioAlignment

_CAPTION_CHARACTERS: Final = 42
"""Of a line of subtitles, as broadcasters have it."""

_CAPTION_PAUSE: Final = 0.7
"""Seconds of silence that end a caption."""

_OPENING: Final = "\"'([“‘«"
_CLOSING: Final = "\"')]”’»"

_BEFORE_NAMES: Final = ("mr.", "mrs.", "ms.", "messrs.", "dr.", "st.", "prof.", "rev.", "gen.", "col.", "capt.", "lt.")
"""Whose full stop ends no sentence."""


def _chosen(alignment: AudioAlignment, tokens: bool) -> Sequence[AlignmentItem]:
    return alignment.tokens if tokens else alignment.words


def table(alignment: AudioAlignment, *, tokens: bool = False, name: str = "", transcript: str = "") -> str:
    """For people: start, end, score and symbol of each word, or of each token."""
    items = _chosen(alignment, tokens)
    title = "token" if tokens else "word"
    lines = [f"{'start':>8}  {'end':>8}  {'score':>7}  {title}"]
    lines += [f"{item.start:8.3f}  {item.end:8.3f}  {item.score:7.3f}  {item.symbol}" for item in items]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> float | None:
    """JSON knows no NaN."""
    return None if value is None or not math.isfinite(value) else value


def _object(item: AlignmentItem) -> dict[str, Any]:
    return {
        "symbol": item.symbol,
        "start": item.start,
        "end": item.end,
        "duration": item.duration,
        "score": _number(item.score),
        "confidence": _number(item.confidence),
    }


def to_json(alignment: AudioAlignment, *, tokens: bool = False, name: str = "", transcript: str = "") -> str:
    """All that is known of the words, and with `tokens` of the tokens too."""
    value: dict[str, Any] = {
        "audio": name,
        "model": alignment.model,
        "audio_seconds": alignment.audio_seconds,
        "score": _number(alignment.score),
        "words": [_object(item) for item in alignment.words],
    }
    if tokens:
        value["tokens"] = [_object(item) for item in alignment.tokens]
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def ctm(alignment: AudioAlignment, *, tokens: bool = False, name: str = "", transcript: str = "") -> str:
    """NIST's CTM: recording, channel, start, duration, symbol and, where the model has it, confidence."""
    lines: list[str] = []
    recording = _one_field(name) or "audio"
    for item in _chosen(alignment, tokens):
        line = f"{recording} 1 {item.start:.3f} {item.duration:.3f} {_one_field(item.symbol)}"
        lines.append(line if item.confidence is None else f"{line} {item.confidence:.3f}")
    return "".join(f"{line}\n" for line in lines)


def _one_field(text: str) -> str:
    """CTM separates by white space, and has no quotes."""
    return "_".join(text.split())


def textgrid(alignment: AudioAlignment, *, tokens: bool = False, name: str = "", transcript: str = "") -> str:
    """Praat's TextGrid, in its long form: an interval tier of words, and with `tokens` one of tokens too."""
    tiers = [("words", alignment.words)]
    if tokens:
        tiers.append(("tokens", alignment.tokens))
    last = max((item.end for _, items in tiers for item in items), default=0.0)
    end = max(alignment.audio_seconds, last)
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end:.6f}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (title, items) in enumerate(tiers, 1):
        intervals = _tile(items, end)
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{title}"']
        lines += ["        xmin = 0", f"        xmax = {end:.6f}", f"        intervals: size = {len(intervals)}"]
        for place, (start, stop, symbol) in enumerate(intervals, 1):
            quoted = symbol.replace('"', '""')
            lines += [f"        intervals [{place}]:", f"            xmin = {start:.6f}"]
            lines += [f"            xmax = {stop:.6f}", f'            text = "{quoted}"']
    return "\n".join(lines) + "\n"


def _tile(items: Sequence[AlignmentItem], end: float) -> list[tuple[float, float, str]]:
    """Intervals that cover 0 … end without a gap or an overlap, which Praat refuses; gaps have no text.

    Where neighbours overlap by a model's timing offsets, they meet halfway.
    """
    bounds = [[max(0.0, item.start), min(end, item.end)] for item in items]
    for before, after in pairwise(bounds):
        if after[0] < before[1]:
            before[1] = after[0] = (max(before[0], after[0]) + min(before[1], after[1])) / 2
    intervals: list[tuple[float, float, str]] = []
    now = 0.0
    for (start, stop), item in zip(bounds, items):
        if start > now:
            intervals.append((now, start, ""))
        intervals.append((start, stop, item.symbol))
        now = stop
    if now < end or not intervals:
        intervals.append((now, end, ""))
    return intervals


def srt(alignment: AudioAlignment, *, tokens: bool = False, name: str = "", transcript: str = "") -> str:
    """SubRip captions of one line each, broken at pauses and sentence ends; with `tokens` a caption is one token.

    With the transcript the words stand as it has them, punctuation included.
    """
    captions = _captions(_spelled(alignment.words, transcript))
    if tokens:
        captions = [[(item, item.symbol)] for item in alignment.tokens]
    blocks = [
        f"{number}\n{_clock(words[0][0].start)} --> {_clock(words[-1][0].end)}\n{_line(words)}\n"
        for number, words in enumerate(captions, 1)
    ]
    return "\n".join(blocks)


_Spelled = tuple[AlignmentItem, str]
"""A word, and how it stands in a caption: with what is around it, a blank after it included."""


def _spelled(words: Sequence[AlignmentItem], transcript: str) -> list[_Spelled]:
    said = "".join(c for c in transcript if unicodedata.category(c) != "Cf")  # as a server leaves them out of words
    gaps = _gaps(words, " ".join(said.split()))
    if gaps is None:
        return [(word, word.symbol + " ") for word in words]
    # What follows a blank belongs to the next word: an opening quote. A dash between two blanks stays with the first.
    parts = [gap.rpartition(" ") if " " in gap else (gap, "", "") for gap in gaps[1:-1]]
    befores = [gaps[0], *(before for _, _, before in parts)]
    afters = [*(after + blank for after, blank, _ in parts), gaps[-1]]
    return [(word, before + word.symbol + after) for word, before, after in zip(words, befores, afters)]


def _gaps(words: Sequence[AlignmentItem], text: str) -> list[str] | None:
    """What stands before each word and after the last one; None where these are not the text's words."""
    gaps: list[str] = []
    end = 0
    for word in words:
        start = text.find(word.symbol, end)
        if start < 0:
            return None
        gaps.append(text[end:start])
        end = start + len(word.symbol)
    gaps.append(text[end:])
    return None if any(c.isalnum() for gap in gaps for c in gap) else gaps


def _line(words: Sequence[_Spelled]) -> str:
    return "".join(text for _, text in words).strip()


def _captions(words: Sequence[_Spelled]) -> list[list[_Spelled]]:
    captions: list[list[_Spelled]] = []
    for spelled in words:
        fits = captions and (
            len(_line([*captions[-1], spelled])) <= _CAPTION_CHARACTERS
            and spelled[0].start - captions[-1][-1][0].end < _CAPTION_PAUSE
            and not _ends_sentence(captions[-1][-1][1])
        )
        if fits:
            captions[-1].append(spelled)
        else:
            captions.append([spelled])
    return captions


def _ends_sentence(text: str) -> bool:
    word = text.strip().rstrip(_CLOSING).lstrip(_OPENING)
    initial = len(word) == 2 and word[0].isupper() and word[1] == "."
    return word.endswith((".", "!", "?", "…")) and not initial and word.lower() not in _BEFORE_NAMES


def _clock(seconds: float) -> str:
    milliseconds = round(max(0.0, seconds) * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02},{milliseconds % 1000:03}"


FORMATS: Final[dict[str, Callable[..., str]]] = {
    "table": table,
    "json": to_json,
    "ctm": ctm,
    "textgrid": textgrid,
    "srt": srt,
}

EXTENSIONS: Final = {"table": ".txt", "json": ".json", "ctm": ".ctm", "textgrid": ".TextGrid", "srt": ".srt"}
"""Of a file in each format."""
