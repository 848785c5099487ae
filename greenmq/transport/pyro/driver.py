"""Queues at a Pyro broker: what the base of transports needs."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from Pyro5 import errors

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed, ConnectionLost, NotFound, PublishNacked
from greenmq.transport.driver import REQUEUE, Binding, Driver, Place, Put, Taken
from greenmq.transport.driver.contract import Owner
from greenmq.transport.options import Option, seconds
from greenmq.transport.pyro.wire import Wire

__all__ = ('OBJECT', 'PyroDriver')

#: The name of the broker's object, where the URL names none.
OBJECT = 'greenmq.broker'
#: Seconds that an answer may come later than it was asked for.
_SLACK = 10.0

_REFUSALS = {'NotFound': NotFound, 'PublishNacked': PublishNacked}


def _serializer(value: Any) -> str:
    if value not in ('json', 'serpent', 'msgpack'):
        raise ValueError("none of 'json', 'serpent', 'msgpack'")
    return str(value)


class PyroDriver(Driver):
    """Queues at ``greenmq pyro-broker``. A delivery is ours as long as the connection lasts."""

    delivery = 'wait'
    groups = 'all'
    wait_seconds = 30.0
    take_batch = 500
    settle_batch = 1000
    settle_hold = 0.005
    put_batch = 500
    max_puts = 1
    max_payload = 128 * 1024 * 1024
    max_delay = None
    keeps_deadline = True
    survives_loss = False
    shared_bindings = True
    options = {
        'serializer': Option(_serializer, 'json', "Pyro's serializer: 'json', 'serpent' or 'msgpack'"),
        'wait_time_seconds': Option(seconds, 30.0, 'seconds that one fetch waits at the broker'),
    }
    errors = {errors.CommunicationError: ConnectionLost, errors.ProtocolError: ConnectionLost}

    def __init__(self, place: Place, settings: Mapping[str, Any], owner: Owner) -> None:
        super().__init__(place, settings, owner)
        self._wire: Wire | None = None

    # ---- the connection

    def open(self, deadline: runtime.Deadline) -> None:
        self.close(deadline)
        wire = Wire(self.settings['serializer'], self, partial(_lost, weakref.ref(self)))
        port = self.place.port or 9090
        wire.open(self.place.host, port, self.place.virtual_host or OBJECT, deadline)
        self._wire = wire

    def close(self, deadline: runtime.Deadline) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def forget(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.forget()

    def _call(self, method: str, *args: Any, deadline: runtime.Deadline, abandon: Any = None) -> Any:
        wire = self._wire
        if wire is None:
            raise ConnectionClosed(f'{self.place.host} is closed')
        return wire.call(method, *args, deadline=deadline, abandon=abandon)

    def lost(self, error: Exception) -> None:
        """The connection has ended."""
        self.owner.lost(error)

    def ping(self, deadline: runtime.Deadline) -> None:
        self._call('ping', deadline=deadline)

    def version(self) -> str:
        import Pyro5

        return str(Pyro5.__version__)

    # ---- messages

    def put(self, items: list[Put], deadline: runtime.Deadline) -> Iterable[Exception | None]:
        rows = [[item.queue, item.payload, item.priority, item.delay, item.expires] for item in items]
        answers, dropped = self._call('publish', rows, deadline=deadline)
        for row in dropped:
            self.owner.refused(_taken(row), 'maxlen')
        outcomes: list[Exception | None] = [None] * len(items)
        for number, kind, text in answers:
            outcomes[number] = _REFUSALS[kind](text)
        return outcomes

    def take(self, queues: list[str], n: int, max_bytes: int, seconds: float) -> list[Taken]:
        rows = self._call(
            'fetch', queues, n, max_bytes, seconds, deadline=runtime.Deadline.after(seconds + _SLACK),
            abandon=self._abandon,
        )  # fmt: skip
        return [_taken(row) for row in rows]

    def _abandon(self, rows: Any) -> None:
        # A fetch was killed, and nobody got these.
        wire = self._wire
        if wire is not None and rows:
            wire.tell('settle', [], [[row[0], False] for row in rows])

    def settle(
        self, done: list[Taken], back: list[tuple[Taken, str]], deadline: runtime.Deadline
    ) -> Iterable[tuple[Taken, Exception | None]]:
        gone = set(
            self._call(
                'settle', [taken.receipt for taken in done],
                [[taken.receipt, fate == REQUEUE] for taken, fate in back], deadline=deadline,
            )
        )  # fmt: skip
        return [(taken, None) for taken in (*done, *(taken for taken, _ in back)) if taken.receipt in gone]

    # ---- queues

    def make(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> None:
        self._call('declare', queue, dict(facts), deadline=deadline)

    def has(self, queue: str, deadline: runtime.Deadline) -> bool:
        return bool(self._call('has_queue', queue, deadline=deadline))

    def facts(self, queue: str, deadline: runtime.Deadline) -> Mapping[str, Any] | None:
        return self._call('facts', queue, deadline=deadline)  # type: ignore[no-any-return]

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        return int(self._call('size', queue, deadline=deadline))

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        return int(self._call('purge', queue, deadline=deadline))

    def delete(self, queue: str, deadline: runtime.Deadline) -> None:
        self._call('delete', queue, deadline=deadline)

    def queues(self, deadline: runtime.Deadline) -> list[dict[str, Any]]:
        return list(self._call('queues', deadline=deadline))

    # ---- bindings

    def bindings(self, exchange: str, deadline: runtime.Deadline) -> list[Binding]:
        return [Binding(*row) for row in self._call('bindings', exchange, deadline=deadline)]

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        self._call('bind', list(binding), deadline=deadline)

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        self._call('unbind', list(binding), deadline=deadline)

    def stats(self) -> dict[str, Any]:
        return {'calls': 0 if self._wire is None else self._wire.sent}


def _taken(row: list[Any]) -> Taken:
    number, queue, payload, deliveries = row
    return Taken(queue, payload, number, deliveries)


def _lost(reference: Any, error: Exception) -> None:
    driver = reference()
    if driver is not None:
        driver.lost(error)
