"""The methods of a channel that change exchanges, queues and bindings.

What is declared here is entered in the connection's topology and declared again after a loss. A method that
fails closes its wire channel, so where deliveries are in hand it goes over a wire of its own: a 404 or 406
then costs nobody else anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from amqp.protocol import queue_declare_ok_t

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed
from greenmq.transport.base import StdChannel, to_rabbitmq_queue_arguments

from . import frames, methods

if TYPE_CHECKING:
    from .connection import Connection
    from .consuming import Consuming

__all__ = ('Entities',)


class Entities(StdChannel):
    """The part of a `Channel` that declares, binds and deletes."""

    connection: Connection
    consuming: Consuming
    closed: bool
    last_queue: str
    #: Greenlet → the deadline of the block it is in.
    _limits: runtime.Limits

    def _deadline(self) -> runtime.Deadline:
        if self.closed:
            raise ConnectionClosed(f'{self!r} was closed')
        self.connection.come_here()
        return self._limits.within(self.connection.settings.operation_timeout)

    def within(self, deadline: runtime.Deadline) -> AbstractContextManager[None]:
        """Hold every call that this greenlet makes in the block to a deadline."""
        return self._limits.held(deadline)

    def _call(
        self,
        method: methods.Method,
        arguments: tuple[Any, ...],
        nowait: bool = False,
        deadline: runtime.Deadline | None = None,
        queue: str | None = None,
    ) -> list[Any]:
        """A method that changes entities. Deliveries in hand are on another wire, which an error spares.

        Arguments:
            queue (str): what stands before the arguments: its name when they are sent. A recovery that is
                waited for gives a queue that the broker named another one.
        """
        deadline = deadline or self._deadline()
        consuming, current_name = self.consuming, self.connection.current_name

        def request() -> bytes:
            given = arguments if queue is None else (0, current_name(queue), *arguments)
            return methods.encode(method, given)

        request()  # a mistake of the caller is told before anything is waited for
        if consuming.consumers or len(consuming.ledger):
            reply = self.connection.control_call(method, request, nowait, deadline)
        elif nowait:
            channel = consuming.open(deadline)
            consuming.flush()
            channel.send_method(method.signature, request())
            reply = None
        else:
            reply = consuming.call_encoded(method, request, deadline)
        return frames.read_arguments(method.answer, reply[1]) if reply is not None and method.answer else []

    # ---- exchanges

    def exchange_declare(
        self,
        exchange: str,
        type: str = 'direct',
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
        internal: bool = False,
    ) -> None:
        """Create an exchange, or check that it is there (`passive`).

        Raises:
            NotFound: passive, and it is not there.
            PreconditionFailed: it is there with other properties.
        Switches: yes.
        """
        self._call(
            methods.EXCHANGE_DECLARE,
            (0, exchange, type, passive, durable, auto_delete, internal, nowait, arguments or {}),
            nowait,
        )
        if not passive:
            self.connection.topology.exchange(
                exchange,
                type=type,
                durable=durable,
                auto_delete=auto_delete,
                internal=internal,
                arguments=dict(arguments or {}),
            )
        if not nowait:
            self.connection.known_exchanges.add(exchange)

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Delete an exchange. Switches: yes."""
        self.connection.known_exchanges.discard(exchange)
        self._call(methods.EXCHANGE_DELETE, (0, exchange, if_unused, nowait), nowait)
        self.connection.known_exchanges.discard(exchange)
        self.connection.forget('exchange', exchange)

    def exchange_bind(
        self,
        destination: str,
        source: str = '',
        routing_key: str = '',
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Route messages of exchange `source` to exchange `destination`. Switches: yes."""
        self._call(
            methods.EXCHANGE_BIND,
            (0, destination, source, routing_key, nowait, arguments or {}),
            nowait,
        )
        self.connection.topology.bind_exchange(destination, source, routing_key, arguments)

    def exchange_unbind(
        self,
        destination: str,
        source: str = '',
        routing_key: str = '',
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Undo `exchange_bind`. Switches: yes."""
        self._call(
            methods.EXCHANGE_UNBIND,
            (0, destination, source, routing_key, nowait, arguments or {}),
            nowait,
        )
        self.connection.topology.unbind_exchange(destination, source, routing_key, arguments)

    # ---- queues

    def queue_declare(
        self,
        queue: str = '',
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> queue_declare_ok_t | None:
        """Create a queue, or check that it is there (`passive`).

        Arguments:
            queue (str): empty lets the broker choose; the name it chose stays valid here after a recovery.
        Returns:
            queue_declare_ok_t: (queue, message_count, consumer_count); None with `nowait`.
        Raises:
            NotFound, PreconditionFailed, ResourceLocked: as the broker says.
        Switches: yes.
        """
        if queue.startswith('amq.') and self.connection.queue_facts(queue).get('server_named'):
            # It is there as it was asked for, and the broker lets nobody declare a name that it gave.
            passive = True
        answer = self._call(
            methods.QUEUE_DECLARE,
            (passive, durable, exclusive, auto_delete, nowait, arguments or {}),
            nowait,
            queue=queue,
        )
        found = answer[0] if answer else queue
        if not passive and found:
            self.connection.topology.queue(
                found,
                durable=durable,
                exclusive=exclusive,
                auto_delete=auto_delete,
                arguments=dict(arguments or {}),
                server_named=not queue,
            )
        self.last_queue = found
        return queue_declare_ok_t(queue or found, *answer[1:]) if answer else None

    def queue_bind(
        self,
        queue: str,
        exchange: str = '',
        routing_key: str = '',
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Route messages of an exchange to a queue. Switches: yes."""
        queue = queue or self.last_queue
        self._call(
            methods.QUEUE_BIND, (exchange, routing_key, nowait, arguments or {}), nowait, queue=queue
        )
        queue = self.connection.current_name(queue)
        self.connection.topology.bind_queue(queue, exchange, routing_key, arguments)

    def queue_unbind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = '',
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Undo `queue_bind`. Switches: yes (the method has no `nowait` in AMQP)."""
        queue = queue or self.last_queue
        self._call(methods.QUEUE_UNBIND, (exchange, routing_key, arguments or {}), queue=queue)
        queue = self.connection.current_name(queue)
        self.connection.topology.unbind_queue(queue, exchange, routing_key, arguments)

    def queue_delete(
        self, queue: str = '', if_unused: bool = False, if_empty: bool = False, nowait: bool = False
    ) -> int | None:
        """Delete a queue; returns how many messages went with it. Switches: yes."""
        queue = queue or self.last_queue
        answer = self._call(methods.QUEUE_DELETE, (if_unused, if_empty, nowait), nowait, queue=queue)
        self.connection.forget('queue', self.connection.current_name(queue))
        return answer[0] if answer else None

    def queue_purge(self, queue: str = '', nowait: bool = False) -> int | None:
        """Drop the messages of a queue; returns how many. Switches: yes."""
        answer = self._call(methods.QUEUE_PURGE, (nowait,), nowait, queue=queue or self.last_queue)
        return answer[0] if answer else None

    def prepare_queue_arguments(self, arguments: Mapping[str, Any] | None, **kwargs: Any) -> dict[str, Any]:
        """Queue options in RabbitMQ's names and units."""
        return to_rabbitmq_queue_arguments(arguments, **kwargs)

    def has_dead_letter(self, queue: str) -> bool:
        """True if this connection declared the queue with a dead-letter exchange."""
        return self.connection.has_dead_letter(queue)
