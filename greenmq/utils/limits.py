"""Rates: a bucket that fills with tokens as time goes."""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any

__all__ = ('TokenBucket',)


class TokenBucket:
    """Tells whether something may happen yet, given a mean rate and a size of bursts.

    Arguments:
        fill_rate (float): tokens a second.
        capacity (float): tokens the bucket holds; it starts full.

    It never waits: ask `expected_time` how long to sleep. No method switches, so greenlets may share one.

    Source: kombu.utils.limits.TokenBucket; the token bucket algorithm.
    """

    #: Tokens a second.
    fill_rate: float | None = None
    #: Tokens that fit in.
    capacity: float = 1
    #: When the tokens were last counted, in monotonic seconds.
    timestamp: float | None = None

    def __init__(self, fill_rate: float, capacity: float = 1) -> None:
        self.capacity = float(capacity)
        self._tokens = float(capacity)
        self.fill_rate = float(fill_rate)
        self.timestamp = monotonic()
        self.contents: deque[Any] = deque()

    def add(self, item: Any) -> None:
        """Keep an item until there is a token for it."""
        self.contents.append(item)

    def pop(self) -> Any:
        """Return the oldest item kept.

        Raises:
            IndexError: there is none.
        """
        return self.contents.popleft()

    def clear_pending(self) -> None:
        """Forget the items kept."""
        self.contents.clear()

    def can_consume(self, tokens: float = 1) -> bool:
        """Take so many tokens if they are there, and tell whether they were."""
        if tokens > self._fill():
            return False
        self._tokens -= tokens
        return True

    def expected_time(self, tokens: float = 1) -> float:
        """Return the seconds until so many tokens will be there; infinite if the rate is 0."""
        lacking = tokens - self._fill()
        if lacking <= 0:
            return 0.0
        return lacking / self.fill_rate if self.fill_rate else float('inf')

    def _fill(self) -> float:
        now = monotonic()
        if self._tokens < self.capacity:
            earned = (self.fill_rate or 0.0) * (now - (self.timestamp or now))
            self._tokens = min(self.capacity, self._tokens + earned)
        self.timestamp = now
        return self._tokens
