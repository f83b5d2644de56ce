"""Bounds on what the engine holds at a time: items and bytes, waiting or in work."""

import threading

from alignd_server.errors import OverloadedError

RETRY_AFTER_S = 0.1
"""A few batches' time: by then room has been made, or the server is busy for good and the client backs off further."""


class Reservation:
    """Room that is held until `release`, which may be called more than once. Without an admission it holds nothing."""

    __slots__ = ("_admission", "items", "nbytes")

    def __init__(self, admission: "Admission | None", nbytes: int, items: int = 0) -> None:
        self._admission = admission
        self.nbytes = nbytes
        self.items = items

    def resize(self, nbytes: int) -> None:
        """Hold another number of bytes: never refused, since the memory is in use already."""
        if self._admission is not None:
            self._admission._add(0, nbytes - self.nbytes)
            self.nbytes = nbytes

    def add_items(self, items: int) -> None:
        """Hold room for items too. Raises `OverloadedError`."""
        if self._admission is not None:
            self._admission._take_items(items)
            self.items += items

    def release(self) -> None:
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._add(-self.items, -self.nbytes)


class Admission:
    """Grants reservations while they fit. An engine that holds nothing takes any one request."""

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self.items = 0
        self.nbytes = 0

    def reserve(self, nbytes: int, items: int = 0) -> Reservation:
        """Room for a message of `nbytes`, and for its items where they are known. Raises `OverloadedError`."""
        with self._lock:
            self._check_items(items)
            if self.nbytes and self.nbytes + nbytes > self._max_bytes:
                raise OverloadedError(
                    "bytes",
                    f"the queue holds {self.nbytes} of {self._max_bytes} bytes; {nbytes} more do not fit now",
                    RETRY_AFTER_S,
                )
            self.nbytes += nbytes
            self.items += items
        return Reservation(self, nbytes, items)

    def _take_items(self, items: int) -> None:
        with self._lock:
            self._check_items(items)
            self.items += items

    def _check_items(self, items: int) -> None:
        if self.items and self.items + items > self._max_items:
            raise OverloadedError(
                "items",
                f"the queue holds {self.items} of {self._max_items} items; {items} more do not fit now",
                RETRY_AFTER_S,
            )

    def _add(self, items: int, nbytes: int) -> None:
        with self._lock:
            self.items += items
            self.nbytes += nbytes
