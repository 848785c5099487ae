"""The broker in any database of SQLAlchemy, on kombu's tables, in one native thread that has the client.

The tables and what they mean are those of PostgreSQL's driver; see `tables.py`. There are no notifications:
who waits looks now and then, and at once when somebody in this process publishes.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed, ConnectionLost, InvalidArgument, NotFound
from greenmq.log import get_logger
from greenmq.transport.driver import REQUEUE, UNSEEN, Binding, Fault, Place, Put, Taken
from greenmq.transport.driver.contract import Owner
from greenmq.transport.gate import Gate
from greenmq.transport.limits import QueueLimits, arguments_text
from greenmq.transport.patience import Patience
from greenmq.transport.sqlalchemy.options import SQLDriver
from greenmq.transport.sqlalchemy.tables import MAX_NAME, Tables
from greenmq.transport.waiters import Waiters
from greenmq.utils.json import loads

try:
    import sqlalchemy as sa
except ImportError as error:
    raise ImportError(
        'databases other than PostgreSQL need SQLAlchemy: pip install greenmq[sqlalchemy]', name='sqlalchemy'
    ) from error

from greenmq.transport.sqlalchemy.schema import Schema, schema_of

__all__ = ('DialectDriver',)

logger = get_logger('greenmq.transport.sqlalchemy')

#: Seconds for what the base gives no deadline.
_OPERATION = 30.0
#: Seconds of the first pause between two looks; it doubles up to polling_interval.
_FIRST_PAUSE = 0.1
#: Rows that one statement of a sweep handles.
_BATCH = 1000
#: Tries of a transaction that the server ended in favour of another.
_TRIES = 10


def _is_collision(error: Any) -> bool:
    # MySQL ends one of two transactions that wait for each other: nothing of it was done.
    return bool(error.orig.args) and error.orig.args[0] in (1213, 1205, 1020)


def _is_disconnect(error: Exception) -> bool:
    return isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated


class _Client:
    """SQLAlchemy's engine, which one worker's thread makes, alone uses, and disposes of at its end.

    Attributes:
        transactions (int): how many were begun.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None) -> None:
        self._url = url
        self._options = dict(options or {})
        self._engine: Any = None
        self._gate: Gate | None = None
        self.transactions = 0

    def connect(self, schema: Schema, first: Callable[[Any], Any]) -> None:
        """Make the engine, the tables and the index that are not there, and a first transaction."""
        given = self._options
        if self._url.startswith(('mysql', 'mariadb')):
            # Locks on what was read and not taken would make consumers wait for each other.
            given.setdefault('isolation_level', 'READ COMMITTED')
        engine = self._engine = sa.create_engine(self._url, **given)
        if self._url.startswith('sqlite'):
            file = engine.url.database
            if file and not file.startswith((':memory:', 'file:')):
                self._gate = Gate(os.path.abspath(file))
            # The driver would begin a transaction that is upgraded later, which another writer can refuse.
            sa.event.listen(engine, 'connect', _by_hand)
            sa.event.listen(engine, 'begin', _immediate)
        with self._turn():
            schema.metadata.create_all(engine)
            self._index(schema.ready)
        self.transact(first)

    def _index(self, index: Any) -> None:
        # In a table that kombu has made. A table that is in use is left alone: all would wait behind us.
        dialect = self._engine.dialect.name
        if dialect not in ('sqlite', 'mysql', 'mariadb'):
            return
        try:
            with self._engine.begin() as db:
                if dialect != 'sqlite':
                    db.exec_driver_sql('SET SESSION lock_wait_timeout = 1')
                index.create(db, checkfirst=True)
                if dialect != 'sqlite':
                    db.exec_driver_sql('SET SESSION lock_wait_timeout = DEFAULT')
        except sa.exc.DBAPIError as error:
            if error.connection_invalidated:
                raise
            logger.info('no index of our own, claims read dead rows, too: %s', error.orig)
            self._engine.dispose()  # and with it the setting

    def _turn(self) -> Any:
        return contextlib.nullcontext() if self._gate is None else self._gate

    def transact(self, fun: Callable[[Any], Any]) -> Any:
        """Return what a function does with a connection, in one transaction."""
        for turn in range(_TRIES):
            self.transactions += 1
            try:
                with self._turn(), self._engine.begin() as db:
                    return fun(db)
            except sa.exc.OperationalError as error:
                if not _is_collision(error) or turn == _TRIES - 1:
                    raise
        return None

    def dispose(self, close: bool = True) -> None:
        """Close its connections; in a forked child only forget them."""
        if self._engine is not None:
            self._engine.dispose(close=close)
            self._engine.clear_compiled_cache()  # the engine waits for the collector: they need not
        if self._gate is not None:
            self._gate.close()


class DialectDriver(SQLDriver):
    """Queues in kombu's tables in MySQL, MariaDB, SQLite and other databases of SQLAlchemy."""

    errors = {
        _is_disconnect: ConnectionLost,
        sa.exc.OperationalError: ConnectionLost,
        sa.exc.InterfaceError: ConnectionLost,
        sa.exc.IntegrityError: Fault(NotFound, 'no'),
    }

    def __init__(self, place: Place, settings: Mapping[str, Any], owner: Owner) -> None:
        super().__init__(place, settings, owner)
        self._tables = schema_of(Tables.of(settings['queue_tablename'], settings['message_tablename']))
        self._me = f'{_socket.gethostname()[:20]}:{os.getpid()}:{os.urandom(8).hex()}'
        self._worker: runtime.Worker | None = None
        self._client: _Client | None = None
        self._sqlite = place.url.startswith('sqlite')
        self._waiters = Waiters()
        self._transactions = 0
        self._keeper: Any = None
        self._silent = Patience()  # with owners whose lease has passed
        self._unused = Patience()  # with queues that expire

    # ---- the connection, all of it in the worker's thread

    def open(self, deadline: runtime.Deadline) -> None:
        self._leave()
        client = self._client = _Client(self.place.url, self.settings['engine_options'])
        worker = self._worker = runtime.Worker(f'sql {self.place.host}', client.dispose)
        worker.call(client.connect, self._tables, self._renew, deadline=deadline)
        self._keeper = runtime.every(self, (self.lease_seconds or 30.0) / 3, _keep, name='sql-owner')

    def close(self, deadline: runtime.Deadline) -> None:
        owner, delivery = self._tables.owner, self._tables.delivery

        def leave(db: Any) -> None:
            held = sa.select(delivery.c.message_id).where(delivery.c.owner == self._me).limit(1)
            if db.execute(held).first() is None:
                db.execute(owner.delete().where(owner.c.id == self._me))

        try:
            if self._worker is not None:
                self._do(leave, deadline)
        finally:
            self._leave()

    def _leave(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.kill()
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()  # and its thread disposes of the client
        client, self._client = self._client, None
        if client is not None:
            self._transactions += client.transactions

    def forget(self) -> None:
        client, self._client, self._worker = self._client, None, None
        if client is not None:
            client.dispose(close=False)

    def ping(self, deadline: runtime.Deadline) -> None:
        self._do(lambda db: db.execute(sa.select(1)).scalar(), deadline)

    def version(self) -> str:
        return f'SQLAlchemy {sa.__version__}'

    def _do(self, fun: Callable[[Any], Any], deadline: runtime.Deadline, abandon: Any = None) -> Any:
        worker, client = self._worker, self._client
        if worker is None or client is None:
            raise ConnectionClosed(f'{self.place.host} is closed')

        def late(result: Any) -> None:
            client.transact(lambda db: abandon(db, result))

        return worker.call(client.transact, fun, deadline=deadline, abandon=late if abandon else None)

    # ---- leases

    def _now(self, db: Any) -> float:
        # One clock for all: the server's. A file has the clock of its machine.
        if self._sqlite:
            return time.time()
        if db.dialect.name in ('mysql', 'mariadb'):
            return float(db.execute(sa.text('SELECT UNIX_TIMESTAMP(NOW(6))')).scalar())
        return float(db.execute(sa.select(sa.extract('epoch', sa.func.current_timestamp()))).scalar())

    def _renew(self, db: Any) -> None:
        owner = self._tables.owner
        until = self._now(db) + (self.lease_seconds or 30.0)
        if not db.execute(owner.update().where(owner.c.id == self._me).values(until=until)).rowcount:
            known = sa.select(owner.c.id).where(owner.c.id == self._me)
            if db.execute(known).first() is None:  # MySQL counts only what changed
                db.execute(owner.insert().values(id=self._me, until=until))
        waiting = list(self._waiters)
        facts = self._tables.facts
        if waiting:
            db.execute(facts.update().where(facts.c.queue.in_(waiting)).values(used=self._now(db)))

    def keep(self) -> None:
        """Renew our lease. Switches: yes."""
        if self._worker is not None:
            self._do(self._renew, runtime.Deadline.after((self.lease_seconds or 30.0) / 3))

    def _queue_ids(self, db: Any, names: Iterable[str]) -> dict[str, int]:
        queue = self._tables.queue
        found = db.execute(sa.select(queue.c.name, queue.c.id).where(queue.c.name.in_(list(names))))
        return {str(name): int(number) for name, number in found}

    # ---- messages

    def put(self, items: list[Put], deadline: runtime.Deadline) -> Iterable[Exception | None]:
        message = self._tables.message

        def put(db: Any) -> list[Exception | None]:
            ids = self._queue_ids(db, {item.queue for item in items})
            rows = [
                {'visible': True, 'payload': item.payload, 'version': 1, 'queue_id': ids[item.queue]}
                for item in items if item.queue in ids
            ]
            if rows:
                db.execute(message.insert(), rows)
            return [None if item.queue in ids else NotFound(f'no queue {item.queue!r}') for item in items]

        outcomes: list[Exception | None] = self._do(put, deadline)
        self._waiters.wake({item.queue for item in items})
        return outcomes

    def take(self, queues: list[str], n: int, max_bytes: int, seconds: float) -> list[Taken]:
        pause = _FIRST_PAUSE

        def look(woken: bool) -> tuple[list[Taken], float]:
            nonlocal pause
            again, pause = pause, min(pause * 2, self.settings['polling_interval'] or 1.0)
            claim = runtime.Deadline.after(_OPERATION)
            return self._do(lambda db: self._claim(db, queues, n, max_bytes), claim, self._unseen), again

        return self._waiters.take(queues, seconds, look)

    def _unseen(self, db: Any, takens: list[Taken]) -> None:
        # In the worker's thread: nobody waits for these any more.
        if takens:
            self._settle(db, [], [(taken, UNSEEN) for taken in takens])

    def _claim(self, db: Any, queues: list[str], n: int, max_bytes: int) -> list[Taken]:
        message, delivery = self._tables.message, self._tables.delivery
        found: list[tuple[str, int, str]] = []
        ids, room = self._queue_ids(db, queues), max_bytes
        for name in queues:
            if name not in ids or len(found) >= n or room <= 0:
                continue
            rows = db.execute(
                sa.select(message.c.id, message.c.payload)
                .where(message.c.queue_id == ids[name], message.c.visible == sa.true())
                .order_by(message.c.timestamp, message.c.id).limit(n - len(found))
                .with_for_update(skip_locked=True)
            ).all()  # fmt: skip
            for number, payload in rows:
                if room <= 0:
                    break
                found.append((name, number, payload))
                room -= len(payload)
        if not found:
            return []
        numbers = [number for _, number, _ in found]
        db.execute(
            message.update().where(message.c.id.in_(numbers)).values(
                visible=sa.false(), timestamp=sa.func.now(), version=message.c.version % 30000 + 1
            )
        )
        counted = dict(
            db.execute(
                sa.select(delivery.c.message_id, delivery.c.deliveries)
                .where(delivery.c.message_id.in_(numbers))
            ).all()
        )  # fmt: skip
        if counted:
            known = delivery.c.message_id.in_(list(counted))
            db.execute(delivery.update().where(known).values(owner=self._me))
        fresh = [
            {'message_id': number, 'owner': self._me, 'deliveries': 0}
            for number in numbers if number not in counted
        ]  # fmt: skip
        if fresh:
            db.execute(delivery.insert(), fresh)
        return [Taken(name, payload, number, counted.get(number, 0)) for name, number, payload in found]

    def settle(
        self, done: list[Taken], back: list[tuple[Taken, str]], deadline: runtime.Deadline
    ) -> Iterable[tuple[Taken, Exception | None]]:
        gone = self._do(lambda db: self._settle(db, done, back), deadline)
        self._waiters.wake({taken.queue for taken, _ in back})
        return [(taken, None) for taken in (*done, *(taken for taken, _ in back)) if taken.receipt in gone]

    def _mine(self, db: Any, numbers: list[int]) -> list[int]:
        delivery = self._tables.delivery
        return list(
            db.execute(
                sa.select(delivery.c.message_id)
                .where(delivery.c.message_id.in_(numbers), delivery.c.owner == self._me).with_for_update()
            ).scalars()
        )

    def _settle(self, db: Any, done: list[Taken], back: list[tuple[Taken, str]]) -> set[int]:
        message, delivery = self._tables.message, self._tables.delivery
        numbers = [taken.receipt for taken in (*done, *(taken for taken, _ in back))]
        mine = set(self._mine(db, numbers))
        finished = [taken.receipt for taken in done if taken.receipt in mine]
        if finished:
            db.execute(delivery.delete().where(delivery.c.message_id.in_(finished)))
            db.execute(message.delete().where(message.c.id.in_(finished)))
        for counted in (0, 1):
            self._free(db, [
                taken.receipt for taken, fate in back
                if taken.receipt in mine and int(fate == REQUEUE) == counted
            ], counted)  # fmt: skip
        lost = [number for number in numbers if number not in mine]
        if not lost:
            return set()
        return set(db.execute(sa.select(message.c.id).where(message.c.id.in_(lost))).scalars())

    def _free(self, db: Any, numbers: list[int], counted: int) -> None:
        message, delivery = self._tables.message, self._tables.delivery
        if numbers:
            db.execute(
                delivery.update().where(delivery.c.message_id.in_(numbers))
                .values(owner=None, deliveries=delivery.c.deliveries + counted)
            )
            db.execute(
                message.update().where(message.c.id.in_(numbers)).values(visible=sa.true(), timestamp=None)
            )

    def extend(self, takens: list[Taken], seconds: float, deadline: runtime.Deadline) -> Iterable[Taken]:
        def extend(db: Any) -> set[int]:
            self._renew(db)
            return set(self._mine(db, [taken.receipt for taken in takens]))

        mine = self._do(extend, deadline)
        return [taken for taken in takens if taken.receipt not in mine]

    # ---- queues

    def make(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> None:
        if len(queue) > MAX_NAME:
            raise InvalidArgument('queue', queue, f'is longer than the {MAX_NAME} characters of its column')
        arguments = dict(facts.get('arguments') or {})
        limits = QueueLimits.of(arguments)
        owner = self._me if facts.get('exclusive') else None
        table, known = self._tables.queue, self._tables.facts

        def make(db: Any) -> None:
            if queue not in self._queue_ids(db, [queue]):
                db.execute(table.insert().values(name=queue))
            if arguments or owner is not None:
                db.execute(known.delete().where(known.c.queue == queue))
                db.execute(known.insert().values(
                    queue=queue, arguments=arguments_text(arguments), owner=owner, lives=limits.expires,
                    used=self._now(db),
                ))  # fmt: skip

        try:
            self._do(make, deadline)
        except sa.exc.IntegrityError:  # another process made it in the same moment
            self._do(make, deadline)

    def has(self, queue: str, deadline: runtime.Deadline) -> bool:
        return bool(self._do(lambda db: self._queue_ids(db, [queue]), deadline))

    def facts(self, queue: str, deadline: runtime.Deadline) -> Mapping[str, Any] | None:
        facts = self._tables.facts
        wanted = sa.select(facts.c.arguments).where(facts.c.queue == queue)
        found = self._do(lambda db: db.execute(wanted).scalar(), deadline)
        return None if found is None else {'arguments': loads(found)}

    def _visible(self, db: Any, queue: str) -> Any:
        message = self._tables.message
        number = self._queue_ids(db, [queue]).get(queue)
        return sa.and_(message.c.queue_id == number, message.c.visible == sa.true())

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        message = self._tables.message
        count = sa.select(sa.func.count()).select_from(message)
        return int(self._do(lambda db: db.execute(count.where(self._visible(db, queue))).scalar(), deadline))

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        message = self._tables.message
        gone = message.delete()
        return int(self._do(lambda db: db.execute(gone.where(self._visible(db, queue))).rowcount, deadline))

    def delete(self, queue: str, deadline: runtime.Deadline) -> None:
        self._do(lambda db: self._delete(db, queue), deadline)

    def _delete(self, db: Any, queue: str) -> None:
        schema = self._tables
        number = self._queue_ids(db, [queue]).get(queue)
        db.execute(schema.message.delete().where(schema.message.c.queue_id == number))
        db.execute(schema.facts.delete().where(schema.facts.c.queue == queue))
        db.execute(schema.binding.delete().where(schema.binding.c.queue == queue))
        db.execute(schema.queue.delete().where(schema.queue.c.name == queue))

    # ---- bindings

    def bindings(self, exchange: str, deadline: runtime.Deadline) -> list[Binding]:
        table = self._tables.binding
        columns = sa.select(table.c.kind, table.c.routing_key, table.c.queue, table.c.arguments)
        rows = self._do(lambda db: db.execute(columns.where(table.c.exchange == exchange)).all(), deadline)
        return [Binding(exchange, kind, key, queue, loads(arguments)) for kind, key, queue, arguments in rows]

    def _same(self, binding: Binding) -> Any:
        table = self._tables.binding
        exchange, _, key, queue, arguments = binding
        return sa.and_(
            table.c.exchange == exchange, table.c.routing_key == (key or ''), table.c.queue == queue,
            table.c.arguments == arguments_text(arguments),
        )  # fmt: skip

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        table = self._tables.binding
        exchange, kind, key, queue, arguments = binding

        def bind(db: Any) -> None:
            if db.execute(sa.select(table.c.number).where(self._same(binding))).first() is None:
                db.execute(table.insert().values(
                    exchange=exchange, kind=kind, routing_key=key or '', queue=queue,
                    arguments=arguments_text(arguments),
                ))  # fmt: skip

        self._do(bind, deadline)

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        table = self._tables.binding
        self._do(lambda db: db.execute(table.delete().where(self._same(binding))), deadline)

    # ---- now and then

    def sweep(self, deadline: runtime.Deadline) -> None:
        self._do(self._sweep, deadline)

    def _gone(self, db: Any, alive: Any) -> list[str]:
        # The clock of a machine may jump, and then all leases look as if they had passed: who lives has his
        # renewed before half of one is over by the clock that does not jump. A server's clock is believed.
        silent = {
            name
            for column in (self._tables.delivery.c.owner, self._tables.facts.c.owner)
            for name in db.execute(
                sa.select(column).where(column.is_not(None), column.not_in(alive)).distinct()
            ).scalars()
        }
        self._silent.look(silent)
        return self._silent.ended(self._renewed_within if self._sqlite else 0.0)

    @property
    def _renewed_within(self) -> float:
        # Seconds after which who lives has surely renewed his lease, and what he uses.
        return (self.lease_seconds or 30.0) / 2

    def _sweep(self, db: Any) -> None:
        schema = self._tables
        delivery, owner, facts, message = schema.delivery, schema.owner, schema.facts, schema.message
        now = self._now(db)
        alive = sa.select(owner.c.id).where(owner.c.until > now)
        gone = self._gone(db, alive)
        if gone:
            dead = db.execute(
                sa.select(delivery.c.message_id).where(delivery.c.owner.in_(gone))
                .limit(_BATCH).with_for_update(skip_locked=True)
            ).scalars().all()  # fmt: skip
            self._free(db, list(dead), 1)
        holding = sa.select(delivery.c.owner).where(delivery.c.owner.is_not(None))
        db.execute(owner.delete().where(owner.c.until < now - 60, owner.c.id.not_in(holding)))
        orphans = db.execute(
            sa.select(delivery.c.message_id).outerjoin(message, message.c.id == delivery.c.message_id)
            .where(message.c.id.is_(None)).limit(_BATCH)
        ).scalars().all()  # fmt: skip
        if orphans:
            db.execute(delivery.delete().where(delivery.c.message_id.in_(list(orphans))))
        unused = sa.select(facts.c.queue).where(facts.c.used + facts.c.lives < now)
        self._unused.look(db.execute(unused).scalars())
        ownerless = db.execute(sa.select(facts.c.queue).where(facts.c.owner.in_(gone))).scalars().all()
        for queue in {*ownerless, *self._unused.ended(self._renewed_within)}:
            self._delete(db, queue)
        if self.settings['purge_delivered']:
            taken = db.execute(
                sa.select(message.c.id).outerjoin(delivery, message.c.id == delivery.c.message_id)
                .where(message.c.visible == sa.false(), delivery.c.message_id.is_(None)).limit(_BATCH)
            ).scalars().all()  # fmt: skip
            if taken:
                db.execute(message.delete().where(message.c.id.in_(list(taken))))

    def stats(self) -> dict[str, Any]:
        client = self._client
        return {'transactions': self._transactions + (0 if client is None else client.transactions)}


def _keep(driver: DialectDriver) -> None:
    driver.keep()


def _by_hand(connection: Any, record: Any) -> None:
    connection.isolation_level = None
    connection.execute('PRAGMA busy_timeout = 30000')


def _immediate(connection: Any) -> None:
    connection.exec_driver_sql('BEGIN IMMEDIATE')
