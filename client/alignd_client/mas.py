"""Monotonic alignment (`MaximumPath`, `MasPosteriors`): the ragged families, and the clients' methods."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from alignd.wire import (
    MAS_POSTERIORS,
    MAXIMUM_PATH,
    ItemCode,
    ItemStatus,
    MasReply,
    MasRequest,
    PosteriorsReply,
    Rpc,
)
from alignd.wire.mas import MAS_NODES
from alignd_client.arrays import (
    NUMPY,
    Kind,
    end_to_end,
    exists_whole,
    flat,
    kind_at,
    lengths,
    owned_parts,
    same_lengths,
    scores,
    shared_kind,
    stacked,
    wrapped,
)
from alignd_client.family import OnError, failed_places
from alignd_client.mas_items import MasItem
from alignd_client.mas_padded import MaximumPathJob
from alignd_client.pairs import Items
from alignd_client.posteriors import Posteriors, unpacked
from alignd_client.posteriors import failed as failed_posteriors
from alignd_client.results import Alignment
from alignd_client.surface import AsyncMethods, Methods

Int64Array = npt.NDArray[np.int64]
Reply = TypeVar("Reply", MasReply, PosteriorsReply)


@dataclass(frozen=True, slots=True)
class MasContents:
    """Lengths of B utterances, int64 [B], and the kind of all or of each."""

    tokens: Int64Array
    frames: Int64Array
    kinds: Kind | list[Kind]


class _Family(Generic[Reply]):
    """What both take: [S, T] arrays, or items that are prepared already. Tensors on `device`, as torch calls it, stay
    there."""

    rpc: Rpc[MasRequest, Reply]
    items_per_request = 1 << 30
    blocks = False

    def __init__(self, device: str | None = None) -> None:
        self.device = device

    def borrows(self, raws: Any) -> bool:
        return exists_whole(raws)

    def stack(self, raws: Any) -> MasItem | None:
        found = stacked(raws, self.device)
        if found is None:
            return None
        array, data_type = found
        B, S, T = array.shape
        return MasItem(array.reshape(-1), data_type, S, T, Kind.of(raws), B)

    def prepare(self, raw: Any, borrow: bool) -> MasItem:
        if isinstance(raw, MasItem):
            return raw
        array, data_type = scores(raw, "each item", "tokens, frames", self.device)
        tokens, frames = array.shape
        return MasItem(flat(array, borrow), data_type, tokens, frames, Kind.of(raw))

    def refuse(self, item: MasItem) -> ItemStatus | None:
        # Without values there is no bound on what its lengths would make of a reply.
        if item.tokens and item.frames:
            return None
        size = f"{item.tokens} tokens, {item.frames} frames"
        reason = f"empty item ({size}): it needs at least one token and one frame"
        return ItemStatus(ItemCode.EMPTY, "frames", reason)

    def pack(self, items: Sequence[MasItem]) -> tuple[MasRequest, MasContents]:
        kinds: Kind | list[Kind]
        if len(items) == 1:  # one array of the caller's, as long batches come
            first = items[0]
            tokens, frames = same_lengths(first.tokens, first.count), same_lengths(first.frames, first.count)
            kinds = first.kind
        else:
            counts = [item.count for item in items]
            tokens = lengths([item.tokens for item in items], counts)
            frames = lengths([item.frames for item in items], counts)
            kinds = shared_kind([item.kind for item in items], counts)
        values = end_to_end([item.values for item in items])
        # It is not checked: what `check_request` looks for, `prepare` and `refuse` leave no room for.
        # Paths follow from durations and would only make the reply longer.
        request = MasRequest(values, items[0].data_type, tokens, frames, return_paths=False)
        return request, MasContents(tokens, frames, kinds)


class MasFamily(_Family[MasReply]):
    """Best paths."""

    rpc = MAXIMUM_PATH

    def check(self, contents: MasContents, reply: MasReply) -> None:
        tokens, durations, statuses = contents.tokens, reply.durations, reply.statuses
        if not len(statuses) == len(reply.scores) == len(tokens) or len(durations) != tokens.sum():
            raise ValueError("its counts are other ones")
        fits = np.add.reduceat(durations, np.cumsum(tokens) - tokens) == contents.frames
        fits[failed_places(statuses)] = True
        if durations.min() < 0 or not fits.all():
            raise ValueError("durations do not sum to the frames")

    def unpack(self, contents: MasContents, reply: MasReply) -> list[Alignment]:
        statuses = reply.statuses
        durations = reply.durations.astype(np.int32, copy=False)  # of the machine's byte order
        parts = wrapped(owned_parts(durations, contents.tokens), contents.kinds)
        results = list(map(Alignment, parts, reply.scores.tolist(), statuses))
        for place in failed_places(statuses):
            results[place] = _failed(kind_at(contents.kinds, place), statuses[place])
        return results

    def failed(self, item: MasItem | None, status: ItemStatus) -> Alignment:
        return _failed(item.kind if item else NUMPY, status)


def _failed(kind: Kind, status: ItemStatus) -> Alignment:
    return Alignment(kind.wrap(np.zeros(0, np.int32)), np.nan, status)


class MasPosteriorsFamily(_Family[PosteriorsReply]):
    """Probabilities of the cells."""

    rpc = MAS_POSTERIORS

    def check(self, contents: MasContents, reply: PosteriorsReply) -> None:
        MAS_NODES.check_reply(contents, reply)

    def unpack(self, contents: MasContents, reply: PosteriorsReply) -> list[Posteriors]:
        return unpacked(reply, contents.tokens, contents.frames, contents.kinds)

    def failed(self, item: MasItem | None, status: ItemStatus) -> Posteriors:
        return failed_posteriors(item.kind if item else NUMPY, status)


class MasMethods(Methods):
    """Of `AlignClient`."""

    def maximum_path(self, value: Any, mask: Any, dtype: Any = None) -> Any:
        """Monotonic alignment search over a padded batch: super_monotonic_align's function of that name.

        Unlike it, `value` is left as it is, on any device, and what lies outside the mask may be anything.

        Args:
            value: [B, tokens, frames], float16, bfloat16, float32 or float64, NumPy or torch.
            mask: of the same shape, any dtype; each item's true cells are a rectangle at the origin.
            dtype: of the result; None for float32.

        Returns:
            Paths as 0 and 1, [B, tokens, frames], of `value`'s kind and on its device.

        Raises:
            InvalidItemsError: with every item that cannot be aligned.
            InvalidRequestError: for a mask that is no such rectangle or of another shape.
            AlignError: see `alignd_client.errors`.
        """
        family = MasFamily(self._transport.torch_device)
        job = MaximumPathJob(value, mask, dtype, family.device)
        return job.assemble(self._pipeline.stream(family, job.items))

    def align_mas(self, values: Iterable[Any], *, on_error: OnError = "raise") -> Iterator[Alignment]:
        """Monotonic alignment search over utterances of any lengths (Kim et al. 2020, Glow-TTS).

        Args:
            values: arrays [tokens, frames] of log-scores, float16 to float64, NumPy or torch.
            on_error: "raise" or "return", see the class.
        """
        return self._results(MasFamily(self._transport.torch_device), values, on_error)

    def mas_posteriors(self, values: Iterable[Any], *, on_error: OnError = "raise") -> Iterator[Posteriors]:
        """How probable each token is in each frame, [tokens, frames], over all monotonic paths, and their
        log-likelihoods: the soft alignment (Badlani et al. 2022). Arguments as for `align_mas`."""
        return self._results(MasPosteriorsFamily(), values, on_error)


class AsyncMasMethods(AsyncMethods):
    """Of `AsyncAlignClient`."""

    async def maximum_path(self, value: Any, mask: Any, dtype: Any = None) -> Any:
        """See `AlignClient.maximum_path`."""
        family = MasFamily(self._transport.torch_device)
        job = MaximumPathJob(value, mask, dtype, family.device)
        return job.assemble(await self._pipeline.gather(family, job.items))

    def align_mas(self, values: Items, *, on_error: OnError = "raise") -> AsyncGenerator[Alignment, None]:
        """See `AlignClient.align_mas`."""
        return self._results(MasFamily(self._transport.torch_device), values, on_error)

    def mas_posteriors(self, values: Items, *, on_error: OnError = "raise") -> AsyncGenerator[Posteriors, None]:
        """See `AlignClient.mas_posteriors`."""
        return self._results(MasPosteriorsFamily(), values, on_error)
