"""Who wants to know that a key was changed by anybody: CLIENT TRACKING tells the server's link, and that
tells these.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable

from greenmq import runtime
from greenmq.exceptions import TimeoutError

__all__ = ('Circle', 'QuietKeys', 'Wakeup', 'Watch', 'Watchers', 'next_wait')

#: Changed keys that are remembered for fetches under way; then none of those under way marks anything quiet.
REMEMBERED = 10_000


class Watch:
    """Who wants to know that one of some keys was changed by anybody, or that this cannot be told any
    more.
    """

    __slots__ = ()

    #: Does it wait for the hit now to take a message, and since which number of waits? Then one such is hit
    #: of many: who takes less than there is hands on, see `Watchers.hand_on`.
    waiting_since: int = 0

    def hit(self) -> None:
        """Called without the key: it may be all of them."""
        raise NotImplementedError


#: The number of the next wait.
next_wait = itertools.count(1).__next__


def since(watch: Watch) -> int:
    """Since which number of waits it waits."""
    return watch.waiting_since


class Wakeup(Watch):
    """Wakes a task when one of some keys changes. Clear it before they are read."""

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
            self.waiting_since = next_wait()
            try:
                waiter.wait(seconds)
            except TimeoutError:
                return False
            finally:
                self._waiter = None
                self.waiting_since = 0
        return True


class QuietKeys:
    """Keys that were read, held nothing, and have not changed since: the server would have told.

    The reader hears of a change before the task whose read it follows has its turn: so a read counts for a
    key only if nothing was told of that key since before the read was sent.

    Attributes:
        keys (set[str]): they. Only to be looked at.
    """

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self._changed: dict[str, int] = {}  # keys → which change was the last
        self._changes = 0
        self._forgot = 0  # up to which change they are not remembered

    def begin(self) -> int:
        """Keys are about to be read: what `found_empty` needs. Switches: no."""
        return self._changes

    def found_empty(self, keys: Iterable[str], begun: int) -> None:
        """They held nothing, and the server tells of the next change."""
        if begun == self._changes:
            self.keys.update(keys)
        elif begun >= self._forgot:
            changed = self._changed
            self.keys.update(key for key in keys if changed.get(key, 0) <= begun)

    def forget(self, keys: Iterable[str]) -> None:
        """Take them for quiet no more."""
        self.keys.difference_update(keys)

    def forget_all(self) -> None:
        """Take none for quiet any more."""
        self.keys.clear()

    def changed(self, keys: Iterable[bytes]) -> None:
        """The server tells of a change."""
        self._changes += 1
        if len(self._changed) >= REMEMBERED:
            self._changed.clear()
            self._forgot = self._changes
        for key in keys:
            name = key.decode(errors='replace')
            self._changed[name] = self._changes
            self.keys.discard(name)

    def lost(self) -> None:
        """Any key may have changed."""
        self._changes += 1
        self._forgot = self._changes
        self._changed.clear()
        self.keys.clear()


class Circle:
    """Those who watch the same keys: takes from the same queues, which come and go with each message, while
    the queues stay. Whoever ends leaves it.

    Attributes:
        keys (list[bytes]): what they watch.
        known (bool): the watchers know it.
        watches (set[Watch]): them.
    """

    __slots__ = ('keys', 'known', 'watches')

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys = [key.encode() for key in keys]
        self.known = False
        self.watches: set[Watch] = set()


class Watchers:
    """Who watches which keys. Holds those weakly that are in no circle.

    Attributes:
        quiet (QuietKeys): those that need not be read again.
    """

    def __init__(self) -> None:
        self.quiet = QuietKeys()
        self._watches: dict[bytes, weakref.WeakSet[Watch]] = {}
        self._circles: dict[bytes, set[Circle]] = {}

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

    def join(self, circle: Circle, watch: Watch) -> None:
        """As `watch`, for the keys of a circle: only the first time takes longer for more of them."""
        if not circle.known:
            circle.known = True
            for key in circle.keys:
                self._circles.setdefault(key, set()).add(circle)
        circle.watches.add(watch)

    def dissolve(self, circle: Circle) -> None:
        """Forget a circle that nobody is in; who joins it makes it known again."""
        circle.known = False
        for key in circle.keys:
            found = self._circles.get(key)
            if found is not None:
                found.discard(circle)
                if not found:
                    del self._circles[key]

    def _of(self, key: bytes) -> list[Watch]:
        found = list(self._watches.get(key, ()))
        for circle in self._circles.get(key, ()):
            found += circle.watches
        return found

    def is_watched(self, key: str) -> bool:
        """Does anybody watch this key?"""
        return bool(self._of(key.encode()))

    def is_waited_for(self, key: str) -> bool:
        """Does anybody wait for a change of this key now?"""
        return any(watch.waiting_since for watch in self._of(key.encode()))

    def changed(self, keys: list[bytes]) -> None:
        """Hit who watches these keys; of those that wait for a message, one."""
        self.quiet.changed(keys)
        for key in keys:
            first: Watch | None = None
            for watch in self._of(key):
                if not watch.waiting_since:
                    watch.hit()
                elif first is None or watch.waiting_since < first.waiting_since:
                    first = watch
            if first is not None:
                first.hit()

    def hand_on(self, keys: Iterable[str]) -> None:
        """There may be more in these keys than was taken: of each that is not quiet, hit one that waits.

        Who is hit looks at all of its keys, so that one may do for several.
        """
        # One for all together may watch only such as hold nothing: all watch the delayed messages.
        quiet = self.quiet.keys
        hit: set[Circle] = set()
        idle: set[Circle] = set()  # nobody in it waits
        for key in keys:
            circles = () if key in quiet else self._circles.get(key.encode(), ())
            if not hit.isdisjoint(circles):
                continue
            first: Watch | None = None
            for circle in circles:
                if circle in idle:
                    continue
                watch = min(filter(since, circle.watches), key=since, default=None)
                if watch is None:
                    idle.add(circle)
                elif first is None or watch.waiting_since < first.waiting_since:
                    first, whose = watch, circle
            if first is not None:
                hit.add(whose)
                first.hit()

    def wake_one(self, key: str) -> None:
        """Hit the next that waits for this key: there may be something without a change of it."""
        first = min(filter(since, self._of(key.encode())), key=since, default=None)
        if first is not None:
            first.hit()

    def hit_all(self) -> None:
        """Any key may have changed: hit everybody."""
        self.quiet.lost()
        watches = {watch for watches in self._watches.values() for watch in watches}
        circles = {circle for circles in self._circles.values() for circle in circles}
        for watch in watches.union(*(circle.watches for circle in circles)):
            watch.hit()
