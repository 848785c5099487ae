"""The broker in PostgreSQL, on kombu's tables: what the base needs of it, each call one statement."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any

from greenmq import runtime
from greenmq.exceptions import InvalidArgument
from greenmq.log import get_logger
from greenmq.transport.driver import REQUEUE, Place, Put, Taken
from greenmq.transport.driver.contract import Owner
from greenmq.transport.limits import QueueLimits, arguments_text
from greenmq.transport.postgresql.arrays import Numbers, Texts
from greenmq.transport.postgresql.connection import psycopg
from greenmq.transport.postgresql.driver import TableDriver
from greenmq.transport.postgresql.pool import Pool
from greenmq.transport.postgresql.presence import Presence
from greenmq.transport.postgresql.side_tables import SideStatements
from greenmq.transport.sqlalchemy.options import SQLDriver
from greenmq.transport.sqlalchemy.statements import Statements
from greenmq.transport.sqlalchemy.tables import MAX_NAME, Tables

__all__ = ('PostgreSQLDriver',)

logger = get_logger('greenmq.transport.sqlalchemy')

#: Seconds for what the base gives no deadline.
_OPERATION = 30.0
#: Seconds after which a claim whose answer was lost has surely ended at the server.
_SETTLED = 120.0
#: Rows that one statement of a sweep handles, as the statements have it.
_BATCH = 1000
#: How many messages a claim takes at most: with fewer numbers there are fewer statements to be prepared.
_ROOMS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 25, 32, 40, 50, 64, 80, 100)
#: Tries to delete a queue into which others publish.
_DELETIONS = 5


class PostgreSQLDriver(TableDriver, SQLDriver):
    """Queues in kombu's tables in PostgreSQL, for any number of processes.

    A delivery belongs to the session that took it, which renews its lease for all it holds.
    """

    def __init__(self, place: Place, settings: Mapping[str, Any], owner: Owner) -> None:
        tables = Tables.of(settings['queue_tablename'], settings['message_tablename'])
        channel = f'greenmq_{tables.message}'
        self.sql = Statements.of(tables, channel)
        side = SideStatements.of(tables.owner, tables.facts, tables.binding, channel)
        lease, pause = settings['lease_timeout'] or 30.0, settings['polling_interval'] or 1.0
        super().__init__(place, settings, owner, side, Presence(side, owner, lease, pause))
        self._takes: dict[tuple[int, bool], str] = {}  # by how many they take, and whether of one queue
        self._numbers = itertools.count(1)
        self._lost: dict[int, float] = {}  # claims without an answer, and when that was

    # ---- the connection

    def _prepare(self, pool: Pool, deadline: runtime.Deadline) -> None:
        sql = self.sql
        tables, index, trigger = pool.run(sql.there, deadline=deadline)[0]
        if not tables:
            pool.run(sql.create, deadline=deadline)
        if not index:
            try:
                pool.run(sql.make_index, deadline=deadline)
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable) as error:
                logger.info('%s: no index, claims read dead rows, too: %s', self.place.host, error)
        if self.settings['trigger'] and not trigger:
            pool.run(sql.trigger, deadline=deadline)

    def _leave(self, deadline: runtime.Deadline) -> None:
        self._give_back_lost(deadline)
        super()._leave(deadline)

    def keep(self) -> None:
        if self.access.pool is not None:
            super().keep()
            self._give_back_lost(runtime.Deadline.after(_OPERATION))

    # ---- messages

    def put(self, items: list[Put], deadline: runtime.Deadline) -> Iterable[Exception | None] | None:
        columns = [item.queue for item in items], [item.payload for item in items]
        return self._insert(items, columns, deadline)

    def take(self, queues: list[str], n: int, max_bytes: int, seconds: float) -> list[Taken]:
        return self.presence.take(queues, seconds, lambda: self._take(queues, n, max_bytes))

    def _take(self, queues: list[str], n: int, max_bytes: int) -> list[Taken]:
        self.presence.renew_if_late()
        number = next(self._numbers)
        room = _ROOMS[bisect_right(_ROOMS, n) - 1]
        alone = len(queues) == 1
        statement = self._takes.get((room, alone))
        if statement is None:
            text = self.sql.take_one if alone else self.sql.take
            statement = self._takes[room, alone] = text.format(room=room)

        def claim(deadline: runtime.Deadline) -> list[Taken]:
            rows = self._run(
                statement, queues[0] if alone else Texts(queues), max_bytes, self.presence.me, number,
                deadline=deadline,
            )  # fmt: skip
            return [Taken(name, payload, receipt, deliveries) for name, receipt, payload, deliveries in rows]

        return self._claims.make(
            claim, self._give_back, lambda: self._lost.update({number: runtime.monotonic()})
        )

    def _give_back_lost(self, deadline: runtime.Deadline) -> None:
        # Claims whose answer we never had may have been made: at once, or when the server comes to it.
        if not self._lost:
            return
        now = runtime.monotonic()
        claims = list(self._lost)
        me = self.presence.me
        names = self._run(self.sql.unknown, self.settings['notify'], me, Numbers(claims), deadline=deadline)
        for claim in claims:
            if now - self._lost.get(claim, now) > _SETTLED:
                del self._lost[claim]
        self.presence.waiters.wake({name for (name,) in names})

    def settle(
        self, done: list[Taken], back: list[tuple[Taken, str]], deadline: runtime.Deadline
    ) -> Iterable[tuple[Taken, Exception | None]]:
        gone: set[int] = set()
        me = self.presence.me
        if done:
            ids = Numbers([taken.receipt for taken in done])
            gone.update(number for (number,) in self._run(self.sql.done, me, ids, deadline=deadline))
        if back:
            rows = self._run(
                self.sql.back, self.settings['notify'], me,
                Numbers([taken.receipt for taken, _ in back]),
                [int(fate == REQUEUE) for _, fate in back], deadline=deadline,
            )  # fmt: skip
            gone.update(number for number, _ in rows if number > 0)
            self.presence.waiters.wake({name for number, name in rows if number == 0 and name})
        return [(taken, None) for taken in (*done, *(taken for taken, _ in back)) if taken.receipt in gone]

    def extend(self, takens: list[Taken], seconds: float, deadline: runtime.Deadline) -> Iterable[Taken]:
        rows = self._run(
            self.sql.extend, self.presence.me, seconds, Numbers([taken.receipt for taken in takens]),
            deadline=deadline,
        )  # fmt: skip
        gone = {number for (number,) in rows}
        return [taken for taken in takens if taken.receipt in gone]

    # ---- queues

    def make(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> None:
        if len(queue) > MAX_NAME:
            raise InvalidArgument('queue', queue, f'is longer than the {MAX_NAME} characters of its column')
        arguments = dict(facts.get('arguments') or {})
        limits = QueueLimits.of(arguments)
        owner = self.presence.me if facts.get('exclusive') else None
        self._run(
            self.sql.make, queue, arguments_text(arguments), owner, limits.expires,
            deadline=deadline,
        )  # fmt: skip

    def has(self, queue: str, deadline: runtime.Deadline) -> bool:
        return bool(self._run(self.sql.has, queue, deadline=deadline))

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        return int(self._run(self.sql.size, queue, deadline=deadline)[0][0])

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        return int(self._run(self.sql.purge, queue, deadline=deadline)[0][0])

    def delete(self, queue: str, deadline: runtime.Deadline) -> None:
        for turn in range(_DELETIONS):
            try:
                self._run(self.sql.delete, queue, deadline=deadline)
                return
            except psycopg.errors.ForeignKeyViolation:
                if turn == _DELETIONS - 1:
                    raise  # somebody publishes to it without end

    def queues(self, deadline: runtime.Deadline) -> list[dict[str, Any]]:
        """Return name, ready and unacked of each queue; for people."""
        return [
            {'name': name, 'ready': ready, 'unacked': unacked}
            for name, ready, unacked in self._run(self.sql.queues, deadline=deadline)
        ]

    # ---- now and then

    def sweep(self, deadline: runtime.Deadline) -> None:
        count = _BATCH
        while count >= _BATCH:
            rows = self._run(self.sql.sweep, self.settings['notify'], self.presence.me, deadline=deadline)
            count, names, _ = rows[0]
            self.presence.waiters.wake(names)
        self._run(self.sql.clean, deadline=deadline)
        for (queue,) in self._run(self.side.expired, deadline=deadline):
            self.delete(queue, deadline)
        count = _BATCH if self.settings['purge_delivered'] else 0
        while count >= _BATCH:
            (count,), = self._run(self.sql.purge_delivered, deadline=deadline)
