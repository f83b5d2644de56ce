"""The asyncio client as one that blocks, so that one suite tests both."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any


class Blocking:
    """Wraps an `AsyncAlignClient`: coroutines are run, asynchronous generators become plain ones."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._loop = asyncio.new_event_loop()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            value = method(*arguments, **options)
            if inspect.isasyncgen(value):
                return self._iterate(value)
            return self.run(value) if inspect.iscoroutine(value) else value

        return call

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(coroutine)

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.run_until_complete(self.client.close())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def __enter__(self) -> "Blocking":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _iterate(self, values: AsyncGenerator[Any, None]) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._loop.run_until_complete(anext(values))
                except StopAsyncIteration:
                    return
        finally:
            self._loop.run_until_complete(values.aclose())
