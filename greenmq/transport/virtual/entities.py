"""Exchanges, queues and bindings of a broker that only knows queues, on a `BrokerState`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from greenmq.exceptions import InvalidArgument, NotFound, PreconditionFailed
from greenmq.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES
from greenmq.transport.virtual.state import (
    BrokerState,
    queue_binding_t,
    queue_declare_ok_t,
)
from greenmq.utils.uuid import uuid

__all__ = (
    'NOT_EQUIVALENT_FMT', 'UNDELIVERABLE_FMT', 'Entities', 'EntityMethods', 'NotEquivalentError', 'Queues',
    'UndeliverableWarning',
)  # fmt: skip

NOT_EQUIVALENT_FMT = (
    'Cannot declare exchange {0!r} in vhost {1!r} again with another type, durable, auto_delete '
    'or arguments value.'
)


class NotEquivalentError(PreconditionFailed):
    """An exchange of that name exists, and was declared otherwise.

    Source: kombu NotEquivalentError; differs: is a channel error, as brokers give for it.
    """


UNDELIVERABLE_FMT = (
    'Message could not be delivered: no queue is bound to exchange {exchange!r} '
    'with binding key {routing_key!r}.'
)


class UndeliverableWarning(UserWarning):
    """A message reached no queue and went to the `deadletter_queue`.

    Source: kombu UndeliverableWarning.
    """


class Queues(Protocol):
    """What `Entities` need of who keeps the queues: a channel's `Adapter`, or a broker in this process."""

    def make(self, queue: str, **kwargs: Any) -> None:
        """Make a queue; it may exist."""

    def has(self, queue: str, **kwargs: Any) -> bool:
        """Does a queue exist?"""

    def size(self, queue: str) -> int:
        """How many messages wait in it."""

    def purge(self, queue: str) -> int:
        """Remove them; return how many there were."""

    def delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Delete it; called for each of its bindings, with (exchange, routing key, pattern, queue)."""

    def bound(self, exchange: str, routing_key: str, pattern: Any, queue: str) -> None:
        """It was bound."""

    def consumers(self, queue: str) -> int:
        """How many consumers it has, as far as is known here."""

    def table(self, exchange: str) -> Any:
        """The bindings of an exchange, wherever they are kept: (routing key, pattern, queue)."""


class Entities:
    """What one channel declares, binds and deletes.

    Arguments:
        queues (Queues): who keeps the queues.
        home (Transport): its `state` is what was declared; a transport may change it for another one.
        types (dict[str, ExchangeType]): the types of exchange that there are, by name.
        vhost (str): for texts.
        own_routes (bool): the bindings are kept in the state, and nowhere else.
    Attributes:
        own_routes (bool), state (BrokerState): what was given, and what was declared.
    Raises:
        NotFound, PreconditionFailed, NotEquivalentError, InvalidArgument: as AMQP has them.
    Switches: as `queues`.
    """

    def __init__(
        self, queues: Queues, home: Any, types: dict[str, Any], vhost: str, own_routes: bool = True
    ) -> None:
        self._home = home
        self._queues = queues
        self._types = types
        self._vhost = vhost
        self.own_routes = own_routes

    @property
    def state(self) -> BrokerState:
        """What was declared."""
        return self._home.state  # type: ignore[no-any-return]

    # ------------------------------------------------------------- exchanges

    def declare_exchange(
        self, exchange: str | None, type: str, durable: bool, auto_delete: bool, arguments: Any, passive: bool
    ) -> None:
        """Declare an exchange, or with `passive` only look for it."""
        type = type or 'direct'
        exchange = exchange or f'amq.{type}'
        exchanges = self.state.exchanges
        if passive:
            if exchange not in exchanges:
                raise self.not_found('exchange', exchange, (40, 10), 'Channel.exchange_declare')
            return
        if type not in self._types:
            known = ', '.join(sorted(self._types))
            raise InvalidArgument('exchange type', type, f'is none of {known}')
        prev = exchanges.get(exchange)
        if prev is None:
            exchanges[exchange] = {
                'type': type,
                'durable': durable,
                'auto_delete': auto_delete,
                'arguments': dict(arguments) if arguments else {},
                'table': [],
            }
        elif not self.typeof(exchange).equivalent(prev, exchange, type, durable, auto_delete, arguments):
            raise NotEquivalentError(
                NOT_EQUIVALENT_FMT.format(exchange, self._vhost), (40, 10), 'Channel.exchange_declare', 406
            )

    def refuse_used(self, exchange: str, if_unused: bool) -> None:
        """Refuse to delete an exchange that is in use, if that was asked for."""
        if if_unused and self.state.in_use(exchange):
            raise PreconditionFailed(
                f'PRECONDITION_FAILED - exchange {exchange!r} in use',
                (40, 20),
                'Channel.exchange_delete',
                406,
            )

    def bind_exchange(self, destination: str, source: str, routing_key: str, arguments: Any) -> None:
        """Let an exchange receive what another one routes so."""
        self._check_exchange_bind('exchange_bind')
        for name in (destination, source):
            if name not in self.state.exchanges:
                raise self.not_found('exchange', name, (40, 30), 'Channel.exchange_bind')
        self.state.exchange_bind(destination, source, routing_key or '', arguments)

    def unbind_exchange(self, destination: str, source: str, routing_key: str, arguments: Any) -> None:
        """Undo `bind_exchange`."""
        self._check_exchange_bind('exchange_unbind')
        self.state.exchange_unbind(destination, source, routing_key or '', arguments)

    def _check_exchange_bind(self, method: str) -> None:
        if not self.own_routes:
            raise NotImplementedError(f'transport does not support {method}')

    def typeof(self, exchange: str, default: str = 'direct') -> Any:
        """The `ExchangeType` of an exchange; that of `default` if it isn't declared."""
        try:
            kind = self.state.exchanges[exchange]['type']
        except KeyError:
            kind = default
        return self._types[kind or default]

    def table(self, exchange: str) -> Any:
        """The bindings of an exchange: (routing key, pattern, queue); none if there is no such exchange."""
        try:
            return self._queues.table(exchange)
        except KeyError:
            return ()

    def routes_itself(self, exchange: str) -> bool:
        """Does the state know the way? Not if the channel keeps its tables elsewhere, or the type of the
        exchange is a program's own: those do the look-up then.
        """
        kind = self.typeof(exchange)
        return self.own_routes and type(kind) is STANDARD_EXCHANGE_TYPES.get(kind.type)

    def lookup(self, exchange: str, routing_key: str, default: str | None) -> Any:
        """The queues that get a message; the default, made if need be, if there are none."""
        if not exchange:
            return [routing_key or default]
        if self.routes_itself(exchange):
            found = self.state.route(exchange, routing_key)
        else:
            found = self.typeof(exchange).lookup(self.table(exchange), exchange, routing_key, default)
        if not found and default is not None:
            warnings.warn(
                UndeliverableWarning(UNDELIVERABLE_FMT.format(exchange=exchange, routing_key=routing_key)),
                stacklevel=3,
            )
            self._queues.make(default)
            found = [default]
        return found

    def reaches(self, exchange: str, routing_key: str, headers: Mapping[str, Any] | None) -> bool:
        """Would any queue get such a message?"""
        if not exchange:
            return self._queues.has(routing_key)
        if exchange not in self.state.exchanges and self.own_routes:
            return False
        kind = self.typeof(exchange)
        if self.routes_itself(exchange) or kind.type == 'headers':
            return bool(self.state.route(exchange, routing_key, headers or {}))
        return bool(kind.lookup(self.table(exchange), exchange, routing_key, None))

    # ---------------------------------------------------------------- queues

    def declare_queue(self, queue: str | None, passive: bool, **kwargs: Any) -> queue_declare_ok_t:
        """Declare a queue, or with `passive` only look for it."""
        queue, queues = queue or f'amq.gen-{uuid()}', self._queues
        if passive:
            if not queues.has(queue, **kwargs):
                raise self.not_found('queue', queue, (50, 10), 'Channel.queue_declare')
        else:
            queues.make(queue, **kwargs)
            self.state.queues[queue] = {**kwargs, 'arguments': dict(kwargs.get('arguments') or ())}
        return queue_declare_ok_t(queue, queues.size(queue), queues.consumers(queue))

    def bind(
        self, queue: str, exchange: str | None, routing_key: str, arguments: Any, fanout: bool = False
    ) -> None:
        """Bind a queue to an exchange; the same binding twice is one.

        Arguments:
            fanout (bool): whoever keeps the queues is told.
        """
        state = self.state
        exchange = exchange or 'amq.direct'
        record = state.exchanges.get(exchange)
        if record is None:
            raise self.not_found('exchange', exchange, (50, 20), 'Channel.queue_bind')
        again = state.has_binding(queue, exchange, routing_key)
        if again and record['type'] != 'headers':
            return
        state.binding_declare(queue, exchange, routing_key, arguments)
        meta = self.typeof(exchange).prepare_bind(queue, exchange, routing_key, arguments)
        if not again:
            record.setdefault('table', []).append(meta)
        if fanout:
            self._queues.bound(exchange, *meta)

    def unbind(self, queue: str, exchange: str | None, routing_key: str, arguments: Any) -> None:
        """Remove a binding; no such binding is fine."""
        exchange = exchange or 'amq.direct'
        state = self.state
        state.binding_delete(queue, exchange, routing_key, arguments)
        record = state.exchanges.get(exchange)
        if record is not None and not state.has_binding(queue, exchange, routing_key):
            record['table'] = [
                entry for entry in record.get('table', ()) if (entry[0], entry[2]) != (routing_key, queue)
            ]

    def delete_queue(self, queue: str, if_unused: bool, if_empty: bool, **kwargs: Any) -> int:
        """Delete a queue, its messages and its bindings; return how many messages it had."""
        queues, state = self._queues, self.state
        count = queues.size(queue) if if_empty or queues.has(queue) else 0
        if (if_empty and count) or (if_unused and queues.consumers(queue)):
            return 0
        bindings = [binding for binding in state.queue_bindings(queue) if binding.exchange in state.exchanges]
        # A queue that only the default exchange reaches is bound there by its own name.
        for exchange, routing_key, arguments in bindings or [queue_binding_t('', queue, None)]:
            meta = self.typeof(exchange).prepare_bind(queue, exchange, routing_key, arguments)
            queues.delete(queue, exchange, *meta, **kwargs)
        for exchange in {binding.exchange for binding in bindings}:
            record = state.exchanges.get(exchange)
            if record is not None:
                record['table'] = [entry for entry in record.get('table', ()) if entry[2] != queue]
        state.queue_bindings_delete(queue)
        state.queues.pop(queue, None)
        return count

    def purge_queue(self, queue: str) -> int:
        """Remove the messages of a queue that nobody has; return how many."""
        return self._queues.purge(queue)

    def list_bindings(self) -> Iterator[tuple[str, str, str]]:
        """(queue, exchange, routing key) of every binding."""
        return (
            (queue, exchange, rkey)
            for exchange, record in list(self.state.exchanges.items())
            for rkey, _, queue in list(record.get('table') or ())
        )

    def not_found(self, kind: str, name: str, sig: tuple[int, int], method: str) -> NotFound:
        """The error that says so."""
        return NotFound(f'NOT_FOUND - no {kind} {name!r} in vhost {self._vhost!r}', sig, method, 404)


class EntityMethods:
    """AMQP's methods for exchanges, queues and bindings, handed on to the channel's `entities`."""

    entities: Entities
    supports_fanout: bool

    def exchange_declare(
        self, exchange: str | None = None, type: str = 'direct', durable: bool = False,
        auto_delete: bool = False, arguments: Any = None, nowait: bool = False, passive: bool = False,
    ) -> None:  # fmt: skip
        """Declare an exchange, or with `passive` only look for it.

        Raises:
            NotFound: `passive`, and there is none. NotEquivalentError: it exists and differs.
            InvalidArgument: a type this channel doesn't know.
        Source: AMQP 0-9-1 exchange.declare; kombu.
        """
        self.entities.declare_exchange(exchange, type, durable, auto_delete, arguments, passive)

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Delete an exchange with its bindings; none of that name is fine.

        Raises:
            PreconditionFailed: `if_unused`, and something is bound to it.
        Switches: as the channel's `_delete`.
        Source: AMQP 0-9-1 exchange.delete.
        """
        entities = self.entities
        entities.refuse_used(exchange, if_unused)
        if not entities.own_routes:  # else the state forgets the bindings itself; the queues live on
            for rkey, _, queue in list(entities.table(exchange)):
                self.queue_unbind(queue, exchange, rkey)
        entities.state.exchange_delete(exchange)

    def exchange_bind(
        self, destination: str, source: str = '', routing_key: str = '', nowait: bool = False,
        arguments: Any = None,
    ) -> None:  # fmt: skip
        """Let exchange `destination` receive what `source` routes so.

        Raises:
            NotFound: one of them is not declared.
            NotImplementedError: the bindings of this transport are kept at its broker, which can't.
        Source: RabbitMQ exchange.bind; kombu's virtual transports have none.
        """
        self.entities.bind_exchange(destination, source, routing_key, arguments)

    def exchange_unbind(
        self, destination: str, source: str = '', routing_key: str = '', nowait: bool = False,
        arguments: Any = None,
    ) -> None:  # fmt: skip
        """Undo `exchange_bind`; no such binding is fine. Raises NotImplementedError as that."""
        self.entities.unbind_exchange(destination, source, routing_key, arguments)

    def typeof(self, exchange: str, default: str = 'direct') -> Any:
        """Return the `ExchangeType` of an exchange; that of `default` if it isn't declared."""
        return self.entities.typeof(exchange, default)

    def get_exchanges(self) -> list[str]:
        """Return the names of all exchanges."""
        return list(self.entities.state.exchanges)

    def queue_declare(
        self, queue: str | None = None, passive: bool = False, **kwargs: Any
    ) -> queue_declare_ok_t:
        """Declare a queue, or with `passive` only look for it.

        Arguments:
            queue (str): its name; one is made up if there is none.
            durable (bool), exclusive (bool), auto_delete (bool), arguments (dict[str, object]): as in AMQP.
        Returns:
            queue_declare_ok_t: name, messages in it, consumers known here.
        Raises:
            NotFound: `passive`, and there is none.
        Switches: as the channel's `_new_queue`, `_has_queue` and `_size`.
        Source: AMQP 0-9-1 queue.declare; kombu.
        """
        return self.entities.declare_queue(queue, passive, **kwargs)

    def queue_bind(
        self, queue: str, exchange: str | None = None, routing_key: str = '', arguments: Any = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        """Bind a queue to an exchange; the same binding twice is one.

        Raises:
            NotFound: the exchange isn't declared.
            InvalidArgument: arguments that the exchange's type doesn't understand.
        Switches: as the channel's `_queue_bind`.
        Source: AMQP 0-9-1 queue.bind; kombu.
        """
        self.entities.bind(queue, exchange, routing_key, arguments, self.supports_fanout)

    def queue_unbind(
        self, queue: str, exchange: str | None = None, routing_key: str = '', arguments: Any = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        """Remove a binding; no such binding is fine."""
        self.entities.unbind(queue, exchange, routing_key, arguments)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> int:
        """Delete a queue, its messages and its bindings; none of that name is fine.

        Arguments:
            if_empty (bool): only if it has no messages. if_unused (bool): only if nobody consumes it.
        Returns:
            int: messages deleted.
        Switches: as the channel's `_delete` and `_size`.
        Source: AMQP 0-9-1 queue.delete; kombu, which keeps silent where a condition fails; differs: a queue
            without bindings is deleted too.
        """
        return self.entities.delete_queue(queue, if_unused, if_empty, **kwargs)

    def queue_purge(self, queue: str, **kwargs: Any) -> int:
        """Delete the messages of a queue that nobody has; return how many.

        Switches: as the channel's `_purge`.
        """
        return self.entities.purge_queue(queue)

    def list_bindings(self) -> Any:
        """Yield (queue, exchange, routing key) of every binding."""
        return self.entities.list_bindings()

    def get_bindings(self) -> list[dict[str, str]]:
        """Return every binding as a dict of destination, source, routing_key."""
        return [
            {'destination': queue, 'source': exchange, 'routing_key': rkey}
            for queue, exchange, rkey in self.list_bindings()
        ]
