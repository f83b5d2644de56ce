"""What a client was told when it was made, whichever its transport."""

from dataclasses import dataclass, field

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
        if self.timeout is not None and not self.timeout >= 0:
            raise ValueError(f"timeout must be seconds or None, not {self.timeout}")
        if self.max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1, not {self.max_in_flight}")
        if self.max_message_bytes is not None and self.max_message_bytes < 1:
            raise ValueError(f"max_message_bytes must be at least 1, not {self.max_message_bytes}")

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
