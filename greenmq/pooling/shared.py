"""The connection that all producers of a pool publish over, and the channels that are leased on it."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from greenmq.log import get_logger
from greenmq.pooling.connections import is_closed
from greenmq.utils.functional import ChannelPromise

if TYPE_CHECKING:
    from greenmq.pooling.lease import Lease

__all__ = ('SharedConnection', 'close_channel')

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
