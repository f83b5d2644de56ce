"""Why a request as a whole is not answered. (What is wrong with an item stands in its `ItemStatus`.)"""


class EngineError(Exception):
    """Base of all."""


class OverloadedError(EngineError):
    """There is no room for the request now.

    Attributes:
        reason: which bound was met: "items" or "bytes".
        retry_after_s: when to try again, in seconds.
    """

    def __init__(self, reason: str, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s


class DeadlineExceededError(EngineError):
    """The deadline passed before the work began; the work was never run."""


class NotServedError(EngineError):
    """The engine does not have this operation."""


class UnavailableError(EngineError):
    """The engine takes no work: it is shutting down, or its device is lost."""


class DeviceLostError(UnavailableError):
    """The device has failed for good: CUDA's errors are sticky, only a new process can use it again."""
