"""The broker in PostgreSQL, on kombu's tables: what the base needs of it, each call one statement."""

from __future__ import annotations

import _socket
import itertools
import os
from collections.abc import Iterable, Mapping
from typing import Any

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed, InvalidArgument, NotFound, TimeoutError
from greenmq.log import get_logger
from greenmq.transport.driver import REQUEUE, UNSEEN, Binding, Place, Put, Taken
from greenmq.transport.driver.contract import Owner
from greenmq.transport.limits import QueueLimits
from greenmq.transport.postgresql.connection import driver_version, psycopg
from greenmq.transport.postgresql.errors import ERRORS
from greenmq.transport.postgresql.listener import Listener
from greenmq.transport.postgresql.pool import Pool
from greenmq.transport.sqlalchemy.options import SQLDriver
from greenmq.transport.sqlalchemy.statements import Statements
from greenmq.transport.sqlalchemy.tables import MAX_NAME, Tables
from greenmq.utils.json import dumps, loads

__all__ = ('PostgreSQLDriver',)

logger = get_logger('greenmq.transport.sqlalchemy')

#: Seconds for what the base gives no deadline.
_OPERATION = 30.0
#: Seconds between two looks while no notification can come; it doubles up to polling_interval.
_FIRST_PAUSE = 0.1
#: Seconds for which it is believed that somebody publishes who tells nobody, as kombu does.
_SILENT = 600.0
#: Seconds after which a claim whose answer was lost has surely ended at the server.
_SETTLED = 120.0
#: Seconds after which a queue on which nobody waited is not listed any more.
_FORGOTTEN = 60.0
#: Rows that one statement of a sweep handles, as the statements have it.
_BATCH = 1000
#: Tries to delete a queue into which others publish.
_DELETIONS = 5


class PostgreSQLDriver(SQLDriver):
    """Queues in kombu's tables in PostgreSQL, for any number of processes.

    A delivery belongs to the session that took it, which renews its lease for all it holds.
    """

    errors = ERRORS

    def __init__(self, place: Place, settings: Mapping[str, Any], owner: Owner) -> None:
        super().__init__(place, settings, owner)
        tables = Tables.of(settings['queue_tablename'], settings['message_tablename'])
        self.channel = f'greenmq_{tables.message}'
        self.sql = Statements.of(tables, self.channel)
        self._pool: Pool | None = None
        self._listener: Listener | None = None
        self._keeper: Any = None
        self._me = 0
        self._renewed = 0.0
        self._claims = itertools.count(1)
        self._lost: dict[int, float] = {}  # claims without an answer, and when that was
        self._waiting: dict[str, set[runtime.Waiter]] = {}
        self._waited: dict[str, float] = {}  # queues on which somebody waited here, and when
        self._listed: tuple[str, ...] = ()  # those of them that the others know of
        self._flying: set[runtime.Task] = set()  # claims, and what gives back what nobody waits for
        self._silent_until = 0.0
        self._statements = 0
        self._host = f'{_socket.gethostname()}:{os.getpid()}'

    # ---- the connection

    def open(self, deadline: runtime.Deadline) -> None:
        self._leave()
        pool = Pool(self.place.url, max(self.settings['max_connections'], 1), self.settings['prepared'])
        try:
            self._prepare(pool, deadline)
            self._renew(pool, deadline) if self._me else self._enlist(pool, deadline)
        except BaseException:
            pool.close()
            raise
        self._pool = pool
        if self.settings['notify']:
            own = f'{self.channel}_{self._me}'
            self._listener = Listener(pool, [self.channel], own, self._told)
        self._keeper = runtime.every(self, (self.lease_seconds or 30.0) / 3, _keep, name='sql-owner')

    def _prepare(self, pool: Pool, deadline: runtime.Deadline) -> None:
        sql = self.sql
        tables, index, trigger = pool.run(sql.there, deadline=deadline)[0]
        if not tables:
            pool.run(sql.create, deadline=deadline)
        if not index:
            try:
                pool.run(sql.make_index, deadline=deadline)
            except psycopg.errors.InsufficientPrivilege:
                logger.info('%s: no right to make an index: claims read dead rows, too', self.place.host)
        if self.settings['trigger'] and not trigger:
            pool.run(sql.trigger, deadline=deadline)

    def _enlist(self, pool: Pool, deadline: runtime.Deadline) -> None:
        began = runtime.monotonic()
        self._me = pool.run(self.sql.enlist, self.lease_seconds, self._host, deadline=deadline)[0][0]
        self._renewed = began

    def close(self, deadline: runtime.Deadline) -> None:
        pool, me = self._pool, self._me
        try:
            if pool is not None and me:
                for task in list(self._flying):
                    task.join(deadline)
                self._give_back_lost(deadline)
                pool.run(self.sql.leave, me, deadline=deadline)
        finally:
            self._leave()

    def _leave(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.kill()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        pool, self._pool = self._pool, None
        if pool is not None:
            self._statements += pool.statements
            pool.close()
        self._listed = ()

    def forget(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.forget()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.forget()
        self._keeper = None

    def ping(self, deadline: runtime.Deadline) -> None:
        self._run('SELECT 1', deadline=deadline)

    def version(self) -> str:
        return f'psycopg {driver_version()}'

    def _run(self, statement: str, *values: Any, deadline: runtime.Deadline) -> list[Any]:
        pool = self._pool
        if pool is None:
            raise ConnectionClosed(f'{self.place.host} is closed')
        return pool.run(statement, *values, deadline=deadline)

    # ---- our lease, and what is said of us

    def keep(self) -> None:
        """Renew our lease, and send the listener a word. Switches: yes."""
        pool = self._pool
        if pool is None:
            return
        self._renew(pool, runtime.Deadline.after((self.lease_seconds or 30.0) / 3))
        if self._listener is not None:
            self._listener.expect_echo()
        self._give_back_lost(runtime.Deadline.after(_OPERATION))

    def _renew(self, pool: Pool, deadline: runtime.Deadline) -> None:
        began = runtime.monotonic()
        self._waited.update((queue, began) for queue in self._waiting)
        for queue in [queue for queue, at in self._waited.items() if began - at > _FORGOTTEN]:
            del self._waited[queue]
        queues = tuple(sorted(self._waited))
        pool.run(
            self.sql.renew, self._me, self.lease_seconds, self._host, list(queues),
            self._listener is not None, deadline=deadline,
        )  # fmt: skip
        self._renewed = began
        self._listed = queues

    def _told(self, channel: str | None, payload: str) -> None:
        # In the hub's tasks: a notification, or (None, '') when some may have been missed.
        if channel is None:
            self.owner.changed()
            self._wake(None)
        elif payload[:1] == 'b':
            self.owner.changed(payload[1:])
        else:
            self._wake({payload[1:]})

    def _wake(self, queues: Iterable[str] | None) -> None:
        for queue in list(self._waiting) if queues is None else queues:
            for waiter in self._waiting.get(queue, ()):
                waiter.wake()

    # ---- messages

    def put(self, items: list[Put], deadline: runtime.Deadline) -> Iterable[Exception | None] | None:
        rows = self._run(
            self.sql.put, self.settings['notify'], self._me,
            [item.queue for item in items], [item.payload for item in items], deadline=deadline,
        )  # fmt: skip
        missing = {n - 1 for (n,) in rows if n > 0}
        self._wake({item.queue for item in items})
        if not missing:
            return None
        return [
            NotFound(f'no queue {item.queue!r}') if n in missing else None for n, item in enumerate(items)
        ]

    def take(self, queues: list[str], n: int, max_bytes: int, seconds: float) -> list[Taken]:
        deadline = runtime.Deadline.after(seconds)
        if not seconds:
            return self._take(queues, n, max_bytes)
        waiter = runtime.Waiter()
        self._enter(queues, waiter)
        pause, woken = _FIRST_PAUSE, True
        try:
            while True:
                if self._listener is not None and not set(queues) <= set(self._listed):
                    assert self._pool is not None
                    self._renew(self._pool, runtime.Deadline.after(_OPERATION))
                takens = self._take(queues, n, max_bytes)
                if takens:
                    if not woken and self._listener is not None and self._listener.live:
                        # Nobody told us: somebody publishes who tells nobody.
                        self._silent_until = runtime.monotonic() + _SILENT
                    return takens
                if deadline.expired():
                    return []
                woken = self._pause(waiter, deadline, pause)
                if woken:
                    self._exit(queues, waiter)
                    waiter = runtime.Waiter()
                    self._enter(queues, waiter)
                pause = min(pause * 2, self.settings['polling_interval'] or 1.0)
        finally:
            self._exit(queues, waiter)

    def _enter(self, queues: list[str], waiter: runtime.Waiter) -> None:
        for queue in queues:
            self._waiting.setdefault(queue, set()).add(waiter)

    def _exit(self, queues: list[str], waiter: runtime.Waiter) -> None:
        for queue in queues:
            waiters = self._waiting.get(queue)
            if waiters is not None:
                waiters.discard(waiter)
                if not waiters:
                    del self._waiting[queue]

    def _pause(self, waiter: runtime.Waiter, deadline: runtime.Deadline, pause: float) -> bool:
        # True if something may have come; False if it is time to look all the same.
        told = self._listener is not None and self._listener.live and runtime.monotonic() > self._silent_until
        try:
            waiter.wait(deadline if told else deadline.within(pause))
        except TimeoutError:
            if not waiter.expired:
                raise
            return False
        return True

    def _take(self, queues: list[str], n: int, max_bytes: int) -> list[Taken]:
        # In a task of its own, which is never cut: what comes when nobody waits any more is given back.
        if runtime.monotonic() - self._renewed > (self.lease_seconds or 30.0) / 2 and self._pool is not None:
            self._renew(self._pool, runtime.Deadline.after(_OPERATION))
        waiter = runtime.Waiter('PostgreSQL did not answer a claim')
        self._fly('sql-claim', self._claim, queues, n, max_bytes, waiter)
        takens: list[Taken] = waiter.wait(runtime.Deadline.after(_OPERATION + 1.0), self._give_back_soon)
        return takens

    def _fly(self, name: str, fun: Any, *args: Any) -> None:
        task = runtime.spawn(fun, *args, name=name, on_exit=lambda task, error: self._flying.discard(task))
        self._flying.add(task)

    def _claim(self, queues: list[str], n: int, max_bytes: int, waiter: runtime.Waiter) -> None:
        claim = next(self._claims)
        deadline = runtime.Deadline.after(_OPERATION)
        try:
            rows = self._run(self.sql.take, queues, n, max_bytes, self._me, claim, deadline=deadline)
        except Exception as error:  # raised to who waits
            self._lost[claim] = runtime.monotonic()
            waiter.fail(error)
            return
        except BaseException:
            self._lost[claim] = runtime.monotonic()
            waiter.fail(ConnectionClosed('the claim was ended'))
            raise
        takens = [Taken(name, payload, number, deliveries) for name, number, payload, deliveries in rows]
        if not waiter.wake(takens):
            self._give_back(takens)

    def _give_back_soon(self, takens: list[Taken]) -> None:
        if takens:
            self._fly('sql-give-back', self._give_back, takens)

    def _give_back(self, takens: list[Taken]) -> None:
        if not takens:
            return
        try:
            self.settle([], [(taken, UNSEEN) for taken in takens], runtime.Deadline.after(_OPERATION))
        except Exception as error:  # the end of our lease does it
            logger.warning('%d messages go back when our lease ends, not now: %s', len(takens), error)

    def _give_back_lost(self, deadline: runtime.Deadline) -> None:
        # Claims whose answer we never had may have been made: at once, or when the server comes to it.
        if not self._lost:
            return
        now = runtime.monotonic()
        claims = list(self._lost)
        names = self._run(self.sql.unknown, self.settings['notify'], self._me, claims, deadline=deadline)
        for claim in claims:
            if now - self._lost.get(claim, now) > _SETTLED:
                del self._lost[claim]
        self._wake({name for (name,) in names})

    def settle(
        self, done: list[Taken], back: list[tuple[Taken, str]], deadline: runtime.Deadline
    ) -> Iterable[tuple[Taken, Exception | None]]:
        gone: set[int] = set()
        if done:
            ids = [taken.receipt for taken in done]
            gone.update(number for (number,) in self._run(self.sql.done, self._me, ids, deadline=deadline))
        if back:
            rows = self._run(
                self.sql.back, self.settings['notify'], self._me, [taken.receipt for taken, _ in back],
                [int(fate == REQUEUE) for _, fate in back], deadline=deadline,
            )  # fmt: skip
            gone.update(number for number, _ in rows if number > 0)
            self._wake({name for number, name in rows if number == 0 and name})
        return [(taken, None) for taken in (*done, *(taken for taken, _ in back)) if taken.receipt in gone]

    def extend(self, takens: list[Taken], seconds: float, deadline: runtime.Deadline) -> Iterable[Taken]:
        rows = self._run(
            self.sql.extend, self._me, seconds, [taken.receipt for taken in takens], deadline=deadline
        )
        gone = {number for (number,) in rows}
        return [taken for taken in takens if taken.receipt in gone]

    # ---- queues

    def make(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> None:
        if len(queue) > MAX_NAME:
            raise InvalidArgument('queue', queue, f'is longer than the {MAX_NAME} characters of its column')
        arguments = dict(facts.get('arguments') or {})
        limits = QueueLimits.of(arguments)
        owner = self._me if facts.get('exclusive') else None
        self._run(
            self.sql.make, queue, dumps(arguments, sort_keys=True, default=str), owner, limits.expires,
            deadline=deadline,
        )  # fmt: skip

    def has(self, queue: str, deadline: runtime.Deadline) -> bool:
        return bool(self._run(self.sql.has, queue, deadline=deadline))

    def facts(self, queue: str, deadline: runtime.Deadline) -> Mapping[str, Any] | None:
        rows = self._run(self.sql.facts, queue, deadline=deadline)
        return {'arguments': loads(rows[0][0])} if rows else None

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

    # ---- bindings

    def bindings(self, exchange: str, deadline: runtime.Deadline) -> list[Binding]:
        rows = self._run(self.sql.bindings, exchange, deadline=deadline)
        return [Binding(exchange, kind, key, queue, loads(arguments)) for kind, key, queue, arguments in rows]

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        exchange, kind, key, queue, arguments = binding
        self._run(self.sql.bind, exchange, kind, key or '', queue, _text(arguments), deadline=deadline)

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        exchange, _, key, queue, arguments = binding
        self._run(self.sql.unbind, exchange, key or '', queue, _text(arguments), deadline=deadline)

    # ---- now and then

    def sweep(self, deadline: runtime.Deadline) -> None:
        count = _BATCH
        while count >= _BATCH:
            rows = self._run(self.sql.sweep, self.settings['notify'], self._me, deadline=deadline)
            count, names, _ = rows[0]
            self._wake(names)
        self._run(self.sql.clean, deadline=deadline)
        for (queue,) in self._run(self.sql.expired, deadline=deadline):
            self.delete(queue, deadline)
        count = _BATCH if self.settings['purge_delivered'] else 0
        while count >= _BATCH:
            (count,), = self._run(self.sql.purge_delivered, deadline=deadline)

    def stats(self) -> dict[str, Any]:
        pool, listener = self._pool, self._listener
        return {
            'statements': self._statements + (0 if pool is None else pool.statements),
            'notified': listener is not None and listener.live,
            'listens': 0 if listener is None else listener.connects,
        }


def _text(arguments: Any) -> str:
    return dumps(arguments, sort_keys=True, default=str)


def _keep(driver: PostgreSQLDriver) -> None:
    driver.keep()
