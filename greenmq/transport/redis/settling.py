"""Settlements of all channels of a connection: collected, sent together, and kept until the server has them.

An ack is an append to a list. The link asks for what was collected before its next command leaves, so acks go
out in batches and in order with everything else (a requeue is done before the fetch that follows it), and no
task can be killed in between. What was on its way when the link was lost is sent again: settling twice does
no harm.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from redis.exceptions import AskError, ClusterDownError, MovedError, NoScriptError, TryAgainError

from greenmq import events, runtime
from greenmq.exceptions import AMQPError, ConnectionClosed
from greenmq.log import get_logger
from greenmq.transport.redis import wire
from greenmq.transport.redis.errors import translate
from greenmq.transport.redis.keys import Home, Keys
from greenmq.transport.redis.link import Link
from greenmq.transport.redis.replies import expect, fits
from greenmq.transport.redis.scripts import SETTLE
from greenmq.transport.redis.session import Session

__all__ = ('AGAIN', 'UNTOUCHED', 'ChannelSettling', 'Settler')

logger = get_logger('greenmq.transport.redis')

#: What becomes of a delivery that is given back: counted as delivered, or as if nobody had seen it.
AGAIN, UNTOUCHED = 'r', 'u'

#: Deliveries settled by one call of the script.
CHUNK = 1000


class _Books:
    """What is to be settled in one home."""

    __slots__ = ('acks', 'again', 'back', 'flushing', 'home', 'spare')

    def __init__(self, home: Home) -> None:
        self.home = home
        self.acks: list[str] = []
        self.again = False  # some were sent before, and may have come
        self.back: list[tuple[int, str, str]] = []
        self.flushing: Link | None = None  # it will ask for them
        self.spare = 0  # so many more acks, and it shall ask at once


class Settler:
    """The settlements of one connection.

    Arguments:
        session (Session), keys (Keys): where and how.
        source: what 'stale_ack' events name.
    """

    def __init__(self, session: Session, keys: Keys, source: Any) -> None:
        self._session = session
        self._keys = keys
        self._source = weakref.ref(source)
        self._books: dict[Home, _Books] = {}
        #: Where all queues have one home, as everywhere but in a cluster: its books.
        self._only = None if keys.cluster else self._books_of('')
        self._flying = 0
        self._done: list[runtime.Waiter] = []

    @property
    def pending(self) -> int:
        """Settlements that the server has not confirmed."""
        return self._flying + sum(len(books.acks) + len(books.back) for books in self._books.values())

    def ack(self, queue: str, tag: str, waiting: Callable[[], int]) -> None:
        """This one is done with. The server is told with the acks that follow soon, if there will be any.

        Arguments:
            waiting (Callable): returns how many more deliveries the channel has for its callbacks.
        Switches: no.
        """
        books = self._only or self._books_of(queue)
        books.acks.append(tag)
        link = books.flushing
        if link is None:
            self._tell(books, waiting() // 2)
        else:
            books.spare -= 1
            if books.spare == 0:
                link.hurry()

    def give_back(self, queue: str, tag: str, fate: str = AGAIN) -> None:
        """This one goes back to the front of its queue. Switches: no."""
        books = self._books_of(queue)
        books.back.append((int(tag.split(':')[2]), tag, fate))
        self._tell_now(books)

    def give_back_home(self, home: Home, tag: str, fate: str) -> None:
        """As `give_back`, where the home is known and the queue is not. Switches: no."""
        books = self._books_in(home)
        books.back.append((int(tag.split(':')[2]), tag, fate))
        self._tell_now(books)

    def tags(self) -> set[str]:
        """All that is to be settled and not on its way. Switches: no."""
        found: set[str] = set()
        for books in self._books.values():
            found.update(books.acks)
            found.update(tag for _, tag, _ in books.back)
        return found

    def _books_of(self, queue: str) -> _Books:
        return self._books_in(self._keys.home(queue))

    def _books_in(self, home: Home) -> _Books:
        books = self._books.get(home)
        if books is None:
            books = self._books[home] = _Books(home)
        return books

    def _tell(self, books: _Books, spare: int = 0) -> None:
        # Without a link all is sent on recovery.
        link = books.flushing = self._session.link_for(books.home.unacked)
        if link is not None:
            books.spare = spare
            if spare:
                link.flush_later(self)
            else:
                link.flush_soon(self)

    def _tell_now(self, books: _Books) -> None:
        if books.flushing is None:
            self._tell(books)
        else:
            books.flushing.hurry()

    def flush(self) -> None:
        """Send what was collected. Switches: no."""
        for books in self._books.values():
            books.flushing = None
            while books.acks or books.back:
                acks, books.acks = books.acks[:CHUNK], books.acks[CHUNK:]
                # The newest first: each goes before the last one, so the oldest ends in front.
                back, books.back = sorted(books.back, reverse=True), []
                if not self._send(_Parcel(self, books, acks, back)):
                    return
            books.again = False

    def recovered(self) -> None:
        """There is a new link: send what the old one did not confirm. Switches: no."""
        for books in self._books.values():
            books.flushing = None
        self.flush()

    def _send(self, parcel: _Parcel, load: bool = False) -> bool:
        home = parcel.books.home
        keys = self._keys
        words: list[Any] = ['EVAL', SETTLE.text] if load else ['EVALSHA', SETTLE.digest]
        words += [4, home.unacked, home.times, home.own, home.expires]
        words += [keys.head, keys.tail, keys.sep, len(parcel.acks)]
        words += parcel.acks
        for _, tag, fate in parcel.back:
            words += (tag, fate)
        self._flying += parcel.size
        try:
            self._session.post(wire.pack(tuple(words)), home.unacked, parcel.take)
        except AMQPError:
            self._flying -= parcel.size
            parcel.keep()
            return False
        return True

    def _answered(self, parcel: _Parcel, reply: Any) -> None:
        self._flying -= parcel.size
        if isinstance(reply, NoScriptError):
            self._send(parcel, load=True)
            return
        if isinstance(reply, ConnectionClosed):
            self._wake()
            return
        if isinstance(reply, (MovedError, AskError, TryAgainError, ClusterDownError)):
            self._session.moved(reply)
            parcel.keep()
            runtime.call_later(0.05, self.flush)
            return
        if isinstance(reply, Exception):
            error = translate(reply, self._session.name)
            if isinstance(reply, AMQPError) or isinstance(error, AMQPError) and not self._session.connected:
                parcel.books.again = True
                parcel.keep()
            else:
                logger.error(
                    '%s: %d settlements were refused; their messages will be delivered again: %s',
                    self._session.name,
                    parcel.size,
                    error,
                )
            self._wake()
            return
        if not fits(reply, _is_settled):
            parcel.again = True
            parcel.keep()
            expect(reply, _is_settled, self._session.name)
        gone = len(parcel.acks) - reply[0]
        if gone > 0 and not parcel.again:
            # We were silent for longer than our lease, and others have them now (P36).
            events.emit('stale_ack', source=self._source(), count=gone)
            logger.warning(
                '%s: %d acknowledgements came after the lease had ended; those messages were delivered again',
                self._session.name,
                gone,
            )
        if not self.pending:
            self._wake()

    def _wake(self) -> None:
        done, self._done = self._done, []
        for waiter in done:
            waiter.wake()

    def wait(self, deadline: runtime.Deadline) -> None:
        """Wait until the server has all that was settled so far.

        Raises:
            TimeoutError: not in time; it will still be sent if the connection lives.
        Switches: only if something is on its way.
        """
        self.flush()
        while self.pending and not self._session.closed:
            waiter = runtime.Waiter(f'{self._session.name}: {self.pending} settlements were not confirmed')
            self._done.append(waiter)
            try:
                waiter.wait(deadline)
            finally:
                if waiter in self._done:
                    self._done.remove(waiter)
            if self.pending and not self._session.connected:
                self._session.wait_open(deadline)


def _is_settled(reply: Any) -> bool:
    # How many were acknowledged, how many given back.
    return reply.__class__ is list and list(map(type, reply)) == [int, int]


class _Parcel:
    """Settlements on their way to the server together."""

    __slots__ = ('acks', 'again', 'back', 'books', 'settler')

    def __init__(
        self, settler: Settler, books: _Books, acks: list[str], back: list[tuple[int, str, str]]
    ) -> None:
        self.settler = settler
        self.books = books
        self.acks = acks
        self.back = back
        self.again = books.again

    @property
    def size(self) -> int:
        return len(self.acks) + len(self.back)

    def take(self, reply: Any) -> None:
        self.settler._answered(self, reply)

    def keep(self) -> None:
        self.books.acks[:0] = self.acks
        self.books.back[:0] = self.back


class ChannelSettling:
    """What a virtual channel calls to settle; for all channels it ends in one `Settler`."""

    __slots__ = ('_channel', '_settler')

    def __init__(self, channel: Any, settler: Settler) -> None:
        self._channel = weakref.ref(channel)
        self._settler = settler

    def ack(self, tag: str) -> None:
        """Settle a delivery soon. Switches: no."""
        channel = self._channel()
        if channel is not None:
            channel._ack_tag(tag)

    def reject(self, tag: str, requeue: bool) -> None:
        """Refuse a delivery soon. Switches: no."""
        channel = self._channel()
        if channel is not None:
            channel._reject_tag(tag, requeue)

    def leased(self) -> None:
        """A new delivery: the lease is the connection's matter. Switches: no."""

    def arrived_here(self) -> None:
        """Go on in another thread: nothing to do, the `Settler` sends all on recovery. Switches: no."""

    def close(self, deadline: runtime.Deadline) -> None:
        """Wait until the server has what was collected, if it can be had in time.

        Switches: only if something is on its way.
        """
        try:
            self._settler.wait(deadline)
        except (AMQPError, OSError) as error:
            # It is sent when the connection is back; if that ends first, the lease ends too.
            logger.warning('%r: %s', self._channel(), error)

    def __repr__(self) -> str:
        return f'<ChannelSettling: {self._settler.pending} on their way>'
