"""Items into requests: large enough to be worth a message, small enough to share a server."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from alignd.wire import Limits, MalformedRequestError, Rpc
from alignd_client.errors import AlignError, MessageTooLargeError, ServerError, invalid_request
from alignd_client.family import Family, ItemT, Outcome, ResultT, outcome_of, refusal

Request = TypeVar("Request")
Reply = TypeVar("Reply")

ENOUGH_BYTES: Final = 1 << 20
"""A request that holds this much is sent: past it, larger messages are no faster, only later."""

MOST_BYTES: Final = 4 << 20
MOST_CELLS: Final = 4 << 20
"""A request's lattice cells. An item of more travels alone, so that it delays no small one's answer."""

MOST_ITEMS: Final = 512

ITEM_OVERHEAD: Final = 64
"""More bytes than an item's lengths and the like take in a message beside its payload."""


@dataclass(frozen=True, slots=True)
class PackingLimits:
    """What the server takes; None where there is no limit."""

    message_bytes: int | None = None
    items: int = MOST_ITEMS

    @classmethod
    def of(cls, limits: Limits) -> "PackingLimits":
        """A 0, from a server that does not say, is no limit."""
        return cls(limits.max_message_bytes or None, min(MOST_ITEMS, limits.max_queue_items or MOST_ITEMS))


@dataclass(slots=True)
class Parcel(Generic[ItemT, Request, Reply, ResultT]):
    """A run of the caller's items that travel together, or one that stays behind: then `settled` holds its outcome."""

    family: Family[ItemT, Request, Reply, ResultT]
    first: int
    items: list[ItemT] = field(default_factory=list)
    settled: Outcome[ResultT] | None = None
    nbytes: int = 0
    cells: int = 0

    @property
    def rpc(self) -> Rpc[Request, Reply]:
        return self.family.rpc

    def request(self) -> Request:
        """The request, once: its payload is in no item afterwards, so that memory holds it once for each in flight.

        Raises `InvalidRequestError` for what no door takes: here, as an engine in this process would not see it.
        """
        request = self.family.pack(self.items)
        self.items = [item.unloaded() for item in self.items]
        try:
            self.rpc.check_request(request)
        except MalformedRequestError as error:
            raise invalid_request(error) from None
        return request

    def outcomes(self, reply: Reply) -> list[Outcome[ResultT]]:
        """Raises `ServerError` for a reply that does not fit the request."""
        try:
            results = self.family.unpack(self.items, reply)
        except ValueError as error:
            raise ServerError(f"the server's answer to {self.rpc.name} does not fit the request: {error}") from error
        return [outcome_of(result, self.first + i) for i, result in enumerate(results)]


class Packer(Generic[ItemT, Request, Reply, ResultT]):
    """Takes items in order, gives parcels in order. A parcel is a run of consecutive items, which keeps the order."""

    def __init__(self, family: Family[ItemT, Request, Reply, ResultT], limits: PackingLimits) -> None:
        self._family = family
        self._limits = limits
        self._most_items = min(limits.items, family.items_per_request)
        most = MOST_BYTES if limits.message_bytes is None else min(MOST_BYTES, limits.message_bytes)
        self._most_bytes = most - ITEM_OVERHEAD
        self._open: Parcel[ItemT, Request, Reply, ResultT] | None = None
        self._count = 0

    def push(self, raw: Any) -> Sequence[Parcel[ItemT, Request, Reply, ResultT]]:
        """Adds the caller's next item; returns the parcels that are complete.

        What `prepare` raises becomes the item's outcome, since the next one may be good. Errors of this package, other
        than an item's size, are raised: they are about more than the item.
        """
        index = self._count
        self._count += 1
        item = None
        try:
            item = self._family.prepare(raw)
            self._check_size(item, index)
        except (TypeError, ValueError, OSError) as error:
            status = refusal(error)
            if status is None:
                raise
            named = error if isinstance(error, AlignError | OSError) else type(error)(f"item {index}: {error}")
            return self._settle(index, Outcome(self._family.failed(item, status), named))
        status = self._family.refuse(item)
        if status is not None:
            return self._settle(index, outcome_of(self._family.failed(item, status), index))
        return self._add(item, index)

    def flush(self) -> Sequence[Parcel[ItemT, Request, Reply, ResultT]]:
        """The last, incomplete parcel, if there is one."""
        parcel, self._open = self._open, None
        return [parcel] if parcel else []

    def _check_size(self, item: ItemT, index: int) -> None:
        limit = self._limits.message_bytes
        if limit is not None and item.nbytes + ITEM_OVERHEAD > limit:
            raise MessageTooLargeError(item.nbytes + ITEM_OVERHEAD, limit, index)

    def _settle(self, index: int, outcome: Outcome[ResultT]) -> Sequence[Parcel[ItemT, Request, Reply, ResultT]]:
        return [*self.flush(), Parcel(self._family, index, settled=outcome)]

    def _add(self, item: ItemT, index: int) -> Sequence[Parcel[ItemT, Request, Reply, ResultT]]:
        complete: list[Parcel[ItemT, Request, Reply, ResultT]] = []
        nbytes = item.nbytes + ITEM_OVERHEAD
        if self._open is not None and not self._fits(self._open, item, nbytes):
            complete.extend(self.flush())
        parcel = self._open or Parcel(self._family, index)
        parcel.items.append(item)
        parcel.nbytes += nbytes
        parcel.cells += item.cells
        self._open = parcel
        full = parcel.nbytes >= min(ENOUGH_BYTES, self._most_bytes) or parcel.cells >= MOST_CELLS
        if full or len(parcel.items) >= self._most_items:
            complete.extend(self.flush())
        return complete

    def _fits(self, parcel: Parcel[ItemT, Request, Reply, ResultT], item: ItemT, nbytes: int) -> bool:
        return (
            parcel.items[0].key == item.key
            and parcel.nbytes + nbytes <= self._most_bytes
            and parcel.cells + item.cells <= MOST_CELLS
        )
