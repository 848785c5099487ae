"""Publishing without waiting when the way is not open yet: kept in order, sent by one task when it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from greenmq import runtime
from greenmq.exceptions import BufferFull

__all__ = ('Backlog',)


class Backlog:
    """What `publish_nowait` was given while the channel, or a declaration, still needed a round trip.

    Arguments:
        publish (Callable): called with the arguments of each entry, in a task of its own; may wait.
        limit (int): entries; more are refused.

    The task lives while there are entries, also if the producer is forgotten meanwhile, and every entry's
    future learns how it ended, also when the task is killed.
    """

    def __init__(self, publish: Callable[..., Any], limit: int = 10_000) -> None:
        self._publish = publish
        self._limit = limit
        self._entries: deque[tuple[Any, tuple[Any, ...]]] = deque()
        self._task: Any = None

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, *args: Any) -> runtime.Future:
        """Keep one publish.

        Returns:
            runtime.Future: resolves as the publish ends.
        Raises:
            BufferFull: too many are waiting already.
        """
        if len(self._entries) >= self._limit:
            raise BufferFull(
                f'publish_nowait: {len(self._entries)} of {self._limit} messages wait to be sent'
            )
        future = runtime.Future()
        self._entries.append((future, args))
        if self._task is None:
            self._task = runtime.spawn(self._run, name='greenmq.publish_nowait', on_exit=self._ended)
        return future

    def _run(self) -> None:
        while self._entries:
            future, args = self._entries[0]
            try:
                result = self._publish(*args)
            except Exception as exc:  # it belongs to whoever holds the future
                self._entries.popleft()
                future.set_exception(exc)
            else:
                self._entries.popleft()
                future.set_result(result)

    def _ended(self, task: Any, error: BaseException | None) -> None:
        self._task = None
        while self._entries:
            future, _ = self._entries.popleft()
            future.set_exception(error or runtime.TaskExit('the task that publishes was killed'))
