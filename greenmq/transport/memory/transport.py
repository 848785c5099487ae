"""The connection to a broker in this process."""

from __future__ import annotations

from typing import Any, ClassVar

from greenmq import runtime
from greenmq.exceptions import ConnectionLost
from greenmq.transport import virtual
from greenmq.transport.memory.broker import DEFAULT_STATE, broker
from greenmq.transport.memory.channel import Channel
from greenmq.transport.options import EXPIRY_OPTIONS, Option, truth

__all__ = ('Management', 'Transport')


class Management(virtual.Management):
    """Questions to a broker in memory."""

    def get_queues(self) -> list[str]:
        """See `virtual.Management.get_queues`."""
        return sorted(self.channel.broker.queues)


class Transport(virtual.Transport):
    """The broker in this process.

    Arguments:
        client (Connection): its `virtual_host` names the broker.
    Attributes:
        broker (LocalBroker): shared by all connections to that virtual host.
    Source: kombu transport.memory.Transport.
    """

    Channel: ClassVar[Any] = Channel
    Management: ClassVar[Any] = Management
    #: The state of the virtual host '/'.
    global_state: Any = DEFAULT_STATE
    driver_type = 'memory'
    driver_name = 'memory'
    options: ClassVar[dict[str, Option]] = {
        **EXPIRY_OPTIONS,
        'lock_exclusive': Option(truth, False, 'other connections may not use an exclusive queue'),
    }
    implements = virtual.Transport.implements.extend(
        exchange_type=frozenset(['direct', 'topic', 'fanout', 'headers'])
    )

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.broker = broker(getattr(client, 'virtual_host', None))
        self.state = self.broker.state
        #: Stands for this connection at the broker, which must not keep it alive.
        self.user = object()
        options = getattr(client, 'transport_options', None) or {}
        self.locks_exclusive: bool = options.get('lock_exclusive') or False
        found = options.get('drop_expired')
        self.drops_expired: bool = self.options['drop_expired'].default if found is None else found

    def ping(self, connection: Any, deadline: runtime.Deadline) -> None:
        """See `base.Transport.ping`: the broker is there as long as we are."""
        if not self.verify_connection(connection):
            raise ConnectionLost(f'{connection!r} is not open')

    def close_connection(self, connection: Any) -> None:
        """See `virtual.Transport.close_connection`; exclusive queues go."""
        super().close_connection(connection)
        self.broker.connection_closed(self.user)

    def __del__(self) -> None:
        # Abandoned without close(). A finalizer must not take the broker's lock, which its own thread may
        # hold.
        user = getattr(self, 'user', None)
        if user is not None and any(queue.owner is user for queue in list(self.broker.queues.values())):
            runtime.post(self._home, self.broker.connection_closed, user)

    def driver_version(self) -> str:
        """There is no driver."""
        return 'N/A'
