"""Who wants to know that a key was changed by anybody: CLIENT TRACKING tells the session, and that tells
these.
"""

from __future__ import annotations

import itertools

from greenmq import runtime
from greenmq.exceptions import TimeoutError

__all__ = ('Alarm', 'Watch')


class Watch:
    """Who wants to know that one of some keys was changed by anybody, or that this cannot be told any
    more.
    """

    #: Does a task wait for the hit now, and since which number of waits? Then one such is hit of many: who
    #: takes less than there is hands on, see `Session.hand_on`.
    waiting_since = 0

    def hit(self) -> None:
        """Called without the key: it may be all of them. Switches: no."""
        raise NotImplementedError


def since(watch: Watch) -> int:
    """Since which number of waits it waits. Switches: no."""
    return watch.waiting_since


class Alarm(Watch):
    """Rings when one of some keys changes. Set it before they are read."""

    _waits = itertools.count(1)

    def __init__(self) -> None:
        self.rung = False
        self._waiter: runtime.Waiter | None = None

    def set(self) -> None:
        """From now on a change counts. Switches: no."""
        self.rung = False

    def hit(self) -> None:
        """A key changed. Switches: no."""
        self.rung = True
        if self._waiter is not None:
            self.waiting_since = 0
            self._waiter.wake()

    def wait(self, seconds: float | None) -> bool:
        """Wait for a change.

        Returns:
            bool: False if none came in time.
        Switches: unless it has rung already.
        """
        if not self.rung:
            waiter = self._waiter = runtime.Waiter()
            self.waiting_since = next(self._waits)
            try:
                waiter.wait(seconds)
            except TimeoutError:
                return False
            finally:
                self._waiter = None
                self.waiting_since = 0
        return True
