"""Where a message goes: exchanges, bindings and queues of one session, and the table that processes share."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping
from typing import Any

from greenmq import runtime
from greenmq.core import routing
from greenmq.exceptions import (
    AccessRefused,
    ConnectionClosed,
    InvalidArgument,
    NotFound,
    PreconditionFailed,
    Unroutable,
)
from greenmq.log import get_logger
from greenmq.transport.driver.arrival import EXPIRES_AT
from greenmq.transport.driver.contract import Binding, Driver
from greenmq.transport.virtual.deaths import died
from greenmq.transport.virtual.entities import (
    NOT_EQUIVALENT_FMT,
    UNDELIVERABLE_FMT,
    NotEquivalentError,
    UndeliverableWarning,
)
from greenmq.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES
from greenmq.transport.virtual.state import BrokerState

__all__ = ('Router',)

logger = get_logger('greenmq.transport.driver')

#: Seconds that a shared table is believed where the driver does not tell of changes.
BELIEVED = 1.0
#: Routes remembered for each shared table; then the memory starts anew.
MAX_ROUTES = 10_000


class _Shared:
    """The bindings of one exchange as the broker had them.

    Attributes:
        told (bool): the driver tells when they change: until then they hold.
        routes (dict[str, list[str]]): routing key → the queues, where the headers have no say.
    """

    __slots__ = ('read_at', 'routes', 'table', 'told')

    def __init__(self, table: Any = None, read_at: float = 0.0, told: bool = False) -> None:
        self.table = table
        self.read_at = read_at
        self.told = told
        self.routes: dict[str, list[str]] = {}


class Router:
    """The exchanges, bindings and queues that one session knows.

    Arguments:
        session (Session): held weakly; its `call` reaches the driver.
        state (BrokerState): what was declared in this process.
        deadletter_queue (str | None): where messages go that no queue is bound for.
    """

    def __init__(self, session: Any, state: BrokerState, deadletter_queue: str | None = None) -> None:
        self.state = state
        self._session = weakref.ref(session)
        self._driver = session.driver
        self._deadletter_queue = deadletter_queue
        self._shared: dict[str, _Shared] = {}
        self._learned: dict[str, dict[str, Any]] = {}
        self._reading = runtime.Once()
        #: Counts the changes: a read that began before one does not count for who made it.
        self._changes = 0
        self._chained: set[str] = set()  # exchanges that are bound to each other

    def _call(self, name: str, deadline: runtime.Deadline, fun: Any, *args: Any) -> Any:
        session = self._session()
        if session is None:
            raise ConnectionClosed('nobody uses the connection any more')
        return session.call(name, deadline, fun, *args)

    # ---- exchanges

    def exchange_type(self, exchange: str) -> str:
        """The type of an exchange; direct if it is not declared."""
        record = self.state.exchanges.get(exchange)
        return (record['type'] if record else None) or 'direct'

    def is_native(self, exchange: str) -> bool:
        """Does the broker route this exchange, and so must know who is bound?"""
        kind = self.exchange_type(exchange)
        if kind == 'fanout' and self._driver.fanout == 'native':
            return True
        if kind not in self._driver.native or exchange in self._chained:
            return False
        record = self.state.exchanges.get(exchange)
        return not (record and record['arguments'])  # an alternate exchange, say, is known here alone

    def declare_exchange(
        self, exchange: str, kind: str, durable: bool, auto_delete: bool, arguments: Any, vhost: str
    ) -> None:
        """Declare an exchange.

        Raises:
            InvalidArgument: no such type. NotEquivalentError: it was declared otherwise.
        """
        if kind not in self._driver.exchange_types:
            known = ', '.join(sorted(self._driver.exchange_types))
            raise InvalidArgument('exchange type', kind, f'is none of {known}')
        known_as = self.state.exchanges.get(exchange)
        if known_as is None:
            self.state.exchanges[exchange] = {
                'type': kind,
                'durable': durable,
                'auto_delete': auto_delete,
                'arguments': dict(arguments or ()),
                'table': [],
            }
            self.changed(exchange)  # read as of another type, perhaps
            return
        same = (known_as['type'], bool(known_as['durable']), bool(known_as['auto_delete']),
                known_as['arguments'] or {})  # fmt: skip
        if same != (kind, bool(durable), bool(auto_delete), dict(arguments or ())):
            raise NotEquivalentError(
                NOT_EQUIVALENT_FMT.format(exchange, vhost), (40, 10), 'Channel.exchange_declare', 406
            )

    def delete_exchange(self, exchange: str, if_unused: bool, deadline: runtime.Deadline) -> None:
        """Delete an exchange with its bindings; none of that name is fine. Switches: if tables are shared.

        Raises:
            PreconditionFailed: `if_unused`, and something is bound to it.
        """
        table = self._table(exchange, deadline)
        if if_unused and table is not None and len(table):
            raise PreconditionFailed(
                f'PRECONDITION_FAILED - exchange {exchange!r} in use',
                (40, 20), 'Channel.exchange_delete', 406,
            )  # fmt: skip
        if self.is_native(exchange) and not self._driver.shared_bindings:
            kind = self.exchange_type(exchange)
            for bound, arguments in list(self.state.bindings.items()):
                if bound.exchange == exchange:
                    binding = Binding(exchange, kind, bound.routing_key, bound.queue, arguments)
                    self._change('unbind', deadline, self._driver.unbind, binding)
            self._drop(exchange, deadline)
        if self._driver.shared_bindings and table is not None:
            kind = self.exchange_type(exchange)
            for queue, key, arguments in list(table.bindings()):
                binding = Binding(exchange, kind, key, queue, arguments)
                self._change('unbind', deadline, self._driver.unbind, binding)
        self.state.exchange_delete(exchange)
        self.changed(exchange)

    def _drop(self, exchange: str, deadline: runtime.Deadline) -> None:
        if self.exchange_type(exchange) in self._driver.native:
            self._call('delete an exchange', deadline, self._driver.drop_exchange, exchange, deadline)

    def bind_exchange(self, destination: str, source: str, key: str, arguments: Any) -> None:
        """Let an exchange receive what another one routes so."""
        self._own_table('exchange_bind')
        for name in (destination, source):
            if name not in self.state.exchanges:
                raise NotFound(f'NOT_FOUND - no exchange {name!r}', (40, 30), 'Channel.exchange_bind', 404)
        self._chained |= {destination, source}  # known here alone, and so routed here
        self.state.exchange_bind(destination, source, key, arguments)

    def unbind_exchange(self, destination: str, source: str, key: str, arguments: Any) -> None:
        """Undo `bind_exchange`."""
        self._own_table('exchange_unbind')
        self.state.exchange_unbind(destination, source, key, arguments)

    def _own_table(self, method: str) -> None:
        if self._driver.shared_bindings:
            raise NotImplementedError(f'the bindings of this broker are shared: no {method}')

    # ---- queues

    def make_queue(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> int | None:
        """Declare a queue; return how many messages wait in it, if the driver knows. Switches: yes."""
        size = self._call('declare a queue', deadline, self._driver.make, queue, facts, deadline)
        self.state.queues[queue] = dict(facts)
        return size if isinstance(size, int) else None

    def has_queue(self, queue: str, deadline: runtime.Deadline) -> bool:
        """Tell whether the broker has a queue. Switches: yes."""
        return bool(self._call('look for a queue', deadline, self._driver.has, queue, deadline))

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        """Return how many messages wait in a queue, those included that we give back. Switches: yes."""
        session = self._session()
        if session is not None:
            session.settler.wait_for(queue, deadline)
        return int(self._call('count', deadline, self._driver.size, queue, deadline) or 0)

    def purge_queue(self, queue: str, deadline: runtime.Deadline) -> int:
        """Remove the messages that nobody has taken; return how many. Switches: yes."""
        return int(self._call('purge', deadline, self._driver.purge, queue, deadline) or 0)

    def delete_queue(self, queue: str, deadline: runtime.Deadline) -> None:
        """Delete a queue with its messages and bindings. Switches: yes."""
        bindings = list(self.state.queue_bindings(queue))
        if self._driver.shared_bindings:
            for bound in bindings:
                binding = Binding(
                    bound.exchange, self.exchange_type(bound.exchange), bound.routing_key, queue,
                    bound.arguments,
                )  # fmt: skip
                self._change('unbind', deadline, self._driver.unbind, binding)
        self._call('delete a queue', deadline, self._driver.delete, queue, deadline)
        for exchange in {bound.exchange for bound in bindings}:
            self._drop_entries(exchange, queue, None)
        self.state.queue_bindings_delete(queue)
        self.state.queues.pop(queue, None)
        self._learned.pop(queue, None)

    def facts(self, queue: str) -> dict[str, Any]:
        """What a queue was declared with, in this process or as far as it was learned."""
        return self.state.queues.get(queue) or self._learned.get(queue) or {}

    def learn(self, queue: str, deadline: runtime.Deadline) -> None:
        """Ask the broker what a queue was made with that was not declared here. Switches: if it must ask."""
        if queue not in self.state.queues and type(self._driver).facts is not Driver.facts:
            found = self._call('look at a queue', deadline, self._driver.facts, queue, deadline)
            self._learned[queue] = dict(found or ())

    def admit(self, queue: str, exclusive: bool, vhost: str) -> None:
        """Let a consumer use a queue.

        Raises:
            AccessRefused: another consumer of this session has it alone, or this one wants it so and is not
                alone. Of other threads and processes the brokers of drivers tell nothing.
        """
        session = self._session()
        if session is None:
            return
        if session.has_exclusive(queue) or (exclusive and session.consumers(queue)):
            raise AccessRefused(
                f'ACCESS_REFUSED - queue {queue!r} in vhost {vhost!r} in exclusive use',
                (60, 20), 'Channel.basic_consume', 403,
            )  # fmt: skip

    def arguments(self, queue: str) -> dict[str, Any]:
        """The arguments a queue was declared with in this process."""
        facts = self.state.queues.get(queue) or self._learned.get(queue)
        return (facts.get('arguments') if facts else None) or {}

    # ---- bindings

    def bind(
        self, queue: str, exchange: str, key: str, arguments: Any, vhost: str, deadline: runtime.Deadline
    ) -> None:
        """Bind a queue; the same binding twice is one. Switches: if tables are shared.

        Raises:
            NotFound: the exchange isn't declared.
        """
        record = self.state.exchanges.get(exchange)
        if record is None:
            raise NotFound(
                f'NOT_FOUND - no exchange {exchange!r} in vhost {vhost!r}',
                (50, 20), 'Channel.queue_bind', 404,
            )  # fmt: skip
        again = self.state.has_binding(queue, exchange, key)
        if not again or record['type'] == 'headers':
            self.state.binding_declare(queue, exchange, key, arguments)
        if not again:
            pattern = STANDARD_EXCHANGE_TYPES[record['type']](None).prepare_bind(
                queue, exchange, key, arguments
            )
            record['table'].append(pattern)
        if self._driver.shared_bindings or self.is_native(exchange):
            binding = Binding(exchange, record['type'], key, queue, arguments)
            self._change('bind', deadline, self._driver.bind, binding)

    def unbind(self, queue: str, exchange: str, key: str, arguments: Any, deadline: runtime.Deadline) -> None:
        """Remove a binding; none like it is fine. An auto_delete exchange goes with its last one.

        Switches: if tables are shared.
        """
        self.state.binding_delete(queue, exchange, key, arguments)
        if not self.state.has_binding(queue, exchange, key):
            self._drop_entries(exchange, queue, key)
        if self._driver.shared_bindings or self.is_native(exchange):
            binding = Binding(exchange, self.exchange_type(exchange), key, queue, arguments)
            self._change('unbind', deadline, self._driver.unbind, binding)
        if self._driver.shared_bindings:
            return
        if self.state.exchanges.get(exchange, {}).get('auto_delete') and not self.state.in_use(exchange):
            self._drop(exchange, deadline)
            self.state.exchange_delete(exchange)

    def list_bindings(self) -> list[tuple[str, str, str]]:
        """Return (queue, exchange, routing key) of every binding made here."""
        return [
            (queue, exchange, key)
            for exchange, record in list(self.state.exchanges.items())
            for key, _, queue in list(record.get('table') or ())
        ]

    def _drop_entries(self, exchange: str, queue: str, key: str | None) -> None:
        record = self.state.exchanges.get(exchange)
        if record is not None:
            record['table'] = [
                entry for entry in record['table'] if entry[2] != queue or key not in (None, entry[0])
            ]

    def _change(self, what: str, deadline: runtime.Deadline, change: Any, binding: Binding) -> None:
        try:
            self._call(what, deadline, change, binding, deadline)
        finally:
            self.changed(binding.exchange)  # also where it failed or was killed: it may have been done

    def changed(self, exchange: str | None = None) -> None:
        """Somebody changed the shared table of an exchange, or of any."""
        self._changes += 1
        if exchange is None:
            self._shared.clear()
        else:
            self._shared.pop(exchange, None)

    def restore(self, deadline: runtime.Deadline) -> None:
        """Declare again what was declared here: the broker may have kept nothing. Switches: yes."""
        for queue, facts in list(self.state.queues.items()):
            if not facts.get('exclusive'):
                self._call('declare a queue', deadline, self._driver.make, queue, facts, deadline)
        self.changed()
        if not self._driver.shared_bindings and not self._driver.native:
            return
        for key, arguments in list(self.state.bindings.items()):
            kind = self.exchange_type(key.exchange)
            if not self._driver.shared_bindings and not self.is_native(key.exchange):
                continue
            binding = Binding(key.exchange, kind, key.routing_key, key.queue, arguments)
            self._change('bind', deadline, self._driver.bind, binding)

    # ---- routes

    def route(
        self, exchange: str, key: str, headers: Mapping[str, Any] | None, deadline: runtime.Deadline
    ) -> list[str]:
        """Return the queues that get a message, each once: a list that is shared, don't change it.

        Switches: if tables are shared, and this one is not known.
        """
        if not self._driver.shared_bindings:
            return self.state.route(exchange, key, headers)
        shared = self._shared.get(exchange)
        if shared is None or not shared.told:
            shared = self._known(exchange, deadline)
        found = shared.routes.get(key)
        if found is None:
            found = self._find(shared, key, headers)
        if found:
            return found
        arguments = self.state.exchanges.get(exchange, {}).get('arguments')
        return self._by_alternate(exchange, key, headers, deadline) if arguments else found

    def _by_alternate(
        self, exchange: str, key: str, headers: Mapping[str, Any] | None, deadline: runtime.Deadline
    ) -> list[str]:
        seen: set[str] = set()
        found: list[str] = []
        while not found and exchange not in seen:
            seen.add(exchange)
            found = self._find(self._known(exchange, deadline), key, headers)
            arguments = self.state.exchanges.get(exchange, {}).get('arguments') or {}
            exchange = arguments.get('alternate-exchange') or exchange
        return found

    def _find(self, shared: _Shared, key: str, headers: Mapping[str, Any] | None) -> list[str]:
        found = list(dict.fromkeys(shared.table.route(key, headers or {})))
        if not isinstance(shared.table, routing.HeadersTable):
            if len(shared.routes) >= MAX_ROUTES:
                shared.routes.clear()
            shared.routes[key] = found
        return found

    def _table(self, exchange: str, deadline: runtime.Deadline) -> Any:
        if not self._driver.shared_bindings:
            return self.state.table(exchange)
        return self._known(exchange, deadline).table

    def _known(self, exchange: str, deadline: runtime.Deadline) -> _Shared:
        shared = self._shared.get(exchange)
        if shared is None or not (shared.told or runtime.monotonic() - shared.read_at <= BELIEVED):
            # Thousands of greenlets may publish while they are not known: one reads them for all.
            what = f'the bindings of exchange {exchange!r}: another greenlet reads them; they did not come'
            shared, _ = self._reading.do(
                (exchange, self._changes), lambda: self._read(exchange, deadline), what, deadline
            )
        return shared

    def _read(self, exchange: str, deadline: runtime.Deadline) -> _Shared:
        began = runtime.monotonic()
        told = self._driver.tells_changes  # before it is read: what ends that is a change
        mark = self._shared[exchange] = self._shared.get(exchange) or _Shared()
        bindings: list[Binding] = list(
            self._call('read the bindings', deadline, self._driver.bindings, exchange, deadline) or ()
        )
        kind = next((binding.kind for binding in bindings if binding.kind), self.exchange_type(exchange))
        if kind == 'fanout':
            bindings = self._driver.fans_out(exchange, bindings)
        table = routing.table(kind if kind in routing.TABLES else 'direct')
        for binding in bindings:
            table.add(binding.queue, binding.routing_key or '', binding.arguments)
        shared = _Shared(table, began, told)
        if self._shared.get(exchange) is mark:  # else somebody changed it while we read: read again next time
            self._shared[exchange] = shared
        return shared

    def targets(
        self, exchange: str, key: str, message: dict[str, Any], mandatory: bool, deadline: runtime.Deadline
    ) -> list[str]:
        """Return the queues that a published message goes to.

        Raises:
            Unroutable: `mandatory`, and no queue would get it.
        Switches: if the broker must be asked.
        """
        if not exchange:
            if mandatory and key not in self.state.queues and not self.has_queue(key, deadline):
                raise Unroutable(message, exchange, key)
            return [key]
        queues = self.route(exchange, key, message.get('headers'), deadline)
        return queues or self.nowhere(exchange, key, message, mandatory, deadline)

    def nowhere(
        self, exchange: str, key: str, message: dict[str, Any], mandatory: bool, deadline: runtime.Deadline
    ) -> list[str]:
        """Return where a message goes that no queue is bound for: the `deadletter_queue`, if one is set.

        Raises:
            Unroutable: `mandatory`.
        Switches: if that queue is not declared.
        """
        if mandatory:
            raise Unroutable(message, exchange, key)
        if self._deadletter_queue is None:
            return []
        warnings.warn(
            UndeliverableWarning(UNDELIVERABLE_FMT.format(exchange=exchange, routing_key=key)), stacklevel=5
        )
        if self._deadletter_queue not in self.state.queues:
            self.make_queue(self._deadletter_queue, {}, deadline)
        return [self._deadletter_queue]

    # ---- dead letters

    def has_dead_letter(self, queue: str) -> bool:
        """Is a message rejected from this queue kept somewhere?"""
        here = self.arguments(queue).get('x-dead-letter-exchange') is not None
        return here or self._driver.keeps_dead(queue)

    def dead_letter(self, queue: str, message: dict[str, Any], reason: str) -> bool:
        """Publish a refused message to the dead-letter exchange of its queue.

        Arguments:
            message (dict): as `Driver.decode` gave it.
        Returns:
            bool: False if the queue has none.
        Switches: yes, if it has one. Raises what a publish raises.
        """
        arguments = self.arguments(queue)
        exchange = arguments.get('x-dead-letter-exchange')
        if exchange is None:
            return False
        info = message['properties'].get('delivery_info') or {}
        came_by = info.get('exchange') or '', info.get('routing_key') or ''
        headers, properties = died(message.get('headers'), message['properties'], queue, reason, *came_by)
        if not self._driver.writes_times:
            first = headers['x-death'][0]
            first['time'] = int(first['time'].timestamp())
        key = arguments.get('x-dead-letter-routing-key') or came_by[1]
        properties.pop(EXPIRES_AT, None)  # or it would expire again among the dead
        if not isinstance(properties.get('priority') or 0, int):
            del properties['priority']  # a stranger's
        session = self._session()
        if session is None:
            raise ConnectionClosed('nobody uses the connection any more')
        session.publish_again({**message, 'headers': headers, 'properties': properties}, exchange, key)
        return True

    def __repr__(self) -> str:
        return f'<Router: {len(self.state.exchanges)} exchanges, {len(self.state.bindings)} bindings>'
