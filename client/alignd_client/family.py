"""What the client knows of a family of alignment, and what becomes of one of its items.

A family is one module (`mas`, `ctc`, `audio`): an `RPC`'s worth of packing and unpacking, free of any transport.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from alignd.wire import ItemCode, ItemStatus, Rpc
from alignd_client.errors import AlignError, InvalidItemError, InvalidItemsError, MessageTooLargeError
from alignd_client.results import Result

if TYPE_CHECKING:
    from typing_extensions import Self  # of the standard library from Python 3.11 on

OnError = Literal["raise", "return"]


class Item(Protocol):
    """One utterance, validated and copied out of the caller's arrays."""

    @property
    def key(self) -> Hashable:
        """Items can share a request where their keys are equal."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of its payload in a message."""
        ...

    @property
    def cells(self) -> int:
        """Lattice cells that the server computes for it."""
        ...

    def unloaded(self) -> "Self":
        """What unpacking a reply needs of it: not the payload, which is in the request by then."""
        ...


ItemT = TypeVar("ItemT", bound=Item)
Request = TypeVar("Request")
Reply = TypeVar("Reply")
ResultT = TypeVar("ResultT", bound=Result)


class Family(Protocol[ItemT, Request, Reply, ResultT]):
    """Packing and unpacking of one RPC."""

    rpc: Rpc[Request, Reply]
    items_per_request: int
    blocks: bool
    """Whether `prepare` waits for files, and so has no place in an event loop."""

    def prepare(self, raw: Any) -> ItemT:
        """Validates what the caller gave. Raises `TypeError`, `ValueError` or `OSError`."""
        ...

    def refuse(self, item: ItemT) -> ItemStatus | None:
        """Why an item cannot travel, alone or with others; None if it can."""
        ...

    def pack(self, items: Sequence[ItemT]) -> Request:
        """One request of items with equal keys."""
        ...

    def unpack(self, items: Sequence[ItemT], reply: Reply) -> list[ResultT]:
        """One result per item. Raises `ValueError` for a reply that does not fit the request."""
        ...

    def failed(self, item: ItemT | None, status: ItemStatus) -> ResultT:
        """The result of an item that was not aligned; None for one that could not even be prepared."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome(Generic[ResultT]):
    """What became of one item: its result, and the error that it deserves if it was not aligned."""

    result: ResultT
    error: Exception | None = None

    def settle(self, on_error: OnError) -> ResultT:
        if self.error is not None and on_error == "raise":
            raise self.error
        return self.result


def outcome_of(result: ResultT, index: int | None) -> Outcome[ResultT]:
    status = result.status
    if status.ok:
        return Outcome(result)
    error = InvalidItemError(index, status.code, status.field, status.message)
    # A server that says no more than the code leaves the sentence to us.
    return Outcome(result if status.message else _with_message(result, error), error)


def _with_message(result: ResultT, error: InvalidItemError) -> ResultT:
    status = ItemStatus(error.code, error.field, error.reason)
    return replace(result, status=status)  # type: ignore[type-var]  # all results are dataclasses


def collect(outcomes: Iterable[Outcome[ResultT]]) -> list[ResultT]:
    """The results of a padded batch. Raises `InvalidItemsError` with every bad item, or the first other error."""
    results: list[ResultT] = []
    errors: list[InvalidItemError] = []
    for outcome in outcomes:
        if isinstance(outcome.error, InvalidItemError):
            errors.append(outcome.error)
        elif outcome.error is not None:
            raise outcome.error
        results.append(outcome.result)
    if errors:
        raise InvalidItemsError(errors, len(results))
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
