"""What must not be shared with a forked child: channels, threads, engines."""

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

_ALL: "weakref.WeakSet[PerProcess[Any]]" = weakref.WeakSet()

# A child must not even destroy what its parent made, since the threads that would have to help are not there.
_INHERITED: Final[list[object]] = []


class PerProcess(Generic[T]):
    """Makes its value on first use in each process. Thread-safe."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: tuple[int, T] | None = None
        self._lock = threading.Lock()
        _ALL.add(self)

    def get(self) -> T:
        made = self._made
        if made is not None and made[0] == os.getpid():  # as `peek`
            return made[1]
        with self._lock:
            value = self.peek()
            if value is None:
                value = self._make()
                self._made = os.getpid(), value
            return value

    def peek(self) -> T | None:
        """This process's value if it has been made."""
        made = self._made
        return made[1] if made is not None and made[0] == os.getpid() else None

    def take(self) -> T | None:
        """`peek`, and forget it."""
        with self._lock:
            value, self._made = self.peek(), None
            return value

    def start_afresh(self) -> None:
        """In a forked child: forget the parent's value, and a lock that a thread of the parent may have held."""
        self._lock = threading.Lock()
        if self._made is not None:
            _INHERITED.append(self._made)
            self._made = None


def _in_child() -> None:
    for one in list(_ALL):
        one.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
