"""What comes back: small frozen dataclasses, the same for every door.

Arrays are of the caller's kind: NumPy, or torch on the caller's device. Each result owns its memory, and what follows
from the rest of it is computed when it is first asked for.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from alignd.wire import ItemStatus
from alignd_client.arrays import Kind, to_numpy
from alignd_client.brief import Brief

Array = Any
"""A NumPy array or a torch tensor, as the caller gave."""


class Result(Protocol):
    """What all results have in common."""

    @property
    def status(self) -> ItemStatus: ...


@dataclass(frozen=True, eq=False, repr=False)
class Alignment(Brief):
    """The best monotonic path of one item through its [S, T] scores.

    Attributes:
        durations: int32 [S], frames of each token; they sum to T.
        score: total log-score of the path.
        status: `status.ok`, or why not; the arrays of an item that failed are empty, its score NaN.
    """

    durations: Array
    score: float
    status: ItemStatus

    def __init__(self, durations: Array, score: float, status: ItemStatus) -> None:
        # What a frozen dataclass makes for itself takes twice as long, for each of many items.
        values = self.__dict__
        values["durations"], values["score"], values["status"] = durations, score, status

    @cached_property
    def path(self) -> Array:
        """int32 [T], the token of each frame."""
        durations = to_numpy(self.durations)
        path = np.repeat(np.arange(len(durations), dtype=np.int32), durations)
        return Kind.of(self.durations).wrap(path)


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


@dataclass(frozen=True, slots=True, repr=False)
class SpanColumns(Brief):
    """The spans of one item as columns: `tokens`, `starts`, `ends` integers [L], `scores` float64 [L]."""

    tokens: npt.NDArray[np.integer[Any]]
    starts: npt.NDArray[np.integer[Any]]
    ends: npt.NDArray[np.integer[Any]]
    scores: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class CtcAlignment(Brief):
    """The best path of one item's labels through its CTC emissions.

    Attributes:
        durations: int32 [L], non-blank frames of each label.
        path: int32 [T], the state of each frame: 0 … 2L, even ones blank, 2i + 1 label i.
        frame_scores: float32 [T], log-prob of each frame on the path.
        score: total log-prob of the path.
        status: `status.ok`, or why not; the arrays of an item that failed are empty, its score NaN.
        targets: int32 [L], the labels that were given, as NumPy; -1 for the wildcard.
        blank: its column.
    """

    durations: Array
    path: Array
    frame_scores: Array
    score: float
    status: ItemStatus
    targets: npt.NDArray[np.int32] = field(repr=False)
    blank: int = field(repr=False)

    def __init__(
        self,
        durations: Array,
        path: Array,
        frame_scores: Array,
        score: float,
        status: ItemStatus,
        targets: npt.NDArray[np.int32],
        blank: int,
    ) -> None:
        values = self.__dict__  # as for `Alignment`
        values["durations"], values["path"], values["frame_scores"] = durations, path, frame_scores
        values["score"], values["status"], values["targets"], values["blank"] = score, status, targets, blank

    @cached_property
    def labels(self) -> Array:
        """int32 [T], the vocabulary id of each frame, blanks included; -1 in a wildcard's frames."""
        path = to_numpy(self.path)
        labels = np.full(len(path), self.blank, np.int32)
        on_label = path % 2 == 1
        labels[on_label] = self.targets[path[on_label] // 2]
        return Kind.of(self.path).wrap(labels)

    @cached_property
    def columns(self) -> SpanColumns:
        """The spans as NumPy columns, for those who have millions."""
        # A label's frames follow each other, and come in the labels' order.
        durations = to_numpy(self.durations).astype(np.int64)
        frames = np.flatnonzero(to_numpy(self.path) % 2)
        starts = frames[np.cumsum(durations) - durations]
        if not len(starts):
            return SpanColumns(self.targets, starts, starts, np.zeros(0, np.float64))
        on_labels = to_numpy(self.frame_scores)[frames].astype(np.float64)
        sums = np.add.reduceat(on_labels, np.cumsum(durations) - durations)
        return SpanColumns(self.targets, starts, starts + durations, sums / durations)

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


@dataclass(frozen=True, repr=False)
class AudioAlignment(Brief):
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
