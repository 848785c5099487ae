"""Queues that take messages of sessions: each session has one receiver at a time, and gives its messages in
order, one after another.

A queue has some links at a time, each for a session that the service chose; one more waits for the next
session. A link is given up when its session has had nothing for a while, so that others come in turn. A
message comes when the one before it is settled: what goes back so comes again before what is behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenmq import runtime
from greenmq.core.retry import RetrySchedule
from greenmq.exceptions import ConnectionClosed, ConnectionLost, TimeoutError
from greenmq.log import get_logger
from greenmq.transport.amqp10 import Connection
from greenmq.transport.amqp10.codec import Described, Sized, Symbol
from greenmq.transport.amqp10.links import Delivery, Receiver
from greenmq.transport.amqp10.performatives import Released, Source, Target
from greenmq.transport.amqp10.session import Session
from greenmq.transport.amqp10.way import Way

__all__ = ('SessionLink', 'Sessions')

logger = get_logger('greenmq.transport.azureservicebus')

FILTER = Symbol('com.microsoft:session-filter')
#: Seconds that the service may keep a link waiting for a session.
PATIENCE = 30.0
#: Seconds that a single look waits for a session.
LOOK = 1.0
_IDLE = 'com.microsoft:timeout'


class SessionLink:
    """One link: it waits for a session, or has one.

    Attributes:
        session (str | None): which; None while it waits.
        busy (bool): a message of it is with us.
    """

    def __init__(self, queue: Sessions) -> None:
        self._queue = queue
        self.link: Receiver = None  # type: ignore[assignment]
        self.session: str | None = None
        self.busy = False
        self.ending = False
        self._timer: Any = None

    @property
    def alive(self) -> bool:
        """Has it its session still?"""
        return self.link.state == 'attached'

    def turn(self) -> bool:
        """Ask for the next message; True if that was done."""
        if self.busy or self.ending or not self.alive or self.link.credit:
            return False
        self.link.grant(1)
        if self._timer is None:
            self._timer = runtime.call_later(self._queue.idle, self._idle)
        return True

    def _idle(self) -> None:
        self._timer = None
        if not self.busy:
            self.give_up()

    def give_up(self) -> None:
        """Let others have the session."""
        if not self.ending:
            self.ending = True
            self._stop_timer()
            if self.link.credit and self.alive:
                self.link.grant(0)
            self.link.detach()
            self._queue.changed()

    def settled(self) -> None:
        """The message that we had is settled."""
        self.busy = False
        if self._timer is None and not self.ending:
            self._timer = runtime.call_later(self._queue.idle, self._idle)
        self._queue.changed()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    # ---- what the link tells

    def on_attached(self, link: Any) -> None:
        """See `Listener`: the service chose a session."""
        chosen = (link.peer.source.filter or {}).get(FILTER)
        self.session = str(chosen.value if isinstance(chosen, Described) else chosen)
        self._timer = runtime.call_later(self._queue.idle, self._idle)
        self._queue.attached()

    def on_detached(self, link: Any, error: Exception | None) -> None:
        """See `Listener`."""
        self._stop_timer()
        self.ending = True
        self._queue.detached(self, error)

    def on_flow(self, link: Any) -> None:
        """See `Listener`."""

    def on_message(self, link: Any, delivery: Delivery) -> None:
        """See `Listener`."""
        if self.ending:
            link.session.settle([delivery.id], Released())
            return
        self._stop_timer()
        self.busy = not delivery.settled
        self._queue.came(self, link, delivery)

    def on_outcome(self, link: Any, number: int, state: Any) -> None:
        """See `Listener`: nothing is sent over it."""


class Sessions:
    """The sessions of one queue, over one connection.

    Arguments:
        connection (Connection), way (Way): how links are made. entity (str): the queue.
        most (int): sessions at a time. idle (float): seconds without a message, after which one is given up.
        arrived (Callable): (link of the session, delivery) of each message.
    Attributes:
        links (list[SessionLink]): those that have a session, and one that waits for it.
    """

    def __init__(
        self, connection: Connection, way: Way, entity: str, most: int, idle: float,
        arrived: Callable[[SessionLink, Receiver, Delivery], None],
    ) -> None:  # fmt: skip
        self._connection = connection
        self._way = way
        self.entity = entity
        self.most = most
        self.idle = idle
        self._arrived = arrived
        self._session: Session | None = None
        self.links: list[SessionLink] = []
        self.wanted = 0
        self.closed = False
        self._failures = 0
        self._timer: Any = None
        self._looking: list[runtime.Waiter] = []
        self.error: Exception | None = None

    def want(self, count: int) -> None:
        """So many messages may come from now on."""
        self.wanted = count
        asked = [each for each in self.links if each.session is not None and each.link.credit]
        for each in asked[count:]:
            if each.alive:
                each.link.grant(0)
        self.changed()

    def changed(self) -> None:
        """There is room, or a session: ask for what may come."""
        if self.closed:
            return
        room = self.wanted + len(self._looking) - sum(each.link.credit for each in self.links)
        for each in self.links:
            if room > 0 and each.session is not None and each.turn():
                room -= 1
        holders = sum(not each.ending for each in self.links)
        waits = any(each.session is None and not each.ending for each in self.links)
        if room > 0 and not waits and holders < self.most and self._timer is None:
            self._attach()

    def _attach(self) -> None:
        try:
            if self._session is None or not self._session.usable():
                self._session = self._connection.session()
            new = SessionLink(self)
            engine = self._connection.engine
            new.link = Receiver(
                engine.link_name(), new, Source(self.entity, filter={FILTER: None}), Target(engine.container),
                max_message=self._way.max_message,
                properties={Symbol(_IDLE): Sized('uint', int(PATIENCE * 1000))},
            )  # fmt: skip
            self._session.attach(new.link)
        except (ConnectionLost, ConnectionClosed):
            return  # the next connection has sessions of its own
        self.links.append(new)

    def attached(self) -> None:
        """A link has its session."""
        self._failures = 0
        self.error = None
        self.changed()

    def detached(self, one: SessionLink, error: Exception | None) -> None:
        """A link has ended."""
        if one in self.links:
            self.links.remove(one)
        if self.closed or error is None:
            self.changed()
            return
        if getattr(error, 'condition', '') == _IDLE:
            pause = 0.0  # there is no session that nobody has; one may come
        else:
            self.error = error
            self._failures += 1
            pause = RetrySchedule(None, 0.05, 0.2, 5.0, jitter=0.2).delay(self._failures)
            pause += self._way.pause(error)
            level = logger.warning if self._failures == 1 else logger.debug
            level('%s; the next session is asked for in %.2f s', error, pause)
        if self._timer is None:
            self._timer = runtime.call_later(pause, self._again)

    def _again(self) -> None:
        self._timer = None
        self.changed()

    def came(self, one: SessionLink, link: Receiver, delivery: Delivery) -> None:
        """A message came."""
        if self._looking:
            waiter = self._looking.pop(0)
            if waiter.wake((one, link, delivery)):
                return
        self.wanted = max(self.wanted - 1, 0)
        self._arrived(one, link, delivery)

    def look(self, deadline: runtime.Deadline) -> tuple[SessionLink, Receiver, Delivery] | None:
        """Take a message of any session that nobody has.

        Raises:
            Exception: why the queue gives no session.
        Switches: yes. Killed: what came goes back.
        """
        waiter = runtime.Waiter('no session')
        self._looking.append(waiter)
        self.changed()
        try:
            found: tuple[SessionLink, Receiver, Delivery] = waiter.wait(
                deadline.within(LOOK), decline=self._decline
            )
            return found
        except TimeoutError:
            if self.error is not None and not self.links:
                raise runtime.again(self.error) from None
            return None
        finally:
            if waiter in self._looking:
                self._looking.remove(waiter)

    def _decline(self, found: tuple[SessionLink, Receiver, Delivery]) -> None:
        one, link, delivery = found
        link.session.settle([delivery.id], Released())
        one.settled()

    def close(self) -> None:
        """Give all sessions up."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        for each in list(self.links):
            each.give_up()
