"""The sending links of one connection: each publish goes out whole, and waits for what becomes of it.

A link for each address is made with the first publish to it, and kept. Whoever wants to publish waits for
credit in its turn; the messages of many greenlets are under way at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from greenmq import runtime
from greenmq.exceptions import ConnectionBlocked, ConnectionLost, PublishUnconfirmed, TimeoutError
from greenmq.transport.amqp10.connection import Connection
from greenmq.transport.amqp10.errors import SessionEnded
from greenmq.transport.amqp10.links import Delivery, Sender
from greenmq.transport.amqp10.performatives import OUTCOMES, Accepted, Source, Target
from greenmq.transport.amqp10.session import Session
from greenmq.transport.amqp10.way import Way
from greenmq.transport.waiters import WaitingLine

__all__ = ('Outlet', 'Sending', 'outcome', 'unsent')

#: Links that nobody publishes over are ended when there are more than so many.
KEPT = 256


class Outlet:
    """One sending link, and who publishes over it.

    Arguments:
        name (str): for texts.
    Attributes:
        link (Sender): attached, or about to be. error (Exception | None): why it ended.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._unconfirmed = f'{name}: a message was not confirmed'
        self.link: Sender | None = None
        self.error: Exception | None = None
        self._line = WaitingLine()
        self._outcomes: dict[int, runtime.Waiter] = {}

    @property
    def busy(self) -> bool:
        """Does anybody wait here?"""
        return bool(self._outcomes) or len(self._line) > 0

    # ---- what the link tells

    def on_attached(self, link: Any) -> None:
        """See `Listener`."""
        self._line.wake()

    def on_detached(self, link: Any, error: Exception | None) -> None:
        """See `Listener`: what was sent may have arrived; the rest was not sent."""
        self.error = error or SessionEnded(f'{self.name} was ended')
        outcomes, self._outcomes = self._outcomes, {}
        for waiter in outcomes.values():
            lost = PublishUnconfirmed(f'{self.name}: {self.error}', sent='unknown')
            lost.__cause__ = self.error
            waiter.fail(lost)
        self._line.wake()

    def on_flow(self, link: Any) -> None:
        """See `Listener`."""
        self._line.wake(link.credit)

    def on_message(self, link: Any, delivery: Delivery) -> None:
        """See `Listener`: nothing comes over a sending link."""

    def on_outcome(self, link: Any, number: int, state: Any) -> None:
        """See `Listener`."""
        waiter = self._outcomes.pop(number, None)
        if waiter is not None:
            waiter.wake(state)

    # ---- publishing

    def start(self, payload: bytes, deadline: runtime.Deadline) -> runtime.Waiter:
        """Send a message, when its turn comes.

        Returns:
            Waiter: gets Accepted, Rejected, Released or Modified: what the broker says became of it.
        Raises:
            ConnectionBlocked: no credit came in time; nothing was sent.
            Exception: why there is no such link.
        Switches: only without credit. Killed: nothing was sent.
        """
        link = self.link
        if link is None or link.credit <= 0 or link.state != 'attached' or len(self._line):
            link = self._wait_credit(deadline)
        waiter = runtime.Waiter(self._unconfirmed)
        self._outcomes[link.send(payload)] = waiter
        return waiter

    def wait_attached(self, deadline: runtime.Deadline) -> None:
        """Wait until the link is there.

        Raises:
            PublishUnconfirmed: not in time. Exception: why there is no such link.
        Switches: yes, unless it is.
        """
        while self.link is None or self.link.state != 'attached':
            self._check()
            try:
                self._line.wait(deadline, f'{self.name} was not attached')
            except TimeoutError as error:
                raise PublishUnconfirmed(str(error), sent='no') from None

    def _check(self) -> Sender:
        link = self.link
        if self.error is not None:
            raise runtime.again(self.error)
        if link is None:
            raise SessionEnded(f'{self.name} was ended')
        return link

    def _wait_credit(self, deadline: runtime.Deadline) -> Sender:
        queued = False
        while True:
            link = self._check()
            if link.state == 'attached' and link.credit > 0 and (queued or not len(self._line)):
                return link
            try:
                self._line.wait(deadline, f'{self.name} has no credit')
            except TimeoutError:
                if link.state == 'attached':
                    text = f'{self.name}: not within {deadline.seconds} s'
                    raise ConnectionBlocked(text, 'the broker gives no credit') from None
                text = f'{self.name} was not attached within {deadline.seconds} s'
                raise PublishUnconfirmed(text, sent='no') from None
            queued = True


def outcome(waiter: runtime.Waiter, deadline: runtime.Deadline) -> Any:
    """Wait for what became of a message.

    Returns:
        Rejected | Released | Modified | None: None if it was accepted.
    Raises:
        PublishUnconfirmed: the broker did not say in time, or the link ended before it.
    Switches: yes. Killed: the message is where it is.
    """
    try:
        state = waiter.wait(deadline)
        return None if state.__class__ is Accepted else state
    except TimeoutError as error:
        if waiter.expired:
            raise PublishUnconfirmed(str(error), sent='unknown') from None
        raise


def unsent(error: Exception) -> ConnectionLost:
    """The same loss, of a connection that ended before it was a message's turn."""
    lost = ConnectionLost(str(error))
    lost.sent = 'no'  # type: ignore[attr-defined]
    return lost


class Sending:
    """The sending links of one connection.

    Arguments:
        connection (Connection), way (Way): whose they are, and how they are made.
        target (Callable): address → `Target`.
    """

    def __init__(self, connection: Connection, way: Way, target: Callable[[str], Target]) -> None:
        self._connection = connection
        self._way = way
        self._target = target
        self._session: Session | None = None
        self._outlets: OrderedDict[str, Outlet] = OrderedDict()

    def start(self, address: str, payload: bytes, deadline: runtime.Deadline) -> runtime.Waiter:
        """Send a message to an address; see `Outlet.start`. A link that ended is made again, once.

        Switches: if the link is new, or has no credit.
        """
        again = False
        while True:
            outlet = self._outlet(address)
            try:
                return outlet.start(payload, deadline)
            except SessionEnded:
                self._connection.check()
                if again:
                    raise
                again = True
            except ConnectionLost as error:
                raise unsent(error) from error

    def _outlet(self, address: str) -> Outlet:
        outlet = self._outlets.get(address)
        if outlet is not None and outlet.error is None:
            self._outlets.move_to_end(address)
            return outlet
        session = self._session
        if session is None or not session.usable():
            session = self._session = self._connection.session()
        engine = self._connection.engine
        target = self._target(address)
        source = Source(engine.container, outcomes=OUTCOMES)  # else some may not say that they reject one
        outlet = self._outlets[address] = Outlet(f'{engine.name}: the link to {target.address!r}')
        outlet.link = Sender(engine.link_name(), outlet, source, target)
        self._way.session(self._connection, session).attach(outlet.link)
        if len(self._outlets) > KEPT:
            self._end_oldest()
        return outlet

    def _end_oldest(self) -> None:
        for address, outlet in list(self._outlets.items())[: len(self._outlets) - KEPT]:
            if not outlet.busy:
                self.forget(address)

    def touch(self, address: str, deadline: runtime.Deadline) -> None:
        """Begin a link to an address, and publish nothing.

        Raises, Switches: as `start`.
        """
        self._outlet(address).wait_attached(deadline)

    def forget(self, address: str) -> None:
        """End the link to an address."""
        outlet = self._outlets.pop(address, None)
        if outlet is not None and outlet.link is not None and outlet.error is None:
            self._way.end(outlet.link, self._session)

    def __len__(self) -> int:
        return len(self._outlets)
