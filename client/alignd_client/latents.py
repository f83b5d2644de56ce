"""Monotonic alignment search from latents (`MaximumPathFromLatents`): the ragged family, and the clients' methods."""

from collections.abc import AsyncGenerator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alignd.wire import (
    MAXIMUM_PATH_FROM_LATENTS,
    DataType,
    ItemCode,
    ItemStatus,
    LatentsReply,
    LatentsRequest,
    Rpc,
)
from alignd.wire.latents import LATENT_PATHS
from alignd_client.arguments import padded_lengths
from alignd_client.arrays import (
    NUMPY,
    Kind,
    Scores,
    dtype_name,
    end_to_end,
    flat,
    kind_at,
    lengths,
    owned_parts,
    require_dimensions,
    scores,
    shared_kind,
    to_numpy,
    wrapped,
)
from alignd_client.errors import InvalidRequestError
from alignd_client.family import OnError, collect, failed_places
from alignd_client.pairs import Items
from alignd_client.results import Alignment
from alignd_client.surface import AsyncMethods, Methods

Int64Array = npt.NDArray[np.int64]


@dataclass(slots=True, eq=False)
class LatentsItem:
    """z [frames, channels], mean and log_sigma [tokens, channels] of one utterance in `data_type.storage`, 1-D;
    log_sigma None for standard deviations of 1."""

    latents: Scores
    means: Scores
    log_sigmas: Scores | None
    data_type: DataType
    tokens: int
    frames: int
    channels: int
    kind: Kind

    @property
    def count(self) -> int:
        return 1

    @property
    def key(self) -> Hashable:
        return self.data_type, self.channels, self.log_sigmas is None

    @property
    def nbytes(self) -> int:
        return self.latents.nbytes + self.means.nbytes * (1 if self.log_sigmas is None else 2)

    @property
    def cells(self) -> int:
        return self.tokens * self.frames

    def part(self, start: int, stop: int) -> "LatentsItem":
        return self


@dataclass(frozen=True, slots=True)
class LatentsContents:
    """Lengths of B utterances, int64 [B], and the kind of all or of each."""

    tokens: Int64Array
    frames: Int64Array
    kinds: Kind | list[Kind]


class LatentsFamily:
    """Takes (z [T, C], mean [S, C]) or (z, mean, log_sigma [S, C]), or items that are prepared already."""

    rpc: Rpc[LatentsRequest, LatentsReply] = MAXIMUM_PATH_FROM_LATENTS
    items_per_request = 1 << 30
    blocks = False

    def borrows(self, raws: Any) -> bool:
        return isinstance(raws, list | tuple)

    def stack(self, raws: Any) -> LatentsItem | None:
        return None

    def prepare(self, raw: Any, borrow: bool) -> LatentsItem:
        if isinstance(raw, LatentsItem):
            return raw
        z, mean, log_sigma = _three(raw)
        latents, data_type = scores(z, "each item's z", "frames, channels")
        means, _ = _alike(mean, "each item's mean", z)
        sigmas = None if log_sigma is None else _alike(log_sigma, "each item's log_sigma", z)[0]
        (frames, channels), tokens = latents.shape, len(means)
        if means.shape[1] != channels:
            shapes = f"z is [frames, channels], {[*latents.shape]}, but its mean [tokens, channels], {[*means.shape]}"
            raise ValueError(f"each item's {shapes}: their channels differ (VITS has them first: transpose)")
        if sigmas is not None and sigmas.shape != means.shape:
            shapes = f"{[*means.shape]}, not {[*sigmas.shape]}"
            raise ValueError(f"each item's log_sigma must be of its mean's shape {shapes}")
        own = None if sigmas is None else flat(sigmas, borrow)
        lattice = (flat(latents, borrow), flat(means, borrow), own)
        return LatentsItem(*lattice, data_type, tokens, frames, channels, Kind.of(z))

    def refuse(self, item: LatentsItem) -> ItemStatus | None:
        # A request has one number of channels, and no field of it is empty.
        if item.frames and item.tokens and item.channels:
            return None
        size = f"{item.tokens} tokens, {item.frames} frames, {item.channels} channels"
        return ItemStatus(ItemCode.EMPTY, "frames", f"empty item ({size}): it needs at least one of each")

    def pack(self, items: Sequence[LatentsItem]) -> tuple[LatentsRequest, LatentsContents]:
        counts, first = [1] * len(items), items[0]
        tokens = lengths([item.tokens for item in items], counts)
        frames = lengths([item.frames for item in items], counts)
        unit = first.log_sigmas is None
        request = LatentsRequest(
            end_to_end([item.latents for item in items]),
            end_to_end([item.means for item in items]),
            end_to_end([first.means[:0]] if unit else [item.log_sigmas for item in items]),
            first.data_type,
            tokens,
            frames,
            first.channels,
            unit,
        )
        return request, LatentsContents(tokens, frames, shared_kind([item.kind for item in items], counts))

    def check(self, contents: LatentsContents, reply: LatentsReply) -> None:
        LATENT_PATHS.check_reply(contents, reply)
        tokens = contents.tokens
        fits = np.add.reduceat(reply.durations, np.cumsum(tokens) - tokens) == contents.frames
        fits[failed_places(reply.statuses)] = True
        if reply.durations.min() < 0 or not fits.all():
            raise ValueError("durations do not sum to the frames")

    def unpack(self, contents: LatentsContents, reply: LatentsReply) -> list[Alignment]:
        durations = reply.durations.astype(np.int32, copy=False)  # of the machine's byte order
        parts = wrapped(owned_parts(durations, contents.tokens), contents.kinds)
        results = list(map(Alignment, parts, reply.scores.tolist(), reply.statuses))
        for place in failed_places(reply.statuses):
            results[place] = _failed(kind_at(contents.kinds, place), reply.statuses[place])
        return results

    def failed(self, item: LatentsItem | None, status: ItemStatus) -> Alignment:
        return _failed(item.kind if item else NUMPY, status)


def _failed(kind: Kind, status: ItemStatus) -> Alignment:
    return Alignment(kind.wrap(np.zeros(0, np.int32)), np.nan, status)


def _three(raw: Any) -> tuple[Any, Any, Any]:
    if not isinstance(raw, tuple | list) or len(raw) not in (2, 3):
        raise TypeError("each item must be (z, mean) or (z, mean, log_sigma)")
    return raw[0], raw[1], raw[2] if len(raw) == 3 else None


def _alike(array: Any, name: str, z: Any) -> tuple[Any, DataType]:
    """`scores` of [tokens, channels] of z's dtype."""
    require_dimensions(array, name, "tokens, channels")
    if dtype_name(array) != dtype_name(z):
        raise TypeError(f"{name} is {dtype_name(array)}, but z is {dtype_name(z)}: convert one of them")
    return scores(array, name, "tokens, channels")


class LatentsJob:
    """A padded batch in terms of ragged items: `items` go in, `assemble` makes the paths."""

    def __init__(self, z: Any, mean: Any, log_sigma: Any, frame_lengths: Any, token_lengths: Any) -> None:
        require_dimensions(z, "z", "B, frames, channels")
        require_dimensions(mean, "mean", "B, tokens, channels")
        (B, T, C), shape = z.shape, tuple(mean.shape)
        if shape != (B, shape[1], C):
            reason = f"its shape {[*shape]} does not go with z's, {[B, T, C]}: z is [B, frames, channels]"
            turned = ", mean [B, tokens, channels]; VITS has channels first: pass z.transpose(1, 2)"
            raise InvalidRequestError("mean", reason + turned)
        if log_sigma is not None:
            require_dimensions(log_sigma, "log_sigma", "B, tokens, channels")
        if log_sigma is not None and tuple(log_sigma.shape) != shape:
            raise InvalidRequestError("log_sigma", f"its shape {[*log_sigma.shape]} is not that of mean, {[*shape]}")
        self._arrays = (z, mean, log_sigma)
        self._frames = padded_lengths(frame_lengths, "frame_lengths", B, T)
        self._tokens = padded_lengths(token_lengths, "token_lengths", B, shape[1])

    @property
    def items(self) -> Iterator[tuple[Any, Any, Any]]:
        z, mean, log_sigma = self._arrays
        for b, (T, S) in enumerate(zip(self._frames, self._tokens)):
            yield z[b, :T], mean[b, :S], None if log_sigma is None else log_sigma[b, :S]

    def assemble(self, stream: Iterable[Any]) -> Any:
        """The paths as 0 and 1, float32 [B, tokens, frames], of z's kind. Raises `InvalidItemsError`."""
        z, mean, _ = self._arrays
        path = np.zeros((len(z), mean.shape[1], z.shape[1]), np.float32)
        for b, alignment in enumerate(collect(stream)):
            tokens = to_numpy(alignment.path)
            path[b, tokens, np.arange(len(tokens))] = 1
        return Kind.of(z).wrap(path)


class LatentsMethods(Methods):
    """Of `AlignClient`."""

    def align_latents(self, latents: Iterable[Any], *, on_error: OnError = "raise") -> Iterator[Alignment]:
        """Monotonic alignment search by the Gaussian log-likelihoods of latents (Glow-TTS, VITS), which are computed
        on the server's device: frames × tokens scores never travel.

        Args:
            latents: tuples or lists of z [frames, channels], mean and log_sigma [tokens, channels] (left out or None:
                standard deviations of 1), of one dtype, float16 to float64, NumPy or torch.
            on_error: "raise" or "return", see the class.
        """
        return self._results(LatentsFamily(), latents, on_error)

    def maximum_path_from_latents(
        self, z: Any, mean: Any, log_sigma: Any = None, frame_lengths: Any = None, token_lengths: Any = None
    ) -> Any:
        """`align_latents` of a padded batch.

        Args:
            z: [B, frames, channels].
            mean: [B, tokens, channels].
            log_sigma: as `mean`; None for standard deviations of 1.
            frame_lengths: integers [B]; None for all frames.
            token_lengths: integers [B]; None for all tokens.

        Returns:
            Paths as 0 and 1, float32 [B, tokens, frames], of z's kind and on its device.

        Raises:
            InvalidItemsError: with every item that cannot be aligned.
            InvalidRequestError: for arguments that contradict each other.
            AlignError: see `alignd_client.errors`.
        """
        job = LatentsJob(z, mean, log_sigma, frame_lengths, token_lengths)
        return job.assemble(self._pipeline.stream(LatentsFamily(), job.items))


class AsyncLatentsMethods(AsyncMethods):
    """Of `AsyncAlignClient`."""

    def align_latents(self, latents: Items, *, on_error: OnError = "raise") -> AsyncGenerator[Alignment, None]:
        """See `AlignClient.align_latents`."""
        return self._results(LatentsFamily(), latents, on_error)

    async def maximum_path_from_latents(
        self, z: Any, mean: Any, log_sigma: Any = None, frame_lengths: Any = None, token_lengths: Any = None
    ) -> Any:
        """See `AlignClient.maximum_path_from_latents`."""
        job = LatentsJob(z, mean, log_sigma, frame_lengths, token_lengths)
        return job.assemble(await self._pipeline.gather(LatentsFamily(), job.items))
