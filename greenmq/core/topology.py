"""What was declared on a connection, in the order in which to declare it again after the connection was lost.

What the broker removes by itself goes from here too: the bindings of a deleted queue or exchange, an
auto-delete queue whose last consumer went, an auto-delete exchange whose last binding went. Otherwise
recovery would bring them back, and then nobody would ever remove them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from greenmq.core.routing import freeze

__all__ = ('Topology',)

Facts = dict[str, Any]
# (kind, destination, source, routing key, frozen arguments): what makes a binding another one.
_BindingId = tuple[str, str, str, str, Hashable]


class Topology:
    """Exchanges, queues, bindings and consumers of one connection.

    Each is kept under its name with the facts it was declared with. Declaring it again replaces the facts and
    keeps its place. Strong references, by intent: what the program has dropped is still declared there.
    """

    __slots__ = (
        '_bindings', '_consumers', '_consuming', '_declared', '_exchanges', '_places', '_queues', '_touching',
    )  # fmt: skip

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._exchanges: dict[str, Facts] = {}
        # By the number of their declaration, so that one can be renamed where it stands; and name -> number.
        self._queues: dict[int, tuple[str, Facts]] = {}
        self._places: dict[str, int] = {}
        self._declared = 0
        self._bindings: dict[_BindingId, Facts] = {}
        self._consumers: dict[str, Facts] = {}
        self._consuming: dict[str, dict[str, None]] = {}  # queue -> tags
        # ('queue' | 'exchange', name) -> the bindings at either end of it. Without, forgetting each of 10,000
        # reply queues would look through the bindings of all others.
        self._touching: dict[tuple[str, str], dict[_BindingId, None]] = {}

    def __len__(self) -> int:
        return len(self._exchanges) + len(self._queues) + len(self._bindings) + len(self._consumers)

    def __repr__(self) -> str:
        return (
            f'<Topology: {len(self._exchanges)} exchanges, {len(self._queues)} queues, '
            f'{len(self._bindings)} bindings, {len(self._consumers)} consumers>'
        )

    # Recording.

    def exchange(self, name: str, /, **facts: Any) -> None:
        """Record a declared exchange. `auto_delete` among the facts is heeded, the others are only kept."""
        self._exchanges[name] = facts

    def queue(self, name: str, /, **facts: Any) -> None:
        """Record a declared queue under the name that the broker gave, and whether it is `auto_delete`."""
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = self._declared = self._declared + 1
        self._queues[place] = (name, facts)

    def bind_queue(
        self, queue: str, exchange: str, routing_key: str = '', arguments: Mapping[str, Any] | None = None
    ) -> None:
        """Record that `queue` gets messages of `exchange`."""
        self._bind('queue', queue, exchange, routing_key, arguments)

    def bind_exchange(
        self, destination: str, source: str, routing_key: str = '', arguments: Mapping[str, Any] | None = None
    ) -> None:
        """Record that the exchange `destination` gets messages of the exchange `source`."""
        self._bind('exchange', destination, source, routing_key, arguments)

    def consumer(self, tag: str, queue: str, /, **facts: Any) -> None:
        """Record a consumer under its tag."""
        self._drop_consumer(tag)
        self._consumers[tag] = {**facts, 'queue': queue}
        self._consuming.setdefault(queue, {})[tag] = None

    # Forgetting. What is not known is passed over: the broker may have lost it before we did.

    def unbind_queue(
        self, queue: str, exchange: str, routing_key: str = '', arguments: Mapping[str, Any] | None = None
    ) -> None:
        """Forget one binding of a queue."""
        self._unbind(('queue', queue, exchange, routing_key, freeze(arguments)))

    def unbind_exchange(
        self, destination: str, source: str, routing_key: str = '', arguments: Mapping[str, Any] | None = None
    ) -> None:
        """Forget one binding of an exchange to another."""
        self._unbind(('exchange', destination, source, routing_key, freeze(arguments)))

    def forget_exchange(self, name: str) -> None:
        """Forget an exchange and the bindings from and to it."""
        self._exchanges.pop(name, None)
        self._forget_bindings(('exchange', name))

    def forget_queue(self, name: str) -> None:
        """Forget a queue, its bindings and its consumers."""
        place = self._places.pop(name, None)
        if place is not None:
            del self._queues[place]
        self._forget_bindings(('queue', name))
        for tag in self._consuming.pop(name, ()):
            del self._consumers[tag]

    def forget_consumer(self, tag: str) -> None:
        """Forget a consumer, and its queue if that is auto-delete and has no other consumer here."""
        name = self._drop_consumer(tag)
        if name is None or name in self._consuming:
            return
        place = self._places.get(name)
        if place is not None and self._queues[place][1].get('auto_delete'):
            self.forget_queue(name)

    def rename_queue(self, old: str, new: str) -> None:
        """Follow a queue whose name the broker chooses: declared again, it has another one."""
        if old == new or old not in self._places:
            return
        # In its place, not moved to the end: the order of declaration is what we are here for.
        place = self._places.pop(old)
        replaced = self._places.pop(new, None)
        if replaced is not None:
            del self._queues[replaced]
        self._places[new] = place
        self._queues[place] = (new, self._queues[place][1])
        bindings = list(self._touching.get(('queue', old), ()))
        for facts in [self._drop_binding(binding) for binding in bindings]:
            self._bind('queue', new, facts['source'], facts['routing_key'], facts['arguments'])
        if old in self._consuming:
            self._consuming[new] = self._consuming.pop(old)
            for tag in self._consuming[new]:
                self._consumers[tag]['queue'] = new

    def clear(self) -> None:
        """Forget everything: the program closed the connection."""
        self._reset()

    # Asking.

    def has_exchange(self, name: str) -> bool:
        """Ask whether an exchange was declared here."""
        return name in self._exchanges

    def has_queue(self, name: str) -> bool:
        """Ask whether a queue was declared here."""
        return name in self._places

    def has_binding(self, facts: Facts) -> bool:
        """Ask whether a binding is declared here, by what `replay` says of it."""
        names = facts['kind'], facts['destination'], facts['source'], facts['routing_key']
        return (*names, freeze(facts['arguments'])) in self._bindings

    def replay(self) -> Iterator[tuple[str, Facts]]:
        """Go through all that is to be declared again, in an order in which each finds what it needs.

        The entries are copies, taken when the iteration begins, so that what changes meanwhile does no harm.

        Returns:
            Iterator[tuple[str, dict]]: first ('exchange', {'name', facts…}), then
                ('queue', {'name', facts…}), then ('binding', {'kind': 'queue' | 'exchange', 'destination',
                'source', 'routing_key', 'arguments'}), then ('consumer', {'tag', 'queue', facts…}); each kind
                in the order of declaring.
        """
        # Copied in one step each: another native thread may ask, while this one declares.
        entries: list[tuple[str, Facts]] = []
        entries += [('exchange', {**facts, 'name': name}) for name, facts in list(self._exchanges.items())]
        entries += [('queue', {**facts, 'name': name}) for name, facts in list(self._queues.values())]
        entries += [('binding', dict(facts)) for facts in list(self._bindings.values())]
        entries += [('consumer', {**facts, 'tag': tag}) for tag, facts in list(self._consumers.items())]
        return iter(entries)

    def _drop_consumer(self, tag: str) -> str | None:
        facts = self._consumers.pop(tag, None)
        if facts is None:
            return None
        queue: str = facts['queue']
        tags = self._consuming[queue]
        del tags[tag]
        if not tags:
            del self._consuming[queue]
        return queue

    # Bindings.

    def _bind(
        self, kind: str, destination: str, source: str, routing_key: str, arguments: Mapping[str, Any] | None
    ) -> None:
        binding = (kind, destination, source, routing_key, freeze(arguments))
        self._bindings[binding] = {
            'kind': kind,
            'destination': destination,
            'source': source,
            'routing_key': routing_key,
            'arguments': None if arguments is None else dict(arguments),
        }
        for end in ((kind, destination), ('exchange', source)):
            self._touching.setdefault(end, {})[binding] = None

    def _unbind(self, binding: _BindingId) -> None:
        if binding in self._bindings:
            self._drop_binding(binding)
            self._maybe_auto_delete(binding[2])

    def _drop_binding(self, binding: _BindingId) -> Facts:
        kind, destination, source = binding[:3]
        for end in ((kind, destination), ('exchange', source)):
            touching = self._touching.get(end)
            if touching is not None:  # an exchange bound to itself was here a moment ago
                touching.pop(binding, None)
                if not touching:
                    del self._touching[end]
        return self._bindings.pop(binding)

    def _forget_bindings(self, end: tuple[str, str]) -> None:
        sources: dict[str, None] = {}
        for binding in list(self._touching.get(end, ())):
            self._drop_binding(binding)
            sources[binding[2]] = None
        for source in sources:
            self._maybe_auto_delete(source)

    def _maybe_auto_delete(self, exchange: str) -> None:
        # The broker removes an auto-delete exchange when the last binding *from* it goes.
        if not self._exchanges.get(exchange, {}).get('auto_delete'):
            return
        if not any(binding[2] == exchange for binding in self._touching.get(('exchange', exchange), ())):
            self.forget_exchange(exchange)
