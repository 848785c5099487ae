"""How long to wait before a request is made again, and how fast a server that throttles may be asked."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from greenmq import runtime

__all__ = ('Pace', 'pause_before', 'retry_after')

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
# Of a rate that was cut: it grows back by a tenth of what it was a second, as a server that was overrun takes
# some seconds to recover.
_RECOVERY = 0.1
_SLOWEST = 1.0  # requests a second


def pause_before(attempt: int, rng: Callable[[], float] = random.random) -> float:
    """Seconds before attempt number `attempt` (2 is the first retry): by chance from 0 to 50 ms, doubled for
    each further attempt, up to 5 s.

    Chance over the whole range and not around its middle: of many clients that were refused together only a
    few come back at a time.
    """
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** max(attempt - 2, 0)) * rng()


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks us to wait by `Retry-After`, a number or a date; None if it does not."""
    value = headers.get('retry-after', '').strip()
    if value.isdigit():
        return float(value)
    if not value:
        return None
    try:
        at = parsedate_to_datetime(value)
    except (TypeError, ValueError, IndexError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=timezone.utc)
    return max(0.0, (at - datetime.now(timezone.utc)).total_seconds())


class Pace:
    """Requests a second to one server: unlimited until it throttles, then half of what went, and slowly more.

    It never waits: `delay` says how long the caller shall.

    Attributes:
        rate (float): requests a second that may go; inf while nothing was throttled lately.
    """

    __slots__ = ('_last', '_next', '_recent', '_since', '_wanted', 'rate')

    def __init__(self) -> None:
        self.rate = float('inf')
        self._wanted = float('inf')  # the rate at which we were throttled: past it the limit is forgotten
        self._recent = 0
        self._since = self._last = runtime.monotonic()
        self._next = 0.0

    def delay(self) -> float:
        """Seconds to wait before the next request; counts it as made."""
        now = runtime.monotonic()
        if now - self._since > 1.0:
            self._recent, self._since = 0, now
        self._recent += 1
        if self.rate == float('inf'):
            return 0.0
        self.rate += self._wanted * _RECOVERY * (now - self._last)
        self._last = now
        if self.rate >= self._wanted:
            self.rate = float('inf')
            return 0.0
        self._next = max(self._next, now) + 1.0 / self.rate
        return self._next - now - 1.0 / self.rate

    def throttled(self) -> None:
        """The server said that it was too much."""
        now = runtime.monotonic()
        if self.rate == float('inf'):
            self._wanted = max(self._recent / max(now - self._since, 0.1), _SLOWEST)
            self.rate = self._wanted
        self.rate = max(self.rate / 2, _SLOWEST)
        self._last = now
