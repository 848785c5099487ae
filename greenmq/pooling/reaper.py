"""Ends what a pool keeps too long: resources that were idle, or open, for as long as the pool allows.

One timer for each pool, set to when the first of its free resources is due: a pool whose resources come and
go all the time pays nothing for it, and one that is empty has none. It knows its pool weakly.
"""

from __future__ import annotations

import random
import weakref
from collections.abc import Iterable
from typing import Any, Protocol

from greenmq import runtime


class Reaped(Protocol):
    """The pool, as its reaper sees it."""

    def retire(self, resource: Any, cause: str) -> None: ...
    def on_shelf(self) -> Iterable[Any]: ...


class Reaper:
    """When each resource of one pool has to go.

    Both limits carry a jitter of up to a tenth less, the age for each resource and the idle time for each
    pool: what was opened in one burst, by all processes of a site, must not all be opened again in one
    moment, against a broker that has just come back.

    Arguments:
        max_idle (float): seconds that a resource may be free; None: any time.
        max_age (float): seconds after which it is replaced, once it is free; None: never.
    """

    __slots__ = ('__weakref__', '_at', '_ends', '_free', '_max_age', '_max_idle', '_pool', '_timer')

    def __init__(self, pool: Reaped, max_idle: float | None, max_age: float | None) -> None:
        self._pool = weakref.ref(pool)
        self._max_idle = None if max_idle is None else _jittered(max_idle)
        self._max_age = max_age
        self._ends: dict[int, float] = {}  # by id: when one is too old
        self._free: dict[int, float] = {}  # by id: when one that is free was idle too long
        self._timer: runtime.Timer | None = None
        self._at = 0.0

    def opened(self, resource: Any) -> None:
        """Its age counts from now."""
        if self._max_age is not None:
            self._ends[id(resource)] = runtime.monotonic() + _jittered(self._max_age)

    def shelved(self, resource: Any) -> None:
        """It is free from now on."""
        key = id(resource)
        if self._max_idle is not None:
            self._free[key] = runtime.monotonic() + self._max_idle
        due = self._due(key)
        if due is not None and (self._timer is None or due < self._at):
            self._set(due)

    def taken(self, resource: Any) -> None:
        """It is free no more."""
        self._free.pop(id(resource), None)

    def gone(self, resource: Any) -> None:
        """It is closed."""
        self._free.pop(id(resource), None)
        self._ends.pop(id(resource), None)

    def is_old(self, resource: Any) -> bool:
        """True if its time is over."""
        end = self._ends.get(id(resource))
        return end is not None and runtime.monotonic() >= end

    def forget(self) -> None:
        """Start again with nothing, as in a forked child."""
        self._ends.clear()
        self._free.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self, key: int) -> float | None:
        idle, old = self._free.get(key), self._ends.get(key)
        return old if idle is None else idle if old is None else min(idle, old)

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = at
        self._timer = runtime.call_later(at - runtime.monotonic(), _fire, weakref.ref(self))

    def _look(self) -> None:
        # no switch: runs in the hub
        self._timer = None
        pool = self._pool()
        if pool is None:
            return
        now = runtime.monotonic()
        first: float | None = None
        for resource in list(pool.on_shelf()):
            due = self._due(id(resource))
            if due is None:
                continue
            if due <= now:
                pool.retire(resource, 'old' if self.is_old(resource) else 'idle')
            elif first is None or due < first:
                first = due
        if first is not None and self._timer is None:
            self._set(first)


def _fire(reference: weakref.ref[Reaper]) -> None:
    reaper = reference()
    if reaper is not None:
        reaper._look()


def _jittered(seconds: float) -> float:
    return seconds * (1 - 0.1 * random.random())
