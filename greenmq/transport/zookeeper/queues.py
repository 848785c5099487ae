"""The queues of a virtual host, and what they were made with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kazoo.exceptions import NoNodeError, NotEmptyError

from greenmq import runtime
from greenmq.transport.limits import QueueLimits
from greenmq.transport.zookeeper.layout import ENTRY, named, plain
from greenmq.transport.zookeeper.nodes import Nodes
from greenmq.utils.json import dumps, loads

__all__ = ('Queues',)


class Queues:
    """The queues of one virtual host."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    def make(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> None:
        """See `Driver.make`. Switches: yes."""
        nodes, layout = self._nodes, self._nodes.layout
        arguments = dict(facts.get('arguments') or {})
        lives = QueueLimits.of(arguments).expires
        nodes.client.ensure_path_async(layout.queue(queue)).get(timeout=deadline)
        if arguments:
            text = dumps({'arguments': arguments}).encode()
            nodes.write(f'{layout.facts}/{plain(queue)}', text, deadline)
        if facts.get('exclusive') or lives is not None:
            mine = nodes.member.name if facts.get('exclusive') else None
            text = dumps({'owner': mine, 'lives': lives}).encode()
            nodes.write(f'{layout.ends}/{plain(queue)}', text, deadline)

    def has(self, queue: str, deadline: runtime.Deadline) -> bool:
        """See `Driver.has`. Switches: yes."""
        return self._nodes.stat(self._nodes.layout.queue(queue), deadline) is not None

    def facts(self, queue: str, deadline: runtime.Deadline) -> dict[str, Any] | None:
        """See `Driver.facts`. Switches: yes."""
        found = self._nodes.read(f'{self._nodes.layout.facts}/{plain(queue)}', deadline)
        return None if found is None else loads(found[0])

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        """See `Driver.size`. Switches: yes."""
        stat = self._nodes.stat(self._nodes.layout.queue(queue), deadline)
        return 0 if stat is None else int(stat.numChildren)

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        """See `Driver.purge`. Switches: yes."""
        path = self._nodes.layout.queue(queue)
        return self._nodes.remove([f'{path}/{entry}' for entry in self._entries(path, deadline)], deadline)

    def _entries(self, path: str, deadline: runtime.Deadline) -> list[str]:
        return [name for name in self._nodes.children(path, deadline) if ENTRY.match(name)]

    def delete(self, queue: str, deadline: runtime.Deadline) -> None:
        """See `Driver.delete`. Switches: yes."""
        nodes, layout = self._nodes, self._nodes.layout
        path, folder = layout.queue(queue), f'{layout.claims}/{plain(queue)}'
        ours = (f'{layout.facts}/{plain(queue)}', f'{layout.ends}/{plain(queue)}')
        while True:
            self.purge(queue, deadline)
            nodes.remove([f'{folder}/{claim}' for claim in nodes.children(folder, deadline)], deadline)
            try:
                for each in (path, folder, *ours):
                    try:
                        nodes.client.delete_async(each).get(timeout=deadline)
                    except NoNodeError:
                        continue
                return
            except NotEmptyError:
                if not self._entries(path, deadline) and not nodes.children(folder, deadline):
                    return  # other queues are below it
                deadline.check(f'the queue {queue!r} was not deleted')  # somebody publishes to it

    def listed(self, deadline: runtime.Deadline) -> list[dict[str, Any]]:
        """See `Driver.queues`. Switches: yes."""
        nodes, layout = self._nodes, self._nodes.layout
        hidden = ('.greenmq',) if layout.root else ('.greenmq', 'zookeeper')
        names = sorted(set(nodes.children(layout.root or '/', deadline)).difference(hidden))
        exists = nodes.client.exists_async
        asked = [
            (name, exists(layout.queue(name)), exists(f'{layout.claims}/{plain(name)}')) for name in names
        ]
        found = []
        for name, waits, claimed in asked:
            ready, unacked = waits.get(timeout=deadline), claimed.get(timeout=deadline)
            if ready is not None:
                facts = self.facts(name, deadline) or {}
                found.append(_shown(name, ready, unacked, facts.get('arguments') or {}))
        return found

    def end_those_that_are_over(
        self, used: Iterable[str], alive: set[str], now: int, deadline: runtime.Deadline
    ) -> None:
        """Delete queues whose owner is gone, or that nobody used for as long as they live.

        Arguments:
            used (Iterable[str]): queues that we consume.
            now (int): the server's time, in ms since 1970.
        Switches: yes.
        """
        nodes, folder = self._nodes, self._nodes.layout.ends
        used = set(used)
        for queue in map(named, nodes.children(folder, deadline)):
            path = f'{folder}/{plain(queue)}'
            found = nodes.read(path, deadline)
            if found is None:
                continue
            facts = loads(found[0])
            orphan = facts['owner'] is not None and facts['owner'] not in alive
            if queue in used and not orphan:
                nodes.client.set_async(path, found[0]).wait(deadline)  # its time begins anew
            elif orphan or (facts['lives'] is not None and now - found[1].mtime > facts['lives'] * 1000):
                self.delete(queue, deadline)

    def ending(self, deadline: runtime.Deadline) -> list[str]:
        """The queues that end by themselves. Switches: yes."""
        return [named(node) for node in self._nodes.children(self._nodes.layout.ends, deadline)]


def _shown(name: str, ready: Any, unacked: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    each = {'name': name, 'messages': ready.numChildren,
            'unacked': 0 if unacked is None else unacked.numChildren}  # fmt: skip
    dead = arguments.get('x-dead-letter-exchange')
    return each if dead is None else {**each, 'dead_letters': dead}
