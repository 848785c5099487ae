"""ZooKeeper as a broker, on kombu's nodes: programs on kombu and on greenmq share queues.

``zookeeper://host:2181/virtual_host``; more hosts of an ensemble follow after semicolons. A message is taken
by moving its node, in one transaction, and comes back when its consumer's session ends. Consumers sleep until
a watch tells them of a message.

`layout.py` says which nodes there are. `driver.py` is what the base of transports needs, made of
`sending.py`, `waiting.py` (what the watches tell), `taking.py`, `queues.py`, `bindings.py` and `sweeping.py`.
`member.py` is one session of kazoo's client, which waits by our `handler.py`.
"""

from __future__ import annotations

from greenmq.transport.driver import Channel, Place
from greenmq.transport.driver import Transport as DriverTransport

try:
    from kazoo import exceptions as kazoo_exceptions

    from greenmq.transport.zookeeper.driver import ZooKeeperDriver
except ModuleNotFoundError as error:
    if error.name != 'kazoo':
        raise
    raise ImportError(
        'the zookeeper transport needs kazoo: pip install greenmq[zookeeper]', name='kazoo'
    ) from None

__all__ = ('Channel', 'Transport')

_SCHEME = 'zookeeper://'


class Transport(DriverTransport):
    """The transport of ``zookeeper://``."""

    Driver = ZooKeeperDriver
    driver_type = 'zookeeper'
    driver_name = 'kazoo'
    default_port = 2181
    connection_errors = (
        *DriverTransport.connection_errors,
        *(getattr(kazoo_exceptions, name) for name in (
            'SystemErrorException', 'ConnectionLossException', 'MarshallingErrorException',
            'UnimplementedException', 'OperationTimeoutException', 'NoAuthException', 'InvalidACLException',
            'AuthFailedException', 'SessionExpiredException',
        )),
    )  # fmt: skip
    channel_errors = (
        *DriverTransport.channel_errors,
        *(getattr(kazoo_exceptions, name) for name in (
            'RuntimeInconsistencyException', 'DataInconsistencyException', 'BadArgumentsException',
            'ApiErrorException', 'NoNodeException', 'NodeExistsException',
            'NoChildrenForEphemeralsException', 'NotEmptyException', 'InvalidCallbackException',
        )),
    )  # fmt: skip

    def place(self) -> Place:
        """Where the ensemble is: `url` has all its hosts, as 'host:port,host:port'."""
        place = super().place()
        hosts = [f'{place.host}:{place.port}']
        for other in self.client.alt or ():
            name = other.rpartition('@')[2] if other.startswith(_SCHEME) else other
            name = name.removeprefix(_SCHEME).partition('/')[0]
            if name and ':' not in name:
                name = f'{name}:{self.default_port}'
            if name and name not in hosts:
                hosts.append(name)
        return place._replace(url=','.join(sorted(hosts)))

    def next_place(self) -> Place | None:
        """None: kazoo goes from host to host by itself."""
        return None
