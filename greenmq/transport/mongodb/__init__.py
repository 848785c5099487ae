"""MongoDB as a broker, on kombu's collections: programs on kombu and on greenmq share queues.

``mongodb://`` and ``mongodb+srv://`` URLs are pymongo's, which has the client in a native thread of its own.
A message is taken by a lease in its document and comes back when the lease is over. Change streams wake
consumers where the server has them.

`store.py` says what is kept where and makes the commands, in its thread, with `topology.py` for queues and
bindings; `listening.py` waits for changes in another thread; `driver.py` is what the base of transports
needs; `urls.py` reads URLs.
"""

from __future__ import annotations

from typing import Any

from greenmq.transport.driver import Channel, Place
from greenmq.transport.driver import Transport as DriverTransport
from greenmq.transport.mongodb.urls import options_of, target_of

try:
    from pymongo import errors

    from greenmq.transport.mongodb.driver import MongoDBDriver
except ModuleNotFoundError as error:
    if error.name not in ('pymongo', 'bson'):
        raise
    raise ImportError(
        'the mongodb transport needs pymongo: pip install greenmq[mongodb]', name='pymongo'
    ) from None

__all__ = ('Channel', 'Transport')


class Transport(DriverTransport):
    """The transport of ``mongodb://`` and ``mongodb+srv://``."""

    Driver = MongoDBDriver
    driver_type = 'mongodb'
    driver_name = 'pymongo'
    default_port = 27017
    can_parse_url = True
    connection_errors = (*DriverTransport.connection_errors, errors.ConnectionFailure)
    channel_errors = (*DriverTransport.channel_errors, errors.ConnectionFailure, errors.OperationFailure)

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        found = options_of(client.hostname or '', type(self))
        if found:
            client.transport_options = {**found, **(client.transport_options or {})}

    def place(self) -> Place:
        """The servers and the database that the URL names; `url` is for pymongo, `host` for texts."""
        place = super().place()
        options = self.client.transport_options or {}
        defaults = {name: self.options[name].default for name in ('default_hostname', 'default_port',
                                                                  'default_database')}  # fmt: skip
        target = target_of(self.client, type(self), {**defaults, **options})
        return place._replace(url=target.uri, host=target.shown, virtual_host=target.database)

    def next_place(self) -> Place | None:
        """None: pymongo goes from server to server by itself."""
        return None

    def driver_version(self) -> str:
        """The version of pymongo."""
        import pymongo

        return str(pymongo.version)
