"""How other native threads publish through a Connection that is not theirs: each over one of its own.

kombu's programs share one Connection between threads, and get away with it as long as the threads only
publish: Celery's worker sends its events from a timer's thread and from those of its pool. To hand such a
publish to the thread of the connection, and wait for it, would not do: the program may hold a lock of its own
meanwhile (Celery does) for which that very thread waits, so that its hub never runs again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from greenmq import runtime

__all__ = ('ThreadConnection', 'ThreadConnections')


class ThreadConnection:
    """A connection of one thread that stands in for another thread's."""

    __slots__ = ('__weakref__', '_all', 'connection', 'hub')

    def __init__(self, connection: Any, hub: Any, among: ThreadConnections) -> None:
        self.connection = connection
        self.hub: Callable[[], Any] = weakref.ref(hub)
        self._all = weakref.ref(among)

    def thread_ended(self) -> None:
        """Nobody can publish here any more. Switches: yes, at most `close_timeout`."""
        them = self._all()
        if them is not None:
            them.forget(self)
        self.connection.close()


class ThreadConnections:
    """The connections of other threads that stand in for one Connection, by hub."""

    __slots__ = ('__weakref__', '_found', 'lock')

    def __init__(self) -> None:
        self.lock = runtime.NativeLock()
        self._found: dict[int, ThreadConnection] = {}  # by id of the hub, which is known weakly

    def of(self, connection: Any) -> Any:
        """The one of this thread, made if there is none; not opened."""
        hub = runtime.hub_id()
        with self.lock:
            found = self._found.get(id(hub))
            if found is None or found.hub() is not hub:
                clone = connection.clone()
                clone.stands_for = weakref.ref(connection)
                found = self._found[id(hub)] = ThreadConnection(clone, hub, self)
                runtime.at_thread_end(found)
        return found.connection

    def forget(self, sibling: ThreadConnection) -> None:
        """Its thread has ended."""
        with self.lock:
            self._found = {key: each for key, each in self._found.items() if each is not sibling}

    def close(self) -> None:
        """Close them all, each in its thread, soon."""
        with self.lock:
            found, self._found = self._found, {}
        for each in found.values():
            hub = each.hub()
            if hub is not None:
                close = partial(runtime.spawn, each.connection.close, name='greenmq.connection closer')
                runtime.post(hub, close)
