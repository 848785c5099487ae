"""The file of a store: its tables, made by who opens it first, and how it is written."""

from __future__ import annotations

import sqlite3

from greenmq.exceptions import InconsistencyError

__all__ = ('connect', 'connect_made')

#: Of the tables below. A file of a newer version is refused: what it means is not known here.
VERSION = 1

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE owner (
    id INTEGER PRIMARY KEY AUTOINCREMENT, pid INTEGER NOT NULL, host TEXT NOT NULL,
    name TEXT NOT NULL UNIQUE, socket TEXT NOT NULL, since REAL NOT NULL
);
CREATE TABLE queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, arguments TEXT NOT NULL,
    owner INTEGER, unused_for REAL, used REAL
);
CREATE TABLE binding (
    exchange TEXT NOT NULL, kind TEXT NOT NULL, routing_key TEXT NOT NULL, queue TEXT NOT NULL,
    arguments TEXT NOT NULL, PRIMARY KEY (exchange, routing_key, queue, arguments)
) WITHOUT ROWID;
CREATE INDEX binding_queue ON binding (queue);
CREATE TABLE message (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, priority INTEGER NOT NULL, due REAL,
    expires REAL, put_at REAL NOT NULL, deliveries INTEGER NOT NULL DEFAULT 0, owner INTEGER,
    payload BLOB NOT NULL
);
CREATE INDEX message_ready ON message (queue, priority DESC, id) WHERE owner IS NULL AND due IS NULL;
CREATE INDEX message_owned ON message (owner) WHERE owner IS NOT NULL;
CREATE INDEX message_due ON message (due) WHERE due IS NOT NULL;
CREATE INDEX message_expires ON message (expires) WHERE expires IS NOT NULL;
INSERT INTO meta VALUES ('version', 1), ('topology', 0), ('owners', 0);
"""

#: With 'disk' nobody waits in COMMIT, where all other writers would wait as well, but in `Store.sync`.
_SYNCHRONOUS = {'disk': 'NORMAL', 'process': 'NORMAL', 'none': 'OFF'}

#: Journal modes of a database with a write-ahead log, and of one in memory.
_LOGGED = ('wal', 'memory')

#: Pages of the log at which SQLite itself copies them into the database, within a transaction, where all
#: other writers wait. `Store.checkpoint` does it before; but the log begins anew only when all of it is
#: copied, and writers may leave no moment for that.
_LONGEST_LOG = 16_384


def connect(path: str, durability: str, seconds: float) -> sqlite3.Connection:
    """Open the file; if there are no tables in it, make them, which is to be done in a writer's turn.

    Arguments:
        path (str): of the file; ':memory:' for none.
        durability (str): what a commit survives. 'disk': the loss of power, once `Store.sync` has returned.
            'process': a killed process. 'none': nothing but its own end.
        seconds (float): how long to wait for somebody who is making the tables.
    Raises:
        InconsistencyError: no database, one of something else or of a newer version, or a file system that
            cannot do it.
        sqlite3.Error: not readable.
    """
    connection = connect_made(path, durability, seconds, make=True)
    assert connection is not None
    return connection


def connect_made(
    path: str, durability: str, seconds: float, make: bool = False
) -> sqlite3.Connection | None:
    """Open the file, see `connect`; None if there are no tables in it. Waits for nobody who writes."""
    connection = sqlite3.connect(path, timeout=seconds, isolation_level=None, check_same_thread=False)
    try:
        if not _is_made(connection, path):
            if not make:
                connection.close()
                return None
            _make_tables(connection, path)
        connection.execute(f'PRAGMA synchronous={_SYNCHRONOUS[durability]}')
        connection.execute('PRAGMA temp_store=MEMORY')
        connection.execute('PRAGMA cache_size=-16384')
        connection.execute(f'PRAGMA wal_autocheckpoint={_LONGEST_LOG}')
    except BaseException:
        connection.close()
        raise
    return connection


def _is_made(connection: sqlite3.Connection, path: str) -> bool:
    mode = connection.execute('PRAGMA journal_mode').fetchone()[0]
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        if connection.execute('SELECT 1 FROM sqlite_master').fetchone():
            raise InconsistencyError(f'{path}: a database of something else')
        return False
    version = connection.execute("SELECT value FROM meta WHERE name = 'version'").fetchone()[0]
    if version > VERSION:
        raise InconsistencyError(
            f'{path}: its tables are of version {version}, and this greenmq knows up to {VERSION}'
        )
    return bool(mode in _LOGGED)


def _make_tables(connection: sqlite3.Connection, path: str) -> None:
    mode = connection.execute('PRAGMA journal_mode=WAL').fetchone()[0]
    if mode not in _LOGGED:
        raise InconsistencyError(
            f'{path}: no write-ahead log (journal_mode is {mode}): is it on a network file system?'
        )
    connection.execute('BEGIN IMMEDIATE')
    try:
        if not _is_made(connection, path):
            for statement in _TABLES.split(';'):
                if statement.strip():
                    connection.execute(statement)
        connection.execute('COMMIT')
    except BaseException:
        if connection.in_transaction:
            connection.execute('ROLLBACK')
        raise
