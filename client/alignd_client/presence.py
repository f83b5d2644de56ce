"""Whether a server is there: what all calls of a transport find out together, and tell the log once."""

import logging
import time
from typing import Final, TypeAlias

from alignd_client.errors import AlignError, ServerUnavailableError
from alignd_client.retry import answered

logger: Final = logging.getLogger("alignd_client")

Loss: TypeAlias = tuple[float, str]
"""When, of the monotonic clock, and of which target."""


class Presence:
    """Thread-safe.

    Attributes:
        reached: whether an answer has ever come.
    """

    def __init__(self, *, reached: bool = False) -> None:
        self.reached = reached
        self._closed = False
        # Of the many calls that fail at once one tells of it: a dictionary's methods are atomic, and know no fork.
        self._losses: dict[str, Loss] = {}

    @property
    def loss(self) -> Loss | None:
        """Of the server, if it is away."""
        return self._losses.get("last")

    def note(self, error: AlignError | None, before: Loss | None) -> None:
        """What an attempt came to.

        Args:
            error: None for a reply.
            before: `loss` before the attempt. An answer to what was asked earlier does not end it.
        """
        if error is None or answered(error):
            self.reached = True
            starting = isinstance(error, ServerUnavailableError)
            if before is not None and before is self.loss and not starting:
                self._find()
        elif self.reached and not self._closed and isinstance(error, ServerUnavailableError):
            self._lose(error)

    def close(self) -> None:
        """What fails from now on fails by this side's doing."""
        self._closed = True

    def _lose(self, error: ServerUnavailableError) -> None:
        mine = time.monotonic(), error.target
        if self._losses.setdefault("last", mine) is mine:
            why = f" ({error.details})" if error.details else ""
            logger.warning(
                "lost the alignd server at %s%s: requests are tried again until it answers or their timeout passes",
                error.target,
                why,
            )

    def _find(self) -> None:
        loss = self._losses.pop("last", None)
        if loss is not None:
            since, target = loss
            logger.info("the alignd server at %s answers again, after %.1f s", target, time.monotonic() - since)
