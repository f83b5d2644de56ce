"""What the client knows of a family of alignment, and what becomes of one of its items.

A family is one module (`mas`, `ctc`, `audio`): an `RPC`'s worth of packing and unpacking, free of any transport.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from alignd.wire import OK, ItemCode, ItemStatus, Rpc
from alignd_client.errors import AlignError, InvalidItemError, InvalidItemsError, MessageTooLargeError
from alignd_client.results import Result

if TYPE_CHECKING:
    from typing_extensions import Self  # of the standard library from Python 3.11 on

OnError = Literal["raise", "return"]


class Item(Protocol):
    """One utterance, validated; or several of one shape whose arrays lie end to end."""

    @property
    def count(self) -> int:
        """How many."""
        ...

    @property
    def key(self) -> Hashable:
        """Items can share a request where their keys are equal."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of its payload in a message, of all of them."""
        ...

    @property
    def cells(self) -> int:
        """Lattice cells that the server computes for it, of all of them."""
        ...

    def part(self, start: int, stop: int) -> "Self":
        """Those from `start` to `stop`."""
        ...


ItemT = TypeVar("ItemT", bound=Item)
Request = TypeVar("Request")
Reply = TypeVar("Reply")
ResultT = TypeVar("ResultT", bound=Result)

Contents = Any
"""What a family keeps of the items of a request for unpacking the reply: lengths and kinds, not the payload."""


class Family(Protocol[ItemT, Request, Reply, ResultT]):
    """Packing and unpacking of one RPC."""

    rpc: Rpc[Request, Reply]
    items_per_request: int
    blocks: bool
    """Whether `prepare` waits for files, and so has no place in an event loop."""

    def borrows(self, raws: Any) -> bool:
        """Whether the caller gave arrays that exist whole: they are read where they lie, not copied one by one."""
        ...

    def stack(self, raws: Any) -> ItemT | None:
        """All that the caller gave as one item, if it is one array of good items; else None."""
        ...

    def prepare(self, raw: Any, borrow: bool) -> ItemT:
        """Validates what the caller gave. Raises `TypeError`, `ValueError` or `OSError`.

        Args:
            raw: one utterance, or an item that is prepared already.
            borrow: as `borrows` says.
        """
        ...

    def refuse(self, item: ItemT) -> ItemStatus | None:
        """Why an item cannot travel, alone or with others; None if it can. Of several, which are alike, all or none."""
        ...

    def pack(self, items: Sequence[ItemT]) -> tuple[Request, Contents]:
        """One request of items with equal keys, and what `unpack` needs to know of them.

        Raises `MalformedRequestError` for what no door takes: an engine in this process does not look.
        """
        ...

    def check(self, contents: Contents, reply: Reply) -> None:
        """Raises `ValueError` for a reply that does not fit the request."""
        ...

    def unpack(self, contents: Contents, reply: Reply) -> list[ResultT]:
        """One result per utterance, from a reply that fits."""
        ...

    def failed(self, item: ItemT | None, status: ItemStatus) -> ResultT:
        """The result of an item that was not aligned; None for one that could not even be prepared."""
        ...


@dataclass(frozen=True, slots=True)
class Answers(Generic[ResultT]):
    """What became of consecutive items: a result for each, and by its place among them the error of one that failed."""

    results: list[ResultT]
    errors: dict[int, Exception]

    def settle(self, on_error: OnError) -> Iterable[ResultT]:
        return self.results if not self.errors or on_error == "return" else self._until_error()

    def _until_error(self) -> Iterator[ResultT]:
        for place, result in enumerate(self.results):
            if place in self.errors:
                raise self.errors[place]
            yield result


def failed_places(statuses: Sequence[ItemStatus]) -> list[int]:
    if statuses.count(OK) == len(statuses):  # nearly always, and by far sooner known
        return []
    return [place for place, status in enumerate(statuses) if status is not OK and not status.ok]


def answers_of(results: list[ResultT], first: int) -> Answers[ResultT]:
    """`first` is the place of the first of them in what the caller gave."""
    errors: dict[int, Exception] = {}
    for place in failed_places([result.status for result in results]):
        result = results[place]
        status = result.status
        error = InvalidItemError(first + place, status.code, status.field, status.message)
        errors[place] = error
        # A server that says no more than the code leaves the sentence to us.
        if not status.message:
            results[place] = _with_message(result, error)
    return Answers(results, errors)


def _with_message(result: ResultT, error: InvalidItemError) -> ResultT:
    status = ItemStatus(error.code, error.field, error.reason)
    return replace(result, status=status)  # type: ignore[type-var]  # all results are dataclasses


def collect(stream: Iterable[Answers[ResultT]]) -> list[ResultT]:
    """The results of a padded batch. Raises `InvalidItemsError` with every bad item, or the first other error."""
    results: list[ResultT] = []
    bad: list[InvalidItemError] = []
    for answers in stream:
        for error in answers.errors.values():
            if not isinstance(error, InvalidItemError):
                raise error
            bad.append(error)
        results.extend(answers.results)
    if bad:
        raise InvalidItemsError(bad, len(results))
    return results


def refusal(error: Exception) -> ItemStatus | None:
    """The status of an item that this side refuses to send; None if the error is not about one item."""
    if isinstance(error, MessageTooLargeError):
        return ItemStatus(ItemCode.TOO_LARGE, "", str(error))
    if isinstance(error, AlignError):
        return None
    code = ItemCode.AUDIO_UNREADABLE if isinstance(error, OSError) else ItemCode.MALFORMED
    return ItemStatus(code, "audio" if isinstance(error, OSError) else "", str(error))


def check_on_error(value: Any) -> None:
    if value not in ("raise", "return"):
        raise ValueError(f'on_error must be "raise" or "return", not {value!r}')
