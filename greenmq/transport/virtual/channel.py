"""A channel of a broker that only knows queues: routing, prefetch, acknowledgements and consumers, done by
the client.

How a transport is written
--------------------------
Subclass `Channel` and give `_put`, `_size`, `_purge`, `_delete` (and `_new_queue`, `_has_queue`), and say by
`delivery` how messages come:

'push'
    Whoever puts a message into a queue calls ``self.board.notify(queue)``; `_get(queue)` never switches.
    Nothing waits and no task runs: the message is handed over in the context of the one who put it.
'wait'
    ``_get_many(queues, n, timeout)`` returns up to n pairs (queue, payload), waiting at the broker for the
    first; or ``_get(queue, timeout)`` returns one payload, raising Empty. One supervised task per channel
    calls the former, one per queue the latter; with ``groups = 'each'`` one per queue calls `_get_many`.
'poll' (the default: what a channel written for kombu is)
    ``_get(queue)`` raises Empty. One task per channel looks every `polling_interval` seconds.

Optional: ``_settle(acks, rejects)`` settles many at once, tags and (tag, requeue) pairs, each oldest first;
what is requeued shall stand in that order at the front again. It is called again with the same tags after a
failure, and for all that is unsettled when the channel closes. ``_extend(tags, seconds)`` renews the leases
of what is in work, called each third of `lease_seconds`. ``_abandon(items)`` takes back (queue, payload)
pairs that a fetch brought after nobody wanted them any more: the consumer was cancelled, or its task killed.
A `_get` that is killed while it holds messages calls `_abandon` itself. ``_ping(deadline)`` has the broker
answer; without it the size of a queue is asked for. What the errors of a broker's client mean stands in
`Transport.errors`.

Fetches are bounded by the free prefetch; where the program set none, `fetch_ahead` messages wait in the
process at most.
"""

from __future__ import annotations

import logging
from abc import ABCMeta
from typing import Any

from greenmq import runtime
from greenmq.log import get_logger
from greenmq.transport.virtual.consuming import ConsumeMethods
from greenmq.transport.virtual.entities import EntityMethods
from greenmq.transport.virtual.fetch import Fetcher
from greenmq.transport.virtual.parts import AbstractChannel, Empty
from greenmq.transport.virtual.publishing import (
    UNDELIVERABLE_FMT,
    PublishMethods,
    UndeliverableWarning,
)
from greenmq.transport.virtual.settlement import SettleMethods

__all__ = ('UNDELIVERABLE_FMT', 'AbstractChannel', 'Channel', 'Empty', 'UndeliverableWarning')

logger = get_logger('greenmq.transport.virtual')

#: Seconds that a task has for its end when it was killed.
DYING = 0.5


class Channel(EntityMethods, PublishMethods, ConsumeMethods, SettleMethods, metaclass=ABCMeta):
    """A virtual channel.

    Arguments:
        connection (Transport): the virtual transport, which is its own connection.
    Attributes:
        channel_id (int): unique in the connection.
        closed (bool): True once `close` was called.
    Source: kombu virtual.Channel.
    """

    def close(self) -> None:
        """End the consumers, give back what is unsettled, and leave the connection. Idempotent, from any
        greenlet.

        Switches: as the channel's cancelling and restoring.
        """
        if self.closed:
            return
        self.closed = True
        connection = self.connection
        deadline = connection.closing or runtime.Deadline.after(self._close_timeout)
        if self.delivery == 'push':
            self._give_back(self.connection.events.discard(self), deadline)
            return
        # In a task: giving back may wait for the broker, and a caller that is killed then must not keep what
        # it has not given back yet.
        failures: list[BaseException] = []
        fetching = runtime.current() in self.connection.fetching
        task = runtime.spawn(self._shut, deadline, failures, name='greenmq-close')
        if fetching or runtime.in_hub():
            return  # what is fetched must end first, and this is what fetches; or nothing may wait here
        if not task.join(deadline):
            task.kill()
            task.join(DYING)  # it lets go of the connection still
            # That a broker is away is told already.
            level = logging.WARNING if connection.verify_connection(None) else logging.DEBUG
            logger.log(level, '%r could not give back all it had within %s s', self, deadline.seconds)
        if failures:
            raise failures[0]

    def _shut(self, deadline: runtime.Deadline, failures: list[BaseException]) -> None:
        try:
            events = self.connection.events.discard(self)
            try:
                self.fetcher.close(deadline)
                self._fetch_ended(deadline)
            finally:
                self._give_back(events + self.connection.events.discard(self), deadline)
        except Exception as error:  # raised to the caller of close()
            failures.append(error)

    def _give_back(self, events: list[Any], deadline: runtime.Deadline) -> None:
        try:
            for _, message in events:
                message.unseen = True
            for tag in list(self._consumers):
                self.basic_cancel(tag)
            if self.books.qos is not None:
                self.books.qos.restore_unacked_once()
            # Those that need no ack are in no book of ours.
            self._put_back([message for sub, message in events if sub.no_ack])
            if self.settling is not None:
                self.settling.close(deadline)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        # Whoever points back at us is sent away, or a closed channel would stay until the collector comes
        # (P47; tests/stress/test_leaks.py).
        self._cycle = None
        for kind in self.exchange_types.values():
            kind.channel = None
        if self.books.qos is not None and not self.books.qos.unsettled:
            self.books.qos = None
        self.connection.close_channel(self)

    def leave_here(self) -> None:
        """The connection leaves this thread, see `Transport.move_here`."""
        self.fetcher.leave()

    def arrived_here(self) -> None:
        """The connection goes on in this thread, see `Transport.move_here`."""
        self._hub = runtime.hub_id()
        for sub in self.books.subscriptions.values():
            sub.hub = self._hub
            while sub.posted:
                sub.accept(sub.posted.popleft())
        if self.settling is not None:
            self.settling.arrived_here()
        if self.delivery == 'push':
            for sub in self.books.subscriptions.values():
                self.board.remove(sub)  # or it is out already: the old thread had ended
                self.board.add(sub)
            for queue in list(self.books.takers):
                self.board.notify(queue)
        else:
            self.fetcher = Fetcher(self)
            self.fetcher.refresh()

    def consumes(self, consumer_tag: str) -> bool:
        """See `StdChannel.consumes`: also its messages are fetched, and the last fetch did not fail."""
        if self.closed or consumer_tag not in self._tag_to_queue:
            return False
        if self.delivery == 'push' or not self.connection.fetches:
            return True
        states = self.fetcher.states.values()
        return bool(states) and 'backoff' not in states

    def __repr__(self) -> str:
        state = 'closed' if self.closed else self.fetcher.state
        unsettled = len(self.books.qos.unsettled) if self.books.qos is not None else 0
        return (
            f'<{type(self).__module__}.{type(self).__name__} {getattr(self, "channel_id", None)}: {state}, '
            f'{len(self._consumers)} consumers, {unsettled} unsettled>'
        )

