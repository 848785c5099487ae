"""Work that nobody waits for, done one piece after the other by a task that is there while there is some."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from greenmq import runtime


class BackgroundTasks:
    """What a pool does in the background.

    One piece at a time: a lost connection takes a thousand leases along, and that many tasks at once would
    keep the hub from everything else. A piece must not raise.

    Arguments:
        name (str): of the task.
    """

    __slots__ = ('_left', '_name', '_task')

    def __init__(self, name: str) -> None:
        self._name = name
        self._left: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._task: runtime.Task | None = None

    def add(self, work: Callable[..., Any], *args: Any) -> None:
        """Have `work(*args)` done soon."""
        self._left.append((work, args))
        if self._task is None or self._task.done:
            self._task = runtime.spawn(self._run, name=self._name)

    def forget(self) -> None:
        """Do nothing more of it than what was begun."""
        self._left.clear()

    def _run(self) -> None:
        while self._left:
            work, args = self._left.popleft()
            work(*args)
            del work, args  # it may be the last to hold a resource, and the next piece may take long
