"""Forks wait for calls in flight, and new calls wait for forks.

gRPC prepares its threads for a fork only if no other thread is inside it at that moment; else the child may hang or
abort in its first call.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PATIENCE_S: Final = 5.0
"""For calls in flight when the process forks; as long as gRPC's own. After it the fork goes on, at its own risk."""


class ForkGate:
    """Calls share it, a fork has it alone."""

    def __init__(self) -> None:
        self._installed = False
        self._reset()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around everything that one call does inside gRPC."""
        changed = self._changed
        with changed:
            changed.wait_for(lambda: not self._forks)
            self._calls += 1
        try:
            yield
        finally:
            with changed:
                self._calls -= 1
                changed.notify_all()

    def before_fork(self) -> None:
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: not self._calls, PATIENCE_S)

    def after_fork(self) -> None:
        """In the parent."""
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()

    def _reset(self) -> None:
        """In the child, too: none of the parent's calls goes on there, and a lost thread may hold the lock."""
        self._changed = threading.Condition()
        self._calls = 0
        self._forks = 0

    def install(self) -> None:
        """After the first channel, which installs gRPC's own hooks: the last installed runs first before a fork, and
        once gRPC's has run, the calls that ours waits for cannot end."""
        if not self._installed and hasattr(os, "register_at_fork"):
            self._installed = True
            os.register_at_fork(before=self.before_fork, after_in_parent=self.after_fork, after_in_child=self._reset)


GATE: Final = ForkGate()
