"""Queues of a broker that speaks AMQP 1.0: what the base of transports needs of it.

One connection carries all; a publish waits for what the broker says of it, and many are under way at once.
What a broker calls its queues, and how it is told to make one, `styles` and `management` know.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from greenmq import runtime
from greenmq.exceptions import (
    ConnectionLost,
    InvalidArgument,
    NotAllowed,
    NotFound,
    PublishNacked,
    Unroutable,
)
from greenmq.log import get_logger
from greenmq.transport.amqp10 import Connection, Limits
from greenmq.transport.amqp10.codec import Symbol
from greenmq.transport.amqp10.errors import error_of
from greenmq.transport.amqp10.links import Delivery, Receiver
from greenmq.transport.amqp10.performatives import Accepted, Modified, Rejected, Released
from greenmq.transport.amqp10.receiving import Came, Receiving
from greenmq.transport.amqp10.sasl import Login, wanted
from greenmq.transport.amqp10.sending import Sending, outcome
from greenmq.transport.amqp10.way import Way
from greenmq.transport.credentials import provided
from greenmq.transport.driver import DEAD, REQUEUE, Binding, Driver, Place, Put, Taken
from greenmq.transport.driver.contract import Owner
from greenmq.transport.options import Option, seconds, whole
from greenmq.transport.qpid import envelope
from greenmq.transport.qpid.artemis import ArtemisManagement
from greenmq.transport.qpid.brokerj import BrokerJManagement
from greenmq.transport.qpid.management import Management
from greenmq.transport.qpid.rabbitmq import AMQPManagement, HTTPManagement
from greenmq.transport.qpid.styles import STYLES, Style, recognised

__all__ = ('QpidDriver',)

logger = get_logger('greenmq.transport.qpid')

#: Seconds between two looks after links that are silent.
LOOK = 5.0
#: Seconds that a broker may take to answer that a link has ended, before its queue is deleted all the same.
PARTING = 2.0
#: Messages that are taken at once to empty a queue.
PURGED = 500

_ACCEPTED, _RELEASED = Accepted(), Released()
_FAILED = Modified(delivery_failed=True)
_REJECTED = Rejected()


#: How brokers are told over AMQP itself, by `Style.management`.
_OVER_AMQP: dict[str, Callable[[Connection], Management]] = {
    'amqp': AMQPManagement, 'artemis': ArtemisManagement, 'brokerj': BrokerJManagement,
}  # fmt: skip


def _style(value: Any) -> str | None:
    if value is None:
        return None
    if value not in STYLES:
        raise ValueError(f'none of {", ".join(sorted(STYLES))}')
    return str(value)


class QpidDriver(Driver):
    """Queues of an AMQP 1.0 broker. A delivery is ours for as long as the connection lives."""

    delivery = 'push'
    groups = 'all'
    survives_loss = False
    put_direct = True
    keeps_deadline = True
    settle_batch = 1000
    settle_hold = 0.01
    take_batch = 1000
    dead_letters = True
    own_envelope = True
    body_encoding = None
    understands = frozenset({'ssl', 'login_method', 'credentials'})
    options = {
        'address_style': Option(
            _style, None, f'the kind of broker: {", ".join(sorted(STYLES))}; default: what it says it is'
        ),
        'management_url': Option(
            None, None, 'RabbitMQ 3: http://host:15672 of its management plugin, to declare and delete by'
        ),
        'hostname': Option(
            None, None, 'what the broker is told of where we go; default: its host, or vhost:NAME'
        ),
        'idle_timeout': Option(
            seconds, 60.0, 'seconds of silence after which the broker is taken for dead; 0 for never'
        ),
        'max_message_bytes': Option(
            whole, 128 * 1024 * 1024, 'bytes of the largest message that is taken; 0 for any'
        ),
    }

    def __init__(self, place: Place, settings: Mapping[str, Any], owner: Owner) -> None:
        super().__init__(place, settings, owner)
        self.style: Style = recognised(settings['address_style'], '', '')
        self.management: Management | None = None
        self._connection: Connection | None = None
        self._sending: Sending | None = None
        self._receiving: Receiving | None = None
        self._address: Callable[[str], str] = self.style.queue_address
        self._queues: dict[str, str] = {}  # address → queue, of those that are consumed
        self._exchanges: set[str] = set()  # that the broker has, as far as this connection knows
        self._prover: Any = None

    # ---- the connection

    def open(self, deadline: runtime.Deadline) -> None:
        place, settings = self.place, self.settings
        tls = runtime.TLSOptions.of(place.ssl)
        user, password = place.userid, place.password
        if place.credentials is not None:
            user, password = provided(place.credentials)
        login = Login(user, password, place.login_method, tls is not None)
        wanted(login)  # half a login is refused before anything is dialled
        limits = Limits(
            idle_timeout=settings['idle_timeout'] or 0.0, max_message=settings['max_message_bytes']
        )
        stream = runtime.dial(place.host, place.port or 5672, deadline, tls=tls)
        if limits.idle_timeout:
            stream = runtime.SharedStream(stream)
        connection = Connection(stream, login, self._hostname(), limits, self, self._introduction())
        connection.open(deadline)
        try:
            self._begin(connection, user, password)
        except BaseException:
            connection.abandon()
            raise

    def _begin(self, connection: Connection, user: str | None, password: str | None) -> None:
        product, version = connection.engine.product()
        style = self.style = recognised(self.settings['address_style'], product, version)
        self.made_up = style.made_up
        self._address = functools.lru_cache(1024)(style.queue_address)
        largest = self.settings['max_message_bytes']
        way = Way(style.source, style.own_sessions, style.drains, style.echoes, largest)
        self._connection = connection
        self._sending = Sending(connection, way, style.target)
        self._receiving = Receiving(connection, way, self._arrived)
        self._queues.clear()
        self._exchanges.clear()
        self._manage(connection, user, password)
        if self._prover is None:
            self._prover = runtime.every(self, LOOK, QpidDriver._prove, name='amqp10-proof', jitter=0.2)

    def _manage(self, connection: Connection, user: str | None, password: str | None) -> None:
        url = self.settings['management_url']
        if self.style.management in _OVER_AMQP:
            self.management = _OVER_AMQP[self.style.management](connection)
        elif self.style.management == 'http' and url:
            if not isinstance(self.management, HTTPManagement):
                vhost = self.place.virtual_host
                self.management = HTTPManagement(url, vhost, user, password)
        elif url:
            raise InvalidArgument('management_url', '...', f'means nothing to a {self.style.name} broker')
        else:
            self.management = None
        self.native = frozenset() if self.management is None else self.management.routes

    def _hostname(self) -> str:
        given, vhost = self.settings['hostname'], self.place.virtual_host
        if given:
            return str(given)
        return f'vhost:{vhost}' if vhost not in ('', '/') else self.place.host

    def _introduction(self) -> dict[Any, Any]:
        return {Symbol('product'): 'greenmq', Symbol('platform'): 'Python'}

    def on_connection_lost(self, connection: Connection, error: Exception) -> None:
        """See `amqp10.connection.Lost`."""
        if connection is self._connection:
            self._let_go()
            self.owner.lost(error)

    def _let_go(self) -> None:
        if self._receiving is not None:
            self._receiving.over()
        self._connection = self._sending = self._receiving = None

    def close(self, deadline: runtime.Deadline) -> None:
        prover, self._prover = self._prover, None
        if prover is not None:
            prover.kill()
        connection, receiving = self._connection, self._receiving
        if receiving is not None:
            receiving.close()
        self._let_go()
        if self.management is not None:
            self.management.close()
        if connection is not None:
            connection.close(deadline)

    def forget(self) -> None:
        connection = self._connection
        self._let_go()
        if connection is not None:
            connection.abandon()

    def _prove(self) -> None:
        if self._receiving is not None:
            self._receiving.prove()

    def _parts(self) -> tuple[Connection, Sending, Receiving]:
        connection, sending, receiving = self._connection, self._sending, self._receiving
        if connection is None or sending is None or receiving is None:
            raise _lost(self.place.host)
        return connection, sending, receiving

    def ping(self, deadline: runtime.Deadline) -> None:
        _, _, receiving = self._parts()
        receiving.round(deadline)

    def version(self) -> str:
        return 'AMQP 1.0'

    # ---- messages

    def encode(self, message: dict[str, Any]) -> Any:
        return envelope.encode(message, self.style.message_to if self.style.to else None)

    def decode(self, taken: Taken) -> dict[str, Any]:
        return envelope.decode(taken.payload, taken.queue)

    def put(self, items: list[Put], deadline: runtime.Deadline) -> Iterable[Exception | None]:
        _, sending, _ = self._parts()
        found: list[Any] = []
        for item in items:
            if item.queue:
                address = self._address(item.queue)
            else:
                address = self.style.exchange_address(item.exchange)
            try:
                found.append(sending.start(address, item.payload, deadline))
            except NotFound as error:
                found.append(self._missing(item, error))
            except Exception as error:  # that one's, and not the others'
                found.append(error)
        for at, started in enumerate(found):
            if started.__class__ is runtime.Waiter:
                try:
                    state = outcome(started, deadline)
                    found[at] = None if state is None else self._refusal(items[at], state)
                except Exception as error:  # told to whoever published it
                    found[at] = error
        return found

    def _missing(self, item: Put, error: Exception) -> Exception:
        # Nobody is bound to an exchange that the broker does not have.
        return error if item.queue else _unroutable(item)

    def _refusal(self, item: Put, state: Any) -> Exception:
        if isinstance(state, Released):
            if not item.queue:
                return _unroutable(item)
            return NotFound(f'NOT_FOUND - no queue {item.queue!r}', (60, 40), 'basic.publish', 404)
        what = text = f'{self.place.host} refused a message for {item.queue or item.exchange!r}'
        if isinstance(state, Rejected):
            reason = error_of(state.error, what)
            if isinstance(reason, NotFound):
                return self._missing(item, reason)
            text = str(reason)
        return PublishNacked(text, item.exchange, item.routing_key)

    def want(self, queue: str, n: int) -> None:
        if self._receiving is not None:
            address = self._address(queue)
            self._queues[address] = queue
            self._receiving.want(address, n)

    def _arrived(self, came: list[Came]) -> None:
        queues, taken = self._queues, self._taken
        self.owner.arrived(
            [taken(queues.get(address, address), link, delivery) for address, link, delivery in came]
        )

    def _taken(self, queue: str, link: Receiver, delivery: Delivery) -> Taken:
        return Taken(queue, delivery.payload, None if delivery.settled else (link, delivery.id))

    def take(self, queues: list[str], n: int, max_bytes: int, seconds: float) -> Iterable[Taken]:
        _, _, receiving = self._parts()
        deadline = runtime.Deadline.after(self.settings['operation_timeout'] or 30.0)
        taken: list[Taken] = []
        for queue in queues:
            if len(taken) < n:
                left = functools.partial(self._left, queue) if self.style.hasty else None
                address = self._address(queue)
                link, found = receiving.look(address, n - len(taken), deadline, left)
                taken += [self._taken(queue, link, delivery) for delivery in found]
        return taken

    def _left(self, queue: str, deadline: runtime.Deadline) -> tuple[int, int]:
        assert self.management is not None  # as of every broker that is hasty
        try:
            return self.management.load(queue, deadline)
        except NotFound:
            return 0, 0

    def settle(
        self, done: list[Taken], back: list[tuple[Taken, str]], deadline: runtime.Deadline
    ) -> list[tuple[Taken, Exception | None]]:
        _, _, receiving = self._parts()
        gone: list[tuple[Taken, Exception | None]] = []
        groups: dict[tuple[Any, type], tuple[Any, list[int]]] = {}
        requeue = _FAILED if self.style.modified else _RELEASED
        fates = {REQUEUE: requeue, DEAD: _REJECTED if self.style.discards else _ACCEPTED}
        for taken, state in [
            *((taken, _ACCEPTED) for taken in done),
            *((taken, fates.get(fate, _RELEASED)) for taken, fate in back),
        ]:
            if taken.receipt is None:
                continue  # the broker had settled it
            link, number = taken.receipt
            if number in link.session.unsettled_in:
                # By the type: outcomes without fields are all equal.
                groups.setdefault((link.session, type(state)), (state, []))[1].append(number)
            else:
                gone.append((taken, None))
        for (session, _), (state, numbers) in groups.items():
            session.settle(numbers, state)
        if back:
            # Whoever looks for them now, over another connection, shall find them.
            receiving.sync({taken.receipt[0] for taken, _ in back if taken.receipt is not None}, deadline)
        return gone

    # ---- queues

    def make(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> int | None:
        _, _, receiving = self._parts()
        size: int | None = None
        if self.management is not None:
            size = self.management.make_queue(queue, facts, deadline)
        else:
            declares = self.style.declaring_address(queue)
            if declares:
                self._touch(declares, deadline)
        receiving.retry(self._address(queue))
        return size

    def _touch(self, address: str, deadline: runtime.Deadline) -> None:
        # To begin a link makes the queue, where the broker makes queues by their use.
        _, sending, _ = self._parts()
        sending.touch(address, deadline)
        sending.forget(address)

    def has(self, queue: str, deadline: runtime.Deadline) -> bool:
        try:
            self._size(queue, deadline)
        except NotFound:
            return False
        return True

    def _size(self, queue: str, deadline: runtime.Deadline) -> int:
        if self.management is not None and self.management.counts:
            return self.management.size(queue, deadline)
        _, _, receiving = self._parts()
        link, _ = receiving.look(self._address(queue), 0, deadline)
        return link.available or 0

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        try:
            return self._size(queue, deadline)
        except NotFound:
            return 0

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        if self.management is not None and self.management.purges:
            count = 0 if self.management.counts else self.size(queue, deadline)
            return max(self.management.purge(queue, deadline), count)
        _, _, receiving = self._parts()
        address, removed = self._address(queue), 0
        while True:
            link, found = receiving.look(address, PURGED, deadline)
            if not found:
                return removed
            link.session.settle([delivery.id for delivery in found], _ACCEPTED)
            removed += len(found)

    def delete(self, queue: str, deadline: runtime.Deadline) -> None:
        _, sending, receiving = self._parts()
        if self.management is None:
            raise NotAllowed(
                f'queue {queue!r} cannot be deleted: {self.place.host} takes no such request over AMQP 1.0'
                f'{", see the option management_url" if self.style.management == "http" else ""}',
                (50, 40), 'queue.delete', 530,
            )  # fmt: skip
        address = self._address(queue)
        sending.forget(address)
        # RabbitMQ 3 crashes where it tells a link of the end of its queue.
        with receiving.away(address, deadline.within(PARTING)):
            self.management.delete_queue(queue, deadline)

    def queues(self, deadline: runtime.Deadline) -> list[dict[str, Any]] | None:
        return self.management.queues(deadline) if self.management is not None else None

    def keeps_dead(self, queue: str) -> bool:
        return False  # the broker does not tell; what was declared here the base knows

    # ---- bindings, where the broker has exchanges

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        if self.management is None:
            return
        if binding.exchange not in self._exchanges:
            self.management.make_exchange(binding.exchange, binding.kind, deadline)
            self._exchanges.add(binding.exchange)
        self.management.bind(_keyed(binding), deadline)

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        if self.management is not None:
            self.management.unbind(_keyed(binding), deadline)

    def drop_exchange(self, exchange: str, deadline: runtime.Deadline) -> None:
        if self.management is not None:
            self._exchanges.discard(exchange)
            if self._sending is not None and not self.style.to:
                self._sending.forget(self.style.exchange_address(exchange))
            self.management.delete_exchange(exchange, deadline)

    def stats(self) -> dict[str, Any]:
        connection = self._connection
        if connection is None or self._receiving is None or self._sending is None:
            return {}
        return {
            'broker': ' '.join(connection.engine.product()), 'address_style': self.style.name,
            'bytes_in': connection.bytes_in, 'bytes_out': connection.bytes_out,
            'receiving_links': len(self._receiving), 'sending_links': len(self._sending),
        }  # fmt: skip


def _keyed(binding: Binding) -> Binding:
    return binding if binding.routing_key else binding._replace(routing_key='')


def _lost(host: str) -> ConnectionLost:
    return ConnectionLost(f'{host}: there is no connection')


def _unroutable(item: Put) -> Unroutable:
    return Unroutable(item.message, item.exchange, item.routing_key)
