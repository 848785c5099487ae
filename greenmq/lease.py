"""What a pool keeps its resources in: the shelf of the free ones, and the lease of each that is in use."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from greenmq import runtime


class Lender(Protocol):
    """The pool, as a lease sees it."""

    def release(self, resource: Any) -> None: ...
    def replace(self, resource: Any) -> None: ...
    def orphaned(self, lease: Lease, who: str) -> None: ...


class Shelf:
    """The free resources. Has the few methods of a queue that `setup` of kombu's subclasses calls."""

    __slots__ = ('queue',)

    def __init__(self) -> None:
        self.queue: list[Any] = []

    def put_nowait(self, resource: Any) -> None:
        """Put one on top."""
        self.queue.append(resource)

    put = put_nowait

    def qsize(self) -> int:
        """How many there are."""
        return len(self.queue)

    def empty(self) -> bool:
        """True if there is none."""
        return not self.queue


class Lease:
    """One resource in somebody's hands. Calling it gives the resource back; only the first call does
    anything.

    It ends with the task that took it: a task that dies without having given its resource back would keep a
    place for ever. What a task returns as its result has been passed on, and stays.
    """

    __slots__ = ('__weakref__', '_linked', '_outer', '_pool', '_task', '_who', 'resource', 'since')

    def __init__(self, pool: Lender, resource: Any) -> None:
        self._pool = pool
        self.resource = resource
        self.since = runtime.monotonic()
        self._task: Callable[[], Any] = _nobody
        self._linked = False
        self._who = 'a task that has ended'
        self._outer: BaseException | None = None

    def taken(self) -> None:
        """Note that the running task has it, from now on."""
        task = runtime.current()
        if self._linked:
            self._unlink()
        self._linked = runtime.link(task, self._task_ended)
        # of a bare greenlet nobody tells the end: what can be noticed is that it is gone
        self._task = weakref.ref(task) if self._linked else weakref.ref(task, self._task_gone)
        self._outer = sys.exc_info()[1]

    def held_by(self, task: Any) -> bool:
        """True if it is this task's."""
        return self._task() is task

    def kept(self, who: str) -> None:
        """Note that no task has it, but what is called `who` in texts."""
        self._unlink()
        self._who = who

    def in_error(self) -> bool:
        """True while an exception passes, or is handled, that was not there when the lease began."""
        exc = sys.exc_info()[1]
        return exc is not None and exc is not self._outer

    def end(self) -> None:
        """From now on calling it does nothing."""
        self.resource = self._outer = None
        if self._linked:
            self._unlink()
        else:
            self._task = _nobody

    def _unlink(self) -> None:
        task, self._task = self._task(), _nobody
        if self._linked:
            self._linked = False
            if task is not None:
                runtime.unlink(task, self._task_ended)

    @property
    def active(self) -> bool:
        """True until it was given back."""
        return self.resource is not None

    def holder(self) -> str:
        """The name of the task that took it."""
        task = self._task()
        return self._who if task is None else str(getattr(task, 'name', None) or repr(task))

    def __call__(self) -> None:
        if self.resource is not None:
            self._pool.release(self.resource)

    def discard(self) -> None:
        """Give it back as broken: it is closed, and its place is free."""
        if self.resource is not None:
            self._pool.replace(self.resource)

    # no switch in these two: the one runs in the hub, the other wherever the last reference was dropped

    def _task_ended(self, task: Any) -> None:
        if self.resource is not None and getattr(task, 'value', None) is not self.resource:
            self._pool.orphaned(self, self.holder())

    def _task_gone(self, reference: object) -> None:
        if self.resource is not None and self._task is reference:
            self._pool.orphaned(self, 'a greenlet without a name')


def _nobody() -> None:
    return None
