"""The bindings of exchanges, shared by all processes: a node each exchange, changed by compare and set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kazoo.exceptions import BadVersionError, NodeExistsError, NoNodeError

from greenmq import runtime
from greenmq.exceptions import InvalidArgument
from greenmq.transport.driver import Binding
from greenmq.transport.zookeeper.layout import plain
from greenmq.transport.zookeeper.nodes import Nodes
from greenmq.utils.json import dumps, loads

__all__ = ('Bindings',)

Rows = list[list[Any]]


class Bindings:
    """The bindings of one virtual host."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    def of(self, exchange: str, deadline: runtime.Deadline) -> list[Binding]:
        """See `Driver.bindings`. Switches: yes."""
        found = self._nodes.read(self._path(exchange), deadline)
        return [Binding(exchange, *row) for row in _rows(found)]

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        """See `Driver.bind`. Switches: yes."""
        _, kind, key, queue, arguments = binding
        self._change(binding, lambda others: [*others, [kind, key or '', queue, arguments]], deadline)

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        """See `Driver.unbind`. Switches: yes."""
        self._change(binding, lambda others: others, deadline)

    def _path(self, exchange: str) -> str:
        if not exchange:
            raise InvalidArgument('exchange', exchange, 'has no bindings of its own')
        return f'{self._nodes.layout.bindings}/{plain(exchange)}'

    def _change(
        self, binding: Binding, change: Callable[[Rows], Rows], deadline: runtime.Deadline
    ) -> None:
        path, client = self._path(binding.exchange), self._nodes.client
        own = _key(binding.routing_key, binding.queue, binding.arguments)
        while True:
            found = self._nodes.read(path, deadline)
            rows = _rows(found)
            wanted = change([row for row in rows if _key(*row[1:]) != own])
            if wanted == rows:
                return
            data = dumps(wanted).encode()
            try:
                if found is None:
                    client.create_async(path, data).get(timeout=deadline)
                else:
                    client.set_async(path, data, version=found[1].version).get(timeout=deadline)
                return
            except (BadVersionError, NodeExistsError, NoNodeError):
                deadline.check(f'the bindings of {binding.exchange!r} were not changed')


def _rows(found: tuple[bytes, Any] | None) -> Rows:
    return [] if found is None or not found[0] else loads(found[0])


def _key(routing_key: str | None, queue: str, arguments: Any) -> tuple[str, str, str]:
    return routing_key or '', queue, dumps(arguments or None, sort_keys=True)
