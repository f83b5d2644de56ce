"""Transducer lattices (`TransducerAlign`, `TransducerPosteriors`): the ragged families, and the clients' methods."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from alignd.wire import (
    TRANSDUCER_ALIGN,
    TRANSDUCER_POSTERIORS,
    ItemCode,
    ItemStatus,
    PosteriorsReply,
    Rpc,
    TransducerReply,
    TransducerRequest,
)
from alignd.wire.transducer import TRANSDUCER_NODES, TRANSDUCER_PATHS
from alignd_client.arguments import blank_of, flag_of
from alignd_client.arrays import (
    NUMPY,
    Kind,
    end_to_end,
    exists_whole,
    is_tensor,
    kind_at,
    lengths,
    owned_parts,
    shared_kind,
    stacked,
    to_numpy,
    wrapped,
)
from alignd_client.brief import Brief
from alignd_client.errors import InvalidRequestError
from alignd_client.family import OnError, failed_places
from alignd_client.pairs import Items, Pairs, either_pairs
from alignd_client.posteriors import Posteriors, unpacked
from alignd_client.posteriors import failed as failed_posteriors
from alignd_client.results import Array, Result
from alignd_client.surface import AsyncMethods, Methods
from alignd_client.transducer_items import TransducerItem, from_arcs, from_log_probs
from alignd_client.transducer_padded import TransducerAlignJob

Int64Array = npt.NDArray[np.int64]
Reply = TypeVar("Reply", TransducerReply, PosteriorsReply)
ResultT = TypeVar("ResultT", bound=Result)


@dataclass(frozen=True, eq=False, repr=False)
class TransducerAlignment(Brief):
    """The best path of one item's labels through its transducer lattice.

    Attributes:
        emission_frames: int32 [U], the frame in which each label is emitted.
        score: total log-prob of the path.
        status: `status.ok`, or why not; the arrays of an item that failed are empty, its score NaN.
        frames: T.
    """

    emission_frames: Array
    score: float
    status: ItemStatus
    frames: int

    @cached_property
    def durations(self) -> Array:
        """int32 [U], frames from each label to the next one, of the last one to the end; 0 where two share a frame."""
        starts = to_numpy(self.emission_frames)
        return Kind.of(self.emission_frames).wrap(np.diff(starts, append=np.int32(self.frames)).astype(np.int32))


@dataclass(frozen=True, slots=True)
class TransducerContents:
    """Lengths of B utterances, int64 [B], and the kind of all or of each."""

    frames: Int64Array
    labels: Int64Array
    kinds: Kind | list[Kind]


class _Family(Generic[Reply, ResultT]):
    """What both take: pairs of log_probs [T, U + 1, V] and targets [U], reduced [T, U + 1, 2] without targets, or items
    that are prepared already. Tensors on `device`, as torch calls it, stay there."""

    rpc: Rpc[TransducerRequest, Reply]
    items_per_request = 1 << 30
    blocks = False

    def __init__(self, blank: int = 0, modified: bool = False, device: str | None = None) -> None:
        self.blank = blank_of(blank)
        self.modified = flag_of(modified, "modified")
        self.device = device

    def borrows(self, raws: Any) -> bool:
        return exists_whole(raws)  # of pairs nothing is borrowed: what travels is made anew

    def stack(self, raws: Any) -> TransducerItem | None:
        if not (is_tensor(raws) or isinstance(raws, np.ndarray)) or raws.ndim != 4 or raws.shape[3] != 2:
            return None
        B, T, nodes, _ = raws.shape
        found = stacked(raws.reshape(B, T, -1), self.device) if 0 not in raws.shape else None
        if found is None:
            return None
        return TransducerItem(found[0].reshape(-1), found[1], T, nodes - 1, Kind.of(raws), B)

    def prepare(self, raw: Any, borrow: bool) -> TransducerItem:
        if isinstance(raw, TransducerItem):
            return raw
        if isinstance(raw, tuple):
            log_probs, targets = raw
            return from_log_probs(log_probs, targets, self.blank, "each item's log_probs", self.device)
        if self.blank:
            raise InvalidRequestError("blank", f"without targets column 0 is the blank, not {self.blank}")
        return from_arcs(raw, "each item", borrow, self.device)

    def refuse(self, item: TransducerItem) -> ItemStatus | None:
        # Without frames there is no bound on what its labels would make of a reply.
        if item.fault is not None or item.frames:
            return item.fault
        reason = f"empty item ({item.labels} labels, {item.frames} frames): it needs a frame"
        return ItemStatus(ItemCode.EMPTY, "frames", reason)

    def pack(self, items: Sequence[TransducerItem]) -> tuple[TransducerRequest, TransducerContents]:
        counts = [item.count for item in items]
        frames = lengths([item.frames for item in items], counts)
        labels = lengths([item.labels for item in items], counts)
        arcs = end_to_end([item.arcs for item in items])
        request = TransducerRequest(arcs, items[0].data_type, frames, labels, self.modified)
        return request, TransducerContents(frames, labels, shared_kind([item.kind for item in items], counts))


class TransducerFamily(_Family[TransducerReply, TransducerAlignment]):
    """Best paths."""

    rpc = TRANSDUCER_ALIGN

    def check(self, contents: TransducerContents, reply: TransducerReply) -> None:
        TRANSDUCER_PATHS.check_reply(contents, reply)
        labels, starts = contents.labels, reply.emission_frames
        aligned = np.ones(len(labels), bool)
        aligned[failed_places(reply.statuses)] = False
        inside = (starts >= 0) & (starts < np.repeat(contents.frames, labels))
        steps = np.diff(starts)
        forward = np.append(steps >= (1 if self.modified else 0), True)
        ends = np.cumsum(labels)[labels > 0] - 1
        forward[ends] = True  # from one item to the next
        if not ((inside & forward) | ~np.repeat(aligned, labels)).all():
            raise ValueError("labels are not emitted in order, in frames that there are")

    def unpack(self, contents: TransducerContents, reply: TransducerReply) -> list[TransducerAlignment]:
        starts = reply.emission_frames.astype(np.int32, copy=False)  # of the machine's byte order
        parts = wrapped(owned_parts(starts, contents.labels), contents.kinds)
        rows = (parts, reply.scores.tolist(), reply.statuses, contents.frames.tolist())
        results = list(map(TransducerAlignment, *rows))
        for place in failed_places(reply.statuses):
            results[place] = _failed(kind_at(contents.kinds, place), reply.statuses[place])
        return results

    def failed(self, item: TransducerItem | None, status: ItemStatus) -> TransducerAlignment:
        return _failed(item.kind if item else NUMPY, status)


def _failed(kind: Kind, status: ItemStatus) -> TransducerAlignment:
    return TransducerAlignment(kind.wrap(np.zeros(0, np.int32)), np.nan, status, 0)


class TransducerPosteriorsFamily(_Family[PosteriorsReply, Posteriors]):
    """Probabilities of the nodes."""

    rpc = TRANSDUCER_POSTERIORS

    def check(self, contents: TransducerContents, reply: PosteriorsReply) -> None:
        TRANSDUCER_NODES.check_reply(contents, reply)

    def unpack(self, contents: TransducerContents, reply: PosteriorsReply) -> list[Posteriors]:
        return unpacked(reply, contents.frames, contents.labels + 1, contents.kinds)

    def failed(self, item: TransducerItem | None, status: ItemStatus) -> Posteriors:
        return failed_posteriors(item.kind if item else NUMPY, status)


class TransducerMethods(Methods):
    """Of `AlignClient`."""

    def align_transducer(
        self,
        log_probs: Iterable[Any],
        targets: Iterable[Any] | None = None,
        *,
        blank: int = 0,
        modified: bool = False,
        on_error: OnError = "raise",
    ) -> Iterator[TransducerAlignment]:
        """The exact best paths of labels through transducer lattices of any lengths (Graves 2012).

        Of the joint log-probs two columns travel, so that a large vocabulary costs nothing.

        Args:
            log_probs: arrays [frames, labels + 1, vocabulary] of joint log-probs, float16 to float64, NumPy or torch;
                they need not be normalised. Without targets they are reduced to blank and next label,
                [frames, labels + 1, 2].
            targets: as many sequences of integers [labels].
            blank: its column.
            modified: one symbol a frame, blank or label.
            on_error: "raise" or "return", see the class.
        """
        family = TransducerFamily(blank, modified, self._transport.torch_device)
        return self._results(family, log_probs if targets is None else Pairs(log_probs, targets), on_error)

    def transducer_posteriors(
        self,
        log_probs: Iterable[Any],
        targets: Iterable[Any] | None = None,
        *,
        blank: int = 0,
        modified: bool = False,
        on_error: OnError = "raise",
    ) -> Iterator[Posteriors]:
        """How probable each node of transducer lattices is, [frames, labels + 1], given the labels, and their
        log-likelihoods. Arguments as for `align_transducer`."""
        family = TransducerPosteriorsFamily(blank, modified, self._transport.torch_device)
        return self._results(family, log_probs if targets is None else Pairs(log_probs, targets), on_error)

    def transducer_align(
        self,
        log_probs: Any,
        targets: Any = None,
        input_lengths: Any = None,
        target_lengths: Any = None,
        blank: int = 0,
        *,
        modified: bool = False,
    ) -> tuple[Any, Any, Any]:
        """`align_transducer` of a padded batch.

        Args:
            log_probs: [B, frames, labels + 1, vocabulary], or without targets [B, frames, labels + 1, 2].
            targets: integers [B, labels], NumPy, torch or lists.
            input_lengths: integers [B]; None for all frames.
            target_lengths: integers [B]; None for all labels.
            blank: its column.
            modified: one symbol a frame, blank or label.

        Returns:
            The frame in which each label is emitted, int32 [B, labels], its duration in frames, int32 [B, labels], and
            the paths' scores, float64 [B], of the kind and on the device of `log_probs`. Past an item's labels
            they hold 0.

        Raises:
            InvalidItemsError: with every item that cannot be aligned.
            InvalidRequestError: for arguments that contradict each other.
            AlignError: see `alignd_client.errors`.
        """
        family = TransducerFamily(blank, modified, self._transport.torch_device)
        job = TransducerAlignJob(log_probs, targets, input_lengths, target_lengths, family.blank, family.device)
        return job.assemble(self._pipeline.stream(family, job.items))


class AsyncTransducerMethods(AsyncMethods):
    """Of `AsyncAlignClient`."""

    def align_transducer(
        self,
        log_probs: Items,
        targets: Items | None = None,
        *,
        blank: int = 0,
        modified: bool = False,
        on_error: OnError = "raise",
    ) -> AsyncGenerator[TransducerAlignment, None]:
        """See `AlignClient.align_transducer`."""
        family = TransducerFamily(blank, modified, self._transport.torch_device)
        return self._results(family, log_probs if targets is None else either_pairs(log_probs, targets), on_error)

    def transducer_posteriors(
        self,
        log_probs: Items,
        targets: Items | None = None,
        *,
        blank: int = 0,
        modified: bool = False,
        on_error: OnError = "raise",
    ) -> AsyncGenerator[Posteriors, None]:
        """See `AlignClient.transducer_posteriors`."""
        family = TransducerPosteriorsFamily(blank, modified, self._transport.torch_device)
        return self._results(family, log_probs if targets is None else either_pairs(log_probs, targets), on_error)

    async def transducer_align(
        self,
        log_probs: Any,
        targets: Any = None,
        input_lengths: Any = None,
        target_lengths: Any = None,
        blank: int = 0,
        *,
        modified: bool = False,
    ) -> tuple[Any, Any, Any]:
        """See `AlignClient.transducer_align`."""
        family = TransducerFamily(blank, modified, self._transport.torch_device)
        job = TransducerAlignJob(log_probs, targets, input_lengths, target_lengths, family.blank, family.device)
        return job.assemble(await self._pipeline.gather(family, job.items))
