"""What a pool keeps its resources in: the shelf of the free ones, and the lease of each that is in use."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from queue import Empty
from typing import Any, Protocol

from greenmq import runtime


class Lender(Protocol):
    """The pool, as a lease sees it."""

    def release(self, resource: Any) -> None: ...
    def replace(self, resource: Any) -> None: ...
    def orphaned(self, lease: Lease, who: str) -> None: ...


class Shelf:
    """The free resources. Has the few methods of a queue that `setup` of kombu's subclasses calls."""

    __slots__ = ('_pool', 'queue')

    def __init__(self, pool: Callable[[], Any]) -> None:
        self.queue: list[Any] = []
        self._pool = pool

    def put_nowait(self, resource: Any) -> None:
        """Put one on top."""
        self.queue.append(resource)

    put = put_nowait

    def get_nowait(self) -> Any:
        """Take the one on top. Raises Empty."""
        if not self.queue:
            raise Empty
        return self.queue.pop()

    def qsize(self) -> int:
        """How many can be had at once: those here, and those that the limit leaves room for.

        kombu's pools begin full, of promises; who asks for this number means the same.
        """
        pool = self._pool()
        limit = None if pool is None else pool.limit
        return len(self.queue) + (max(0, limit - pool.size) if limit else 0)

    def empty(self) -> bool:
        """True if there is none."""
        return not self.queue


class Holdings(dict):  # type: ignore[type-arg]
    """The leases of one task, held weakly, by id. It is told when the task has ended.

    Kept at the task itself: one link for its life, and not one for each lease, which are many.
    """

    __slots__ = ('who',)

    def __init__(self, task: Any) -> None:
        super().__init__()
        #: Of a bare greenlet nobody tells the end: what can be noticed is that it is gone.
        self.who = None if runtime.link(task, self.ended) else weakref.ref(task, self.gone)

    # no switch in these two: the one runs in the hub, the other wherever the last reference was dropped

    def ended(self, task: Any) -> None:
        """The task has ended: what it has not given back is nobody's."""
        for reference in list(self.values()):
            lease = reference()
            if lease is not None and lease.resource is not None:
                if getattr(task, 'value', None) is not lease.resource:
                    lease.orphan(task)

    def gone(self, reference: object) -> None:
        """A bare greenlet was collected."""
        self.ended(None)


class Lease:
    """One resource in somebody's hands. Calling it gives the resource back; only the first call does
    anything.

    It ends with the task that took it: a task that dies without having given its resource back would keep a
    place for ever. What a task returns as its result has been passed on, and stays.
    """

    __slots__ = ('__weakref__', '_holdings', '_outer', '_pool', '_task', '_who', 'resource', 'since')

    def __init__(self, pool: Lender, resource: Any) -> None:
        self._pool = pool
        self.resource = resource
        self.since = runtime.monotonic()
        self._task: Callable[[], Any] = _nobody
        self._holdings: Holdings | None = None
        self._who = 'a task that has ended'
        self._outer: BaseException | None = None

    def taken(self) -> None:
        """Note that the running task has it, from now on."""
        if self._holdings is not None:
            self._holdings.pop(id(self), None)
        self.since = runtime.monotonic()
        task = runtime.current()
        try:
            holdings = task.greenmq_holdings
        except AttributeError:
            holdings = task.greenmq_holdings = Holdings(task)
        self._holdings = holdings
        holdings[id(self)] = weakref.ref(self)
        self._task = weakref.ref(task)
        self._outer = sys.exc_info()[1]

    def held_by(self, task: Any) -> bool:
        """True if it is this task's."""
        return self._task() is task

    def kept(self, who: str) -> None:
        """Note that no task has it, but what is called `who` in texts."""
        if self._holdings is not None:
            self._holdings.pop(id(self), None)
            self._holdings = None
        self._task = _nobody
        self._who = who

    def in_error(self) -> bool:
        """True while an exception passes, or is handled, that was not there when the lease began."""
        exc = sys.exc_info()[1]
        return exc is not None and exc is not self._outer

    def end(self) -> None:
        """From now on calling it does nothing."""
        self.resource = self._outer = None
        self._task = _nobody
        if self._holdings is not None:
            self._holdings.pop(id(self), None)
            self._holdings = None

    def orphan(self, task: Any) -> None:
        """The task that had it has ended without giving it back."""
        self._pool.orphaned(self, 'a greenlet without a name' if task is None else self.holder())

    @property
    def active(self) -> bool:
        """True until it was given back."""
        return self.resource is not None

    def holder(self) -> str:
        """The name of the task that took it."""
        task = self._task()
        if task is None:
            return self._who
        name = getattr(task, 'name', None)
        if not name and getattr(task, 'parent', task) is None:
            return 'the main greenlet'
        return str(name or repr(task))

    def __call__(self) -> None:
        if self.resource is not None:
            self._pool.release(self.resource)

    def discard(self) -> None:
        """Give it back as broken: it is closed, and its place is free."""
        if self.resource is not None:
            self._pool.replace(self.resource)


def _nobody() -> None:
    return None
