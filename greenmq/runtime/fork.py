"""What a forked child does first: a hub of its own, no inherited socket or task, and every waiter told."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

from greenmq.runtime.epoch import forks
from greenmq.runtime.lookup import forget_lookups, inside_libc
from greenmq.runtime.net import forget_streams
from greenmq.runtime.offload import forget_threads
from greenmq.runtime.seam import chosen, library, when_chosen
from greenmq.runtime.tasks import end_all
from greenmq.runtime.waiter import tell_waiters

__all__ = ('after_fork', 'fork_guard')

logger = logging.getLogger('greenmq.runtime')


# In order of registration; each gives what is to be called, or None when its owner is gone.
_callbacks: dict[object, Callable[[], Callable[[], Any] | None]] = {}
_installed = False
# Locks that a fork waits for, and those of them that it holds now.
_guards: weakref.WeakSet[Any] = weakref.WeakSet()
_held: list[Any] = []


def after_fork(callback: Callable[[], Any]) -> None:
    """Have something called in every forked child, before `fork()` returns there, in order of registration.

    By then the hub is usable, inherited streams are closed and all tasks but the running one are ending.

    Arguments:
        callback (Callable): must not block; what it raises is logged. A bound method is held weakly, so that
            registering keeps no object alive; anything else is held for good.
    """
    install()
    key = object()
    if isinstance(callback, MethodType):
        # Not a WeakMethod: what it calls when its owner dies fails, aloud, while the interpreter ends.
        owner = weakref.ref(callback.__self__, lambda _, forget=_callbacks.pop: forget(key, None))  # type: ignore[misc]
        _callbacks[key] = lambda function=callback.__func__: (  # type: ignore[misc]
            None if owner() is None else MethodType(function, owner())
        )
    else:
        _callbacks[key] = lambda: callback


def fork_guard() -> Any:
    """Make a native lock that a fork of this process waits for.

    For libraries of C that have locks of their own: a child in which another thread held one at the moment of
    the fork waits for it for ever. A thread holds the guard while it is inside of such a library, for some
    milliseconds and never while it waits for others.

    Returns:
        threading.Lock: the original one, whatever is patched. It is the fork's as long as it is referred to.
    """
    install()
    lock = library.original('_thread', 'allocate_lock')()
    _guards.add(lock)
    return lock


def _before() -> None:
    if chosen():
        inside_libc.close()
    for lock in list(_guards):
        lock.acquire()
        _held.append(lock)


def _after() -> None:
    while _held:
        _held.pop().release()
    inside_libc.open()


def install() -> None:
    """Register the hook of the child, once a process."""
    global _installed
    if not _installed:
        _installed = True
        if hasattr(os, 'register_at_fork'):
            os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_in_child)


def _in_child() -> None:
    forks.count += 1
    _after()
    if chosen():
        # The hub first: stopping a watcher before it would change the poll set that the parent uses.
        steps = (library.reinit, forget_streams, forget_threads, forget_lookups, end_all, tell_waiters)
        for step in steps:
            _attempt(step)
    for reference in list(_callbacks.values()):  # a callback may register others
        callback = reference()
        if callback is not None:
            _attempt(callback)


def _attempt(step: Callable[[], Any]) -> None:
    # One failing step must not keep the others from running: half a clean-up is how sockets get shared.
    try:
        step()
    except Exception:
        logger.exception('after fork: %r failed', step)


when_chosen(install)
