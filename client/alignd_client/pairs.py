"""Two sequences that belong together, item by item: log-probs and targets."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

from alignd_client.aio_pipeline import as_async
from alignd_client.errors import InvalidRequestError

Items = Iterable[Any] | AsyncIterable[Any]


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
                raise _miscounted("targets", "log_probs", count)
            yield one, other
            count += 1
        if next(others, end) is not end:
            raise _miscounted("log_probs", "targets", count)


def either_pairs(log_probs: Items, targets: Items) -> Pairs | AsyncIterator[tuple[Any, Any]]:
    """`Pairs` of iterables of either kind."""
    if isinstance(log_probs, AsyncIterable) or isinstance(targets, AsyncIterable):
        return _async_pairs(log_probs, targets)
    return Pairs(log_probs, targets)


async def _async_pairs(log_probs: Items, targets: Items) -> AsyncIterator[tuple[Any, Any]]:
    """As `Pairs`."""
    end = object()
    others = as_async(targets)
    count = 0
    async for one in as_async(log_probs):
        other = await anext(others, end)
        if other is end:
            raise _miscounted("targets", "log_probs", count)
        yield one, other
        count += 1
    if await anext(others, end) is not end:
        raise _miscounted("log_probs", "targets", count)


def _miscounted(short: str, long: str, count: int) -> InvalidRequestError:
    return InvalidRequestError(short, f"there are {count} of them and more {long}: each item needs both")
