"""Looks at queues of a broker that lets nobody wait: at growing pauses, and never cut.

For drivers whose `delivery` is 'wait' although their broker has no long poll, since each look costs: how
often programs drain makes no difference then. A look that was cut would hide what it brought for a whole
lease, so it ends alone, and what nobody wants goes back.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from greenmq import runtime
from greenmq.log import get_logger
from greenmq.transport.driver.contract import Taken
from greenmq.transport.driver.errors import bounded

__all__ = ('Looker',)

logger = get_logger('greenmq.transport.driver')

D = TypeVar('D')


class _Pauses:
    """When a queue is looked at."""

    __slots__ = ('due', 'pause', 'wanted')

    def __init__(self) -> None:
        self.wanted = runtime.Event()
        self.pause = 0.0
        self.due = 0.0

    def end(self) -> None:
        self.pause = self.due = 0.0

    def missed(self, first: float, longest: float) -> None:
        self.pause = min(self.pause * 2 or first, longest)
        self.due = runtime.monotonic() + self.pause


class Looker(Generic[D]):
    """The looks of one driver.

    Arguments:
        driver (object): held weakly: it holds us. So the next two must not be methods of it.
        look (Callable): `look(driver, queue, n)` returns the messages that are there.
        give_back (Callable): `give_back(driver, takens)` shows them to others again.
        longest (float): seconds of the longest pause.
        seconds (float): in which a look ends by itself.
        first (float): seconds of the first pause; the next ones are twice as long each.
    """

    def __init__(
        self, driver: D, look: Callable[[D, str, int], list[Taken]],
        give_back: Callable[[D, list[Taken]], object], longest: float, seconds: float, first: float = 0.1,
    ) -> None:  # fmt: skip
        self._driver = weakref.ref(driver)
        self._ask = look
        self._give_back = give_back
        self._first = first
        self._longest = max(longest, 0.1)
        self._seconds = seconds
        self._pauses: dict[str, _Pauses] = {}
        self._flying: set[object] = set()  # looks and late give-backs under way
        self._landed = runtime.Event()

    def now(self, queue: str) -> None:
        """There may be something in a queue: who waits for it looks at once."""
        pauses = self._pauses.get(queue)
        if pauses is not None:
            pauses.end()
            pauses.wanted.set()

    def take(self, queue: str, n: int, seconds: float) -> list[Taken]:
        """As `Driver.take`, from one queue. Switches: yes. Killed: the look under way ends alone."""
        if not seconds:
            return self._look(queue, n)
        deadline = runtime.Deadline.after(seconds)
        pauses = self._pauses.setdefault(queue, _Pauses())
        while True:
            pauses.wanted.clear()
            pause = pauses.due - runtime.monotonic()
            if pause > 0:
                pauses.wanted.wait(min(pause, deadline.remaining() or 0.0))
                if pauses.due > runtime.monotonic():
                    if deadline.expired():
                        return []
                    continue
            found = self._look(queue, n)
            if found:
                pauses.end()
                return found
            pauses.missed(self._first, self._longest)

    def _look(self, queue: str, n: int) -> list[Taken]:
        found: list[Taken] = bounded(
            'look', runtime.Deadline.after(self._seconds + 1), self._fly, queue, n,
            decline=self._declined, uncut=True,
        )  # fmt: skip
        return found

    def _fly(self, queue: str, n: int) -> list[Taken]:
        me = self._took_off()
        try:
            driver = self._driver()
            return [] if driver is None else self._ask(driver, queue, n)
        finally:
            self._land(me)

    def _declined(self, takens: list[Taken]) -> None:
        if takens:
            runtime.spawn(self._late, takens, self._took_off(), name='greenmq-late')

    def _late(self, takens: list[Taken], me: object) -> None:
        try:
            driver = self._driver()
            if driver is not None:  # else their leases end
                self._give_back(driver, takens)
        except Exception as error:  # their leases end
            logger.warning('%d messages that came too late could not be given back: %s', len(takens), error)
        finally:
            self._land(me)

    def _took_off(self) -> object:
        me = object()
        self._flying.add(me)
        return me

    def _land(self, one: object) -> None:
        self._flying.discard(one)
        if not self._flying:
            self._landed.set()

    def wait(self, deadline: runtime.Deadline) -> None:
        """Wait until nothing is under way any more. Switches: if anything is."""
        while self._flying and not deadline.expired():
            self._landed.clear()
            self._landed.wait(deadline.remaining())

    def forget(self) -> None:
        """In a forked child: these looks are the parent's."""
        self._flying.clear()

    def __repr__(self) -> str:
        return f'<Looker: {len(self._flying)} under way>'
