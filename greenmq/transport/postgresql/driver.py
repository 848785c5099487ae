"""What a driver does on any tables in PostgreSQL: its connections, and the tables beside the messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from greenmq import runtime
from greenmq.exceptions import NotFound
from greenmq.transport.driver import UNSEEN, Binding, Driver, Place, Put, Taken
from greenmq.transport.driver.contract import Owner
from greenmq.transport.limits import arguments_text
from greenmq.transport.postgresql.access import Access
from greenmq.transport.postgresql.arrays import Texts
from greenmq.transport.postgresql.claims import Claims
from greenmq.transport.postgresql.connection import driver_version
from greenmq.transport.postgresql.errors import ERRORS
from greenmq.transport.postgresql.pool import Pool
from greenmq.transport.postgresql.presence import Presence
from greenmq.transport.postgresql.side_tables import SideStatements
from greenmq.utils.json import loads

__all__ = ('TableDriver',)


class TableDriver(Driver):
    """A driver whose sessions have a row among the others', and facts and bindings beside the messages."""

    errors = ERRORS
    #: The statements for its tables.
    sql: Any

    def __init__(
        self, place: Place, settings: Mapping[str, Any], owner: Owner, side: SideStatements,
        presence: Presence,
    ) -> None:  # fmt: skip
        super().__init__(place, settings, owner)
        self.side = side
        self.presence = presence
        self.access = Access(presence)
        self._run = self.access.run
        self._claims = Claims()

    # ---- the connection

    def open(self, deadline: runtime.Deadline) -> None:
        most = self.settings['max_connections'] or self.settings.get('pool_size') or 4
        self.access.open(
            self.place.host, Pool(self.place.url, max(most, 1), self.settings['prepared']), self._prepare,
            self.settings['notify'],
            lambda: runtime.every(self, self.presence.lease / 3, _keep, name='postgresql-session'), deadline,
        )  # fmt: skip

    def _prepare(self, pool: Pool, deadline: runtime.Deadline) -> None:
        raise NotImplementedError

    def keep(self) -> None:
        """Renew our row, and send the listener a word. Switches: yes."""
        self.presence.keep(runtime.Deadline.after(self.presence.lease / 3))

    def close(self, deadline: runtime.Deadline) -> None:
        try:
            if self.access.pool is not None and self.presence.me:
                self._claims.join(deadline)
                self._leave(deadline)
        finally:
            self.access.leave()

    def _leave(self, deadline: runtime.Deadline) -> None:
        self._run(self.sql.leave, self.presence.me, deadline=deadline)

    def forget(self) -> None:
        self.access.forget()

    def ping(self, deadline: runtime.Deadline) -> None:
        self._run('SELECT 1', deadline=deadline)

    def version(self) -> str:
        return f'psycopg {driver_version()}'

    def stats(self) -> dict[str, Any]:
        return self.access.stats()

    # ---- messages

    def _insert(
        self, items: list[Put], columns: Sequence[list[Any]], deadline: runtime.Deadline
    ) -> list[Exception | None] | None:
        # Columns are of texts, and None for NULL. Returns what became of each, as `put` does.
        told = self.settings['notify'], self.presence.me
        if len(items) == 1:
            stored = self._run(self.sql.put_one, *told, *(column[0] for column in columns), deadline=deadline)
            missing = set() if stored else {0}
        else:
            rows = self._run(self.sql.put, *told, *map(Texts, columns), deadline=deadline)
            missing = {n - 1 for (n,) in rows if n > 0}
        self.presence.waiters.wake({item.queue for item in items})
        if not missing:
            return None
        return [
            NotFound(f'no queue {item.queue!r}') if n in missing else None for n, item in enumerate(items)
        ]

    def _give_back(self, takens: list[Taken], deadline: runtime.Deadline) -> None:
        self.settle([], [(taken, UNSEEN) for taken in takens], deadline)

    # ---- what was declared

    def facts(self, queue: str, deadline: runtime.Deadline) -> Mapping[str, Any] | None:
        rows = self._run(self.side.facts, queue, deadline=deadline)
        return {'arguments': loads(rows[0][0])} if rows else None

    def bindings(self, exchange: str, deadline: runtime.Deadline) -> list[Binding]:
        rows = self._run(self.side.bindings, exchange, deadline=deadline)
        return [Binding(exchange, kind, key, queue, loads(given)) for kind, key, queue, given in rows]

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        exchange, kind, key, queue, given = binding
        text = arguments_text(given)
        self._run(self.side.bind, exchange, kind, key or '', queue, text, deadline=deadline)

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        exchange, _, key, queue, given = binding
        self._run(self.side.unbind, exchange, key or '', queue, arguments_text(given), deadline=deadline)


def _keep(driver: TableDriver) -> None:
    driver.keep()
