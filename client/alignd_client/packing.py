"""Items into requests: large enough to be worth a message, small enough to share a server."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from alignd.wire import Limits, MalformedRequestError, Rpc
from alignd_client.errors import AlignError, MessageTooLargeError, ServerError, invalid_request
from alignd_client.family import Answers, Contents, Family, ItemT, ResultT, answers_of, refusal

Request = TypeVar("Request")
Reply = TypeVar("Reply")

ENOUGH_BYTES: Final = 4 << 20
"""A message that holds this much is sent: past it, larger ones are no faster, only later."""

MOST_BYTES: Final = 8 << 20
MOST_CELLS: Final = 4 << 20
"""A request's lattice cells. An item of more travels alone, so that it delays no small one's answer."""

MOST_ITEMS: Final = 512

LOCAL_BYTES: Final = 128 << 20
LOCAL_CELLS: Final = 128 << 20
LOCAL_ITEMS: Final = 512
"""In process: some milliseconds of work, and no more cells than an engine does at a time. In smaller requests what
costs as much each as some items do (a hand-over between threads, an idle one at the end) is felt."""

COPIED_BYTES: Final = 8 << 20
"""In process, of a request of what an iterator gives: its copies are our memory."""

PATIENCE_S: Final = 0.1
"""When an iterator takes so long for an item, or for all of a request, what it made is sent: it is waited for."""

ITEM_OVERHEAD: Final = 64
"""More bytes than an item's lengths and the like take in a message beside its payload."""


@dataclass(frozen=True, slots=True)
class PackingLimits:
    """How much shares a request.

    Attributes:
        message_bytes: of one item, that the server takes; None where there is no limit.
        items: of one request.
        enough_bytes: a request that holds this much is sent.
        most_bytes: of a request of several items.
        cells: lattice cells of a request of several items.
    """

    message_bytes: int | None = None
    items: int = MOST_ITEMS
    enough_bytes: int = ENOUGH_BYTES
    most_bytes: int = MOST_BYTES
    cells: int = MOST_CELLS

    @property
    def room(self) -> int:
        """Bytes of a request of several items."""
        most = self.most_bytes if self.message_bytes is None else min(self.most_bytes, self.message_bytes)
        return most - ITEM_OVERHEAD

    @classmethod
    def of(cls, limits: Limits) -> "PackingLimits":
        """A 0, from a server that does not say, is no limit."""
        return cls(limits.max_message_bytes or None, min(MOST_ITEMS, limits.max_queue_items or MOST_ITEMS))

    @classmethod
    def in_process(cls) -> "PackingLimits":
        """Without messages, what a request costs is its way from thread to thread and back."""
        return cls(None, LOCAL_ITEMS, LOCAL_BYTES, LOCAL_BYTES, LOCAL_CELLS)


@dataclass(slots=True)
class Parcel(Generic[ItemT, Request, Reply, ResultT]):
    """A run of the caller's items that travel together, or one that stays behind: then `settled` holds its answer.

    `first` is the place of the first in what the caller gave, `count` how many utterances there are.
    """

    family: Family[ItemT, Request, Reply, ResultT]
    first: int
    items: list[ItemT] = field(default_factory=list)
    settled: Answers[ResultT] | None = None
    count: int = 0
    nbytes: int = 0
    cells: int = 0
    contents: Contents = None
    opened: float = 0.0

    @property
    def rpc(self) -> Rpc[Request, Reply]:
        return self.family.rpc

    def request(self) -> Request:
        """The request, once: its payload is in no item afterwards, so that memory holds it once for each in flight.

        Raises `InvalidRequestError` for what no door takes.
        """
        items, self.items = self.items, []
        try:
            request, self.contents = self.family.pack(items)
        except MalformedRequestError as error:
            raise invalid_request(error) from None
        return request

    def check(self, reply: Reply) -> None:
        """Raises `ServerError` for a reply that does not fit the request."""
        try:
            self.family.check(self.contents, reply)
        except ValueError as error:
            raise ServerError(f"the server's answer to {self.rpc.name} does not fit the request: {error}") from error

    def answers(self, reply: Reply) -> Answers[ResultT]:
        """From a reply that fits."""
        return answers_of(self.family.unpack(self.contents, reply), self.first)


def cut(
    family: Family[ItemT, Request, Reply, ResultT], stack: ItemT, limits: PackingLimits
) -> list[Parcel[ItemT, Request, Reply, ResultT]] | None:
    """A caller's one array of items as requests of about one size; None if its items must be refused, one by one."""
    count, cells = stack.count, stack.cells // stack.count
    nbytes = stack.nbytes // count + ITEM_OVERHEAD
    limit, room = limits.message_bytes, limits.room
    if (limit is not None and nbytes > limit) or family.refuse(stack):
        return None
    most = min(room // nbytes, limits.cells // max(cells, 1), limits.items, family.items_per_request)
    size = max(1, min(-(-min(limits.enough_bytes, room) // nbytes), most))
    if size >= count:
        return [Parcel(family, 0, [stack])]
    size = -(-count // -(-count // size))  # no small one at the end
    return [Parcel(family, start, [stack.part(start, min(start + size, count))]) for start in range(0, count, size)]


class Packer(Generic[ItemT, Request, Reply, ResultT]):
    """Takes items in order, gives parcels in order. A parcel is a run of consecutive items, which keeps the order.

    Args:
        family: of the items.
        limits: of requests.
        borrow: whether the caller's arrays may be read where they lie until their results are out.
        clock: seconds.
    """

    def __init__(
        self,
        family: Family[ItemT, Request, Reply, ResultT],
        limits: PackingLimits,
        *,
        borrow: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._family = family
        self._limits = limits
        self._borrow = borrow
        self._clock = clock
        self._pushed = clock()
        self._most_items = min(limits.items, family.items_per_request)
        self._most_bytes = limits.room
        self._enough_bytes = min(limits.enough_bytes, self._most_bytes)
        if not borrow:
            self._enough_bytes = min(self._enough_bytes, COPIED_BYTES)
        self._open: Parcel[ItemT, Request, Reply, ResultT] | None = None
        self._count = 0

    def parcels(self, stack: ItemT) -> "list[Parcel[ItemT, Request, Reply, ResultT]] | None":
        """See `cut`."""
        return cut(self._family, stack, self._limits)

    def push(self, raw: Any) -> Sequence[Parcel[ItemT, Request, Reply, ResultT]]:
        """Adds the caller's next item; returns the parcels that are complete.

        What `prepare` raises becomes the item's answer, since the next one may be good. Errors of this package, other
        than an item's size, are raised: they are about more than the item.
        """
        index = self._count
        item = None
        try:
            item = self._family.prepare(raw, self._borrow)
            if self._over_limit(item):
                raise MessageTooLargeError(item.nbytes + ITEM_OVERHEAD, self._limits.message_bytes, index)
        except (TypeError, ValueError, OSError) as error:
            status = refusal(error)
            if status is None:
                raise
            kind = TypeError if isinstance(error, TypeError) else ValueError  # a UnicodeError takes no message
            named = error if isinstance(error, AlignError | OSError) else kind(f"item {index}: {error}")
            return self._settle(Answers([self._family.failed(item, status)], {0: named}))
        status = self._family.refuse(item)
        if status is not None:
            return self._settle(answers_of([self._family.failed(item, status)], index))
        return self._add(item)

    def flush(self) -> Sequence[Parcel[ItemT, Request, Reply, ResultT]]:
        """The last, incomplete parcel, if there is one."""
        parcel, self._open = self._open, None
        return [parcel] if parcel else []

    def _over_limit(self, item: ItemT) -> bool:
        limit = self._limits.message_bytes
        return limit is not None and item.nbytes + ITEM_OVERHEAD * item.count > limit

    def _settle(self, answers: Answers[ResultT]) -> Sequence[Parcel[ItemT, Request, Reply, ResultT]]:
        settled = Parcel(self._family, self._count, settled=answers)
        self._count += 1
        return [*self.flush(), settled]

    def _add(self, item: ItemT) -> Sequence[Parcel[ItemT, Request, Reply, ResultT]]:
        complete: Sequence[Parcel[ItemT, Request, Reply, ResultT]] = ()
        count, cells = item.count, item.cells
        nbytes = item.nbytes + ITEM_OVERHEAD * count
        parcel = self._open
        if parcel is not None and not self._fits(parcel, item, nbytes, cells):
            complete, parcel = self.flush(), None
        if parcel is None:
            parcel = self._open = Parcel(self._family, self._count, opened=self._clock())
        parcel.items.append(item)
        parcel.count += count
        parcel.nbytes += nbytes
        parcel.cells += cells
        self._count += count
        full = parcel.nbytes >= self._enough_bytes or parcel.cells >= self._limits.cells
        late = not self._borrow and self._late(parcel)
        if full or late or parcel.count >= self._most_items:
            return [*complete, *self.flush()]
        return complete

    def _late(self, parcel: Parcel[ItemT, Request, Reply, ResultT]) -> bool:
        before, self._pushed = self._pushed, self._clock()
        return self._pushed - min(parcel.opened, before) > PATIENCE_S

    def _fits(self, parcel: Parcel[ItemT, Request, Reply, ResultT], item: ItemT, nbytes: int, cells: int) -> bool:
        return (
            parcel.nbytes + nbytes <= self._most_bytes
            and parcel.cells + cells <= self._limits.cells
            and parcel.count + item.count <= self._most_items
            and parcel.items[0].key == item.key
        )
