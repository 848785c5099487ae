"""Who wants to know that a key was changed by anybody: CLIENT TRACKING tells the server's link, and that
tells these.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable

from greenmq import runtime
from greenmq.exceptions import TimeoutError

__all__ = ('Wakeup', 'Watch', 'Watchers')


class Watch:
    """Who wants to know that one of some keys was changed by anybody, or that this cannot be told any
    more.
    """

    #: Does a task wait for the hit now, and since which number of waits? Then one such is hit of many: who
    #: takes less than there is hands on, see `Watchers.hand_on`.
    waiting_since = 0

    def hit(self) -> None:
        """Called without the key: it may be all of them."""
        raise NotImplementedError


def since(watch: Watch) -> int:
    """Since which number of waits it waits."""
    return watch.waiting_since


class Wakeup(Watch):
    """Wakes a task when one of some keys changes. Clear it before they are read."""

    _waits = itertools.count(1)

    def __init__(self) -> None:
        self.happened = False
        self._waiter: runtime.Waiter | None = None

    def clear(self) -> None:
        """From now on a change counts."""
        self.happened = False

    def hit(self) -> None:
        """A key changed."""
        self.happened = True
        if self._waiter is not None:
            self.waiting_since = 0
            self._waiter.wake()

    def wait(self, seconds: float | None) -> bool:
        """Wait for a change.

        Returns:
            bool: False if none came in time.
        Switches: unless one came already.
        """
        if not self.happened:
            waiter = self._waiter = runtime.Waiter()
            self.waiting_since = next(self._waits)
            try:
                waiter.wait(seconds)
            except TimeoutError:
                return False
            finally:
                self._waiter = None
                self.waiting_since = 0
        return True


class Watchers:
    """Who watches which keys. Holds them weakly."""

    def __init__(self) -> None:
        self._watches: dict[bytes, weakref.WeakSet[Watch]] = {}

    def watch(self, keys: Iterable[str], watch: Watch) -> None:
        """Have `watch.hit()` called when one of the keys changes that were read since."""
        for key in keys:
            self._watches.setdefault(key.encode(), weakref.WeakSet()).add(watch)

    def unwatch(self, keys: Iterable[str], watch: Watch) -> None:
        """Undo `watch`."""
        for key in keys:
            name = key.encode()
            found = self._watches.get(name)
            if found is not None:
                found.discard(watch)
                if not found:
                    del self._watches[name]

    def is_watched(self, key: str) -> bool:
        """Does anybody watch this key?"""
        return bool(self._watches.get(key.encode()))

    def is_waited_for(self, key: str) -> bool:
        """Does anybody wait for a change of this key now?"""
        return any(watch.waiting_since for watch in self._watches.get(key.encode(), ()))

    def changed(self, keys: Iterable[bytes]) -> None:
        """Hit who watches these keys; of those that wait for a message, one."""
        for key in keys:
            first: Watch | None = None
            for watch in list(self._watches.get(key, ())):
                if not watch.waiting_since:
                    watch.hit()
                elif first is None or watch.waiting_since < first.waiting_since:
                    first = watch
            if first is not None:
                first.hit()

    def hand_on(self, keys: Iterable[str]) -> None:
        """Hit the next that waits for one of these keys: there may be more than was taken."""
        waiting = {
            watch for key in keys for watch in self._watches.get(key.encode(), ()) if watch.waiting_since
        }
        if waiting:
            min(waiting, key=since).hit()

    def hit_all(self) -> None:
        """Any key may have changed: hit everybody."""
        for watch in {watch for watches in self._watches.values() for watch in watches}:
            watch.hit()
