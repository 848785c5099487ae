"""Queues in MongoDB: what the base of transports needs. All commands are made in one native thread."""

from __future__ import annotations

import _socket
import os
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import pymongo
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError, ServerSelectionTimeoutError

from greenmq import events, runtime
from greenmq.exceptions import (
    AccessRefused,
    ConnectionClosed,
    ConnectionLost,
    InvalidArgument,
    NotFound,
    PublishNacked,
)
from greenmq.log import get_logger
from greenmq.transport.driver import REQUEUE, Binding, Driver, Fault, Place, Put, Taken
from greenmq.transport.driver.contract import Owner
from greenmq.transport.limits import QueueLimits
from greenmq.transport.mongodb.broadcast import BROADCAST, Broadcasts, Collected
from greenmq.transport.mongodb.listening import BELIEVED, WAITERS, WAKE, Listener
from greenmq.transport.mongodb.store import Found, Settings, Store, moment, stamp
from greenmq.transport.mongodb.topology import Facts, Topology
from greenmq.transport.options import Option, seconds, truth, whole
from greenmq.transport.waiters import Waiters
from greenmq.utils.json import dumps, loads

__all__ = ('MongoDBDriver',)

logger = get_logger('greenmq.transport.mongodb')

#: Seconds for what the base gives no deadline.
_OPERATION = 30.0
#: Seconds of the first pause between two looks; it doubles, up to this where no signal is to be had at all.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.1
#: Seconds between two looks for what was broadcast, where we are told of it.
_RARELY = 60.0
#: Seconds for which what is known of a queue, and of who waits for signals, is believed.
_KNOWN, _HEARD = 30.0, 1.0
#: What there is a collection for.
_PARTS = ('messages', 'routing', 'queues', 'broadcast')
#: Property in which the base keeps when a message is over, in ms since 1970.
_EXPIRES_AT = 'expires_at'


class _Known(NamedTuple):
    facts: Facts
    at: float


def _is_refused(error: Exception) -> bool:
    return isinstance(error, OperationFailure) and error.code in (13, 18, 8000)


class MongoDBDriver(Driver):
    """Queues in MongoDB, on kombu's collections; `store` says what is where."""

    delivery = 'wait'
    groups = 'all'
    wait_seconds = 10.0
    take_batch = 100
    settle_batch = 500
    settle_hold = 0.01
    put_batch = 500
    max_puts = 1
    max_payload = 16 * 1024 * 1024 - 16 * 1024
    lease_seconds = 60.0
    keeps_deadline = True
    shared_bindings = True
    understands = frozenset({'ssl'})
    options = {
        'default_hostname': Option(str, '127.0.0.1', 'the server, where the URL names none'),
        'default_port': Option(whole, 27017, 'its port'),
        'default_database': Option(str, 'kombu_default', 'the database, where the URL names none'),
        'messages_collection': Option(str, 'messages', 'the collection of messages'),
        'routing_collection': Option(str, 'messages.routing', 'the collection of bindings'),
        'queues_collection': Option(str, 'messages.queues', 'the collection of what queues were made with'),
        'broadcast_collection': Option(str, 'messages.broadcast', "the collection of kombu's fanout"),
        'capped_queue_size': Option(whole, 16 * 1024 * 1024, 'bytes of that collection, if it is made here'),
        'calc_queue_size': Option(truth, True, 'count messages where a queue is declared; else say 0'),
        'ttl': Option(truth, False, 'expiries are always honoured; kept for programs that ask for them'),
        'lease_timeout': Option(seconds, 60.0, 'seconds that a delivery is ours without a renewal'),
        'wait_time_seconds': Option(seconds, 10.0, 'seconds that one wait for changes takes at the server'),
    }
    errors = {
        _is_refused: Fault(AccessRefused, 'no'),
        ServerSelectionTimeoutError: Fault(ConnectionLost, 'no'),
        ConnectionFailure: ConnectionLost,
    }

    def __init__(self, place: Place, settings: Mapping[str, Any], owner: Owner) -> None:
        super().__init__(place, settings, owner)
        self._me = f'{_socket.gethostname()[:20]}:{os.getpid()}:{os.urandom(8).hex()}'
        self._worker: runtime.Worker | None = None
        self._listener: Listener | None = None
        self._store: Store = None  # type: ignore[assignment]
        self._topology: Topology = None  # type: ignore[assignment]
        self._waiters = Waiters()
        self._pauses: dict[tuple[str, ...], float] = {}
        self._known: dict[str, _Known] = {}
        self._heard = (False, 0.0)  # does anybody wait for signals, and when was that asked
        self._commands = 0
        self._broadcasts = Broadcasts(settings['capped_queue_size'])
        self._unread = True  # something may have been broadcast
        self._read_at = 0.0

    # ---- the connection

    def open(self, deadline: runtime.Deadline) -> None:
        self._leave()
        settings = Settings(
            self.place.url, self.place.virtual_host, self._client_options(deadline), self._me,
            self.lease_seconds or 60.0,
            {part: self.settings[f'{part}_collection'] for part in _PARTS},
        )  # fmt: skip
        store = Store(settings)
        worker = runtime.Worker(f'mongodb {self.place.host}', store.close)
        try:
            worker.call(store.connect, deadline=deadline)
        except BaseException:
            worker.close()
            raise
        self._store, self._topology = store, Topology(store)
        self._broadcasts.begin(store)
        self._unread = True
        self._known.clear()
        self._worker = worker
        self._listener = Listener(settings, self.wait_seconds, self._told)

    def _client_options(self, deadline: runtime.Deadline) -> dict[str, Any]:
        reach = max(int((deadline.remaining() or 5.0) * 900), 100)
        options: dict[str, Any] = {
            'appname': 'greenmq', 'maxPoolSize': 1, 'heartbeatFrequencyMS': 30_000,
            'serverSelectionTimeoutMS': reach, 'connectTimeoutMS': reach, 'serverMonitoringMode': 'poll',
            'socketTimeoutMS': int((self.settings['operation_timeout'] or _OPERATION) * 1000),
        }  # fmt: skip
        tls = runtime.TLSOptions.of(self.place.ssl)
        if isinstance(tls, runtime.TLSOptions) and 'tls=' not in self.place.url.lower():
            options.update(_tls(tls))
        return options

    def close(self, deadline: runtime.Deadline) -> None:
        self._leave()

    def _leave(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def forget(self) -> None:
        # Its threads are not here, and its client must not even be collected: it would say goodbye.
        if self._worker is not None:
            _inherited.append((self._store, self._worker, self._listener))
        self._worker = self._listener = None

    def ping(self, deadline: runtime.Deadline) -> None:
        self._do(self._store.look_at_the_clock, deadline)

    def version(self) -> str:
        return str(pymongo.version)

    def _do(self, fun: Callable[[], Any], deadline: runtime.Deadline, abandon: Any = None) -> Any:
        worker = self._worker
        if worker is None:
            raise ConnectionClosed(f'{self.place.host} is closed')
        left = deadline.remaining()
        return worker.call(self._bounded, worker, fun, left, deadline=deadline, abandon=abandon)

    def _bounded(self, worker: runtime.Worker, fun: Callable[[], Any], left: float | None) -> Any:
        # In the thread. pymongo gives up in time, or the thread would be busy with what nobody waits for.
        if worker is not self._worker:
            # It waited in its line while all was opened anew: what is ours now is another thread's.
            raise ConnectionFailure(f'the connection with {self.place.host} was let go')
        self._commands += 1
        try:
            with pymongo.timeout(max(left or _OPERATION, 0.05)):
                return fun()
        except PyMongoError as error:
            runtime.forget_traces(error)  # the client's frames keep it: they and the store would not go
            raise error from None

    def _told(self, queues: list[str] | None) -> None:
        for key in self._pauses:
            self._pauses[key] = _FIRST_PAUSE
        for queue in queues or ():
            if queue.startswith(BROADCAST):
                self._unread = True
                self._waiters.wake(self._broadcasts.queues(queue[len(BROADCAST) :]))
        self._unread = self._unread or queues is None
        self._waiters.wake(queues)

    # ---- putting

    def put(self, items: list[Put], deadline: runtime.Deadline) -> Iterable[Exception | None]:
        until = time.monotonic() + (deadline.remaining() or _OPERATION)
        outcomes, dropped = self._do(lambda: self._put(items, until), deadline)
        self._waiters.wake({item.queue for item in items})
        for taken in dropped:
            self.owner.refused(taken, 'maxlen')
        return outcomes  # type: ignore[no-any-return]

    def _put(self, items: list[Put], until: float) -> tuple[list[Exception | None], list[Taken]]:
        known = self._look_up({item.queue for item in items if not item.queue.startswith(BROADCAST)})
        outcomes: list[Exception | None] = []
        documents, broadcast = [], []
        room: dict[str, int] = {}
        for item in items:
            facts = known.get(item.queue)
            if item.queue.startswith(BROADCAST):
                outcomes.append(None)
                broadcast.append((item.exchange, item.payload))
            elif facts is None:
                outcomes.append(NotFound(f'no queue {item.queue!r}'))
            elif facts.limits.rejects and not self._has_room(item.queue, facts, room):
                outcomes.append(PublishNacked(f'queue {item.queue!r} is full'))
            else:
                outcomes.append(None)
                documents.append(self._document(item, facts))
        if documents:
            self._store.insert(documents, until)
        self._broadcasts.write(broadcast, until)
        full = [queue for queue in known if known[queue].limits.max_length is not None]
        dropped = [taken for queue in full for taken in self._drop(queue, known[queue].limits)]
        if documents and self._somebody_listens():
            queues = {document['queue'] for document in documents}
            self._store.database[WAKE].insert_many([{'queue': queue} for queue in queues])
        return outcomes, dropped

    def _document(self, item: Put, facts: Facts) -> dict[str, Any]:
        document = {'payload': item.payload, 'queue': item.queue, 'priority': 9 - item.priority}
        ends = [item.expires] if item.expires is not None else []
        if facts.limits.ttl is not None:
            ends.append(time.time() + facts.limits.ttl)
        # What the server deletes can't become a dead letter: there the base sees to it.
        if ends and facts.limits.dead_exchange is None:
            document['expire_at'] = moment(min(ends))
        return document

    def _look_up(self, queues: Iterable[str]) -> dict[str, Facts]:
        now = time.monotonic()
        wanted = [name for name in queues if name not in self._known or now - self._known[name].at > _KNOWN]
        if wanted:
            found = self._topology.known(wanted)
            for name in wanted:
                self._known.pop(name, None)
            self._known.update({name: _Known(facts, now) for name, facts in found.items()})
        return {name: self._known[name].facts for name in queues if name in self._known}

    def _has_room(self, queue: str, facts: Facts, room: dict[str, int]) -> bool:
        if queue not in room:
            limit = facts.limits.max_length
            room[queue] = 10**9 if limit is None else limit - self._topology.size(queue)
        room[queue] -= 1
        return room[queue] >= 0

    def _drop(self, queue: str, limits: QueueLimits) -> list[Taken]:
        surplus = self._topology.size(queue) - (limits.max_length or 0)
        if limits.rejects or surplus <= 0:
            return []
        found = self._store.claim([queue], surplus, 1 << 40)
        if limits.dead_exchange is None:
            self._store.settle([each.id for each in found], [])
            return []
        return [_taken(each) for each in found]

    def _somebody_listens(self) -> bool:
        # Change streams need no signals of ours.
        if self._store.streams:
            return False
        somebody, at = self._heard
        if time.monotonic() - at > _HEARD:
            waits = {'at': {'$gt': self._store.now() - timedelta(seconds=BELIEVED)}}
            somebody = self._store.database[WAITERS].find_one(waits, {'_id': 1}) is not None
            self._heard = (somebody, time.monotonic())
        return somebody

    # ---- taking and settling

    def take(self, queues: list[str], n: int, max_bytes: int, seconds: float) -> list[Taken]:
        key = tuple(queues)

        def look(woken: bool) -> tuple[list[Taken], float | None]:
            if woken:
                self._pauses[key] = _FIRST_PAUSE
            found, copied = self._do(
                lambda: self._look(queues, n, max_bytes), runtime.Deadline.after(_OPERATION), self._abandon
            )
            if copied is not None:
                self._copied(copied, key)
            return [_taken(each) for each in found], self._pause(key)

        try:
            return self._waiters.take(queues, seconds, look)
        finally:
            self._pauses.pop(key, None)

    def _pause(self, key: tuple[str, ...]) -> float | None:
        listener = self._listener
        how = None if listener is None else listener.how
        if listener is not None and how == 'stream' and (listener.hears_broadcasts or not self._broadcasts):
            return None
        pause = self._pauses.get(key, _FIRST_PAUSE)
        longest = _LONGEST_PAUSE if how is None else self.settings['polling_interval'] or 1.0
        self._pauses[key] = min(pause * 2, longest)
        return pause

    def _look(self, queues: list[str], n: int, max_bytes: int) -> tuple[list[Found], Collected | None]:
        copied, listener = None, self._listener
        told = listener is not None and listener.hears_broadcasts
        if self._broadcasts and (
            self._unread or time.monotonic() - self._read_at > (_RARELY if told else _LONGEST_PAUSE)
        ):
            since, self._unread, self._read_at = self._read_at, False, time.monotonic()
            copied = self._broadcasts.collect(queues, self._copy)._replace(since=since)
        return self._store.claim(queues, n, max_bytes), copied

    def _copied(self, copied: Collected, queues: tuple[str, ...]) -> None:
        self._waiters.wake(copied.queues.difference(queues))
        if copied.missed:
            for exchange in self._broadcasts.exchanges:
                logger.warning("fanout exchange %r: messages of kombu's were overwritten unread", exchange)
                events.emit(
                    'gap', exchange=exchange, since=copied.since, seconds=self._read_at - copied.since,
                    reason='overwritten',
                )  # fmt: skip

    def _copy(self, queue: str, payload: Any) -> dict[str, Any] | None:
        # In the thread: what kombu broadcast, for a queue of ours.
        facts = self._look_up({queue}).get(queue)
        return None if facts is None else self._document(Put(queue, '', '', payload, {}), facts)

    def _abandon(self, looked: tuple[list[Found], Any]) -> None:
        # In the thread: a take was killed, and nobody got these.
        found = looked[0]
        if found:
            self._store.settle([], [(each, False) for each in found])

    def settle(
        self, done: list[Taken], back: list[tuple[Taken, str]], deadline: runtime.Deadline
    ) -> Iterable[tuple[Taken, Exception | None]]:
        finished = [taken.receipt.id for taken in done]
        returned = [(taken.receipt, fate == REQUEUE) for taken, fate in back]
        gone = self._do(lambda: self._store.settle(finished, returned), deadline)
        self._waiters.wake({taken.queue for taken, _ in back})
        return [
            (taken, None) for taken in (*done, *(taken for taken, _ in back)) if taken.receipt.id in gone
        ]

    def extend(self, takens: list[Taken], seconds: float, deadline: runtime.Deadline) -> Iterable[Taken]:
        ids = [taken.receipt.id for taken in takens]
        gone = self._do(lambda: self._store.extend(ids, seconds), deadline)
        return [taken for taken in takens if taken.receipt.id in gone]

    # ---- queues

    def make(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> int | None:
        if not queue or '\x00' in queue or queue.startswith('\x01'):
            raise InvalidArgument('queue', queue, 'is no name of a queue')
        arguments = dict(facts.get('arguments') or {})
        lives = QueueLimits.of(arguments).expires
        exclusive = bool(facts.get('exclusive'))
        if exclusive:
            lives = self.lease_seconds or 60.0
        record = {name: facts.get(name) for name in ('durable', 'auto_delete', 'exclusive')}
        record['arguments'] = loads(dumps(arguments, default=str))
        self._do(lambda: self._topology.make(queue, record, lives, exclusive), deadline)
        self._known.pop(queue, None)
        return None if self.settings['calc_queue_size'] else 0

    def has(self, queue: str, deadline: runtime.Deadline) -> bool:
        return bool(self._do(lambda: self._topology.known([queue]), deadline))

    def facts(self, queue: str, deadline: runtime.Deadline) -> Mapping[str, Any] | None:
        found = self._do(lambda: self._topology.known([queue]), deadline).get(queue)
        return None if found is None else {'arguments': found.arguments}

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        if not self.settings['calc_queue_size']:
            return 0
        return int(self._do(lambda: self._topology.size(queue), deadline))

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        return int(self._do(lambda: self._topology.purge(queue), deadline))

    def delete(self, queue: str, deadline: runtime.Deadline) -> None:
        self._known.pop(queue, None)

        def delete() -> None:
            self._broadcasts.unbind(None, queue)
            self._topology.delete(queue)

        self._do(delete, deadline)

    def queues(self, deadline: runtime.Deadline) -> list[dict[str, Any]]:
        return self._do(self._topology.listed, deadline)  # type: ignore[no-any-return]

    # ---- bindings

    def bindings(self, exchange: str, deadline: runtime.Deadline) -> list[Binding]:
        return self._do(lambda: self._topology.bindings(exchange), deadline)  # type: ignore[no-any-return]

    def fans_out(self, exchange: str, bindings: list[Binding]) -> list[Binding]:
        # What kombu binds to a fanout exchange is fed from its collection, and not from the queue.
        ours = [binding for binding in bindings if binding.kind == 'fanout']
        if len(ours) < len(bindings):
            ours.append(Binding(exchange, 'fanout', '', BROADCAST + exchange))
        return ours

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        def bind() -> None:
            if binding.kind == 'fanout':
                self._broadcasts.bind(binding.exchange, binding.queue)
            self._topology.bind(binding)

        self._do(bind, deadline)

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        def unbind() -> None:
            self._broadcasts.unbind(binding.exchange, binding.queue)
            self._topology.unbind(binding)

        self._do(unbind, deadline)

    # ---- now and then

    def sweep(self, deadline: runtime.Deadline) -> None:
        waiting = list(self._waiters)

        def sweep() -> int:
            self._topology.use(waiting)
            self._topology.end_those_that_are_over()
            return self._store.sweep()

        if self._do(sweep, deadline):
            self._waiters.wake(None)

    def stats(self) -> dict[str, Any]:
        return {'calls': self._commands, 'told_by': None if self._listener is None else self._listener.how}

    # ---- the payload

    def decode(self, taken: Taken) -> dict[str, Any]:
        message = super().decode(taken)
        expires = taken.receipt.expires
        if expires is not None:
            message['properties'].setdefault(_EXPIRES_AT, int(stamp(expires) * 1000))
        return message


def _taken(found: Found) -> Taken:
    return Taken(found.queue, found.payload, found, found.deliveries)


def _tls(tls: runtime.TLSOptions) -> dict[str, Any]:
    found = {
        'tls': True, 'tlsCAFile': tls.ca_certs, 'tlsCertificateKeyFile': tls.certfile,
        'tlsCertificateKeyFilePassword': tls.password, 'tlsAllowInvalidCertificates': not tls.verify or None,
        'tlsAllowInvalidHostnames': (tls.verify and not tls.check_hostname) or None,
    }  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


#: What a forked child has of its parent.
_inherited: list[Any] = []
