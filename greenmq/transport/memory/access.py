"""What one connection may do with the queues of a broker in this process."""

from __future__ import annotations

from typing import Any

from greenmq.exceptions import AccessRefused, Unroutable
from greenmq.transport.memory.broker import LocalBroker
from greenmq.transport.memory.queue import LocalQueue, Record
from greenmq.transport.virtual.entities import Entities

__all__ = ('Access',)


class Access:
    """The queues of a virtual host, for one connection: `virtual.entities.Queues`, and more.

    Arguments:
        broker (LocalBroker): the virtual host.
        user (object): stands for the connection, which the broker must not keep alive.
        locks (bool): a queue that it declares exclusive is closed to others.
    No method switches.
    """

    def __init__(self, broker: LocalBroker, user: object, locks: bool) -> None:
        self.broker = broker
        self.user = user
        self.locks = locks

    # ---- queues

    def queue(self, name: str) -> LocalQueue:
        """The queue of a name, made if it isn't there. Raises `ResourceLocked`."""
        found = self.broker.queues.get(name)
        return found if found is not None else self.broker.declare(name, self.user)

    def checked(self, name: str) -> LocalQueue | None:
        """The queue of a name, None if there is none.

        Raises:
            ResourceLocked: it is exclusive to another connection.
        """
        found = self.broker.queues.get(name)
        if found is not None:
            self.broker.check(found, self.user)
        return found

    def make(self, queue: str, **kwargs: Any) -> None:
        """Make a queue; the first declaration counts. Raises as `LocalBroker.declare`."""
        self.broker.declare(queue, self.user, locked=self.locks, **kwargs)

    def has(self, queue: str, **kwargs: Any) -> bool:
        """Is there such a queue? Raises `ResourceLocked`."""
        return self.checked(queue) is not None

    def size(self, queue: str) -> int:
        """How many messages wait in a queue."""
        found = self.broker.queues.get(queue)
        return 0 if found is None else found.ready

    def purge(self, queue: str) -> int:
        """Remove them; return how many there were. Raises `ResourceLocked`."""
        self.checked(queue)
        return self.broker.purge(queue)

    def delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Delete a queue, its messages and bindings; its consumers stop."""
        self.broker.delete(queue)

    def drop(self, queue: str, if_unused: bool, if_empty: bool) -> int:
        """The same unless a condition fails; return how many messages it had. Raises `ResourceLocked`."""
        found = self.checked(queue)
        if found is None or (if_empty and found.ready) or (if_unused and self.consumers(queue)):
            return 0
        return self.broker.delete(queue)

    def bound(self, exchange: str, routing_key: str, pattern: Any, queue: str) -> None:
        """A queue was bound: the state has it, there is no more to do."""

    def consumers(self, queue: str) -> int:
        """How many consumers a queue has, of all connections."""
        return len(self.broker.board.consumers(queue))

    def table(self, exchange: str) -> Any:
        """The bindings of an exchange: (routing key, pattern, queue). Raises `KeyError`."""
        return self.broker.state.exchanges[exchange]['table']

    def has_dead_letter(self, queue: str) -> bool:
        """Is a message rejected from `queue` kept somewhere?"""
        found = self.broker.queues.get(queue)
        return found is not None and found.arguments.get('x-dead-letter-exchange') is not None

    def admit(self, sub: Any) -> None:
        """Let a consumer use its queue.

        Raises:
            ResourceLocked: the queue is exclusive to another connection.
            AccessRefused: this consumer or another one wants it for itself.
        """
        self.broker.check(self.queue(sub.queue), self.user)
        others = self.broker.board.consumers(sub.queue)
        if others and (sub.exclusive or any(other.exclusive for other in others)):
            raise AccessRefused(
                f"ACCESS_REFUSED - queue '{sub.queue}' in vhost '{self.broker.name}' in exclusive use",
                (60, 20),
                'Channel.basic_consume',
                403,
            )

    # ---- messages

    def take(self, name: str) -> Record | None:
        """Take the first message of a queue, made if it isn't there. Raises `ResourceLocked`."""
        found = self.queue(name)
        if found.owner is not None:
            self.broker.check(found, self.user)
        if found.expires is not None:
            self.broker.used(found)
        return self.broker.take(found)

    def put(self, name: str, message: Any) -> None:
        """Put a payload into one queue, under the exchange and key that it says."""
        info = message['properties'].get('delivery_info') or {}
        key = info.get('routing_key', name)
        self.broker.publish((self.queue(name),), message, info.get('exchange', ''), key)

    def plan(
        self, entities: Entities, message: Any, exchange: str, routing_key: str, mandatory: bool,
        deadletter_queue: str | None,
    ) -> tuple[LocalQueue, ...]:  # fmt: skip
        """The queues that a message goes to, where that isn't known from an earlier one.

        Raises:
            Unroutable: `mandatory`, and there are none.
        """
        broker = self.broker
        if not exchange:
            if mandatory and routing_key not in broker.queues:
                raise Unroutable(message, exchange, routing_key)
            self.queue(routing_key)
            return broker.remember_plan(exchange, routing_key, [routing_key])
        if exchange in broker.state.exchanges and entities.routes_itself(exchange):
            names = broker.state.route(exchange, routing_key, message.get('headers'))
            if names:
                if not broker.state.known_route(exchange, routing_key):
                    return tuple(broker.queues[name] for name in names)  # the headers had a say
                return broker.remember_plan(exchange, routing_key, names)
        # No queue, or an exchange type that a program brought along: kombu's way finds or warns.
        found = entities.lookup(exchange, routing_key, deadletter_queue)
        names = [name for name in found if name is not None]
        if not names and mandatory:
            raise Unroutable(message, exchange, routing_key)
        return tuple(self.queue(name) for name in names)
