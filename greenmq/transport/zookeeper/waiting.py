"""Who waits for messages of which queue, and what is known of it: by one list, then by watches."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from functools import partial
from typing import Any

from kazoo.exceptions import NoNodeError

from greenmq import runtime
from greenmq.transport.waiters import Waiters
from greenmq.transport.zookeeper.known import Known
from greenmq.transport.zookeeper.nodes import OPERATION, Nodes

__all__ = ('Waiting',)

#: Seconds after which the watch of a queue that nobody looks into is ended.
_IDLE = 60.0


class Waiting:
    """The queues that are looked into.

    Attributes:
        tree_watches (bool): the server knows watches of whole trees; else queues are listed at each change.
    """

    def __init__(self, nodes: Nodes) -> None:
        self.tree_watches = True
        self._nodes = nodes
        self._known: dict[str, Known] = {}  # by the path of the queue
        self._waiters = Waiters()  # by the path of the queue, too

    def __len__(self) -> int:
        return sum(map(len, self._known.values()))

    # ---- who waits

    def enter(self, queues: Iterable[str], waiter: runtime.Waiter) -> None:
        """Somebody is to be woken by messages of these queues."""
        self._waiters.enter(map(self._nodes.layout.queue, queues), waiter)

    def leave(self, queues: Iterable[str], waiter: runtime.Waiter) -> None:
        """Undo `enter`."""
        self._waiters.leave(map(self._nodes.layout.queue, queues), waiter)

    def waited(self, queue: str) -> bool:
        """Does anybody wait?"""
        return self._nodes.layout.queue(queue) in self._waiters

    def lost(self, error: Exception) -> None:
        """The connection ended, and the watches with it."""
        for known in self._known.values():
            known.watched = False
        self._waiters.fail(error)

    def forget(self) -> None:
        """In a forked child, or for another session."""
        self._known.clear()

    # ---- what there is

    def heard(self, event: Any) -> bool:
        """A watch has told of a node; False if it is none of a queue. In kazoo's loop."""
        parent, _, name = event.path.rpartition('/')
        known = self._known.get(parent)
        if known is None:
            return False
        if event.type == 'DELETED':
            known.discard(name)
        elif event.type == 'CREATED' and known.add(name):
            self._waiters.wake([parent])
        return True

    def pick(self, queues: Iterable[str], n: int) -> list[tuple[str, str]]:
        """Remove and return (queue, entry) of the next messages."""
        picked: list[tuple[str, str]] = []
        for queue in queues:
            known = self._known.get(self._nodes.layout.queue(queue))
            if known is not None and len(picked) < n:
                picked += [(queue, entry) for entry in known.pick(n - len(picked))]
        return picked

    def unpick(self, picked: Iterable[tuple[str, str]]) -> None:
        """These were not taken after all."""
        for queue, entry in picked:
            known = self._known.get(self._nodes.layout.queue(queue))
            if known is not None:
                known.add(entry)

    def has_any(self, queues: Iterable[str]) -> bool:
        """Is any message known of?"""
        return any(len(self._known.get(self._nodes.layout.queue(queue), ())) for queue in queues)

    def learn(self, queue: str, waits: bool) -> None:
        """Know what is in a queue, from now on.

        Arguments:
            waits (bool): who only looks lists again where nothing is known: a watch may be late.
        Switches: yes, unless it is known.
        """
        path = self._nodes.layout.queue(queue)
        known = self._known.get(path)
        if known is None:
            known = self._known[path] = Known(path)
        known.used = runtime.monotonic()
        if known.watched:
            if not waits and not len(known):
                self._list(known, None, False)
        elif self.tree_watches:
            watch = self._nodes.client.watch_all(path)
            self._list(known, None, True)
            watch.get(timeout=OPERATION)
        else:
            self._list(known, partial(_changed, weakref.ref(self), known), True)

    def _list(self, known: Known, watch: Any, watched: bool) -> None:
        client = self._nodes.client
        listing = client.get_children_async(known.path, watch=watch)
        # In kazoo's loop, so that no event comes between the list and what is made of it.
        listing.rawlink(partial(_listed, known, watched))
        try:
            listing.get(timeout=OPERATION)
        except NoNodeError:
            if watch is not None:
                client.exists_async(known.path, watch=watch).get(timeout=OPERATION)

    def changed(self, known: Known) -> None:
        """A server before 3.6 tells that something changed: a list must say what."""
        known.watched = False
        self._waiters.wake([known.path])

    def unwatch_idle(self) -> None:
        """End the watches of queues that nobody looks into any more."""
        now = runtime.monotonic()
        for path, known in list(self._known.items()):
            if now - known.used > _IDLE and path not in self._waiters:
                del self._known[path]
                if self.tree_watches and known.watched:
                    self._nodes.client.unwatch(path)


def _changed(reference: Any, known: Known, event: Any) -> None:
    waiting = reference()
    if waiting is not None:
        waiting.changed(known)


def _listed(known: Known, watched: bool, result: Any) -> None:
    if result.exception is None or isinstance(result.exception, NoNodeError):
        known.replace(result.value or ())
        known.watched = known.watched or watched
