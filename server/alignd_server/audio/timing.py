"""From a CTC path to words and tokens with times in seconds."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from alignd.wire import AlignedSymbol
from alignd_server.audio.acoustic import ModelDescription, Transcript

DECIMALS: Final = 6  # microseconds: no one reads 0.21999999999999997


@dataclass(frozen=True, slots=True)
class _Spans:
    """First and last frame of each label, and the sum and number of its frames' scores."""

    first: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]
    total: npt.NDArray[np.float64]
    frames: npt.NDArray[np.int64]


def locate(
    path: npt.NDArray[np.integer],
    frame_scores: npt.NDArray[np.floating],
    transcript: Transcript,
    description: ModelDescription,
    audio_seconds: float,
) -> tuple[tuple[AlignedSymbol, ...], tuple[AlignedSymbol, ...]]:
    """Words and tokens of a transcript on a path.

    A token runs from its first frame to its last, shifted by the model's offsets; where that makes it overlap the next
    token, it ends where the next begins (starts are the better known: against an independent aligner, the mean error
    of word starts and ends was 32 ms so, 37 ms with the end kept and 33 ms with the middle). A word runs from its
    first token's start to its last token's end. All are in order, within the recording, and longer than nothing.

    Args:
        path: [T] states 0 … 2L; state 2i + 1 is label i, and every label has a frame.
        frame_scores: [T] log-prob of each frame on the path.
        transcript: of L targets.
        description: of the model whose frames these are.
        audio_seconds: length of the recording.

    Returns:
        words and tokens. Scores are the mean log-prob of the frames of a symbol's labels; confidence is None.
    """
    spans = _spans(path, frame_scores, len(transcript.targets))
    named = [(label, symbol) for label, symbol in enumerate(transcript.symbols) if symbol is not None]
    reported = np.array([label for label, _ in named])
    starts, ends = _times(spans.first[reported], spans.last[reported], description, audio_seconds)
    total, frames = spans.total[reported], spans.frames[reported]

    def item(symbol: str, first: int, stop: int) -> AlignedSymbol:
        """Of the reported labels [first, stop)."""
        start, end = round(float(starts[first]), DECIMALS), round(float(ends[stop - 1]), DECIMALS)
        score = float(total[first:stop].sum() / frames[first:stop].sum())
        return AlignedSymbol(symbol, start, round(end - start, DECIMALS), score)

    heads = [position for position, (_, symbol) in enumerate(named) if symbol]
    tokens = tuple(item(named[head][1], head, stop) for head, stop in zip(heads, [*heads[1:], len(named)], strict=True))
    bounds = np.searchsorted(reported, [(word.start, word.end) for word in transcript.words])
    words = tuple(item(word.text, int(first), int(stop)) for word, (first, stop) in zip(transcript.words, bounds))
    return words, tokens


def _spans(path: npt.NDArray[np.integer], frame_scores: npt.NDArray[np.floating], L: int) -> _Spans:
    frames = np.flatnonzero(path % 2)
    labels = path[frames] // 2
    first, last = np.full(L, len(path), np.int64), np.full(L, -1, np.int64)
    np.minimum.at(first, labels, frames)
    np.maximum.at(last, labels, frames)
    total = np.bincount(labels, frame_scores[frames].astype(np.float64), L).astype(np.float64)
    return _Spans(first, last, total, np.bincount(labels, minlength=L))


def _times(
    first: npt.NDArray[np.int64], last: npt.NDArray[np.int64], description: ModelDescription, audio_seconds: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Starts and ends in seconds of n tokens, given their first and last frames."""
    n = len(first)
    starts = first * description.frame_seconds + description.start_offset_s
    ends = (last + 1) * description.frame_seconds + description.end_offset_s
    # Offsets push tokens over the recording's edges and, there, onto one another: keep them apart by a little, from
    # the left edge and then from the right. n steps fit into the recording.
    step = min(description.frame_seconds / 4, audio_seconds / n)
    order = np.arange(n)
    starts = np.maximum.accumulate(np.maximum(starts, 0.0) - step * order) + step * order
    starts = np.minimum(starts, audio_seconds - step * (n - order))
    following = np.append(starts[1:], audio_seconds)
    return starts, np.minimum(np.maximum(ends, starts + step), following)
