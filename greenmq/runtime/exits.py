"""What is to be done when the interpreter ends and nobody has closed: one list for the whole package.

A script that is stopped by Ctrl-C, calls `sys.exit` or runs out of lines leaves connections open. What was
acknowledged must still leave, and what was not must go back now, not when some lease ends. Each owner says
once how it ends; here is who calls it, in which thread, and for how long.

It comes after what the program itself registered with `atexit` once greenmq was imported. In a forked child
only what was registered there is called: the rest is the parent's.
"""

from __future__ import annotations

import atexit
import sys
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from greenmq.exceptions import TimeoutError
from greenmq.runtime import threadend
from greenmq.runtime.clock import Deadline, in_hub, is_here, logger, post
from greenmq.runtime.epoch import forks
from greenmq.runtime.seam import library
from greenmq.runtime.tasks import Task, spawn
from greenmq.runtime.threadend import at_thread_end
from greenmq.runtime.waiter import Waiter, sleep

__all__ = ('at_exit',)

Step = Callable[[Any], Any]

#: Seconds that another thread has to begin: one that blocks runs no hub, and would keep the process.
BEGINNING = 1.0
#: Seconds between two looks whether other threads still end.
LOOK = 0.01
#: Seconds for a step that was cut at its limit to let go of what it holds.
DYING = 0.5
#: Seconds for threads to end in order.
LEAVING = 1.5


class _Entry:
    """One owner, and how it ends."""

    __slots__ = ('epoch', 'hub', 'owner', 'seconds', 'step')

    def __init__(self, owner: Any, step: Step, seconds: float) -> None:
        key = id(owner)
        # Not asked for its own entry, which would hold the callback: the number is enough.
        self.owner = weakref.ref(owner, lambda _, forget=_entries.pop: forget(key, None))  # type: ignore[misc]
        self.step = step
        self.seconds = seconds
        self.hub: Callable[[], Any] = weakref.ref(library.get_hub())
        self.epoch = forks.count


# By the id of the owner, in the order in which they came.
_entries: dict[int, _Entry] = {}
_in_child_of_multiprocessing = False


def at_exit(owner: Any, step: Step, seconds: float = 5.0) -> None:
    """Have ``step(owner)`` called once when the interpreter ends, if the owner is still there then.

    All steps run at the same time, each in a task of the thread that registered it, or in the main thread if
    that one has ended. Registering an owner again replaces what it said before.

    Arguments:
        owner (object): held weakly.
        step (Callable[[object], object]): may wait; must not hold the owner. What it raises is logged.
        seconds (float): most for the step; then it is killed.
    """
    _entries[id(owner)] = _Entry(owner, step, seconds)
    _also_in_multiprocessing()


def _also_in_multiprocessing() -> None:
    # A child that multiprocessing forked ends without `atexit`; what it has instead is loaded there already.
    global _in_child_of_multiprocessing
    process, util = sys.modules.get('multiprocessing.process'), sys.modules.get('multiprocessing.util')
    if process is None or util is None or process.parent_process() is None:
        return
    if not _in_child_of_multiprocessing:
        _in_child_of_multiprocessing = True
        util.Finalize(None, end_all, exitpriority=0)


def end_all() -> None:
    """Call all steps, and wait for them within their limits; those of other threads as far as they run.

    Switches: yes, if there are any.
    """
    entries = [entry for entry in _entries.values() if entry.epoch == forks.count]
    _entries.clear()
    if not (entries or threadend.ending):
        return  # without a question to the hub library, whose import Ctrl-C may have ended half way
    if in_hub():
        return
    if not entries:
        _let_threads_end()
        return
    ending: list[tuple[Task, float]] = []
    elsewhere = False
    for entry in entries:
        owner = entry.owner()
        if owner is None:
            continue
        hub = entry.hub()
        here = hub is None or is_here(hub)
        elsewhere = elsewhere or not here
        run = _end if here else partial(_end_elsewhere, hub)
        ending.append((spawn(run, entry.step, owner, entry.seconds, name='greenmq-exit'), entry.seconds))
    del entries
    limits = [(task, Deadline.after(seconds), seconds) for task, seconds in ending]
    for task, limit, seconds in limits:
        if not task.join(limit):
            logger.warning('not everything was settled within %g s before the exit', seconds)
            task.kill()
    for task, _, _ in limits:
        task.join(DYING)
    _let_threads_end(elsewhere)


def _let_threads_end(expected: bool = False) -> None:
    # What a thread waited for has ended, and so perhaps the thread does: the interpreter must not be taken
    # down while it destroys its hub.
    patience = Deadline.after(LEAVING)
    for _ in range(2):
        if expected or threadend.ending:
            sleep(LOOK)
        while threadend.ending and not patience.expired():
            sleep(LOOK)


def _end(step: Step, owner: Any, seconds: float) -> None:
    step(owner)


def _end_elsewhere(hub: Any, step: Step, owner: Any, seconds: float) -> None:
    """Have the thread of a hub do it, if that runs its hub at all."""
    there = _There(step, owner, seconds)
    if not post(hub, there.start):
        step(owner)
        return
    try:
        there.begun.wait(min(BEGINNING, seconds))
        there.ended.wait(seconds)
    except TimeoutError:
        logger.warning('a thread did not end what it had open before the exit of the process')


class _There:
    """A step in another thread, and who waits here for its begin and its end."""

    def __init__(self, step: Step, owner: Any, seconds: float) -> None:
        self.begun, self.ended = Waiter(), Waiter()
        self._home = library.get_hub()
        self._step = step
        self._owner = owner
        self._seconds = seconds
        self._task: Task | None = None

    def start(self) -> None:  # in the other thread's hub
        self._task = spawn(self._run, name='greenmq-exit')
        # Closing ends what that thread waits for, and so perhaps the thread: not before we are done.
        at_thread_end(self, first=True)
        post(self._home, self.begun.wake)

    def _run(self) -> None:
        try:
            self._step(self._owner)
        finally:
            post(self._home, self.ended.wake)

    def thread_ended(self) -> None:
        if self._task is not None:
            self._task.join(self._seconds)


atexit.register(end_all)
