"""How messages come in: one poller a group fetches while there is room, and hands out what came.

A group is what one `take` may be about: all queues of a channel, or one queue for all channels that
consume it, as the driver's `groups` says. A poller reserves room in the books of its channels before a
take starts, so that takes in flight never bring more than a prefetch allows, and it gives back what
nobody wants any more. It calls no callback: whoever drains does that. A take that fails is told to the
drains and tried again with a growing delay; one that is overdue is ended: a consumer is deaf for as long
as the broker is, and no longer (P25).
"""

from __future__ import annotations

import itertools
import operator
import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

from greenmq import runtime
from greenmq.exceptions import TimeoutError
from greenmq.transport.driver.contract import Driver, Taken
from greenmq.transport.driver.flight import Flight
from greenmq.transport.driver.poller import Poller, full_since
from greenmq.transport.waiters import WaitingLine

__all__ = ('Intake',)

_queue_of = operator.attrgetter('queue')


class Intake:
    """The pollers of one session.

    Arguments:
        session (Session): held weakly. driver (Driver): whose `take` or `want` is called.
        settings (Mapping): `fetch_bytes`, `polling_interval`.
    """

    def __init__(self, session: Any, driver: Driver, settings: Any) -> None:
        self.session = weakref.ref(session)
        self.driver = driver
        self.max_bytes: int = settings['fetch_bytes']
        self.polling_interval: float = settings['polling_interval'] or 1.0
        self.calls = 0
        self.taken = 0
        #: Messages by queue that takes brought when nobody wanted them any more.
        self.unwanted: Counter[str] = Counter()
        # A poller of an uncut driver stays while its last take flies, and goes on if somebody consumes again.
        self._pollers: dict[Any, Poller] = {}
        #: Pollers that found no room, and perhaps such as have some again.
        self.full: set[Poller] = set()
        self._looking = WaitingLine()
        self._by_queue = driver.groups == 'each' or driver.delivery == 'push'

    # ---- who consumes

    def refresh(self, channel: Any) -> list[Flight]:
        """The consumers of a channel have changed.

        Returns:
            list[Flight]: takes that were ended for it, and have not ended yet.
        """
        session = self.session()
        if session is None:
            return []
        if self._by_queue:
            return self._refresh_queues(session, channel)
        key = id(channel)
        poller = self._pollers.get(key)
        if channel.closed or not channel.books.queues:
            self._pollers.pop(key, None)
            flight = poller.stop() if poller is not None else None
            return [flight] if flight is not None else []
        if poller is None:
            poller = self._pollers[key] = Poller(self, key, channel)
            poller.kick()
            return []
        flight = poller.restart()
        return [flight] if flight is not None else []

    def _refresh_queues(self, session: Any, channel: Any) -> list[Flight]:
        ended = []
        wanted = {queue for each in session.channels for queue in each.books.queues}
        for queue in list(self._pollers):
            if queue not in wanted:
                flight = self._pollers[queue].stop()
                if flight is None or not self.driver.uncut:
                    del self._pollers[queue]
                if flight is not None:
                    ended.append(flight)
            elif self.driver.delivery == 'push' and (channel.closed or not channel.books.takes(queue)):
                self._pollers[queue].forget(channel)
        for queue in channel.books.queues:
            poller = self._pollers.get(queue)
            if poller is None:
                poller = self._pollers[queue] = Poller(self, queue, None)
            poller.go_on()
        return ended

    def join(self, flights: list[Flight], deadline: runtime.Deadline) -> None:
        """Wait until takes that were ended have ended, and what they took has gone back.

        Switches: yes; but not in the hub, and not for takes that must not be cut.
        """
        if flights and not runtime.in_hub() and not self.driver.uncut:
            for flight in flights:
                flight.join(deadline)
            self.driver.cut(deadline)

    def forget(self, poller: Poller) -> None:
        """A poller that was stopped has ended its last take."""
        if self._pollers.get(poller.key) is poller:
            del self._pollers[poller.key]

    def poller_of(self, channel: Any, queue: str) -> Any:
        """Who fetches from a queue for a channel; None if nobody does."""
        return self._pollers.get(queue if self._by_queue else id(channel))

    def strays(self, queue: str) -> bool:
        """Is a take for this queue under way that nobody wants any more, and that could not be cut?"""
        poller = self._pollers.get(queue)
        return poller is not None and poller.stopped and poller.flight is not None

    # ---- reasons to fetch

    def kick(self, queue: str | None = None) -> None:
        """There may be messages in a queue, or in any."""
        for key, poller in list(self._pollers.items()):
            if queue is None or not self._by_queue or key == queue:
                poller.kick()

    def kick_channel(self, channel: Any) -> None:
        """A channel has room again."""
        if not channel.books.flowing and self.driver.delivery == 'push':
            for queue in channel.books.queues:
                if queue in self._pollers:
                    self._pollers[queue].let_go()
                    self._pollers[queue].kick()
            return
        if not self._by_queue:
            poller = self._pollers.get(id(channel))
            if poller is not None and poller.flight is None:
                poller.kick()
            return
        pollers = [self._pollers[queue] for queue in channel.books.queues if queue in self._pollers]
        # Who has waited longest comes first: else the first queue, if it is busy, has the room each time.
        for poller in sorted(pollers, key=full_since) if len(pollers) > 1 else pollers:
            if poller.flight is None:
                poller.kick()

    def others(self, poller: Poller) -> list[Poller]:
        """The pollers of other groups."""
        return [other for other in self._pollers.values() if other is not poller]

    def kick_others(self, poller: Poller) -> None:
        """Room was given back: those that had none come before who had it."""
        # Of those alone that were full: there may be thousands of pollers, and a take for each message.
        known = self._pollers.get
        self.full = {each for each in self.full if each.state == 'full' and known(each.key) is each}
        others = [other for other in self.full if other is not poller]
        for other in sorted(others, key=full_since) if len(others) > 1 else others:
            other.kick()

    def arrived(self, takens: Iterable[Taken], session: Any) -> None:
        """Delivery 'push': messages came."""
        for queue, group in itertools.groupby(takens, _queue_of):
            found = list(group)
            self.taken += len(found)
            poller = self._pollers.get(queue)
            if poller is None:
                session.give_back(found)
            else:
                poller.arrived(found, session)

    def look(self, deadline: runtime.Deadline) -> None:
        """Look at all queues once more, and wait for the outcome. For delivery 'poll'. Switches: yes."""
        wanted = {poller: poller.looks + 1 + (poller.flight is not None) for poller in self._pollers.values()}
        self.kick()
        while any(poller.looks < looks and poller.state == 'taking' for poller, looks in wanted.items()):
            try:
                self._looking.wait(deadline, 'no look')
            except TimeoutError:
                return

    def looked(self) -> None:
        """A take has ended."""
        self._looking.wake()

    # ---- lives

    def lost(self) -> None:
        """The connection is gone."""
        for poller in self._pollers.values():
            poller.lost()

    def recovered(self) -> None:
        """It is back."""
        for poller in list(self._pollers.values()):
            poller.recovered()

    def leave(self) -> None:
        """The session goes on in another thread: end all pollers without waiting for it."""
        for poller in self._pollers.values():
            poller.leave()
        self._pollers.clear()

    def close(self, deadline: runtime.Deadline) -> list[Flight]:
        """End all pollers.

        Returns:
            list[Flight]: takes that must not be cut, or have not ended in time.
        Switches: if there are takes under way that may be cut.
        """
        flights = [poller.stop() for poller in self._pollers.values()]
        self._pollers.clear()
        left = [flight for flight in flights if flight is not None]
        return [flight for flight in left if self.driver.uncut or not flight.join(deadline)]

    @property
    def flying(self) -> int:
        """How many takes are under way."""
        return sum(poller.flight is not None for poller in self._pollers.values())

    @property
    def state(self) -> str:
        """The states of the pollers in one text, for reprs."""
        return ', '.join(sorted({poller.state for poller in self._pollers.values()})) or 'idle'

    def __repr__(self) -> str:
        return f'<Intake: {self.state}, {self.taken} messages in {self.calls} takes>'
