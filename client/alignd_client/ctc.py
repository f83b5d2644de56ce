"""CTC forced alignment (`ForcedAlign`): the ragged family, and the padded drop-in on top of it."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from alignd.wire import FORCED_ALIGN, STAR, CtcReply, CtcRequest, DataType, ItemCode, ItemStatus, Rpc
from alignd_client.arrays import NUMPY, Kind, end_to_end, integers, is_tensor, own_flat, scores, to_int32
from alignd_client.errors import InvalidRequestError
from alignd_client.family import Outcome, collect
from alignd_client.results import CtcAlignment, SpanColumns

FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
StarScore = float | Literal["max"]
Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CtcItem:
    """Emissions and labels of one utterance: `log_probs` [frames, vocabulary] in any strides, or 1-D and row-major."""

    log_probs: npt.NDArray[Any]
    data_type: DataType
    frames: int
    vocabulary: int
    targets: Int32Array
    kind: Kind

    @property
    def key(self) -> Hashable:
        return self.data_type, self.vocabulary

    @property
    def nbytes(self) -> int:
        return self.log_probs.nbytes + self.targets.nbytes

    @property
    def cells(self) -> int:
        return self.frames * (2 * len(self.targets) + 1)

    def unloaded(self) -> "CtcItem":
        return replace(self, log_probs=self.log_probs[:0].copy())


def star_score_of(star_score: Any) -> float | None:
    """As the wire has it, in float32's precision: None for the largest non-blank log-prob.

    Raises:
        InvalidRequestError: for what is no log-prob, or none in float32.
    """
    if star_score == "max":
        return None
    if not isinstance(star_score, int | float | np.floating | np.integer):
        raise InvalidRequestError("star_score", f'must be a log-prob or "max", not {star_score!r}')
    if not star_score <= FLOAT32_MAX:
        raise InvalidRequestError("star_score", f"{star_score} is no log-prob in float32")
    with np.errstate(over="ignore"):  # below all of float32 is -inf, a legal score
        return float(np.float32(star_score))


def blank_of(blank: Any) -> int:
    """Raises `InvalidRequestError` for what can be no column of any vocabulary."""
    try:
        column = int(blank.__index__())
    except (AttributeError, TypeError):
        raise InvalidRequestError("blank", f"must be an integer, not {blank!r}") from None
    if not 0 <= column < 1 << 31:
        raise InvalidRequestError("blank", f"{column} is no column")
    return column


class CtcFamily:
    """Takes pairs of log_probs [T, V] and targets [L], or items that are prepared already."""

    rpc: Rpc[CtcRequest, CtcReply] = FORCED_ALIGN
    items_per_request = 1 << 30
    blocks = False

    def __init__(self, blank: int = 0, star_score: StarScore = 0.0) -> None:
        self.blank = blank_of(blank)
        self.star_score = star_score_of(star_score)

    def prepare(self, raw: Any) -> CtcItem:
        if isinstance(raw, CtcItem):
            return raw
        log_probs, targets = raw
        array, data_type = scores(log_probs, "each item's log_probs", "frames, vocabulary")
        labels = to_int32(integers(targets, "each item's targets", "labels"))
        frames, vocabulary = array.shape
        return CtcItem(own_flat(array), data_type, frames, vocabulary, labels, Kind.of(log_probs))

    def refuse(self, item: CtcItem) -> ItemStatus | None:
        # A request has one blank and one vocabulary: what contradicts them would take the other items with it.
        if not (item.frames and item.vocabulary):
            size = f"{len(item.targets)} targets, {item.frames} frames, vocabulary of {item.vocabulary}"
            reason = f"empty item ({size}): it needs a target, a frame and a column"
            return ItemStatus(ItemCode.EMPTY, "frames", reason)
        if self.blank >= item.vocabulary:
            reason = f"the blank, {self.blank}, is no column of a vocabulary of {item.vocabulary}"
            return ItemStatus(ItemCode.TARGET_OUT_OF_RANGE, "blank", reason)
        return None

    def pack(self, items: Sequence[CtcItem]) -> CtcRequest:
        return CtcRequest(
            log_probs=end_to_end([item.log_probs for item in items]),
            data_type=items[0].data_type,
            frames=np.array([item.frames for item in items], np.int64),
            vocabulary_size=items[0].vocabulary,
            targets=np.concatenate([item.targets for item in items]),
            target_lengths=np.array([len(item.targets) for item in items], np.int64),
            blank=self.blank,
            star_score=self.star_score,
        )

    def unpack(self, items: Sequence[CtcItem], reply: CtcReply) -> list[CtcAlignment]:
        frames = np.cumsum([item.frames for item in items])
        labels = np.cumsum([len(item.targets) for item in items])
        fits = len(reply.statuses) == len(reply.scores) == len(items) and len(reply.durations) == labels[-1]
        if not fits or not len(reply.paths) == len(reply.frame_scores) == frames[-1]:
            raise ValueError("its counts are other ones")
        results: list[CtcAlignment] = []
        for i, (item, status) in enumerate(zip(items, reply.statuses)):
            if not status.ok:
                results.append(self.failed(item, status))
                continue
            durations = reply.durations[labels[i] - len(item.targets) : labels[i]].astype(np.int32)
            path = reply.paths[frames[i] - item.frames : frames[i]].astype(np.int32)
            frame_scores = reply.frame_scores[frames[i] - item.frames : frames[i]].astype(np.float32)
            results.append(self._result(item, durations, path, frame_scores, float(reply.scores[i]), status))
        return results

    def failed(self, item: CtcItem | None, status: ItemStatus) -> CtcAlignment:
        kind = item.kind if item else NUMPY
        durations, path, labels = (kind.wrap(np.zeros(0, np.int32)) for _ in range(3))
        empty = np.zeros(0, np.int32)
        columns = SpanColumns(empty, empty, empty, np.zeros(0, np.float64))
        return CtcAlignment(durations, path, labels, kind.wrap(np.zeros(0, np.float32)), np.nan, status, columns)

    def _result(
        self,
        item: CtcItem,
        durations: Int32Array,
        path: Int32Array,
        frame_scores: Float32Array,
        score: float,
        status: ItemStatus,
    ) -> CtcAlignment:
        if path.min() < 0 or path.max() > 2 * len(item.targets) or (np.diff(path) < 0).any():
            raise ValueError("a path leaves its lattice")
        # A blank frame looks at the label on its left, or for state 2L the last, and takes the blank instead.
        label = np.minimum(path // 2, len(item.targets) - 1)
        labels = np.where(path % 2 == 1, item.targets[label], np.int32(self.blank))
        columns = span_columns(path, item.targets, frame_scores)
        wrap = item.kind.wrap
        return CtcAlignment(wrap(durations), wrap(path), wrap(labels), wrap(frame_scores), score, status, columns)


def span_columns(path: Int32Array, targets: Int32Array, frame_scores: Float32Array) -> SpanColumns:
    """Where each label's frames are, and their mean log-prob.

    Args:
        path: int32 [T], states, never descending.
        targets: int32 [L], each with at least one frame.
        frame_scores: float32 [T].
    """
    states = 2 * np.arange(len(targets)) + 1
    starts = np.searchsorted(path, states, "left")
    ends = np.searchsorted(path, states, "right")
    if (ends == starts).any():
        raise ValueError("a label has no frame")
    bounds = np.stack([starts, ends], 1).reshape(-1)
    # One more frame, so that the last end is an index; of the sums, every second is of the blanks between labels.
    padded = np.append(frame_scores.astype(np.float64), 0.0)
    sums = np.add.reduceat(padded, bounds)[::2]
    return SpanColumns(targets, starts, ends, sums / (ends - starts))


def pairs(log_probs: Iterable[Any], targets: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Both side by side. Raises `InvalidRequestError` when one ends before the other."""
    end = object()
    others = iter(targets)
    count = 0
    for one in log_probs:
        other = next(others, end)
        if other is end:
            raise miscounted("targets", "log_probs", count)
        yield one, other
        count += 1
    if next(others, end) is not end:
        raise miscounted("log_probs", "targets", count)


def miscounted(short: str, long: str, count: int) -> InvalidRequestError:
    return InvalidRequestError(short, f"there are {count} of them and more {long}: each item needs both")


class ForcedAlignJob:
    """torchaudio's `forced_align` in terms of ragged items: `items` go in, `assemble` makes the padded pair."""

    def __init__(
        self,
        log_probs: Any,
        targets: Any,
        input_lengths: Any = None,
        target_lengths: Any = None,
        blank: int = 0,
        star_score: StarScore = 0.0,
    ) -> None:
        self.family = CtcFamily(blank, star_score)
        self._array, self._data_type = scores(log_probs, "log_probs", "B, frames, vocabulary")
        given = integers(targets, "targets", "B, labels")
        self._targets = to_int32(given)
        B, T, V = self._array.shape
        if self.family.blank >= V:
            raise InvalidRequestError("blank", f"{self.family.blank} is no column of a vocabulary of {V}")
        if self.family.blank > np.iinfo(given.dtype).max:
            reason = f"{self.family.blank} does not fit {given.dtype}, the dtype of targets and so of the paths"
            raise InvalidRequestError("blank", reason)
        if len(self._targets) != B:
            raise InvalidRequestError("targets", f"{len(self._targets)} rows for the {B} items of log_probs")
        self._frames = _lengths(input_lengths, "input_lengths", B, T)
        self._labels = _lengths(target_lengths, "target_lengths", B, self._targets.shape[1])
        self._scores_kind, self._scores_dtype = Kind.of(log_probs), log_probs.dtype
        typed = is_tensor(targets) or isinstance(targets, np.ndarray)
        self._paths_kind = Kind.of(targets) if typed else self._scores_kind
        self._paths_dtype = targets.dtype if typed else self._paths_kind.dtype("int64")

    @property
    def items(self) -> Iterator[CtcItem]:
        rows = zip(self._array, self._targets, self._frames, self._labels)
        for matrix, targets, frames, labels in rows:
            yield CtcItem(matrix[:frames], self._data_type, frames, matrix.shape[1], targets[:labels], NUMPY)

    def assemble(self, outcomes: Iterable[Outcome[CtcAlignment]]) -> tuple[Any, Any]:
        """Labels of the frames [B, T] and their log-probs [B, T]. Raises `InvalidItemsError`."""
        B, T, _ = self._array.shape
        double = self._data_type is DataType.FLOAT64
        paths = np.full((B, T), self.family.blank, np.int32)
        frame_scores = np.zeros((B, T), np.float64 if double else np.float32)
        for b, alignment in enumerate(collect(outcomes)):
            frames = self._frames[b]
            paths[b, :frames] = alignment.labels
            frame_scores[b, :frames] = self._gather(b, alignment) if double else alignment.frame_scores
        return (
            self._paths_kind.cast(paths, self._paths_dtype),
            self._scores_kind.cast(frame_scores, self._scores_dtype),
        )

    def _gather(self, b: int, alignment: CtcAlignment) -> npt.NDArray[np.float64]:
        """Frame scores in float64, which the reply has in float32."""
        emissions = self._array[b, : self._frames[b]]
        labels = alignment.labels
        if self.family.star_score is None:
            star = np.delete(emissions, self.family.blank, 1).max(1, initial=-np.inf)
        else:
            star = np.full(len(labels), self.family.star_score)
        return np.where(labels == STAR, star, emissions[np.arange(len(labels)), labels])


def _lengths(values: Any, name: str, items: int, most: int) -> list[int]:
    """Raises `InvalidRequestError` for lengths that the padded array has no room for: none is clipped."""
    if values is None:
        return [most] * items
    array = integers(values, name, "B")
    if len(array) != items:
        raise InvalidRequestError(name, f"{len(array)} lengths for {items} items")
    lengths: list[int] = array.tolist()
    bad = [f"item {b} has {length}" for b, length in enumerate(lengths) if not 0 <= length <= most]
    if bad:
        raise InvalidRequestError(name, f"must be between 0 and {most}, the array's size: {', '.join(bad[:8])}")
    return lengths
