"""A durable broker in a file, for any number of processes of one machine, without a server.

``file:///dir`` keeps it in a folder, ``sqlite:///file.db`` in a file of any name. A publish returns when its
message is on the disk. Who dies loses nothing: what it held is with another consumer two seconds later at the
most. Consumers sleep until somebody publishes.

`store.py` has the tables and the statements, `transport.owners` tells who is alive and wakes others,
`engine.py` is the native thread that writes, `memory.py` stands for it where the store is in memory,
`driver.py` is what the base of transports needs.
"""

from __future__ import annotations

import sqlite3

from greenmq.transport.driver import Channel, Place
from greenmq.transport.driver import Transport as DriverTransport
from greenmq.transport.sqlite.driver import SQLiteDriver
from greenmq.transport.sqlite.urls import file_of

__all__ = ('Channel', 'FileTransport', 'Transport')


class Transport(DriverTransport):
    """The transport of ``sqlite://``."""

    Driver = SQLiteDriver
    driver_type = 'sqlite'
    driver_name = 'sqlite3'

    def place(self) -> Place:
        """The file that the URL names."""
        place = super().place()
        file = file_of(self.driver_type, self.client.hostname, self.client.virtual_host)
        return place._replace(virtual_host=file, host=file)

    def driver_version(self) -> str:
        """The version of SQLite."""
        return sqlite3.sqlite_version


class FileTransport(Transport):
    """The transport of ``file://``."""

    driver_type = 'file'
