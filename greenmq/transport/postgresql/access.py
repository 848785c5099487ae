"""A driver's way to its database: the pool, what the others see of it, and who keeps that alive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed
from greenmq.transport.postgresql.connection import psycopg
from greenmq.transport.postgresql.pool import Pool
from greenmq.transport.postgresql.presence import Presence

__all__ = ('Access',)

#: Tries of a statement that the server ends because it and another wait for each other.
_TRIES = 10


class Access:
    """One session's connections, opened and closed as one.

    Arguments:
        presence (Presence): its row among the others.
    Attributes:
        pool (Pool | None): None while it is closed.
    """

    def __init__(self, presence: Presence) -> None:
        self.pool: Pool | None = None
        self._host = ''
        self._presence = presence
        self._keeper: runtime.Task | None = None
        self._before = 0  # statements of the pools before this one

    def open(
        self, host: str, pool: Pool, prepare: Callable[[Pool, runtime.Deadline], None], listens: bool,
        keep: Callable[[], runtime.Task], deadline: runtime.Deadline,
    ) -> None:  # fmt: skip
        """Take a pool in the place of the last one.

        Arguments:
            host (str): where to, for texts.
            prepare (Callable): makes in the database what is needed.
            listens (bool): whether notifications are wanted.
            keep (Callable): starts the task that renews the row.
        Switches: yes. Killed: the pool is closed.
        """
        self.leave()
        self._host = host
        try:
            prepare(pool, deadline)
            self._presence.open(pool, listens, deadline)
        except BaseException:
            pool.close()
            raise
        self.pool = pool
        self._keeper = keep()

    def leave(self) -> None:
        """Let go of the connections; the row stays until its lease ends, or somebody deletes it."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.kill()
        self._presence.leave()
        pool, self.pool = self.pool, None
        if pool is not None:
            self._before += pool.statements
            pool.close()

    def forget(self) -> None:
        """In a forked child: leave the parent's connections alone."""
        self._presence.forget()
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.forget()
        self._keeper = None

    def run(self, statement: str, *values: Any, deadline: runtime.Deadline) -> list[Any]:
        """Run one statement, see `Pool.run`; again, if the server ended it in favour of another.

        Each is a transaction: nothing of such a one was done.

        Raises:
            ConnectionClosed: it is closed.
        Switches: yes.
        """
        tries = _TRIES
        while True:
            pool = self.pool
            if pool is None:
                raise ConnectionClosed(f'{self._host} is closed')
            tries -= 1
            try:
                return pool.run(statement, *values, deadline=deadline)
            except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
                if not tries or deadline.expired():
                    raise

    def stats(self) -> dict[str, Any]:
        """Statements run so far, whether notifications arrive, and how often the listener connected."""
        pool, listener = self.pool, self._presence.listener
        return {
            'statements': self._before + (0 if pool is None else pool.statements),
            'notified': self._presence.live,
            'listens': 0 if listener is None else listener.connects,
        }
