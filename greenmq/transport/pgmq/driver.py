"""The broker in pgmq: what the base needs of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

from greenmq import runtime
from greenmq.exceptions import InvalidArgument, NotFound
from greenmq.log import get_logger
from greenmq.transport.driver import REQUEUE, Binding, Place, Put, Taken
from greenmq.transport.driver.contract import Owner
from greenmq.transport.limits import QueueLimits, arguments_text
from greenmq.transport.options import Option, seconds, truth, whole
from greenmq.transport.pgmq.names import Name, fanout_pattern, is_pattern, name_of, topic_prefix
from greenmq.transport.pgmq.statements import READS, QueueStatements, Statements, due
from greenmq.transport.postgresql.arrays import Numbers, Texts
from greenmq.transport.postgresql.connection import psycopg
from greenmq.transport.postgresql.driver import TableDriver
from greenmq.transport.postgresql.pool import Pool
from greenmq.transport.postgresql.presence import Presence
from greenmq.utils.json import dumps

__all__ = ('PgmqDriver',)

logger = get_logger('greenmq.transport.pgmq')

#: Seconds that the row of a session lives without being renewed.
_PRESENCE = 30.0
#: Seconds between two looks at least, while messages are there that may not be read now.
_SOONEST, _SOONEST_OF_GROUPS = 0.05, 0.5
#: Bytes that one string in a jsonb may have.
_LONGEST = 256 * 1024 * 1024 - 1


def _mode(value: Any) -> str | None:
    if value in (None, ''):
        return None
    if value not in READS:
        raise ValueError(f'none of {", ".join(mode for mode in READS if mode)}')
    return str(value)


class PgmqDriver(TableDriver):
    """Queues of pgmq, for any number of processes.

    A delivery is ours for `lease_timeout` seconds, and is renewed; only pgmq's clock counts.
    """

    delivery = 'wait'
    groups = 'all'
    wait_seconds = 15.0
    take_batch = 100
    settle_batch = 500
    settle_hold = 0.01
    put_batch = 500
    max_puts = 1
    keeps_deadline = True
    lease_seconds = 60.0
    max_delay = None
    max_payload = _LONGEST
    shared_bindings = True
    options = {
        'queue_name_prefix': Option(str, '', 'what stands before the name of each queue'),
        'visibility_timeout': Option(seconds, None, "kombu's name of lease_timeout"),
        'lease_timeout': Option(
            seconds, None, 'seconds that a delivery is ours without a renewal; 60 if it is not given'
        ),
        'wait_time_seconds': Option(
            seconds, None, 'seconds between two looks of who waits, beside those that a notification brings'
        ),
        'max_poll_seconds': Option(seconds, None, "kombu's old name of wait_time_seconds"),
        'poll_interval_ms': Option(whole, None, 'of no effect: the server is never made to poll'),
        'init_extension': Option(truth, True, 'create the extension if there is no pgmq'),
        'pool_size': Option(whole, None, "kombu's name of max_connections"),
        'pool_timeout': Option(seconds, None, 'of no effect: each call has its own deadline'),
        'max_connections': Option(whole, None, 'connections for statements; one more listens'),
        'conn_string': Option(str, None, 'a connection string of libpq, instead of what the URL says'),
        'fifo_mode': Option(_mode, None, "'grouped' or 'round_robin': messages of one group one by one"),
        'notify': Option(truth, True, 'wake who waits with NOTIFY, and LISTEN'),
        'use_notify': Option(truth, False, "have pgmq notify of others' inserts, by a trigger on each queue"),
        'notify_throttle_interval_ms': Option(whole, 250, 'between two notifications of that trigger'),
        'prepared': Option(truth, True, 'prepare statements at the server; not behind a pooler without them'),
    }

    def __init__(self, place: Place, settings: Mapping[str, Any], owner: Owner) -> None:
        self.sql = Statements.of(settings['fifo_mode'])
        prefix = self._prefix = settings['queue_name_prefix']
        presence = Presence(
            self.sql.side, owner, _PRESENCE, settings['polling_interval'] or 1.0,
            lambda queue: name_of(queue, prefix).channel,
        )  # fmt: skip
        super().__init__(place, settings, owner, self.sql.side, presence)
        given = settings['lease_timeout'] or settings['visibility_timeout']
        if given:
            self.lease_seconds = given
        self.wait_seconds = settings['wait_time_seconds'] or settings['max_poll_seconds'] or self.wait_seconds
        self._names: dict[str, Name] = {}
        self._of_queue: dict[str, QueueStatements] = {}
        self._due: dict[tuple[str, ...], str] = {}
        self._size = 0.0  # bytes of a message, about

    # ---- the connection

    def _prepare(self, pool: Pool, deadline: runtime.Deadline) -> None:
        pgmq, ours = pool.run(self.sql.there, deadline=deadline)[0]
        if not pgmq:
            text = f'NOT_FOUND - {self.place.host}: there is no pgmq in this database'
            if not self.settings['init_extension']:
                raise NotFound(text, (40, 10), 'connect', 404)
            try:
                pool.run(self.sql.extension, deadline=deadline)
            except psycopg.Error as error:
                if not (error.sqlstate or '').startswith(('58', '0A', '42')):
                    raise
                raise NotFound(f'{text}, and: {str(error).strip()}', (40, 10), 'connect', 404) from error
        if not ours:
            pool.run(self.sql.create, deadline=deadline)

    # ---- names

    def _name(self, queue: str) -> Name:
        name = self._names.get(queue)
        if name is None:
            name = self._names[queue] = name_of(queue, self._prefix)
        return name

    def _about(self, queue: str) -> QueueStatements:
        found = self._of_queue.get(queue)
        if found is None:
            found = self._of_queue[queue] = QueueStatements.of(self._name(queue))
        return found

    # ---- messages

    def encode(self, message: dict[str, Any]) -> str:
        """Return the JSON text of a message.

        Raises:
            InvalidArgument: something in it that jsonb cannot keep.
        """
        text = dumps(message)
        # What is wrong is seldom there, and then perhaps in an innocent place: only then it's worth a walk.
        if any(sign in text for sign in ('\\u0000', '\\ud')):
            _check(message, '')
        return text

    def put(self, items: list[Put], deadline: runtime.Deadline) -> Iterable[Exception | None] | None:
        try:
            return self._put(items, deadline)
        except psycopg.DataError as error:
            if len(items) == 1:
                raise
            # One of them: it alone shall fail. None is stored yet, a statement is stored whole or not.
            logger.warning('a batch of messages was refused, and is put one by one: %s', str(error).strip())
        return [self._put_one(item, deadline) for item in items]

    def _put_one(self, item: Put, deadline: runtime.Deadline) -> Exception | None:
        try:
            return next(iter(self._put([item], deadline) or [None]))
        except psycopg.DataError as error:
            return InvalidArgument('message', '(hidden)', str(error).strip())

    def _put(self, items: list[Put], deadline: runtime.Deadline) -> list[Exception | None] | None:
        columns = (
            [item.queue for item in items], [self._name(item.queue).name for item in items],
            [item.payload for item in items], [_headers(item) for item in items],
            [str(_delay(item)) for item in items],
        )  # fmt: skip
        return self._insert(items, columns, deadline)

    def take(self, queues: list[str], n: int, max_bytes: int, seconds: float) -> list[Taken]:
        return self.presence.take(
            queues, seconds, lambda: self._take(queues, n, max_bytes), lambda: self._next_due(queues)
        )

    def _take(self, queues: list[str], n: int, max_bytes: int) -> list[Taken]:
        names = [self._name(queue).name for queue in queues]
        # pgmq counts messages, not bytes.
        room = min(n, max(int(max_bytes / self._size), 1)) if self._size else n
        lease = self._lease()

        def claim(deadline: runtime.Deadline) -> list[Taken]:
            rows = self._run(self.sql.take, Texts(queues), Texts(names), room, lease, deadline=deadline)
            if rows:
                self._size = (self._size + sum(len(row[4]) for row in rows) / len(rows)) / 2
            return [
                Taken(queue, payload, (number, at), deliveries)
                for queue, number, at, deliveries, payload in rows
            ]

        return self._claims.make(claim, self._give_back)

    def _lease(self, seconds: float | None = None) -> int:
        return max(math.ceil(self.lease_seconds or 60.0 if seconds is None else seconds), 1)

    def _next_due(self, queues: list[str]) -> float | None:
        # What is delayed, and what others hold and may not renew: nobody tells when it may be read.
        key = tuple(queues)
        statement = self._due.get(key)
        if statement is None:
            if len(self._due) > 100:
                self._due.clear()
            statement = self._due[key] = due([self._name(queue) for queue in queues])
        try:
            ((after,),) = self._run(statement, deadline=runtime.Deadline.after(self.wait_seconds))
        except psycopg.errors.UndefinedTable:
            return None
        soonest = _SOONEST if self.settings['fifo_mode'] is None else _SOONEST_OF_GROUPS
        return None if after is None else max(after, soonest)

    def settle(
        self, done: list[Taken], back: list[tuple[Taken, str]], deadline: runtime.Deadline
    ) -> Iterable[tuple[Taken, Exception | None]]:
        gone: list[tuple[Taken, Exception | None]] = []
        fates = [
            ('done', done),
            ('unseen', [taken for taken, fate in back if fate != REQUEUE]),
            ('requeue', [taken for taken, fate in back if fate == REQUEUE]),
        ]
        for fate, all_takens in fates:
            for queue, takens in _by_queue(all_takens):
                lost = self._about_mine(fate, queue, takens, (), deadline)
                gone += [(taken, None) for taken in lost]
        self.presence.waiters.wake({taken.queue for taken, _ in back})
        return gone

    def _about_mine(
        self, what: str, queue: str, takens: list[Taken], more: tuple[Any, ...], deadline: runtime.Deadline
    ) -> list[Taken]:
        # Those that are not ours any more.
        statement = getattr(self._about(queue), what)
        ids = [taken.receipt[0] for taken in takens]
        reads = [taken.receipt[1] for taken in takens]
        try:
            rows = self._run(
                statement, self.settings['notify'], self.presence.me, queue, Numbers(ids), Numbers(reads),
                *more, deadline=deadline,
            )  # fmt: skip
        except psycopg.errors.UndefinedTable:
            return takens if what == 'extend' else []  # deleted, and they with it
        lost = {number for (number,) in rows}
        return [taken for taken in takens if taken.receipt[0] in lost]

    def extend(self, takens: list[Taken], seconds: float, deadline: runtime.Deadline) -> Iterable[Taken]:
        lease = (self._lease(seconds),)
        lost = [
            self._about_mine('extend', queue, of_it, lease, deadline) for queue, of_it in _by_queue(takens)
        ]
        return list(itertools.chain.from_iterable(lost))

    # ---- queues

    def make(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> None:
        arguments = dict(facts.get('arguments') or {})
        limits = QueueLimits.of(arguments)
        name = self._name(queue)
        called, there = self._run(self.sql.called, name.key, name.name, deadline=deadline)[0]
        if called is None:
            self._run(self.sql.call, name.key, queue, deadline=deadline)
            called = self._run(self.sql.called, name.key, name.name, deadline=deadline)[0][0]
        if called not in (None, queue):
            raise InvalidArgument('queue', queue, f'is called {name.key!r} in pgmq, and so is {called!r}')
        if not there:  # its index would have all publishers to it wait
            self._create(name, arguments, deadline)
        if self.settings['use_notify']:
            throttle = self.settings['notify_throttle_interval_ms']
            self._run(self.sql.enable_notify, name.name, throttle, deadline=deadline)
        owner = self.presence.me if facts.get('exclusive') else None
        text = arguments_text(arguments)
        self._run(self.sql.declare, queue, text, owner, limits.expires, deadline=deadline)

    def _create(self, name: Name, arguments: dict[str, Any], deadline: runtime.Deadline) -> None:
        if arguments.get('x-pgmq-partitioned'):
            each, kept = (
                str(arguments.get(f'x-pgmq-{which}-interval', default))
                for which, default in (('partition', 10000), ('retention', 100000))
            )
            self._run(self.sql.create_partitioned, name.name, each, kept, deadline=deadline)
        else:
            self._run(self.sql.create_queue, name.name, deadline=deadline)
        if arguments.get('x-pgmq-fifo-index') or self.settings['fifo_mode']:
            self._run(self.sql.create_fifo_index, name.name, deadline=deadline)

    def has(self, queue: str, deadline: runtime.Deadline) -> bool:
        return bool(self._run(self.sql.has, self._name(queue).name, deadline=deadline))

    def _count(self, statement: str, deadline: runtime.Deadline) -> int:
        try:
            return int(self._run(statement, deadline=deadline)[0][0])
        except psycopg.errors.UndefinedTable:
            return 0

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        return self._count(self._about(queue).size, deadline)

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        return self._count(self._about(queue).purge, deadline)

    def delete(self, queue: str, deadline: runtime.Deadline) -> None:
        name = self._name(queue)
        self._run(self.sql.delete, name.key, name.name, queue, deadline=deadline)

    def queues(self, deadline: runtime.Deadline) -> list[dict[str, Any]]:
        """Return name, ready, unacked, delayed and oldest of each queue; for people."""
        found: list[dict[str, Any]] = []
        for name, queue in self._run(self.sql.queues, deadline=deadline):
            shown = queue or name.removeprefix(self._prefix)
            try:
                rows = self._run(self._about(shown).facts, deadline=deadline)
            except psycopg.errors.UndefinedTable:
                continue  # deleted meanwhile, or another one's prefix
            ready, unacked, delayed, oldest = rows[0]
            found.append({
                'name': shown, 'ready': ready, 'unacked': unacked, 'delayed': delayed,
                **({} if oldest is None else {'oldest': max(oldest, 0.0)}),
            })  # fmt: skip
        return found

    # ---- bindings, also as pgmq's topics, by which kombu routes

    def bindings(self, exchange: str, deadline: runtime.Deadline) -> list[Binding]:
        found = super().bindings(exchange, deadline)
        known = {(each.kind, each.queue, '' if each.kind == 'fanout' else each.routing_key) for each in found}
        prefix, fanout = topic_prefix(exchange), fanout_pattern(exchange)
        for pattern, queue in self._run(self.sql.their_bindings, fanout, prefix, deadline=deadline):
            kind, key = ('fanout', '') if pattern == fanout else ('topic', pattern[len(prefix) :])
            if (kind, queue, key) not in known:
                found.append(Binding(exchange, kind, key, queue))
        return found

    def _pattern(self, binding: Binding) -> str | None:
        if binding.kind == 'fanout':
            pattern = fanout_pattern(binding.exchange)
        elif binding.kind == 'topic' and binding.routing_key:
            pattern = topic_prefix(binding.exchange) + binding.routing_key
        else:
            return None
        return pattern if is_pattern(pattern) else None

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        super().bind(binding, deadline)
        pattern = self._pattern(binding)
        if pattern is not None:
            self._run(self.sql.bind_topic, pattern, self._name(binding.queue).name, deadline=deadline)

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        pattern = self._pattern(binding)
        if pattern is not None:
            self._run(self.sql.unbind_topic, pattern, self._name(binding.queue).name, deadline=deadline)
        super().unbind(binding, deadline)

    # ---- now and then

    def sweep(self, deadline: runtime.Deadline) -> None:
        for (queue,) in self._run(self.side.expired, deadline=deadline):
            self.delete(queue, deadline)
        self._run(self.sql.clean, deadline=deadline)


def _by_queue(takens: list[Taken]) -> Iterable[tuple[str, list[Taken]]]:
    found: dict[str, list[Taken]] = {}
    for taken in takens:
        found.setdefault(taken.queue, []).append(taken)
    return found.items()


def _delay(item: Put) -> float:
    given = item.message['properties'].get('DelaySeconds')
    try:
        return max(float(given), 0.0) if given is not None else item.delay
    except (TypeError, ValueError):
        return item.delay  # as kombu: no delay that anybody could keep


def _headers(item: Put) -> str | None:
    headers = dict(item.message.get('headers') or {})
    group = item.message['properties'].get('MessageGroupId')
    if group is not None:
        headers.setdefault('MessageGroupId', group)
    return dumps(headers) if headers else None


def _check(value: Any, where: str) -> None:
    """Refuse what JSON can say and jsonb cannot keep.

    Raises:
        InvalidArgument: naming the place.
    """
    if isinstance(value, str):
        if '\0' in value or any('\ud800' <= each <= '\udfff' for each in value):
            raise InvalidArgument('message', where, 'has a NUL, or half a character, which jsonb cannot keep')
    elif isinstance(value, Mapping):
        for name, each in value.items():
            _check(str(name), where)
            _check(each, f'{where}[{name!r}]' if where else name)
    elif isinstance(value, (list, tuple)):
        for number, each in enumerate(value):
            _check(each, f'{where}[{number}]')
