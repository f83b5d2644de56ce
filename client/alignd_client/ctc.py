"""CTC forced alignment (`ForcedAlign`): the ragged family, and the padded drop-in on top of it."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from alignd.wire import FORCED_ALIGN, STAR, CtcReply, CtcRequest, DataType, ItemCode, ItemStatus, Rpc
from alignd_client.arrays import (
    NUMPY,
    Kind,
    Scores,
    end_to_end,
    exists_whole,
    flat,
    integers,
    is_tensor,
    kind_at,
    lengths,
    owned_parts,
    scores,
    shared_kind,
    stacked,
    to_int32,
    to_numpy,
    wrapped,
)
from alignd_client.errors import InvalidRequestError
from alignd_client.family import Answers, collect, failed_places
from alignd_client.results import CtcAlignment

FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
StarScore = float | Literal["max"]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


@dataclass(slots=True, eq=False)
class CtcItem:
    """Emissions and labels of `count` utterances of one shape: `log_probs` 1-D, row-major and end to end, that of one
    also [frames, vocabulary] with any strides; `targets` end to end, as many labels for each."""

    log_probs: Scores
    data_type: DataType
    frames: int
    vocabulary: int
    targets: Int32Array
    kind: Kind
    count: int = 1

    @property
    def labels(self) -> int:
        """Of each."""
        return len(self.targets) // self.count

    @property
    def key(self) -> Hashable:
        return self.data_type, self.vocabulary, type(self.log_probs)

    @property
    def nbytes(self) -> int:
        return self.log_probs.nbytes + self.targets.nbytes

    @property
    def cells(self) -> int:
        return self.count * self.frames * (2 * self.labels + 1)

    def part(self, start: int, stop: int) -> "CtcItem":
        size, labels = self.frames * self.vocabulary, self.labels
        log_probs, targets = self.log_probs[start * size : stop * size], self.targets[start * labels : stop * labels]
        return CtcItem(log_probs, self.data_type, self.frames, self.vocabulary, targets, self.kind, stop - start)


@dataclass(frozen=True, slots=True)
class CtcContents:
    """Lengths of B utterances, int64 [B], their labels end to end, and the kind of all or of each."""

    frames: Int64Array
    labels: Int64Array
    targets: Int32Array
    kinds: Kind | list[Kind]


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
    """Takes pairs of log_probs [T, V] and targets [L], or items that are prepared already. Tensors of log_probs on
    `device`, as torch calls it, stay there."""

    rpc: Rpc[CtcRequest, CtcReply] = FORCED_ALIGN
    items_per_request = 1 << 30
    blocks = False

    def __init__(self, blank: int = 0, star_score: StarScore = 0.0, device: str | None = None) -> None:
        self.device = device
        self.blank = blank_of(blank)
        self.star_score = star_score_of(star_score)

    def borrows(self, raws: Any) -> bool:
        return isinstance(raws, Pairs) and exists_whole(raws.log_probs)

    def stack(self, raws: Any) -> CtcItem | None:
        found = stacked(raws.log_probs, self.device) if isinstance(raws, Pairs) else None
        if found is None or not (is_tensor(raws.targets) or isinstance(raws.targets, np.ndarray)):
            return None
        array, data_type = found
        B, T, V = array.shape
        if raws.targets.ndim != 2 or len(raws.targets) != B:
            return None
        try:
            targets = to_int32(integers(raws.targets, "targets", "B, labels"))
        except TypeError:
            return None
        return CtcItem(array.reshape(-1), data_type, T, V, targets.reshape(-1), Kind.of(raws.log_probs), B)

    def prepare(self, raw: Any, borrow: bool) -> CtcItem:
        if isinstance(raw, CtcItem):
            return raw
        log_probs, targets = raw
        array, data_type = scores(log_probs, "each item's log_probs", "frames, vocabulary", self.device)
        labels = to_int32(integers(targets, "each item's targets", "labels"))
        frames, vocabulary = array.shape
        return CtcItem(flat(array, borrow), data_type, frames, vocabulary, labels, Kind.of(log_probs))

    def refuse(self, item: CtcItem) -> ItemStatus | None:
        # A request has one blank and one vocabulary: what contradicts them would take the other items with it.
        if not (item.frames and item.vocabulary):
            size = f"{item.labels} targets, {item.frames} frames, vocabulary of {item.vocabulary}"
            reason = f"empty item ({size}): it needs a target, a frame and a column"
            return ItemStatus(ItemCode.EMPTY, "frames", reason)
        if self.blank >= item.vocabulary:
            reason = f"the blank, {self.blank}, is no column of a vocabulary of {item.vocabulary}"
            return ItemStatus(ItemCode.TARGET_OUT_OF_RANGE, "blank", reason)
        return None

    def pack(self, items: Sequence[CtcItem]) -> tuple[CtcRequest, CtcContents]:
        counts = [item.count for item in items]
        frames = lengths([item.frames for item in items], counts)
        labels = lengths([item.labels for item in items], counts)
        targets = np.concatenate([item.targets for item in items])
        request = CtcRequest(
            log_probs=end_to_end([item.log_probs for item in items]),
            data_type=items[0].data_type,
            frames=frames,
            vocabulary_size=items[0].vocabulary,
            targets=targets,
            target_lengths=labels,
            blank=self.blank,
            star_score=self.star_score,
        )
        self.rpc.check_request(request)
        return request, CtcContents(frames, labels, targets, shared_kind([item.kind for item in items], counts))

    def check(self, contents: CtcContents, reply: CtcReply) -> None:
        frames, labels, statuses = contents.frames, contents.labels, reply.statuses
        fits = len(statuses) == len(reply.scores) == len(frames) and len(reply.durations) == labels.sum()
        if not fits or not len(reply.paths) == len(reply.frame_scores) == frames.sum():
            raise ValueError("its counts are other ones")
        aligned = np.ones(len(frames), bool)
        aligned[failed_places(statuses)] = False
        check_paths(reply.paths, reply.durations, contents, aligned)

    def unpack(self, contents: CtcContents, reply: CtcReply) -> list[CtcAlignment]:
        frames, labels, kinds, statuses = contents.frames, contents.labels, contents.kinds, reply.statuses
        # Of the machine's byte order.
        durations, paths = (array.astype(np.int32, copy=False) for array in (reply.durations, reply.paths))
        frame_scores = reply.frame_scores.astype(np.float32, copy=False)
        results = list(
            map(
                CtcAlignment,
                wrapped(owned_parts(durations, labels), kinds),
                wrapped(owned_parts(paths, frames), kinds),
                wrapped(owned_parts(frame_scores, frames), kinds),
                reply.scores.tolist(),
                statuses,
                owned_parts(contents.targets, labels),
                repeat(self.blank),
            )
        )
        for place in failed_places(statuses):
            results[place] = self._failed(kind_at(kinds, place), statuses[place])
        return results

    def failed(self, item: CtcItem | None, status: ItemStatus) -> CtcAlignment:
        return self._failed(item.kind if item else NUMPY, status)

    def _failed(self, kind: Kind, status: ItemStatus) -> CtcAlignment:
        empty = np.zeros(0, np.int32)
        durations, path, frame_scores = kind.wrap(empty), kind.wrap(empty.copy()), kind.wrap(np.zeros(0, np.float32))
        return CtcAlignment(durations, path, frame_scores, np.nan, status, empty.copy(), self.blank)


def check_paths(
    paths: Int32Array, durations: Int32Array, contents: CtcContents, aligned: npt.NDArray[np.bool_]
) -> None:
    """That each aligned item's path is one, from its first label or the blank before to its last or the blank after,
    without leaving out a label; and that durations count its frames.

    Args:
        paths: int32, the items' [T] end to end.
        durations: int32, the items' [L] end to end.
        contents: lengths.
        aligned: bool [B].

    Raises:
        ValueError: if not.
    """
    frames, labels = contents.frames, contents.labels
    ends = np.cumsum(frames)
    first, last = paths[ends - frames], paths[ends - 1]
    steps = np.diff(paths)
    steps[ends[:-1] - 1] = 0  # from one item to the next
    wrong = (steps < 0) | (steps > 1 + (paths[:-1] & 1))
    if not aligned.all():
        wrong &= np.repeat(aligned, frames)[1:]
    inside = (first >= 0) & (first <= 1) & (last >= 2 * labels - 1) & (last <= 2 * labels)
    if wrong.any() or not (inside | ~aligned).all():
        raise ValueError("a path leaves its lattice")
    on_label = np.flatnonzero((paths & 1) & np.repeat(aligned, frames))
    label = np.repeat(np.cumsum(labels) - labels, frames)[on_label] + paths[on_label] // 2
    counted = np.bincount(label, minlength=len(durations))
    if not ((counted == durations) | ~np.repeat(aligned, labels)).all():
        raise ValueError("durations do not count the frames of a path")


class Pairs:
    """Emissions and targets side by side."""

    def __init__(self, log_probs: Iterable[Any], targets: Iterable[Any]) -> None:
        self.log_probs = log_probs
        self.targets = targets

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Raises `InvalidRequestError` when one ends before the other."""
        end = object()
        others = iter(self.targets)
        count = 0
        for one in self.log_probs:
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
        device: str | None = None,
    ) -> None:
        self.family = CtcFamily(blank, star_score, device)
        self._array, self._data_type = scores(log_probs, "log_probs", "B, frames, vocabulary", device)
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

    def assemble(self, stream: Iterable[Answers[CtcAlignment]]) -> tuple[Any, Any]:
        """Labels of the frames [B, T] and their log-probs [B, T]. Raises `InvalidItemsError`."""
        B, T, _ = self._array.shape
        double = self._data_type is DataType.FLOAT64
        paths = np.full((B, T), self.family.blank, np.int32)
        frame_scores = np.zeros((B, T), np.float64 if double else np.float32)
        for b, alignment in enumerate(collect(stream)):
            frames = self._frames[b]
            paths[b, :frames] = alignment.labels
            frame_scores[b, :frames] = self._gather(b, alignment) if double else alignment.frame_scores
        return (
            self._paths_kind.cast(paths, self._paths_dtype),
            self._scores_kind.cast(frame_scores, self._scores_dtype),
        )

    def _gather(self, b: int, alignment: CtcAlignment) -> npt.NDArray[np.float64]:
        """Frame scores in float64, which the reply has in float32."""
        labels = alignment.labels
        stars = np.flatnonzero(labels == STAR)
        found = to_numpy(self._array[b, np.arange(len(labels)), labels])  # of a star, any column
        if self.family.star_score is None:
            found[stars] = np.delete(to_numpy(self._array[b, stars]), self.family.blank, 1).max(1, initial=-np.inf)
        else:
            found[stars] = self.family.star_score
        return found


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
