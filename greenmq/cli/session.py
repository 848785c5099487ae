"""A command's work in a task of its own, so that Ctrl-C can end it like any other greenlet: by a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import click
from tqdm import tqdm

from greenmq import runtime
from greenmq.cli.interrupt import Interrupts

T = TypeVar('T')

A_YEAR = 365 * 24 * 3600.0


class Bar(tqdm):  # type: ignore[type-arg]
    """A progress bar on a terminal, nothing elsewhere; without the thread that tqdm would watch it with."""

    monitor_interval = 0


class Outcome(Generic[T]):
    """What became of a piece of work: its value, or what it raised."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self.value: T | None = None
        self.error: Exception | None = None

    def __call__(self) -> None:
        try:
            self.value = self._work()
        except Exception as exc:                # for whoever waits; nobody else need hear of it
            self.error = exc


def in_task(work: Callable[[], T], interrupts: Interrupts) -> T:
    """Do the work in a task and wait for it.

    Arguments:
        work (Callable): its ``finally`` clauses run when the work is interrupted, and may wait.
        interrupts (Interrupts): where Ctrl-C is told.
    Raises:
        KeyboardInterrupt: Ctrl-C came; the work has ended.
        Exception: what the work raised.
    Switches: yes.
    """
    outcome = Outcome(work)
    hub = runtime.hub_id()
    task = runtime.spawn(outcome, name='greenmq-command')
    # Something can always come as long as there is a keyboard: without this, a hub that has nothing but memory://
    # to wait for takes it for a deadlock.
    awake = runtime.call_later(A_YEAR, int)
    try:
        with interrupts.told(lambda: runtime.post(hub, task.kill)):
            task.join()
    finally:
        awake.cancel()
    if interrupts.hit:
        raise KeyboardInterrupt
    if outcome.error is not None:
        raise outcome.error
    return outcome.value  # type: ignore[return-value]  # no error, so the work returned


@contextmanager
def said_at_the_end(text: Callable[[], str], worth_it: Callable[[], bool]) -> Iterator[None]:
    """Say on standard error what was done; after an error only if there was anything.

    Arguments:
        text (Callable[[], str]): asked at the end.
        worth_it (Callable[[], bool]): asked after an error.
    """
    try:
        yield
    except BaseException:
        if worth_it():
            click.echo(text(), err=True)
        raise
    click.echo(text(), err=True)
