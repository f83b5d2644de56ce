"""Attention maps (`AlignAttention`): the ragged family, and the clients' methods."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from alignd.wire import ALIGN_ATTENTION, AttentionMode, AttentionReply, AttentionRequest, ItemCode, ItemStatus, Rpc
from alignd.wire.attention import ATTENTION_SPANS
from alignd_client.arguments import flag_of
from alignd_client.arrays import (
    NUMPY,
    Kind,
    end_to_end,
    exists_whole,
    flat,
    kind_at,
    lengths,
    owned_parts,
    scores,
    shared_kind,
    to_numpy,
    wrapped,
)
from alignd_client.attention_items import AttentionItem
from alignd_client.brief import Brief
from alignd_client.errors import InvalidRequestError
from alignd_client.family import OnError, failed_places
from alignd_client.pairs import Items
from alignd_client.results import Array
from alignd_client.surface import AsyncMethods, Methods

Int64Array = npt.NDArray[np.int64]
Mode = Literal["mas", "dtw", "stepwise"]


@dataclass(frozen=True, eq=False, repr=False)
class AttentionAlignment(Brief):
    """The alignment of one item by the head whose attention is the most focused.

    Attributes:
        head: the one that is aligned.
        focus_rates: float32 [H], mean over the frames of the largest value over the tokens.
        starts: int32 [S], first frame of each token.
        ends: int32 [S], the frame after its last; T for both of a token that a stepwise walk never reaches.
        score: total score of the path.
        status: `status.ok`, or why not; the arrays of an item that failed are empty, its score NaN.
    """

    head: int
    focus_rates: Array
    starts: Array
    ends: Array
    score: float
    status: ItemStatus
    _shares_frames: bool = field(repr=False)

    @cached_property
    def durations(self) -> Array:
        """int32 [S], frames of each token; with dynamic time warping their sum may be more than T."""
        return Kind.of(self.starts).wrap(to_numpy(self.ends) - to_numpy(self.starts))

    @cached_property
    def path(self) -> Array | None:
        """int32 [T], the token of each frame; None with dynamic time warping, where tokens share frames."""
        if self._shares_frames:
            return None
        durations = to_numpy(self.durations)
        return Kind.of(self.starts).wrap(np.repeat(np.arange(len(durations), dtype=np.int32), durations))


@dataclass(frozen=True, slots=True)
class AttentionContents:
    """Lengths of B utterances, int64 [B], and the kind of all or of each."""

    heads: Int64Array
    tokens: Int64Array
    frames: Int64Array
    kinds: Kind | list[Kind]


class AttentionFamily:
    """Takes [H, S, T] arrays, or items that are prepared already."""

    rpc: Rpc[AttentionRequest, AttentionReply] = ALIGN_ATTENTION
    items_per_request = 1 << 30
    blocks = False

    def __init__(self, mode: Mode = "mas", log: bool = False) -> None:
        try:
            self.mode = AttentionMode(mode)
        except ValueError:
            raise InvalidRequestError("mode", f'must be "mas", "dtw" or "stepwise", not {mode!r}') from None
        self.log = flag_of(log, "log")

    def borrows(self, raws: Any) -> bool:
        return exists_whole(raws)

    def stack(self, raws: Any) -> AttentionItem | None:
        return None

    def prepare(self, raw: Any, borrow: bool) -> AttentionItem:
        if isinstance(raw, AttentionItem):
            return raw
        array, data_type = scores(raw, "each item", "heads, tokens, frames")
        heads, tokens, frames = array.shape
        return AttentionItem(flat(array, borrow), data_type, heads, tokens, frames, Kind.of(raw))

    def refuse(self, item: AttentionItem) -> ItemStatus | None:
        # Without values there is no bound on what its lengths would make of a reply.
        if item.cells:
            return None
        size = f"{item.heads} heads, {item.tokens} tokens, {item.frames} frames"
        reason = f"empty item ({size}): it needs at least one of each"
        return ItemStatus(ItemCode.EMPTY, "frames", reason)

    def pack(self, items: Sequence[AttentionItem]) -> tuple[AttentionRequest, AttentionContents]:
        counts = [1] * len(items)
        heads, tokens, frames = (
            lengths([getattr(item, name) for item in items], counts) for name in ("heads", "tokens", "frames")
        )
        values = end_to_end([item.attention for item in items])
        request = AttentionRequest(values, items[0].data_type, heads, tokens, frames, self.mode, self.log)
        self.rpc.check_request(request)
        kinds = shared_kind([item.kind for item in items], counts)
        return request, AttentionContents(heads, tokens, frames, kinds)

    def check(self, contents: AttentionContents, reply: AttentionReply) -> None:
        ATTENTION_SPANS.check_reply(contents, reply)
        aligned = np.ones(len(contents.frames), bool)
        aligned[failed_places(reply.statuses)] = False
        frames, each = np.repeat(contents.frames, contents.tokens), np.repeat(aligned, contents.tokens)
        ordered = (reply.starts >= 0) & (reply.ends >= reply.starts) & (reply.ends <= frames)
        chosen = (reply.heads >= 0) & (reply.heads < contents.heads)
        if not (ordered | ~each).all() or not (chosen | ~aligned).all():
            raise ValueError("spans leave their item, or no such head")
        if self.mode is AttentionMode.DTW:
            return
        sums = np.add.reduceat(reply.ends - reply.starts, np.cumsum(contents.tokens) - contents.tokens)
        if not ((sums == contents.frames) | ~aligned).all():
            raise ValueError("durations do not sum to the frames")

    def unpack(self, contents: AttentionContents, reply: AttentionReply) -> list[AttentionAlignment]:
        def parts(array: npt.NDArray[Any], lengths: Int64Array) -> list[Any]:
            native = array.astype(array.dtype.newbyteorder("="), copy=False)
            return wrapped(owned_parts(native, lengths), contents.kinds)

        rows = (
            reply.heads.tolist(),
            parts(reply.focus_rates, contents.heads),
            parts(reply.starts, contents.tokens),
            parts(reply.ends, contents.tokens),
            reply.scores.tolist(),
            reply.statuses,
            [self.mode is AttentionMode.DTW] * len(reply.statuses),
        )
        results = list(map(AttentionAlignment, *rows))
        for place in failed_places(reply.statuses):
            results[place] = self._failed(kind_at(contents.kinds, place), reply.statuses[place])
        return results

    def failed(self, item: AttentionItem | None, status: ItemStatus) -> AttentionAlignment:
        return self._failed(item.kind if item else NUMPY, status)

    def _failed(self, kind: Kind, status: ItemStatus) -> AttentionAlignment:
        starts, ends = (kind.wrap(np.zeros(0, np.int32)) for _ in range(2))
        rates = kind.wrap(np.zeros(0, np.float32))
        return AttentionAlignment(-1, rates, starts, ends, np.nan, status, self.mode is AttentionMode.DTW)


class AttentionMethods(Methods):
    """Of `AlignClient`."""

    def align_attention(
        self, attention: Iterable[Any], *, mode: Mode = "mas", log: bool = False, on_error: OnError = "raise"
    ) -> Iterator[AttentionAlignment]:
        """The head of attention maps whose focus rate is the largest (Ren et al. 2019, FastSpeech), and its alignment:
        durations as text-to-speech teachers give them, or times of words as Whisper's cross-attention does.

        Args:
            attention: arrays [heads, tokens, frames], float16 to float64, NumPy or torch. Half precision is enough,
                and half as much to send.
            mode: "mas", every frame belongs to one token; "dtw", dynamic time warping, where tokens may share a frame;
                "stepwise", a hard walk by the probabilities to stay on a token (He et al. 2019).
            log: align by the logarithms of the values, not by the values as they are.
            on_error: "raise" or "return", see the class.
        """
        return self._results(AttentionFamily(mode, log), attention, on_error)


class AsyncAttentionMethods(AsyncMethods):
    """Of `AsyncAlignClient`."""

    def align_attention(
        self, attention: Items, *, mode: Mode = "mas", log: bool = False, on_error: OnError = "raise"
    ) -> AsyncGenerator[AttentionAlignment, None]:
        """See `AlignClient.align_attention`."""
        return self._results(AttentionFamily(mode, log), attention, on_error)
