"""CTC (`ForcedAlign`, `CtcPosteriors`): the ragged families, and the clients' methods."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from alignd.wire import (
    CTC_POSTERIORS,
    FORCED_ALIGN,
    CtcReply,
    CtcRequest,
    ItemCode,
    ItemStatus,
    PosteriorsReply,
    Rpc,
)
from alignd.wire.ctc import CTC_PATHS, CTC_STATES
from alignd.wire.ragged import MAX_REPLY_BYTES
from alignd_client.arguments import blank_of
from alignd_client.arrays import (
    NUMPY,
    Kind,
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
    wrapped,
)
from alignd_client.ctc_columns import LEAST_BYTES, Columns, large
from alignd_client.ctc_items import CtcItem
from alignd_client.ctc_padded import ForcedAlignJob
from alignd_client.errors import InvalidRequestError
from alignd_client.family import OnError, failed_places
from alignd_client.pairs import Items, Pairs, either_pairs
from alignd_client.posteriors import Posteriors, unpacked
from alignd_client.posteriors import failed as failed_posteriors
from alignd_client.results import CtcAlignment
from alignd_client.surface import AsyncMethods, Methods

FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
Reply = TypeVar("Reply", CtcReply, PosteriorsReply)
StarScore = float | Literal["max"]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CtcContents:
    """Lengths of B utterances, int64 [B], their labels end to end, and the kind of all or of each."""

    frames: Int64Array
    target_lengths: Int64Array
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


class _Family(Generic[Reply]):
    """What both take: pairs of log_probs [T, V] and targets [L], or items that are prepared already. Tensors of
    log_probs on `device`, as torch calls it, stay there. Where it `reduces`, what travels is reduced as `ctc_columns`
    says."""

    rpc: Rpc[CtcRequest, Reply]
    items_per_request = 1 << 30
    blocks = False

    def __init__(
        self, blank: int = 0, star_score: StarScore = 0.0, device: str | None = None, reduces: bool = False
    ) -> None:
        self.device = device
        self.blank = blank_of(blank)
        self.star_score = star_score_of(star_score)
        self.columns = Columns(self.blank, self.star_score) if reduces else None

    def borrows(self, raws: Any) -> bool:
        return isinstance(raws, Pairs) and exists_whole(raws.log_probs)

    def stack(self, raws: Any) -> CtcItem | None:
        if not isinstance(raws, Pairs):
            return None
        log_probs: Any = raws.log_probs
        targets: Any = raws.targets
        if self.columns is not None and large(log_probs, 3) and log_probs.nbytes >= len(log_probs) * LEAST_BYTES:
            return None  # before any of it is converted
        found = stacked(log_probs, self.device)
        if found is None or not (is_tensor(targets) or isinstance(targets, np.ndarray)):
            return None
        array, data_type = found
        B, T, V = array.shape
        if targets.ndim != 2 or len(targets) != B:
            return None
        try:
            labels = to_int32(integers(targets, "targets", "B, labels"))
        except TypeError:
            return None
        return CtcItem(array.reshape(-1), data_type, T, V, labels.reshape(-1), Kind.of(log_probs), B)

    def prepare(self, raw: Any, borrow: bool) -> CtcItem:
        if isinstance(raw, CtcItem):
            return raw
        log_probs, targets = raw
        columns = self.columns if large(log_probs, 2) else None
        name, axes = "each item's log_probs", "frames, vocabulary"
        # Of a large vocabulary nothing is moved or converted before it is known what travels.
        array, data_type = scores(log_probs if columns is None else log_probs[:0], name, axes, self.device)
        labels = to_int32(integers(targets, "each item's targets", "labels"))
        if columns is not None:
            item = columns.reduced(log_probs, data_type, labels, Kind.of(log_probs))
            if item is not None:
                return item
            array, _ = scores(log_probs, name, axes, self.device)
        frames, vocabulary = array.shape
        return CtcItem(flat(array, borrow), data_type, frames, vocabulary, labels, Kind.of(log_probs))

    def refuse(self, item: CtcItem) -> ItemStatus | None:
        # A request has one blank and one vocabulary: what contradicts them would take the other items with it.
        if not (item.frames and item.vocabulary):
            size = f"{item.labels} targets, {item.frames} frames, vocabulary of {item.vocabulary}"
            reason = f"empty item ({size}): it needs a target, a frame and a column"
            return ItemStatus(ItemCode.EMPTY, "frames", reason)
        if item.numbered is None and self.blank >= item.vocabulary:
            reason = f"the blank, {self.blank}, is no column of a vocabulary of {item.vocabulary}"
            return ItemStatus(ItemCode.TARGET_OUT_OF_RANGE, "blank", reason)
        return None

    def pack(self, items: Sequence[CtcItem]) -> tuple[CtcRequest, CtcContents]:
        counts = [item.count for item in items]
        frames = lengths([item.frames for item in items], counts)
        labels = lengths([item.labels for item in items], counts)
        targets = np.concatenate([item.targets for item in items])
        whole = items[0].numbered is None
        request = CtcRequest(
            log_probs=end_to_end([item.log_probs for item in items]),
            data_type=items[0].data_type,
            frames=frames,
            vocabulary_size=items[0].vocabulary,
            targets=targets if whole else np.concatenate([item.sent for item in items]),
            target_lengths=labels,
            blank=self.blank if whole else 0,
            star_score=self.star_score,
        )
        self.rpc.check_request(request)
        return request, CtcContents(frames, labels, targets, shared_kind([item.kind for item in items], counts))


class CtcFamily(_Family[CtcReply]):
    """Best paths."""

    rpc = FORCED_ALIGN

    def check(self, contents: CtcContents, reply: CtcReply) -> None:
        CTC_PATHS.check_reply(contents, reply)
        aligned = np.ones(len(contents.frames), bool)
        aligned[failed_places(reply.statuses)] = False
        check_paths(reply.paths, reply.durations, contents, aligned)

    def unpack(self, contents: CtcContents, reply: CtcReply) -> list[CtcAlignment]:
        frames, labels, kinds, statuses = contents.frames, contents.target_lengths, contents.kinds, reply.statuses
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


class CtcPosteriorsFamily(_Family[PosteriorsReply]):
    """Probabilities of the states."""

    rpc = CTC_POSTERIORS

    def refuse(self, item: CtcItem) -> ItemStatus | None:
        nbytes = 4 * item.frames * (2 * item.labels + 1)
        if nbytes <= MAX_REPLY_BYTES:
            return super().refuse(item)
        size = f"{item.frames} frames × {2 * item.labels + 1} states"
        reason = f"posteriors of {size} take {nbytes} bytes, over the limit of {MAX_REPLY_BYTES}"
        return ItemStatus(ItemCode.TOO_LARGE, "targets", reason)

    def check(self, contents: CtcContents, reply: PosteriorsReply) -> None:
        CTC_STATES.check_reply(contents, reply)

    def unpack(self, contents: CtcContents, reply: PosteriorsReply) -> list[Posteriors]:
        return unpacked(reply, contents.frames, 2 * contents.target_lengths + 1, contents.kinds)

    def failed(self, item: CtcItem | None, status: ItemStatus) -> Posteriors:
        return failed_posteriors(item.kind if item else NUMPY, status)


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
    frames, labels = contents.frames, contents.target_lengths
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


class CtcMethods(Methods):
    """Of `AlignClient`."""

    def forced_align(
        self,
        log_probs: Any,
        targets: Any,
        input_lengths: Any = None,
        target_lengths: Any = None,
        blank: int = 0,
        *,
        star_score: StarScore = 0.0,
    ) -> tuple[Any, Any]:
        """CTC forced alignment of a padded batch: torchaudio's function of that name, for any B.

        Of a large vocabulary the columns of blank and of each item's own labels are sent, unless the item is small,
        most columns are its own, or it has a wildcard whose score is "max".

        Args:
            log_probs: [B, frames, vocabulary], float16, bfloat16, float32 or float64, NumPy or torch.
            targets: integers [B, labels], NumPy, torch or lists; -1 is the wildcard.
            input_lengths: integers [B]; None for all frames.
            target_lengths: integers [B]; None for all labels.
            blank: its column.
            star_score: log-prob of a wildcard's frames, or "max" for the frame's largest non-blank one.

        Returns:
            The label of each frame [B, frames], in the dtype and on the device of `targets`, and its log-prob
            [B, frames], in those of `log_probs`. Past an item's length they hold blank and 0.

        Raises:
            InvalidItemsError: with every item that cannot be aligned.
            InvalidRequestError: for arguments that contradict each other.
            AlignError: see `alignd_client.errors`.
        """
        family = CtcFamily(blank, star_score, self._transport.torch_device, self._transport.remote)
        arrays = (log_probs, targets, input_lengths, target_lengths)
        job = ForcedAlignJob(*arrays, family.blank, family.star_score, family.device, family.columns)
        return job.assemble(self._pipeline.stream(family, job.items))

    def align_ctc(
        self,
        log_probs: Iterable[Any],
        targets: Iterable[Any],
        *,
        blank: int = 0,
        star_score: StarScore = 0.0,
        on_error: OnError = "raise",
    ) -> Iterator[CtcAlignment]:
        """CTC forced alignment over utterances of any lengths (Graves et al. 2006; Kürzinger et al. 2020).

        Of a large vocabulary the columns of blank and of an item's own labels are sent, as `forced_align` says.

        Args:
            log_probs: arrays [frames, vocabulary], float16 to float64, NumPy or torch.
            targets: as many sequences of integers [labels]; -1 is the wildcard.
            blank: its column.
            star_score: log-prob of a wildcard's frames, or "max" for the frame's largest non-blank one.
            on_error: "raise" or "return", see the class.
        """
        family = CtcFamily(blank, star_score, self._transport.torch_device, self._transport.remote)
        return self._results(family, Pairs(log_probs, targets), on_error)

    def ctc_posteriors(
        self,
        log_probs: Iterable[Any],
        targets: Iterable[Any],
        *,
        blank: int = 0,
        star_score: StarScore = 0.0,
        on_error: OnError = "raise",
    ) -> Iterator[Posteriors]:
        """How probable each CTC state is in each frame, [frames, 2 × labels + 1] with even states blank, given the
        labels, and their log-likelihoods. Arguments as for `align_ctc`; no labels are legal."""
        family = CtcPosteriorsFamily(blank, star_score, reduces=self._transport.remote)
        return self._results(family, Pairs(log_probs, targets), on_error)


class AsyncCtcMethods(AsyncMethods):
    """Of `AsyncAlignClient`."""

    async def forced_align(
        self,
        log_probs: Any,
        targets: Any,
        input_lengths: Any = None,
        target_lengths: Any = None,
        blank: int = 0,
        *,
        star_score: StarScore = 0.0,
    ) -> tuple[Any, Any]:
        """See `AlignClient.forced_align`."""
        family = CtcFamily(blank, star_score, self._transport.torch_device, self._transport.remote)
        arrays = (log_probs, targets, input_lengths, target_lengths)
        job = ForcedAlignJob(*arrays, family.blank, family.star_score, family.device, family.columns)
        return job.assemble(await self._pipeline.gather(family, job.items))

    def align_ctc(
        self,
        log_probs: Items,
        targets: Items,
        *,
        blank: int = 0,
        star_score: StarScore = 0.0,
        on_error: OnError = "raise",
    ) -> AsyncGenerator[CtcAlignment, None]:
        """See `AlignClient.align_ctc`."""
        family = CtcFamily(blank, star_score, self._transport.torch_device, self._transport.remote)
        return self._results(family, either_pairs(log_probs, targets), on_error)

    def ctc_posteriors(
        self,
        log_probs: Items,
        targets: Items,
        *,
        blank: int = 0,
        star_score: StarScore = 0.0,
        on_error: OnError = "raise",
    ) -> AsyncGenerator[Posteriors, None]:
        """See `AlignClient.ctc_posteriors`."""
        family = CtcPosteriorsFamily(blank, star_score, reduces=self._transport.remote)
        return self._results(family, either_pairs(log_probs, targets), on_error)
