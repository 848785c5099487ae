"""The broker in a file: what the base needs of it, on the engine's thread."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from greenmq import runtime
from greenmq.exceptions import InvalidArgument
from greenmq.transport.driver import REQUEUE, Binding, Driver, Place, Put, Taken
from greenmq.transport.driver.contract import Owner
from greenmq.transport.limits import QueueLimits
from greenmq.transport.options import Option, seconds
from greenmq.transport.owners import read_wake
from greenmq.transport.sqlite.engine import Engine
from greenmq.transport.sqlite.memory import MEMORY, MemoryEngine
from greenmq.transport.sqlite.store import Row, Store
from greenmq.transport.waiters import Waiters
from greenmq.utils.json import dumps, loads

__all__ = ('SQLiteDriver',)

#: Property in which the base keeps when a message is over, in ms since 1970.
_EXPIRES_AT = 'expires_at'
#: Seconds for what the base gives no deadline.
_OPERATION = 30.0


def _durability(value: Any) -> str:
    if value not in ('disk', 'process', 'none'):
        raise InvalidArgument('durability', value, "is none of 'disk', 'process', 'none'")
    return str(value)


class SQLiteDriver(Driver):
    """Queues in a SQLite file on a local disk, for any number of processes of one machine.

    A delivery belongs to the process that took it until it is settled or the process ends.
    """

    delivery = 'wait'
    groups = 'all'
    wait_seconds = 30.0
    take_batch = 1000
    settle_batch = 1000
    settle_hold = 0.01
    put_batch = 1000
    keeps_deadline = True
    max_puts = 1
    survives_loss = False
    max_delay = None
    max_payload = 512 * 1024 * 1024
    shared_bindings = True
    own_envelope = True
    body_encoding = None
    options = {
        'durability': Option(
            _durability, 'disk', "what a confirmed message survives: the loss of power, 'process', or 'none'"
        ),
        'sweep_interval': Option(seconds, 2.0, 'seconds between two looks for what dead processes hold'),
    }

    def __init__(self, place: Place, settings: Mapping[str, Any], owner: Owner) -> None:
        super().__init__(place, settings, owner)
        self._engine: Engine | MemoryEngine | None = None
        self._waiters = Waiters()
        self._listener: runtime.Task | None = None

    # ---- the connection

    def open(self, deadline: runtime.Deadline) -> None:
        self._leave(deadline)
        told = weakref.WeakMethod(self._told)
        engine = self._make_engine(lambda *what: _call(told, *what))
        try:
            engine.open(deadline)
        except BaseException:
            engine.close(deadline)
            raise
        self._engine = engine
        if engine.mark is not None:
            self._listener = runtime.spawn(
                _listen, weakref.ref(self), engine.mark.socket, name='sqlite-wake', owner=self
            )

    def _make_engine(self, told: Any) -> Engine | MemoryEngine:
        file = self.place.virtual_host
        if file == MEMORY:
            return MemoryEngine(told, self._waiters)
        return Engine(file, self.settings['durability'], told, self._waiters)

    def close(self, deadline: runtime.Deadline) -> None:
        self._leave(deadline)

    def _leave(self, deadline: runtime.Deadline) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.kill()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close(deadline)

    def forget(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.forget()

    def ping(self, deadline: runtime.Deadline) -> None:
        self._do(lambda store: store.topology, deadline)

    def version(self) -> str:
        import sqlite3

        return sqlite3.sqlite_version

    def _do(
        self, fun: Any, deadline: runtime.Deadline, abandon: Any = None, lasting: bool = True
    ) -> Any:
        assert self._engine is not None
        return self._engine.do(fun, deadline, abandon, lasting)

    @property
    def _owner(self) -> int:
        assert self._engine is not None
        return self._engine.owner

    def _told(self, queues: set[str] | None, changed: bool) -> None:
        # In the hub: of our own transactions, and of other processes'.
        if changed:
            self.owner.changed()
        self._waiters.wake(queues)

    # ---- messages

    def put(self, items: list[Put], deadline: runtime.Deadline) -> Iterable[Exception | None]:
        now = time.time()
        rows = [
            (item.queue, item.priority, now + item.delay if item.delay else None, item.expires, item.payload)
            for item in items
        ]
        me = self._owner
        outcomes: list[Exception | None]
        outcomes, dropped = self._do(lambda store: store.put(rows, me), deadline)
        for row in dropped:
            self.owner.refused(_taken(row), 'maxlen')
        return outcomes

    def take(self, queues: list[str], n: int, max_bytes: int, seconds: float) -> list[Taken]:
        def look(woken: bool) -> tuple[list[Row], float | None]:
            rows, due = self._take(queues, n, max_bytes)
            return rows, None if due is None else max(due - time.time(), 0.001)

        return [_taken(row) for row in self._waiters.take(queues, seconds, look)]

    def _take(self, queues: list[str], n: int, max_bytes: int) -> tuple[list[Row], float | None]:
        me = self._owner

        def take(store: Store) -> tuple[list[Row], float | None]:
            rows = store.take(me, queues, n, max_bytes)
            return rows, None if rows else store.next_due()

        def abandon(store: Store, taken: tuple[list[Row], float | None]) -> None:
            store.settle(me, (), [(row.id, False) for row in taken[0]])

        # A claim that the loss of power undoes is made again: all who had one are gone as well.
        result: tuple[list[Row], float | None] = self._do(
            take, runtime.Deadline.after(_OPERATION), abandon, lasting=False
        )
        return result

    def settle(
        self, done: list[Taken], back: list[tuple[Taken, str]], deadline: runtime.Deadline
    ) -> Iterable[tuple[Taken, Exception | None]]:
        me = self._owner
        finished = [taken.receipt.id for taken in done]
        returned = [(taken.receipt.id, fate == REQUEUE) for taken, fate in back]
        gone = set(self._do(lambda store: store.settle(me, finished, returned), deadline))
        return [(taken, None) for taken in [*done, *(taken for taken, _ in back)] if taken.receipt.id in gone]

    # ---- queues

    def make(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> None:
        arguments = dict(facts.get('arguments') or {})
        limits = QueueLimits.of(arguments)
        owner = self._owner if facts.get('exclusive') else None
        self._do(lambda store: store.make(queue, arguments, owner, limits.expires), deadline)

    def has(self, queue: str, deadline: runtime.Deadline) -> bool:
        return bool(self._do(lambda store: store.has(queue), deadline))

    def facts(self, queue: str, deadline: runtime.Deadline) -> Mapping[str, Any] | None:
        arguments = self._do(lambda store: store.arguments(queue), deadline)
        return None if arguments is None else {'arguments': arguments}

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        return int(self._do(lambda store: store.size(queue), deadline))

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        return int(self._do(lambda store: store.purge(queue), deadline))

    def delete(self, queue: str, deadline: runtime.Deadline) -> None:
        self._do(lambda store: store.delete(queue), deadline)

    def queues(self, deadline: runtime.Deadline) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._do(lambda store: store.queues(), deadline)
        return found

    # ---- bindings

    def bindings(self, exchange: str, deadline: runtime.Deadline) -> list[Binding]:
        found = self._do(lambda store: store.bindings(exchange), deadline)
        return [Binding(exchange, kind, key, queue, arguments) for kind, key, queue, arguments in found]

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        exchange, kind, key, queue, arguments = binding
        self._do(lambda store: store.bind(exchange, kind, key, queue, arguments), deadline)

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        exchange, _, key, queue, arguments = binding
        self._do(lambda store: store.unbind(exchange, key, queue, arguments), deadline)

    # ---- now and then

    def sweep(self, deadline: runtime.Deadline) -> None:
        if self._engine is not None:
            self._engine.sweep(deadline)

    def stats(self) -> dict[str, Any]:
        return {'commits': 0 if self._engine is None else self._engine.commits}

    # ---- the payload: a JSON head, and the body's own bytes behind it

    def encode(self, message: dict[str, Any]) -> bytes:
        body = message['body']
        if isinstance(body, str):
            body = body.encode()
        head = dumps({**message, 'body': None}).encode()
        return b'%d\n%b%b' % (len(head), head, body or b'')

    def decode(self, taken: Taken) -> dict[str, Any]:
        payload = bytes(taken.payload)
        begin = payload.index(b'\n') + 1
        end = begin + int(payload[:begin])
        message: dict[str, Any] = loads(payload[begin:end])
        message['body'] = payload[end:]
        if taken.receipt.expires is not None:
            message['properties'][_EXPIRES_AT] = int(taken.receipt.expires * 1000)
        return message


def _taken(row: Row) -> Taken:
    return Taken(row.queue, row.payload, row, row.deliveries)


def _call(told: Any, *what: Any) -> None:
    function = told()
    if function is not None:
        function(*what)


def _listen(driver: Any, socket: Any) -> None:
    # Waits for other processes' words; holds the driver only while it tells it.
    while True:
        runtime.wait_ready(socket)
        queues, changed = read_wake(socket)
        found = driver()
        if found is None:
            return
        found._told(queues, changed)
        del found
