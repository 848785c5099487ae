"""Something done again and again for an owner, who is not kept alive by it."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable
from typing import Any

from greenmq.runtime.clock import logger
from greenmq.runtime.tasks import Task, spawn
from greenmq.runtime.waiter import sleep

__all__ = ('every',)


def every(owner: Any, seconds: float, step: Callable[[Any], Any], *, name: str, jitter: float = 0.0) -> Task:
    """Call ``step(owner)`` every so many seconds, in a task of its own, until it returns False.

    Arguments:
        owner (object): held weakly; when it is gone the task ends. So `step` must not be a method of it.
        seconds (float): between the end of one call and the next; the first comes after as long.
        step (Callable): may wait. What it raises is logged, and it is called again all the same.
        jitter (float): 0 to 1, the part of a pause that chance may take away.
    Returns:
        Task: to be killed.
    """
    return spawn(_run, weakref.ref(owner), seconds, step, jitter, name=name, owner=owner)


def _run(reference: Callable[[], Any], seconds: float, step: Callable[[Any], Any], jitter: float) -> None:
    while True:
        sleep(seconds * (1.0 - jitter * random.random()))
        owner = reference()
        if owner is None:
            return
        try:
            if step(owner) is False:
                return
        except Exception:  # the next round may do better
            logger.exception('%r failed, and is tried again', step)
        del owner  # not kept alive by a task that sleeps
