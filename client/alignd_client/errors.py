"""What can go wrong, as types: every error of this package is an `AlignError`.

Where Python has a word of its own for it (`ValueError`, `ConnectionError`, `TimeoutError`), the error is that too. All
survive pickling, so that they cross process pools whole.
"""

from collections.abc import Sequence
from typing import Any

from alignd.wire import ItemCode, MalformedRequestError

_LISTED = 8


def _restore(cls: "type[AlignError]", message: str, state: dict[str, Any]) -> "AlignError":
    error = cls.__new__(cls)
    error.__dict__.update(state)
    error.args = (message,)
    return error


class AlignError(Exception):
    """Base of all errors.

    Attributes:
        retryable: whether the same request may succeed a little later. The client has then already tried.
        retry_after: seconds after which the server asks to be tried again; None where it did not say.
    """

    retryable: bool = False
    retry_after: float | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # The constructors take facts, not the message that Exception would hand them on unpickling.
        return _restore, (type(self), str(self), self.__dict__)


class InvalidRequestError(AlignError, ValueError):
    """Arguments that contradict each other or the contract: nothing of the request was aligned.

    Attributes:
        field: the argument, or the message's field, at fault.
        reason: what is wrong with it.
        violations: all pairs of (field, reason), the first of which the attributes above repeat.
    """

    def __init__(self, field: str, reason: str, *more: tuple[str, str]) -> None:
        self.field = field
        self.reason = reason
        self.violations = ((field, reason), *more)
        super().__init__("; ".join(f"{name}: {why}" if name else why for name, why in self.violations))


def invalid_request(error: MalformedRequestError) -> InvalidRequestError:
    """The codec's error as this package's."""
    violations = error.violations or (("", str(error)),)
    return InvalidRequestError(violations[0][0], violations[0][1], *violations[1:])


class InvalidItemError(AlignError, ValueError):
    """One item cannot be aligned; the others of its batch are not affected.

    Attributes:
        index: its place in what the caller gave, from 0; None where the call was about one item only.
        code: why, as an `ItemCode`.
        field: the field of the request at fault, "" if none is.
        reason: one sentence.
    """

    def __init__(self, index: int | None, code: ItemCode, field: str, reason: str) -> None:
        self.index = index
        self.code = code
        self.field = field
        self.reason = reason or code.name.replace("_", " ").lower()
        where = "" if index is None else f"item {index}: "
        super().__init__(f"{where}{self.reason} ({code.name})")


class InvalidItemsError(AlignError, ValueError):
    """Some items of a padded batch cannot be aligned.

    Attributes:
        errors: one `InvalidItemError` for every bad item, in order.
        indices: the bad items' places in the batch.
    """

    def __init__(self, errors: Sequence[InvalidItemError], items: int) -> None:
        self.errors = tuple(errors)
        listed = "; ".join(str(error) for error in self.errors[:_LISTED])
        more = f"; and {len(self.errors) - _LISTED} more" if len(self.errors) > _LISTED else ""
        super().__init__(f"{len(self.errors)} of {items} items cannot be aligned: {listed}{more}")

    @property
    def indices(self) -> list[int]:
        return [error.index for error in self.errors if error.index is not None]


class ServerUnavailableError(AlignError, ConnectionError):
    """No server answers, or it cannot work now.

    Attributes:
        target: the address that was tried.
        details: what gRPC, or the server, said of it, or "".
        reached: whether this attempt came to a server, which then could not work.
        tried: seconds for which a server that had answered before was tried again in vain; None where none had.
    """

    retryable = True

    def __init__(
        self,
        target: str,
        details: str = "",
        *,
        reached: bool = False,
        tried: float | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.target = target
        self.retry_after = retry_after
        self.details = details
        self.reached = reached
        self.tried = tried
        why = f" ({details})" if details else ""
        again = "" if tried is None else f"; tried again for {tried:.1f} s"
        another = "name another one's host:port as the target or in ALIGND_TARGET"
        if reached:
            message = f"the alignd server at {target} cannot work now{why}{again}"
        elif tried is not None:
            message = f"the alignd server at {target} went away{why}{again}: start it again, or {another}"
        else:
            message = (
                f"no alignd server answers at {target}{why}: start one with `alignd-server`, "
                f"which at its first start compiles for one to three minutes, on a GPU for about eight, or {another}"
            )
        super().__init__(message)


class OverloadedError(AlignError):
    """The server refused the work, since more waits than it takes on."""

    def __init__(self, details: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        # Without the server's word on when to come back it is not known to be overload at all.
        self.retryable = retry_after is not None
        super().__init__(f"the server is overloaded: {details}" if details else "the server is overloaded")


class DeadlineExceededError(AlignError, TimeoutError):
    """The timeout passed before the answer came.

    Attributes:
        timeout: seconds that the request was given, retries included; None if unknown.
        details: what the server said of it, or "".
    """

    def __init__(self, timeout: float | None, details: str = "") -> None:
        self.timeout = timeout
        self.details = details
        given = "" if timeout is None else f" within the timeout of {timeout:g} s"
        super().__init__(f"no answer{given}" + (f" ({details})" if details else ""))


class MessageTooLargeError(AlignError, ValueError):
    """One item, or one message, is larger than the server takes or sends.

    Attributes:
        size: bytes of the message; None where the server did not say of its reply.
        limit: bytes that the server takes, or sends; None where it did not say.
        index: the item's place in what the caller gave; None if unknown.
        reply: whether it is the server's reply that is too large for it, not the request.
    """

    def __init__(self, size: int | None, limit: int | None, index: int | None = None, *, reply: bool = False) -> None:
        self.size = size
        self.limit = limit
        self.index = index
        self.reply = reply
        if reply:
            of = "" if size is None else f" of {size} bytes"
            over = "" if limit is None else f", {limit}"
            super().__init__(
                f"the reply{of} is over the server's limit{over}: raise its --max-message-bytes, or send fewer items"
            )
            return
        where = "a message" if index is None else f"item {index} makes a message"
        most = "more than the server takes" if limit is None else f"the server takes at most {limit}"
        remedy = "raise its --max-message-bytes, send half precision, or align in process (AlignClient.in_process)"
        super().__init__(f"{where} of {size} bytes; {most}: {remedy}")


class ServerError(AlignError):
    """The server failed in a way that is not the request's fault, or answered what this client does not understand.

    Attributes:
        code: gRPC's name of the failure, "" where it was not gRPC's.
    """

    def __init__(self, details: str, code: str = "") -> None:
        self.code = code
        super().__init__(f"{details} ({code})" if code else details)


class ClientClosedError(AlignError):
    """The client has been closed."""

    def __init__(self) -> None:
        super().__init__("this client is closed")


class ForkError(AlignError, RuntimeError):
    """An asyncio client in a forked process, after gRPC's asyncio was in use in the parent."""

    def __init__(self) -> None:
        super().__init__(
            "gRPC's asyncio, in use before this process was forked, does not work in it: use AlignClient here, "
            "or start processes by spawn"
        )
