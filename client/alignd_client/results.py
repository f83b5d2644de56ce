"""What comes back: small frozen dataclasses, the same for every door.

Arrays are of the caller's kind: NumPy, or torch on the caller's device.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from alignd.wire import ItemStatus

Array = Any
"""A NumPy array or a torch tensor, as the caller gave."""


class Result(Protocol):
    """What all results have in common."""

    @property
    def status(self) -> ItemStatus: ...


@dataclass(frozen=True, eq=False)
class Alignment:
    """The best monotonic path of one item through its [S, T] scores.

    Attributes:
        durations: int32 [S], frames of each token; they sum to T.
        path: int32 [T], the token of each frame.
        score: total log-score of the path.
        status: `status.ok`, or why not; the arrays of an item that failed are empty, its score NaN.
    """

    durations: Array
    path: Array
    score: float
    status: ItemStatus


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """One label's frames.

    Attributes:
        token: vocabulary id; -1 (`STAR`) for the wildcard.
        start: first frame.
        end: the frame after the last.
        score: mean log-prob of its frames.
    """

    token: int
    start: int
    end: int
    score: float

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class SpanColumns:
    """The spans of one item as columns: `tokens`, `starts`, `ends` integers [L], `scores` float64 [L]."""

    tokens: npt.NDArray[np.integer[Any]]
    starts: npt.NDArray[np.integer[Any]]
    ends: npt.NDArray[np.integer[Any]]
    scores: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CtcAlignment:
    """The best path of one item's labels through its CTC emissions.

    Attributes:
        durations: int32 [L], non-blank frames of each label.
        path: int32 [T], the state of each frame: 0 … 2L, even ones blank, 2i + 1 label i.
        labels: int32 [T], the vocabulary id of each frame, blanks included; -1 in a wildcard's frames.
        frame_scores: float32 [T], log-prob of each frame on the path.
        score: total log-prob of the path.
        status: `status.ok`, or why not; the arrays of an item that failed are empty, its score NaN.
        columns: the spans as NumPy columns, for those who have millions.
    """

    durations: Array
    path: Array
    labels: Array
    frame_scores: Array
    score: float
    status: ItemStatus
    columns: SpanColumns = field(repr=False)

    @cached_property
    def spans(self) -> tuple[TokenSpan, ...]:
        """One `TokenSpan` per label, in order."""
        columns = self.columns
        rows = (columns.tokens.tolist(), columns.starts.tolist(), columns.ends.tolist(), columns.scores.tolist())
        return tuple(map(TokenSpan, *rows))


@dataclass(frozen=True, slots=True)
class AlignmentItem:
    """A word or token in a recording.

    Attributes:
        symbol: as in the transcript, or the model's token.
        start: seconds.
        duration: seconds.
        score: mean log-prob of its frames.
        confidence: 0–1, or None where the model is not calibrated.
    """

    symbol: str
    start: float
    duration: float
    score: float
    confidence: float | None = None

    @property
    def end(self) -> float:
        """Seconds; rounded, so that sums of decimal times stay decimal."""
        return round(self.start + self.duration, 8)


@dataclass(frozen=True)
class AudioAlignment:
    """The words and tokens of one recording with their times.

    Attributes:
        words: in order.
        tokens: in order: what the model's vocabulary made of the words.
        score: total log-prob of the path.
        audio_seconds: length of the recording.
        model: the model that was used.
        status: `status.ok`, or why not; an item that failed has no words and no tokens, its score is NaN.
    """

    words: tuple[AlignmentItem, ...]
    tokens: tuple[AlignmentItem, ...]
    score: float
    audio_seconds: float
    model: str
    status: ItemStatus
