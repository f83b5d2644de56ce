"""What a client was told when it was made, whichever its transport."""

from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from alignd_client.packing import PackingLimits
from alignd_client.retry import RetryPolicy

_HEALTH_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """See `AlignClient`. Raises `ValueError` for what no client can work with."""

    timeout: float | None = None
    max_in_flight: int = 8
    max_message_bytes: int | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    def __post_init__(self) -> None:
        timeout: Any = self.timeout
        if timeout is not None and not (isinstance(timeout, Real) and float(timeout) >= 0):
            raise ValueError(f"timeout must be seconds or None, not {timeout!r}")
        for name in ("max_in_flight", "max_message_bytes"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, Integral) and int(value) >= 1):
                raise ValueError(f"{name} must be an integer of at least 1, not {value!r}")

    @property
    def health_timeout(self) -> float:
        """Seconds for a question that should not need any."""
        return _HEALTH_SECONDS if self.timeout is None else min(self.timeout, _HEALTH_SECONDS)

    def limits(self, remote: bool) -> PackingLimits | None:
        """As far as they are known without asking; None if the server must be asked."""
        if not remote:
            return PackingLimits.in_process()
        if self.max_message_bytes is not None:
            return PackingLimits(self.max_message_bytes)
        return None
