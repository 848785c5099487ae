"""What a virtual transport knows of its broker: exchanges, queue arguments, bindings, and the way through
them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from greenmq.core import routing

__all__ = ('BrokerState', 'binding_key_t', 'exchange_t', 'queue_binding_t', 'queue_declare_ok_t')

#: Routes remembered; beyond it the memory starts anew, or unique routing keys would fill it for ever.
MAX_ROUTES = 10_000


class binding_key_t(NamedTuple):
    """One binding of a queue.

    Source: kombu binding_key_t.
    """

    queue: str
    exchange: str
    routing_key: str


class queue_binding_t(NamedTuple):
    """One binding seen from its queue.

    Source: kombu queue_binding_t.
    """

    exchange: str
    routing_key: str
    arguments: Any


class queue_declare_ok_t(NamedTuple):
    """The answer to queue_declare.

    Source: AMQP 0-9-1, queue.declare-ok.
    """

    queue: str
    message_count: int
    consumer_count: int


class exchange_t(NamedTuple):
    """An exchange as the target of a binding."""

    name: str


class BrokerState:
    """Exchanges and bindings of one broker or virtual host.

    Arguments:
        exchanges (dict[str, dict]): name → type, durable, auto_delete, arguments, table.
    Attributes:
        bindings (dict[binding_key_t, object]): every binding of a queue with its arguments.
        queue_index (dict[str, set[binding_key_t]]): the bindings of each queue.
        queues (dict[str, dict]): what each queue was declared with: durable, exclusive, auto_delete,
            arguments.
        plans (dict[tuple[str, str], object]): what a broker in this process has worked out for an exchange
            and a key; forgotten with the routes.
    No method switches.
    Source: kombu BrokerState; differs: knows queues, exchange-to-exchange bindings and routes.
    """

    exchanges: dict[str, dict[str, Any]] = None  # type: ignore[assignment]
    bindings: dict[binding_key_t, Any] = None  # type: ignore[assignment]
    queue_index: dict[str, set[binding_key_t]] = None  # type: ignore[assignment]

    def __init__(self, exchanges: dict[str, dict[str, Any]] | None = None) -> None:
        self.exchanges = {} if exchanges is None else exchanges
        self.bindings = {}
        self.queue_index = defaultdict(set)
        self.queues: dict[str, dict[str, Any]] = {}
        self._tables: dict[str, routing.Table[Any]] = {}
        self._routes: dict[tuple[str, str], list[str]] = {}
        self.plans: dict[tuple[str, str], Any] = {}

    def clear(self) -> None:
        """Forget everything."""
        self.exchanges.clear()
        self.bindings.clear()
        self.queue_index.clear()
        self.queues.clear()
        self._tables.clear()
        self.changed()

    def changed(self) -> None:
        """A binding or a queue came or went: forget what was worked out."""
        self._routes.clear()
        self.plans.clear()

    # -------------------------------------------------------------- bindings

    def has_binding(self, queue: str, exchange: str, routing_key: str) -> bool:
        """Tell whether the queue is bound so, whatever the arguments."""
        return (queue, exchange, routing_key) in self.bindings

    def binding_declare(self, queue: str, exchange: str, routing_key: str, arguments: Any) -> None:
        """Bind a queue; the same binding twice is one."""
        key = binding_key_t(queue, exchange, routing_key)
        self.bindings.setdefault(key, arguments)
        self.queue_index[queue].add(key)
        self._add(queue, exchange, routing_key, arguments)

    def binding_delete(self, queue: str, exchange: str, routing_key: str, arguments: Any = None) -> None:
        """Remove a binding; no such binding is fine.

        With `arguments` only the binding with just these goes: a headers exchange tells bindings apart by
        them.
        """
        key = binding_key_t(queue, exchange, routing_key)
        if key not in self.bindings:
            return
        table = self._tables.get(exchange)
        if table is not None:
            mine = [
                (rkey, args)
                for target, rkey, args in table.bindings()
                if target == queue and rkey == routing_key
            ]
            gone = [
                args for _, args in mine if not arguments or routing.freeze(args) == routing.freeze(arguments)
            ]
            for args in gone:
                table.remove(queue, routing_key, args)
            self.changed()
            if len(gone) < len(mine):
                return
        del self.bindings[key]
        index = self.queue_index.get(queue)
        if index is not None:
            index.discard(key)
            if not index:
                del self.queue_index[queue]

    def queue_bindings(self, queue: str) -> Iterator[queue_binding_t]:
        """Yield the bindings of a queue."""
        return (
            queue_binding_t(key.exchange, key.routing_key, self.bindings[key])
            for key in list(self.queue_index.get(queue, ()))
        )

    def queue_bindings_delete(self, queue: str) -> None:
        """Remove all bindings of a queue."""
        for key in self.queue_index.pop(queue, ()):
            self.bindings.pop(key, None)
            table = self._tables.get(key.exchange)
            if table is not None:
                table.remove_target(queue)
        self.changed()

    def exchange_bind(self, destination: str, source: str, routing_key: str, arguments: Any = None) -> None:
        """Let an exchange receive what another one routes so."""
        self._add(exchange_t(destination), source, routing_key, arguments)

    def exchange_unbind(self, destination: str, source: str, routing_key: str, arguments: Any = None) -> None:
        """Remove what `exchange_bind` made; no such binding is fine."""
        table = self._tables.get(source)
        if table is not None:
            table.remove(exchange_t(destination), routing_key, arguments)
            self.changed()

    def exchange_delete(self, exchange: str) -> None:
        """Forget an exchange and every binding from it or to it."""
        self.exchanges.pop(exchange, None)
        self._tables.pop(exchange, None)
        for key in [key for key in self.bindings if key.exchange == exchange]:
            del self.bindings[key]
            self.queue_index[key.queue].discard(key)
        for table in self._tables.values():
            table.remove_target(exchange_t(exchange))
        self.changed()

    def table(self, exchange: str) -> routing.Table[Any] | None:
        """Return the bindings of an exchange as `core.routing` keeps them; None if it has none."""
        return self._tables.get(exchange)

    def in_use(self, exchange: str) -> bool:
        """Tell whether anything is bound to the exchange."""
        return bool(len(self._tables.get(exchange, ())))

    def _add(self, target: Any, exchange: str, routing_key: str, arguments: Any) -> None:
        table = self._tables.get(exchange)
        if table is None:
            kind = self.exchanges.get(exchange, {}).get('type') or 'direct'
            if kind not in routing.TABLES:
                return  # an exchange type of the program's own: its `lookup` routes, over `get_table`
            table = self._tables[exchange] = routing.table(kind)
        table.add(target, routing_key or '', arguments)
        self.changed()

    # ---------------------------------------------------------------- routes

    def route(self, exchange: str, routing_key: str, headers: Mapping[str, Any] | None = None) -> list[str]:
        """Return the queues that get a message, each once; its order stays while the bindings do.

        An exchange that routes to no queue hands over to its `alternate-exchange`, if it was declared with
        one. The list is shared: don't change it.
        """
        found = self._routes.get((exchange, routing_key))
        if found is not None:
            return found
        reached: dict[str, None] = {}
        by_headers = self._walk(exchange, routing_key, headers, reached, {exchange})
        queues = list(reached)
        if not by_headers:
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            self._routes[exchange, routing_key] = queues
        return queues

    def known_route(self, exchange: str, routing_key: str) -> bool:
        """Tell whether the route is one for any headers."""
        return (exchange, routing_key) in self._routes

    def _walk(
        self,
        exchange: str,
        key: str,
        headers: Mapping[str, Any] | None,
        reached: dict[str, None],
        seen: set[str],
    ) -> bool:
        """Collect the queues behind an exchange; True if the headers had a say."""
        table = self._tables.get(exchange)
        by_headers = isinstance(table, routing.HeadersTable)
        targets = table.route(key, headers) if table is not None else []
        if not targets:
            arguments = self.exchanges.get(exchange, {}).get('arguments') or {}
            alternate = arguments.get('alternate-exchange')
            targets = [exchange_t(alternate)] if alternate else []
        for target in targets:
            if isinstance(target, exchange_t):
                if target.name not in seen:  # exchanges bound in a circle: once round is enough
                    seen.add(target.name)
                    by_headers = self._walk(target.name, key, headers, reached, seen) or by_headers
            else:
                reached[target] = None
        return by_headers
