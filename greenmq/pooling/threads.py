"""One pool in several native threads: the first thread uses the pool itself, each other one a set of its own.

A program that keeps one pool for all its threads (Celery does) goes on as it is, and no resource is ever used
by another hub than its own. Each set has the whole limit.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from greenmq import runtime

__all__ = ('ThreadPools',)


class ThreadPools:
    """The sets of one pool that belong to other hubs than its first.

    A set is a pool that looks like the first one; programs only ever see the first.
    """

    __slots__ = ('__weakref__', '_sets', 'lock')

    def __init__(self) -> None:
        self.lock = runtime.NativeLock()
        # by id of the hub, which is known weakly: the hub of a thread that has ended must go
        self._sets: dict[int, tuple[Callable[[], Any], Any]] = {}

    def set_of(self, pool: Any, hub: Any) -> Any:
        """The set of `pool` for that hub, made if there is none."""
        known, found = self._sets.get(id(hub), (None, None))
        if known is not None and known() is hub:
            return found
        runtime.at_thread_end(self)
        made = copy.copy(pool)
        made.begin()
        made.needs_setup = True
        self._sets[id(hub)] = weakref.ref(hub), made
        return made

    def thread_ended(self) -> None:
        """Close the set of this thread. Switches: yes, as `force_close_all` of the pool."""
        _, found = self._sets.pop(id(runtime.hub_id()), (None, None))
        if found is not None:
            found.force_close_all()

    def pass_on(self, method: str, resource: Any) -> None:
        """Call a method of the set of this thread, if it has leased `resource`. Switches: as that does."""
        if self._sets:
            found = self._sets.get(id(runtime.hub_id()), (None, None))[1]
            if found is not None and found.has_leased(resource):
                getattr(found, method)(resource)

    def tell(self, method: str, *args: Any) -> None:
        """Call a method of each set, soon, in the thread it belongs to."""
        for known, each in list(self._sets.values()):
            hub = known()
            if hub is not None:
                call = partial(getattr(each, method), *args)
                runtime.post(hub, partial(runtime.spawn, call, name='greenmq.pool'))
