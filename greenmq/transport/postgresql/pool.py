"""The few connections of one session: each statement has one to itself, and bad ones are never used again."""

from __future__ import annotations

import os
from typing import Any

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed
from greenmq.transport.postgresql.connection import Line, connect

__all__ = ('Pool', 'abandon')

_inherited: list[Line] = []


class Pool:
    """Connections, made when they are needed.

    Arguments:
        dsn (str): where to.
        most (int): so many at once; who finds none free waits for one.
        prepared (bool): see `connect`.
    Attributes:
        statements (int): how many were run.
    """

    def __init__(self, dsn: str, most: int, prepared: bool = True) -> None:
        self.dsn = dsn
        self.prepared = prepared
        self.statements = 0
        self._free: list[Line] = []
        self._used: set[Line] = set()
        self._turns = runtime.Semaphore(most)
        self._closed = False

    def run(self, statement: str, *values: Any, deadline: runtime.Deadline) -> list[Any]:
        """Run one statement; see `Line.run`.

        Raises:
            psycopg.Error: the connection it met is closed. TimeoutError: no connection, or no answer, in
                time.
        Switches: yes. Killed: the connection is closed; what the server does with the statement is open.
        """
        if not self._turns.acquire(timeout=deadline.remaining()):
            raise deadline.error('no connection to PostgreSQL was free')
        try:
            line = self._take()
            if line is None:
                line = self.connect(deadline)
            if self._closed:
                line.discard()
                raise ConnectionClosed('the connection to PostgreSQL was closed')
            self._used.add(line)
            try:
                self.statements += 1
                rows = line.run(statement, *values, deadline=deadline)
            finally:
                self._used.discard(line)
                self._put_back(line)
            return rows
        finally:
            self._turns.release()

    def _put_back(self, line: Line) -> None:
        if self._closed:
            line.discard()
        elif not line.closed:
            self._free.append(line)

    def _take(self) -> Line | None:
        while self._free:
            line = self._free.pop()
            if line.sound:
                return line
        return None

    def connect(self, deadline: runtime.Deadline) -> Line:
        """Make a connection that is the caller's. Switches: yes."""
        return connect(self.dsn, deadline, self.prepared, application_name='greenmq')

    def drop(self) -> None:
        """Close those that nobody uses now: they are likely lost as well."""
        free, self._free = self._free, []
        for line in free:
            line.discard()

    def close(self) -> None:
        """Close all, those in use when their statement has ended."""
        self._closed = True
        self.drop()

    def forget(self) -> None:
        """In a forked child: close our copies of the descriptors, without a byte."""
        self._closed = True
        for line in [*self._free, *self._used]:
            abandon(line)
        self._free.clear()


def abandon(line: Line) -> None:
    """In a forked child: let go of our copy of the socket without a byte.

    Its number stays taken, so that whatever libpq does at the end goes nowhere.
    """
    if line.closed:
        return
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(nowhere, line.pgconn.socket, inheritable=False)
    os.close(nowhere)
    _inherited.append(line)
