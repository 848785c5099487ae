"""The ends of long waits: one timer of the loop for all that wait in a hub, instead of one each.

Most waits have a deadline far away that never passes: a publish for its confirm, 30 seconds. So those of
`LONG` seconds and more are told up to `GRAIN` seconds late, together; never early. Shorter ones have timers
of their own, and are exact.

While nobody waits, the timer does not keep the hub: a program that waits for its hub to have nothing left
must not wait for us. It is not stopped then: of a task that waits for one answer after the other, each wait
would pay for a timer of its own.
"""

from __future__ import annotations

from typing import Any

from greenmq.runtime.clock import monotonic
from greenmq.runtime.seam import TimerHandle, library

__all__ = ('LONG', 'Alarms')

#: Seconds from which on a deadline may be told late.
LONG = 10.0
#: Seconds that it is late at most.
GRAIN = 0.5


class Alarms:
    """Who waits in one hub with a deadline that is far away, in the order of the deadlines.

    It does not know its hub, which has it: each would keep the other. Nothing here switches.
    """

    __slots__ = ('_due', '_rings', '_timer')

    def __init__(self) -> None:
        #: By the number of the grain that ends after their deadline.
        self._rings: dict[int, dict[Any, None]] = {}
        self._due = 0
        self._timer: TimerHandle | None = None

    def set(self, hub: Any, who: Any, at: float) -> dict[Any, None]:
        """Call ``who.expire()`` from the hub after a point in time.

        Arguments:
            hub (object): of this thread, whose alarms these are.
            who (Waiter): one alarm each.
            at (float): on the clock of `monotonic`.
        Returns:
            dict: take `who` out of it, and nothing happens; call `emptied` if nobody else is in it then.
        """
        number = int(at / GRAIN) + 1
        ring = self._rings.get(number)
        if ring is None:
            if self._timer is None or number < self._due:
                self._start(hub, number)
            elif not self._rings:
                self._timer.ref = True
            ring = self._rings[number] = {}
        ring[who] = None
        return ring

    def emptied(self, ring: dict[Any, None], at: float) -> None:
        """Nobody is left in what `set` returned for `at`."""
        number = int(at / GRAIN) + 1
        if self._rings.get(number) is ring:  # or it has rung
            del self._rings[number]
            if not self._rings and self._timer is not None:
                self._timer.ref = False

    def forget(self) -> None:
        """Have nobody and no timer: in a forked child, where those who waited are told at once."""
        self._rings.clear()
        self._stop()

    def _start(self, hub: Any, number: int) -> None:
        self._stop()
        self._due = number
        self._timer = library.timer(hub, max(0.0, number * GRAIN - monotonic()), self._ring)

    def _stop(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()

    def _ring(self) -> None:
        # In the hub. Each in a callback of its own: what one of them raises is none of the others' business.
        hub = library.get_hub()
        self._stop()
        now = monotonic()
        for number in sorted(number for number in self._rings if number * GRAIN <= now):
            for who in self._rings.pop(number):
                library.run_soon(hub, who.expire)
        if self._rings:
            self._start(hub, min(self._rings))
