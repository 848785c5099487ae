"""pgmq, the message queue extension of PostgreSQL, as a broker, on kombu's queues.

Only pgmq's own functions move messages: `read`, `delete`, `set_vt` and `send_batch`, a batch each, and never
`read_with_poll`, which holds off the making of queues and with it every publisher for as long as it waits.
Who waits is woken by notifications of our own.

`names.py` says what queues and bindings are called there, `statements.py` has the SQL, `driver.py` uses it.
"""

from __future__ import annotations

from typing import Any

from greenmq.exceptions import InvalidArgument
from greenmq.transport.driver import Channel, Place
from greenmq.transport.driver import Transport as DriverTransport
from greenmq.transport.pgmq.driver import PgmqDriver
from greenmq.transport.postgresql.connection import check_dsn, dsn_of

__all__ = ('Channel', 'Transport')


class Transport(DriverTransport):
    """The transport of ``pgmq://``."""

    Driver = PgmqDriver
    driver_type = 'pgmq'
    driver_name = 'pgmq'
    default_port = 5432

    def place(self) -> Place:
        """The database that the URL or the option `conn_string` names.

        Raises:
            InvalidArgument: the URL has more of a path than the name of a database.
        """
        place = super().place()
        given = (self.client.transport_options or {}).get('conn_string')
        if given:
            shown = check_dsn(given).get('host') or 'localhost'
            return place._replace(host=shown, url=given)
        database = place.virtual_host.strip('/') or 'postgres'
        if '/' in database:
            raise InvalidArgument('virtual_host', place.virtual_host, 'is not the name of one database')
        parts: dict[str, Any] = {
            'host': place.host, 'port': place.port or self.default_port, 'dbname': database,
            'user': place.userid or 'postgres',
        }  # fmt: skip
        if place.password is not None:
            parts['password'] = place.password
        return place._replace(url=dsn_of(**parts))
