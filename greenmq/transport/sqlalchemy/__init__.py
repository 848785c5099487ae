"""SQL databases as brokers, on kombu's tables: programs on kombu and on greenmq share one.

``sqla+…`` and ``sqlalchemy+…`` before a URL of SQLAlchemy, and plain ``postgresql://``. PostgreSQL is spoken
to by psycopg, and its consumers sleep until a notification comes. Other databases go through SQLAlchemy in a
native thread, and are looked at now and then.

`tables.py` says what is kept where, `statements.py` and `postgresql.py` are for PostgreSQL, `dialects.py` for
the others.
"""

from __future__ import annotations

from typing import Any

from greenmq.transport.driver import Channel, Place
from greenmq.transport.driver import Transport as DriverTransport
from greenmq.transport.sqlalchemy.options import SQLDriver
from greenmq.transport.sqlalchemy.urls import database_of

__all__ = ('Channel', 'Transport')


class Transport(DriverTransport):
    """The transport of ``sqla+…``, ``sqlalchemy+…`` and ``postgresql://``."""

    Driver = SQLDriver
    driver_type = 'sql'
    driver_name = 'sqlalchemy'
    default_port = 0
    can_parse_url = True

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        if database_of(client.hostname or '').is_postgresql:
            from greenmq.transport.sqlalchemy.postgresql import PostgreSQLDriver as Chosen
        else:
            from greenmq.transport.sqlalchemy.dialects import DialectDriver as Chosen  # type: ignore[assignment]
        self.Driver = Chosen  # type: ignore[misc]

    def place(self) -> Place:
        """The database that the URL names."""
        place = super().place()
        database = database_of(place.url)
        return place._replace(url=database.url, host=database.shown)
