"""Deadlines for methods that take none: kombu's have no `timeout`, and a publish has one deadline for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from greenmq.runtime.clock import NEVER, Deadline
from greenmq.runtime.tasks import current

__all__ = ('Limits',)


class Limits:
    """For each task the deadline of what it does now."""

    __slots__ = ('_of',)

    def __init__(self) -> None:
        self._of: dict[Any, Deadline] = {}

    @contextmanager
    def held(self, deadline: Deadline) -> Iterator[None]:
        """Hold every wait that this task makes in the block to a deadline."""
        me = current()
        outer = self._of.get(me)
        self._of[me] = deadline
        try:
            yield
        finally:
            if outer is None:
                del self._of[me]
            else:
                self._of[me] = outer

    def within(self, seconds: float) -> Deadline:
        """The deadline for one wait of this task: that of the block, or so many seconds, if that is sooner.
        """
        limit = self._of.get(current(), NEVER) if self._of else NEVER
        return limit.within(seconds)
