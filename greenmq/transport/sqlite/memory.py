"""The engine of a store in memory, for one hub of one process. Nothing in it waits, so it has no thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from typing import Any

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed
from greenmq.transport.sqlite.expiry import Expiry
from greenmq.transport.sqlite.file import connect
from greenmq.transport.sqlite.store import Store

__all__ = ('MEMORY', 'MemoryEngine')

#: The name of the file that is none.
MEMORY = ':memory:'


class MemoryEngine:
    """As `Engine`, but what it keeps is gone when it is closed. No method switches.

    Arguments:
        told (Callable[[set[str], bool], Any]): is told of queues that got messages, and whether bindings were
            changed.
        wanted (Container[str]): the queues of which it wants to be told.
    Attributes:
        owner (int): our number among the owners. commits (int): transactions so far.
        mark: None: nobody else can see the store.
    """

    mark = None

    def __init__(self, told: Callable[[set[str], bool], Any], wanted: Container[str]) -> None:
        self._told = told
        self._wanted = wanted
        self._store: Store | None = None
        self._expiry = Expiry(MEMORY, 0.0)
        self.owner = 0
        self.commits = 0

    def open(self, deadline: runtime.Deadline) -> None:
        """Make the store."""
        self._store = Store(connect(MEMORY, 'none', 0))
        self.owner = self.do(lambda store: store.enter(os.getpid(), '', 'memory', ''), deadline)

    def do(
        self,
        fun: Callable[[Store], Any],
        deadline: runtime.Deadline,
        abandon: Callable[[Store, Any], Any] | None = None,
        lasting: bool = True,
    ) -> Any:
        """Run something on the store, whole or not at all; return what it returned. No disk is there."""
        store = self._store
        if store is None:
            raise ConnectionClosed('the store is closed')
        try:
            store.begin()
            result = fun(store)
            store.commit()
        except BaseException:
            store.rollback()
            raise
        self.commits += 1
        if store.changed or any(name in self._wanted for name in store.touched):
            self._told(store.touched, store.changed)
        return result

    def sweep(self, deadline: runtime.Deadline) -> None:
        """Delete queues that nobody has used for too long."""
        if self._store is not None and self._expiry.look(self._store, self._wanted.__contains__):
            self.do(self._expiry.work, deadline)

    def close(self, deadline: runtime.Deadline) -> None:
        """Forget all that it kept."""
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def forget(self) -> None:
        """In a forked child: it is the parent's."""
        self._store = None
