"""When to try again, and when to give up: decisions only, no waiting and no network."""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from alignd_client.errors import AlignError, DeadlineExceededError, ServerUnavailableError

Remaining: TypeAlias = Callable[[], float | None]
"""Seconds to the deadline, None without one: asked when they begin to count. Raises `DeadlineExceededError`."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with equal jitter: delays are uniform between half and the whole of the backoff.

    Attributes:
        first_delay: seconds before the second attempt.
        longest_delay: seconds that a delay grows to.
        attempts_when_unreached: attempts at a server that has never answered this client. One that has answered
            before is restarting, and is waited for until the deadline; one that has not is not there, and whoever
            mistyped its name should hear of it soon.
    """

    first_delay: float = 0.1
    longest_delay: float = 5.0
    attempts_when_unreached: int = 5

    def backoff(self, failures: int) -> float:
        grown = self.first_delay * 2.0 ** min(failures - 1, 30)
        return min(self.longest_delay, grown)


def answered(error: AlignError) -> bool:
    """Whether an error is the word of a server, as against silence: also of one that starts, and says when to ask
    again."""
    return error.retry_after is not None or not isinstance(error, ServerUnavailableError | DeadlineExceededError)


class Attempts:
    """The attempts at one request, inside one deadline."""

    def __init__(
        self,
        policy: RetryPolicy,
        timeout: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._timeout = timeout
        self._clock = clock
        self._jitter = jitter
        self._deadline = None if timeout is None else clock() + timeout
        self._failures = 0
        self._failing_since: float | None = None

    def remaining(self) -> float | None:
        """Seconds to the deadline. Raises `DeadlineExceededError` once it has passed."""
        if self._deadline is None:
            return None
        left = self._deadline - self._clock()
        if left <= 0:
            raise DeadlineExceededError(self._timeout)
        return left

    def delay_after(self, error: AlignError, *, reached: bool) -> float:
        """Seconds to wait before the next attempt.

        Args:
            error: what the last attempt failed with.
            reached: whether the server has ever answered.

        Raises:
            AlignError: `error`, if another attempt makes no sense, has no time left, or is one too many; of a server
                that went away it says for how long it was tried.
        """
        self._failures += 1
        if self._failing_since is None:
            self._failing_since = self._clock()
        if isinstance(error, DeadlineExceededError):
            # The attempt knows only what was left of the time.
            raise DeadlineExceededError(self._timeout, error.details)
        if not error.retryable:
            raise error
        if not reached and self._failures >= self._policy.attempts_when_unreached:
            raise error
        backoff = self._policy.backoff(self._failures)
        # At least half of it: an attempt at once is what an overloaded server needs least. What the server asks for is
        # never undercut, and those it asks do not come back all at once.
        jitter = self._jitter()
        delay = max((error.retry_after or 0.0) * (1 + 0.25 * jitter), backoff * (0.5 + 0.5 * jitter))
        left = math.inf if self._deadline is None else self._deadline - self._clock()
        if delay >= left > 2 * self._policy.first_delay:  # what is left of the time is not given away
            delay = max(error.retry_after or 0.0, left / 2)
        if delay >= left:
            if reached and isinstance(error, ServerUnavailableError):
                tried = self._clock() - self._failing_since
                raise ServerUnavailableError(
                    error.target, error.details, reached=error.reached, tried=tried, retry_after=error.retry_after
                )
            raise error
        return delay
