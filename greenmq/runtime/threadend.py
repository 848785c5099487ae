"""What has to be done when a native thread ends, in that thread, by whoever began something in it.

A thread that greenmq did not start ends without a word: the sockets of its hub stay open with nobody to read
them, and its loop's own descriptors too; hub, tasks and what they know hold each other for good. A thread's
storage, though, is emptied in that thread.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from greenlet import getcurrent

from greenmq.runtime.clock import logger
from greenmq.runtime.seam import hub_greenlet, library
from greenmq.runtime.tasks import kill_all
from greenmq.runtime.waiter import sleep

__all__ = ('at_thread_end', 'end_hub_with_thread', 'end_thread')

_ROUNDS = 5  # a task that ends may start others that say so

_local: Any = None
#: Threads that end now, each by a number of its own: a process must not end under them.
ending: set[int] = set()
# Hubs that were destroyed: nothing more can run there.
_ended: weakref.WeakSet[Any] = weakref.WeakSet()


class Ending(Protocol):
    """What wants to be told."""

    def thread_ended(self) -> None: ...


class _Last:
    """Lives in the thread's storage and nowhere else: its finalizer is the thread's last deed."""

    def __init__(self) -> None:
        self.known: weakref.WeakKeyDictionary[Ending, None] = weakref.WeakKeyDictionary()  # in their order
        self.pid = os.getpid()
        self.hub: Any = library.get_hub()

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if finalizing():
            return  # the main thread, at the very end: the process closes everything
        ending.add(id(self))
        try:
            self._end()
        finally:
            ending.discard(id(self))

    def _end(self) -> None:
        if os.getpid() != self.pid:
            return  # a fork left this thread behind, and clears it before anything else runs in the child
        ended = self.hub in _ended  # what a task began while the hub ended its tasks
        if library.peek_hub() is None and not ended:
            ended = not library.remember_hub(self.hub)  # the library's own storage was emptied before ours
        for each in list(self.known):
            try:
                each.thread_ended()
            except Exception:  # nobody is left to whom it could be raised
                logger.debug('at the end of a thread: %r', each, exc_info=True)
        if not ended:
            _end_tasks(self.hub)
            _ended.add(self.hub)
            library.end_thread()


def _end_tasks(hub: Any) -> None:
    # A greenlet that waits is kept by its own stack, with all that it knows: each is to end.
    if getcurrent() is not hub_greenlet(hub).parent:
        return
    for _ in range(_ROUNDS):
        sleep(0)  # who reads or writes what was closed learns of it, and ends by itself
        if not kill_all(hub):
            return
        sleep(0)


def at_thread_end(what: Ending, first: bool = False) -> None:
    """Call ``what.thread_ended()`` in this native thread when it ends; not in the main one.

    Arguments:
        what (object): held weakly; the method may wait, not for long: whoever joins the thread waits too.
            What came first is told first.
        first (bool): tell it before all that came already.
    """
    known = _last().known
    before = list(known) if first else []
    known[what] = None
    for each in before:
        del known[each]
        known[each] = None


def end_hub_with_thread() -> None:
    """Have the hub of this native thread destroyed when the thread ends; not in the main one.

    Source: gevent's `Hub.destroy`, which every thread that used gevent should call.
    """
    _last()


def end_thread() -> None:
    """Do now what is to be done at the end of this native thread, and destroy its hub; for threads of ours.
    """
    if _local is not None:
        _local.__dict__.pop('last', None)
    library.end_thread()


def _last() -> _Last:
    global _local
    if _local is None:
        _local = library.original('_thread', '_local')()
    try:
        found: _Last = _local.last
    except AttributeError:
        found = _local.last = _Last()
    return found
