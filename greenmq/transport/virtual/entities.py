"""The methods of a virtual channel that declare, bind and delete, on the transport's `BrokerState`."""

from __future__ import annotations

from typing import Any

from greenmq.exceptions import InvalidArgument, NotFound, PreconditionFailed
from greenmq.transport.virtual.parts import ChannelParts
from greenmq.transport.virtual.state import queue_binding_t, queue_declare_ok_t
from greenmq.utils.uuid import uuid

__all__ = ('NOT_EQUIVALENT_FMT', 'EntityMethods', 'NotEquivalentError')

NOT_EQUIVALENT_FMT = (
    'Cannot declare exchange {0!r} in vhost {1!r} again with another type, durable, auto_delete '
    'or arguments value.'
)


class NotEquivalentError(PreconditionFailed):
    """An exchange of that name exists, and was declared otherwise.

    Source: kombu NotEquivalentError; differs: is a channel error, as brokers give for it.
    """


class EntityMethods(ChannelParts):
    """Exchanges, queues, bindings."""

    @property
    def _vhost(self) -> str:
        return getattr(self.connection.client, 'virtual_host', None) or '/'

    # ------------------------------------------------------------- exchanges

    def exchange_declare(
        self,
        exchange: str | None = None,
        type: str = 'direct',
        durable: bool = False,
        auto_delete: bool = False,
        arguments: Any = None,
        nowait: bool = False,
        passive: bool = False,
    ) -> None:
        """Declare an exchange, or with `passive` only look for it.

        Raises:
            NotFound: `passive`, and there is none.
            NotEquivalentError: it exists and differs.
            InvalidArgument: a type this channel doesn't know.
        Source: AMQP 0-9-1 exchange.declare; kombu.
        """
        type = type or 'direct'
        exchange = exchange or f'amq.{type}'
        exchanges = self.state.exchanges
        if passive:
            if exchange not in exchanges:
                raise self._not_found('exchange', exchange, (40, 10), 'Channel.exchange_declare')
            return
        if type not in self.exchange_types:
            known = ', '.join(sorted(self.exchange_types))
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

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Delete an exchange with its bindings; none of that name is fine.

        Raises:
            PreconditionFailed: `if_unused`, and something is bound to it.
        Switches: as the channel's `_delete`.
        Source: AMQP 0-9-1 exchange.delete.
        """
        if if_unused and self.state.in_use(exchange):
            raise PreconditionFailed(
                f'PRECONDITION_FAILED - exchange {exchange!r} in use',
                (40, 20),
                'Channel.exchange_delete',
                406,
            )
        for rkey, _, queue in list(self._table(exchange)):
            if self._own_routes:
                continue  # the state forgets the bindings itself; the queues live on
            self.queue_unbind(queue, exchange, rkey)
        self.state.exchange_delete(exchange)

    def exchange_bind(
        self,
        destination: str,
        source: str = '',
        routing_key: str = '',
        nowait: bool = False,
        arguments: Any = None,
    ) -> None:
        """Let exchange `destination` receive what `source` routes so.

        Raises:
            NotFound: one of them is not declared.
            NotImplementedError: the bindings of this transport are kept at its broker, which can't.
        Source: RabbitMQ exchange.bind; kombu's virtual transports have none.
        """
        self._check_exchange_bind('exchange_bind')
        for name in (destination, source):
            if name not in self.state.exchanges:
                raise self._not_found('exchange', name, (40, 30), 'Channel.exchange_bind')
        self.state.exchange_bind(destination, source, routing_key or '', arguments)

    def exchange_unbind(
        self,
        destination: str,
        source: str = '',
        routing_key: str = '',
        nowait: bool = False,
        arguments: Any = None,
    ) -> None:
        """Undo `exchange_bind`; no such binding is fine.

        Raises:
            NotImplementedError: as `exchange_bind`.
        """
        self._check_exchange_bind('exchange_unbind')
        self.state.exchange_unbind(destination, source, routing_key or '', arguments)

    def _check_exchange_bind(self, method: str) -> None:
        if not self._own_routes:
            raise NotImplementedError(f'transport does not support {method}')

    def typeof(self, exchange: str, default: str = 'direct') -> Any:
        """Return the `ExchangeType` of an exchange; that of `default` if it isn't declared."""
        try:
            kind = self.state.exchanges[exchange]['type']
        except KeyError:
            kind = default
        return self.exchange_types[kind or default]

    def get_exchanges(self) -> list[str]:
        """Return the names of all exchanges."""
        return list(self.state.exchanges)

    # ---------------------------------------------------------------- queues

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
        queue = queue or f'amq.gen-{uuid()}'
        if passive:
            if not self._has_queue(queue, **kwargs):
                raise self._not_found('queue', queue, (50, 10), 'Channel.queue_declare')
        else:
            self._new_queue(queue, **kwargs)
            self.state.queues[queue] = {**kwargs, 'arguments': dict(kwargs.get('arguments') or ())}
        return queue_declare_ok_t(queue, self._size(queue), self._consumer_count(queue))

    def queue_bind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = '',
        arguments: Any = None,
        **kwargs: Any,
    ) -> None:
        """Bind a queue to an exchange; the same binding twice is one.

        Raises:
            NotFound: the exchange isn't declared.
            InvalidArgument: arguments that the exchange's type doesn't understand.
        Switches: as the channel's `_queue_bind`.
        Source: AMQP 0-9-1 queue.bind; kombu.
        """
        state = self.state
        exchange = exchange or 'amq.direct'
        record = state.exchanges.get(exchange)
        if record is None:
            raise self._not_found('exchange', exchange, (50, 20), 'Channel.queue_bind')
        again = state.has_binding(queue, exchange, routing_key)
        if again and record['type'] != 'headers':
            return
        state.binding_declare(queue, exchange, routing_key, arguments)
        meta = self.typeof(exchange).prepare_bind(queue, exchange, routing_key, arguments)
        if not again:
            record.setdefault('table', []).append(meta)
        if self.supports_fanout:
            self._queue_bind(exchange, *meta)

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = '',
        arguments: Any = None,
        **kwargs: Any,
    ) -> None:
        """Remove a binding; no such binding is fine."""
        exchange = exchange or 'amq.direct'
        state = self.state
        state.binding_delete(queue, exchange, routing_key, arguments)
        record = state.exchanges.get(exchange)
        if record is not None and not state.has_binding(queue, exchange, routing_key):
            record['table'] = [
                entry for entry in record.get('table', ()) if (entry[0], entry[2]) != (routing_key, queue)
            ]

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> int:
        """Delete a queue, its messages and its bindings; none of that name is fine.

        Arguments:
            if_empty (bool): only if it has no messages.
            if_unused (bool): only if nobody consumes it.
        Returns:
            int: messages deleted.
        Switches: as the channel's `_delete` and `_size`.
        Source: AMQP 0-9-1 queue.delete; kombu, which keeps silent where a condition fails; differs: a queue
            without bindings is deleted too.
        """
        count = self._size(queue) if if_empty or self._has_queue(queue) else 0
        if (if_empty and count) or (if_unused and self._consumer_count(queue)):
            return 0
        state = self.state
        bindings = [binding for binding in state.queue_bindings(queue) if binding.exchange in state.exchanges]
        # A queue that only the default exchange reaches is bound there by its own name.
        for exchange, routing_key, arguments in bindings or [queue_binding_t('', queue, None)]:
            meta = self.typeof(exchange).prepare_bind(queue, exchange, routing_key, arguments)
            self._delete(queue, exchange, *meta, **kwargs)
        for exchange in {binding.exchange for binding in bindings}:
            record = state.exchanges.get(exchange)
            if record is not None:
                record['table'] = [entry for entry in record.get('table', ()) if entry[2] != queue]
        state.queue_bindings_delete(queue)
        state.queues.pop(queue, None)
        return int(count or 0)

    def queue_purge(self, queue: str, **kwargs: Any) -> int:
        """Delete the messages of a queue that nobody has; return how many.

        Switches: as the channel's `_purge`.
        """
        return int(self._purge(queue) or 0)

    def list_bindings(self) -> Any:
        """Yield (queue, exchange, routing key) of every binding."""
        return (
            (queue, exchange, rkey)
            for exchange, record in list(self.state.exchanges.items())
            for rkey, _, queue in list(record.get('table') or ())
        )

    def get_bindings(self) -> list[dict[str, str]]:
        """Return every binding as a dict of destination, source, routing_key."""
        return [
            {'destination': queue, 'source': exchange, 'routing_key': rkey}
            for queue, exchange, rkey in self.list_bindings()
        ]

    def get_table(self, exchange: str) -> Any:
        """Return the bindings of an exchange: (routing key, pattern, queue). Override it to keep them at the
        broker.

        Raises:
            KeyError: no such exchange.
        """
        return self.state.exchanges[exchange]['table']

    def _table(self, exchange: str) -> Any:
        try:
            return self.get_table(exchange)
        except KeyError:
            return ()

    def has_dead_letter(self, queue: str) -> bool:
        """Tell whether a message rejected from `queue` is kept somewhere."""
        arguments = self.state.queues.get(queue, {}).get('arguments') or {}
        return arguments.get('x-dead-letter-exchange') is not None

    def _not_found(self, kind: str, name: str, sig: tuple[int, int], method: str) -> NotFound:
        return NotFound(f'NOT_FOUND - no {kind} {name!r} in vhost {self._vhost!r}', sig, method, 404)
