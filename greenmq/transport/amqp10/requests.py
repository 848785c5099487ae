"""Requests to a node of the broker, and its answers, over a pair of links that begins with the first one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed
from greenmq.transport.amqp10 import message as sections
from greenmq.transport.amqp10.connection import Connection
from greenmq.transport.amqp10.errors import Malformed, SessionEnded
from greenmq.transport.amqp10.links import Delivery, Receiver, Sender
from greenmq.transport.amqp10.performatives import Accepted
from greenmq.transport.amqp10.session import Session
from greenmq.transport.waiters import WaitingLine

__all__ = ('Requests',)

#: Answers that may be on their way.
CREDIT = 100


class Requests:
    """Requests over one connection.

    Arguments:
        connection (Connection): whose links they are.
        links (Callable): (name, listener) → the pair, not attached yet.
        answer (Callable): sections of an answer → the number of its request, and what it says.
        settled (bool): the node takes settled requests.
    """

    def __init__(
        self,
        connection: Connection,
        links: Callable[[str, Any], tuple[Sender, Receiver]],
        answer: Callable[[sections.Sections], tuple[str, Any]],
        settled: bool = False,
    ) -> None:
        self._connection = connection
        self._links = links
        self._answer = answer
        self._settled = settled
        self._session: Session | None = None
        self._pair: tuple[Sender, Receiver] | None = None
        self._answers: dict[str, runtime.Waiter] = {}
        self._ready = WaitingLine()
        self._numbers = 0

    def call(self, payload: Callable[[str, str], bytes], what: str, deadline: runtime.Deadline) -> Any:
        """Ask something.

        Arguments:
            payload (Callable): number of the request, address for the answer → the message.
            what (str): for texts.
        Raises:
            TimeoutError: no answer in time. Exception: why the links ended.
        Switches: yes. Killed: the answer finds nobody.
        """
        sender, receiver = self._opened(deadline)
        self._numbers += 1
        number = str(self._numbers)
        source = receiver.peer.source if receiver.peer is not None else None
        reply_to = str(getattr(source, 'address', None) or '')
        text = f'{self._connection.name}: {what} was not answered'
        waiter = self._answers[number] = runtime.Waiter(text)
        try:
            sender.send(payload(number, reply_to), settled=self._settled)
            return waiter.wait(deadline)
        finally:
            self._answers.pop(number, None)

    def _opened(self, deadline: runtime.Deadline) -> tuple[Sender, Receiver]:
        if self._pair is None:
            self._connection.check()
            session = self._session = self._connection.session()
            self._pair = self._links(self._connection.engine.link_name(), self)
            for link in self._pair:
                session.attach(link)
        while True:
            pair = self._pair
            if pair is None:
                raise SessionEnded(f'{self._connection.name}: management has ended')
            sender, receiver = pair
            if sender.state == 'attached' and sender.credit and receiver.state == 'attached':
                return pair
            self._ready.wait(deadline, f'{self._connection.name}: management was not reached')

    def close(self) -> None:
        """End the links; who waits for an answer is told."""
        self._end(ConnectionClosed(f'{self._connection.name}: management was closed'))

    def _end(self, error: Exception) -> None:  # no switch
        self._pair = None
        session, self._session = self._session, None
        if session is not None and self._connection.error is None:
            session.end()
        answers, self._answers = self._answers, {}
        for waiter in [*answers.values(), *self._ready.leave()]:
            waiter.fail(error)

    # ---- what the links tell

    def on_attached(self, link: Any) -> None:
        """See `Listener`."""
        if isinstance(link, Receiver):
            link.grant(CREDIT)
        self._ready.wake()

    def on_detached(self, link: Any, error: Exception | None) -> None:
        """See `Listener`: one ends with the other."""
        if self._pair is not None and link in self._pair:
            self._end(error or SessionEnded(f'{self._connection.name}: management has ended'))

    def on_flow(self, link: Any) -> None:
        """See `Listener`."""
        self._ready.wake()

    def on_outcome(self, link: Any, number: int, state: Any) -> None:
        """See `Listener`: the answer says it."""

    def on_message(self, link: Any, delivery: Delivery) -> None:
        """See `Listener`."""
        if not delivery.settled:
            link.session.settle([delivery.id], Accepted())
        if link.credit < CREDIT // 2:
            link.grant(CREDIT)
        try:
            number, said = self._answer(sections.read(delivery.payload))
        except (Malformed, ValueError):
            return  # no answer of this node; whoever asked learns it from the deadline
        waiter = self._answers.get(number)
        if waiter is not None:
            waiter.wake(said)
