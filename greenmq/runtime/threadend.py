"""What has to be done when a native thread ends, in that thread, by whoever began something in it.

A thread that greenmq did not start ends without a word: the sockets of its hub stay open with nobody to read
them, and its loop's own descriptors too. A thread's storage, though, is emptied in that thread.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from greenmq.runtime.clock import logger
from greenmq.runtime.seam import library

__all__ = ('at_thread_end', 'end_hub_with_thread', 'end_thread', 'has_hub')

_local: Any = None


class Ending(Protocol):
    """What wants to be told."""

    def thread_ended(self) -> None: ...


class _Last:
    """Lives in the thread's storage and nowhere else: its finalizer is the thread's last deed."""

    def __init__(self) -> None:
        self.known: weakref.WeakKeyDictionary[Ending, None] = weakref.WeakKeyDictionary()  # in their order
        self.pid = os.getpid()
        self.hub: Any = library.get_hub()
        self.ends_hub = False

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if finalizing():
            return  # the main thread, at the very end: the process closes everything
        if os.getpid() != self.pid:
            return  # a fork left this thread behind, and clears it before anything else runs in the child
        if library.peek_hub() is None:
            library.remember_hub(self.hub)  # the library's own storage was emptied before ours
        for each in list(self.known):
            try:
                each.thread_ended()
            except Exception:  # nobody is left to whom it could be raised
                logger.debug('at the end of a thread: %r', each, exc_info=True)
        if self.ends_hub:
            library.end_thread()


def has_hub() -> bool:
    """Tell whether this native thread has a hub. Makes none.

    Switches: no.
    Source: greenmq's own.
    """
    return library.peek_hub() is not None


def at_thread_end(what: Ending) -> None:
    """Call ``what.thread_ended()`` in this native thread when it ends; not in the main thread.

    Arguments:
        what (object): held weakly; the method may wait, not for long: whoever joins the thread waits too.
            What came first is told first.
    Switches: no.
    Source: greenmq's own.
    """
    _last().known[what] = None


def end_hub_with_thread() -> None:
    """Note that the hub of this native thread serves greenmq alone: it is destroyed when the thread ends.

    Switches: no.
    Source: greenmq's own.
    """
    _last().ends_hub = True


def end_thread() -> None:
    """Do now what is to be done at the end of this native thread, and destroy its hub; for our own threads.

    Switches: no.
    Source: greenmq's own.
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
