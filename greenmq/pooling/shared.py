"""The connection that all producers of a pool publish over, and the channels that are leased on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any
from weakref import ref

from greenmq import events
from greenmq.exceptions import LimitExceeded
from greenmq.log import get_logger
from greenmq.pooling.connections import is_closed
from greenmq.utils.functional import ChannelPromise

if TYPE_CHECKING:
    from greenmq.pooling.lease import Lease

__all__ = ('SharedConnection', 'SharedConnections', 'close_channel')

SPREAD = 100  # leases on each shared connection before another is taken: sockets cost more than channels

logger = get_logger('greenmq.pool')


class SharedConnection:
    """A connection that a ProducerPool has taken from its pool, and how many of its channels are leased."""

    __slots__ = ('_epoch', '_room', 'connection', 'gone', 'leases', 'released')

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.leases = 0
        #: It is lost for good, or the pool has let go of it: nothing more is leased on it.
        self.gone = False
        self._epoch = -1
        self._room = inf
        self.released: Lease = connection.release
        self.released.kept('all its producers together')
        # ``producer.connection.release()`` of one holder must not take it away from the others
        connection.release = _stay_open

    def room(self) -> float:
        """How many of its channels can be leased."""
        epoch = self.connection.epoch
        if epoch != self._epoch:
            # what the broker allows is known once it is open
            self._epoch = epoch
            found = _max_channels(self.connection)
            # one stays free for its own use, and one for what they publish over together
            self._room = inf if found is None else max(1, found - 2)
        return self._room

    def channel(self) -> Any:
        """Open a channel for one lease. Switches: yes."""
        self.connection.wait_open()
        channel = self.connection.channel()
        channel.publish_together()
        return channel


class SharedConnections:
    """The connections that the producers of one pool share, and their leases on them.

    Arguments:
        connections (ConnectionPool): where they come from.
        most (int): how many there may be.
    Attributes:
        found (list[SharedConnection]): those there are.
    """

    def __init__(self, connections: Any, most: int) -> None:
        self.found: list[SharedConnection] = []
        self._connections = connections
        self._most = most
        self._leased: dict[int, tuple[SharedConnection, ChannelPromise]] = {}  # by id of the producer

    def add(self, block: bool, timeout: float | None) -> None:
        """Take one more. Switches: yes, if it has to wait for it. Raises `LimitExceeded`."""
        connection = self._connections.acquire(block, timeout)
        if len(self.found) < self._most:
            self.found.append(SharedConnection(connection))
            # The subscription ends with the connection, and must not keep us.
            events.subscribe('lost', partial(_told_of_loss, ref(self)), connection)
        else:
            connection.release()

    def _choose(self) -> SharedConnection:
        # no switch
        for shared in [shared for shared in self.found if shared.connection.opener.closed]:
            self._give_up(shared)  # closed by somebody who had a producer
        if not self.found:
            self.add(False, None)  # reset() or a fork came between: taking a free one does not wait
        least = min(self.found, key=lambda shared: shared.leases)
        if least.leases >= SPREAD and len(self.found) < self._most:
            try:
                self.add(False, None)
            except LimitExceeded:
                return least  # others have them all: the one we have will do
            return self.found[-1]
        return least

    def _give_up(self, shared: SharedConnection) -> None:
        # no switch
        self.found.remove(shared)
        shared.gone = True
        shared.released.discard()

    def lost(self, connection: Any) -> None:
        """A connection was lost: if it is one of these, and does not come back by itself, it is let go of."""
        for shared in self.found:
            if shared.connection is connection and not connection.connected and not connection.recovering:
                self._give_up(shared)
                return

    def lease(self, make: Callable[[Any], Any]) -> Any:
        """A producer with a channel that is opened when it is needed."""
        shared = self._choose()
        promise = ChannelPromise(shared.channel)
        producer = make(shared.connection)
        producer.revive(promise)
        shared.leases += 1
        self._leased[id(producer)] = shared, promise
        return producer

    def end(self, producer: Any) -> tuple[SharedConnection, ChannelPromise] | None:
        """The lease of a producer is over; None if it has none."""
        lease = self._leased.pop(id(producer), None)
        if lease is not None:
            lease[0].leases -= 1
        return lease

    def is_alive(self, producer: Any, present: Any) -> bool | None:
        """Is its channel, `present`, the leased one and open, or to be opened yet? None: it has no lease."""
        # Asked twice for each lease, so nothing is asked twice here.
        lease = self._leased.get(id(producer))
        if lease is None:
            return None
        shared, promise = lease
        channel = getattr(promise, '__value__', None)
        if shared.gone:
            return False
        if channel is None:
            return True
        # after a reconnect the producer was revived on the default channel, which is not ours to lease
        if (present is not channel and present is not promise) or is_closed(channel):
            return False
        parent, opener = channel.connection, shared.connection.opener
        return parent is opener.connection or parent is opener.transport or parent is None

    def ceiling(self, limit: int | None) -> int | None:
        """The limit, or less if their channels are fewer."""
        most: float = limit or inf
        for shared in self.found:
            room = shared.room() * self._most
            if room < most:
                most = room
        return limit if most == inf else int(most)

    def take_all(self) -> list[SharedConnection]:
        """Have none any more, and return those there were."""
        found, self.found = self.found, []
        for each in found:
            each.gone = True
        return found


def _told_of_loss(them: ref[SharedConnections], event: events.Event) -> None:
    found, connection = them(), event.source
    if found is not None and connection is not None:
        found.lost(connection)


def _stay_open() -> None:
    """What release() of a shared connection does: others publish on it."""


def _max_channels(connection: Any) -> int | None:
    """How many channels the connection can have; None if that is not known."""
    transport = connection.transport
    found = getattr(transport, 'max_channels', None) or getattr(transport, 'channel_max', None)
    return int(found) if found else None


def close_channel(shared: SharedConnection, promise: ChannelPromise) -> None:
    """Close a leased channel, if it was opened; what it says to that is logged. Switches: yes."""
    channel = getattr(promise, '__value__', None)
    if channel is None or is_closed(channel):
        return
    try:
        channel.close()
    except Exception as exc:  # it was given up because something is wrong with it
        logger.debug('closing %r of %r: %r', channel, shared.connection, exc)
