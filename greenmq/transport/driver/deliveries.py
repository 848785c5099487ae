"""The deliveries of one channel, from the moment they came until they are settled.

Nothing here switches, but for the callbacks: what is settled is collected by the session's settler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed
from greenmq.transport.driver.books import Books, Subscription
from greenmq.transport.driver.contract import REQUEUE, UNSEEN, Taken

__all__ = ('Deliveries',)

#: Seconds that an empty look waits for what a take has that nobody wants any more.
STRAY_SECONDS = 0.05


class Deliveries:
    """What came for one channel.

    Arguments:
        books (Books): the channel's.
        session (Session): whose settler and arrival checks are used.
        events (Drain): where deliveries wait for whoever drains, under the channel's books.
    """

    def __init__(self, books: Books, session: Any, events: Any) -> None:
        self._books = books
        self._session = session
        self._events = events
        self._names_tags = session.driver.names_tags

    # ---- coming

    def message(self, channel: Any, taken: Taken, raw: dict[str, Any]) -> Any:
        """Make the Message of what was taken."""
        message = channel.Message(raw, channel=channel)
        message.delivery_tag = taken.receipt if self._names_tags else self._books.next_tag()
        message.queue = taken.queue
        message.place = taken
        return message

    def accept(self, channel: Any, taken: Taken, raw: dict[str, Any], sub: Subscription) -> None:
        """A message came for a consumer: it waits for whoever drains."""
        # As `message` does, without the call: each delivery of a consumer comes this way.
        books = self._books
        try:
            message = channel.Message(raw, channel=channel)
        except Exception as error:  # its fault, and not of those that came with it
            self._session.arrival.unreadable(self._session, taken, error)
            return
        tag = message.delivery_tag = taken.receipt if self._names_tags else books.next_tag()
        message.queue = taken.queue
        message.place = taken
        message.delivery_info['consumer_tag'] = sub.tag
        if not sub.no_ack:
            books.unsettled.add(tag, message)
        sub.waiting += 1
        books.waiting += 1
        payload = taken.payload
        self._events.put(
            books, (sub, message), len(payload) if isinstance(payload, (str, bytes)) else 0
        )

    def take_one(
        self, channel: Any, queue: str, soon: Callable[[], runtime.Deadline]
    ) -> tuple[Taken, Any] | None:
        """Take one message of a queue now; None if there is none. What nobody is to see is passed over.

        Arguments:
            soon (Callable): makes the deadline of each look.
        Raises:
            ConnectionClosed: the channel was closed meanwhile.
        Switches: yes. Killed: nothing is taken.
        """
        session = self._session
        looked_twice = False
        while True:
            deadline = soon()
            session.settler.wait_for(queue, deadline)
            if not session.driver.survives_loss:
                session.wait_open(deadline)  # before the epoch is read: what comes then is of this connection
            epoch = session.epoch
            unwanted = session.intake.unwanted[queue]
            takens = session.call(
                'get', deadline, session.driver.take, [queue], 1, session.intake.max_bytes, 0.0,
                decline=session.give_back, uncut=session.driver.uncut,
            )  # fmt: skip
            if takens and session.has_given_back(epoch):
                continue
            if channel.closed:
                # Its close has given back all that it had: of this one nobody would ever hear.
                session.give_back(takens or ())
                raise ConnectionClosed(f'{channel!r} was closed while it looked into {queue!r}')
            for taken in takens or ():
                if session.leases.keeps:
                    session.leases.hold(taken, session)
                raw = session.arrival.envelope(taken, session)
                if raw is None:
                    break  # expired, or no message: that was another's turn
                try:
                    return taken, self.message(channel, taken, raw)
                except Exception as error:  # as for a consumer
                    session.arrival.unreadable(session, taken, error)
                    break
            else:
                # Perhaps a take that could not be cut has it for a moment: what comes that way goes back.
                if session.intake.unwanted[queue] != unwanted:
                    continue
                if looked_twice or not session.intake.strays(queue):
                    return None
                looked_twice = True
                runtime.sleep(STRAY_SECONDS)

    def hand_over(self, sub: Subscription, message: Any) -> bool:
        """The turn of a waiting message: False if it's not ours any more, and no callback is to see it."""
        books, taken = self._books, message.place
        sub.waiting -= 1
        books.waiting -= 1
        if taken.lost:
            books.settle(message.delivery_tag)  # somebody else gets it
            return False
        if sub.no_ack:
            self._session.settler.done(taken, books.waiting)
        return True

    def tags(self) -> set[Any]:
        """The tags of all that is held, what needs no ack and waits for its callback included."""
        found = {tag for tag, _ in self._books.unsettled.items()}
        found.update(message.delivery_tag for _, message in self._events.waiting_events(self._books))
        return found

    # ---- settling

    def is_stale(self, tag: Any) -> bool:
        """Is a delivery not ours any more?"""
        message = self._books.unsettled.get(tag)
        return message is None or bool(message.place.lost)

    def ack(self, tag: Any, multiple: bool) -> bool | None:
        """Settle one, or all up to one; False if it was not ours any more."""
        stale = True  # what is in no book was lost
        settler, waiting = self._session.settler, self._books.waiting
        for message in self._books.settle(tag, multiple):
            stale = message.place.lost
            settler.done(message.place, waiting)
        return False if stale else None

    def reject(self, tag: Any, requeue: bool) -> bool | None:
        """Refuse one; False if it was not ours any more."""
        stale = True
        for message in self._books.settle(tag):
            stale = message.place.lost
            self._refuse(message, requeue, 'rejected')
        return False if stale else None

    def _refuse(self, message: Any, requeue: bool, reason: str) -> None:
        session, taken = self._session, message.place
        if requeue and not session.arrival.too_often(taken, message.headers):
            session.settler.back(taken, REQUEUE)
        elif not taken.lost:
            reason = 'delivery_limit' if requeue else reason
            session.arrival.bury(session, taken, message.serializable(), reason)

    def lose(self) -> None:
        """The connection was lost, and the broker gave back all that was out."""
        for message in [*self.discard(lambda sub: True), *self._books.drain()]:
            message.place.lost = True

    # ---- going back

    def discard(self, wanted: Any) -> list[Any]:
        """Take out of the line what waits for a callback and is wanted, by its subscription; oldest first."""
        found = []
        for sub, message in self._events.remove(self._books, lambda event: wanted(event[0])):
            self._books.handed(sub)
            found.append(message)
        return found

    def unseen(self, messages: list[Any]) -> None:
        """Give back what no callback has had."""
        for message in messages:
            self._books.settle(message.delivery_tag)
            self._session.settler.back(message.place, UNSEEN)

    def give_back(self, waiting: list[Any]) -> None:
        """Give back all that is unsettled, the oldest first; what was `waiting` as if never seen."""
        unseen = {message.delivery_tag for message in waiting}
        held = self._books.drain()
        known = {message.delivery_tag for message in held}
        # Those that need no ack are in no book.
        held += [message for message in waiting if message.delivery_tag not in known]
        for message in sorted(held, key=_tag):
            if message.delivery_tag in unseen:
                self._session.settler.back(message.place, UNSEEN)
            else:
                self._refuse(message, True, 'delivery_limit')


def _tag(message: Any) -> int:
    # Those that are named and not numbered stay as they stand: the driver knows their order.
    tag = message.delivery_tag
    return tag if isinstance(tag, int) else 0
