"""Pools of connections and of channels: how each is made, closed, and known to be alive."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from greenmq import events
from greenmq.abstract import is_closed
from greenmq.exceptions import ChannelLimitExceeded, ConnectionLimitExceeded
from greenmq.resource import Resource

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from greenmq.connection import Connection, PooledConnection
    from greenmq.types import Channel, PoolOptions

__all__ = ('ChannelPool', 'ConnectionPool', 'is_closed')


class ConnectionPool(Resource['PooledConnection']):
    """A pool of connections with the same settings. They open when they are used.

    Arguments:
        connection (Connection): whose settings they get.
        limit (int): how many at most; None: no limit, and each is closed when it comes back.
        preload (int): how many to make at once.
        max_idle, max_age (float): seconds; see Resource.
    Source: kombu.connection.ConnectionPool.
    """

    LimitExceeded = ConnectionLimitExceeded
    close_after_fork = True

    def __init__(
        self, connection: Connection, limit: int | None = None, **kwargs: Unpack[PoolOptions]
    ) -> None:
        self.connection = connection
        super().__init__(limit=limit, **kwargs)

    def setup(self) -> None:
        """Make as many as `preload` says."""
        for _ in range(min(self.preload, self._limit or self.preload)):
            self._resource.put_nowait(self.new())

    def new(self) -> PooledConnection:
        """A connection of this pool, not opened."""
        connection = self.connection.pooled(self)
        # The subscription ends with the connection, and must not keep the pool.
        events.subscribe('lost', partial(_told_of_loss, weakref.ref(self)), connection)
        return connection

    def prepare(self, resource: Any) -> Any:
        """See Resource.prepare."""
        return super().prepare(resource)

    def release_resource(self, resource: Any) -> None:
        """See Resource.release_resource."""

    def close_resource(self, resource: Any) -> None:
        """Close the connection. Switches: yes."""
        resource.close()

    def collect_resource(self, resource: Any, socket_timeout: float = 0.1) -> None:
        """Close the connection in the background."""
        resource.collect(socket_timeout=0)

    def is_alive(self, resource: Any) -> bool:
        """True if it is open, or can be opened: one that its last user closed would refuse the next one."""
        return resource.opener.state in ('new', 'lost') or resource.connected

    def warm(self, resource: Any) -> None:
        """Open it. Switches: yes."""
        resource.connect()

    def lost(self, connection: PooledConnection) -> None:
        """A connection was lost: if it is free and does not come back by itself, another one is opened."""
        if not connection.recovering and not self.is_alive(connection):
            self.retire(connection, 'dead')

    @contextmanager
    def acquire_channel(self, block: bool = False) -> Iterator[tuple[PooledConnection, Channel]]:
        """Context manager: (connection, its default channel), given back at the end.

        Raises:
            LimitExceeded: nothing free (in time).
        Switches: yes.
        Source: kombu ConnectionPool.acquire_channel.
        """
        with self.acquire(block) as connection:
            yield connection, connection.default_channel

    @property
    def label(self) -> str:
        """See `Resource.label`."""
        return self.connection.as_uri()


class ChannelPool(Resource['Channel']):
    """A pool of channels of one connection. They are opened when they are acquired.

    Arguments:
        connection (Connection): whose channels they are.
        limit (int): how many at most; None: no limit, and each is closed when it comes back.
        preload (int): how many to open at once.
    Source: kombu.connection.ChannelPool.
    """

    LimitExceeded = ChannelLimitExceeded

    def __init__(
        self, connection: Connection, limit: int | None = None, **kwargs: Unpack[PoolOptions]
    ) -> None:
        self.connection = connection
        super().__init__(limit=limit, **kwargs)

    def setup(self) -> None:
        """Open as many as `preload` says. Switches: yes, if that is any."""
        for _ in range(min(self.preload, self._limit or self.preload)):
            self._resource.put_nowait(self.new())

    def new(self) -> Channel:
        """A new channel. Switches: yes."""
        return self.connection.channel()

    def prepare(self, channel: Any) -> Any:
        """See Resource.prepare."""
        return super().prepare(channel)

    def is_alive(self, resource: Any) -> bool:
        """True if it is open, and of the connection as it is now."""
        return not is_closed(resource) and self.connection.opener.owns(resource)

    def _reap(self) -> bool:
        # ``with pool.acquire() as channel`` closes the channel and gives nothing back
        for lease in [lease for lease in self._dirty.values() if is_closed(lease.resource)]:
            self.replace(lease.resource)
        return True

    @property
    def label(self) -> str:
        """See `Resource.label`."""
        return f'channels of {self.connection.as_uri()}'


def _told_of_loss(pool: weakref.ref[ConnectionPool], event: events.Event) -> None:
    found, connection = pool(), event.source
    if found is not None and connection is not None:
        found.lost(connection)
