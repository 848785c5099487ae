"""One task does what many want done now; the others wait for its outcome."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from greenmq.runtime.clock import Timeoutish
from greenmq.runtime.errors import again
from greenmq.runtime.tasks import current
from greenmq.runtime.waiter import Waiter

__all__ = ('Once',)

#: What a waiter is told when it is its turn to do the work.
_TURN = object()


class _Refused:
    """The error that all who wait get."""

    __slots__ = ('error',)

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Line:
    """Who does the work, and who waits for the outcome."""

    __slots__ = ('doer', 'waiting')

    def __init__(self, doer: Any) -> None:
        self.doer = doer
        self.waiting: deque[Waiter] = deque()


class Once:
    """Calls that would do the same at the same time, done once.

    Arguments:
        shared (tuple[type[Exception], ...]): errors that mean the same to all who wait. After any other end
            of the one that does it (a kill, its own deadline), the next in line does it.
    """

    def __init__(self, shared: tuple[type[Exception], ...] = ()) -> None:
        self._shared = shared
        self._lines: dict[Hashable, _Line] = {}

    def do(
        self, key: Hashable, work: Callable[[], Any], what: str = 'the same work', timeout: Timeoutish = None
    ) -> tuple[Any, bool]:
        """Do the work, or wait for the task that does it already.

        Arguments:
            key: what is the same work.
            work (Callable): of all that are given for a key at a time, one runs. If it comes here again for
                the same key, it runs within itself.
            what (str): for the TimeoutError.
            timeout (Deadline | float): for waiting only; None is no limit.
        Returns:
            tuple[object, bool]: what the work returned; whether it was ours.
        Raises:
            TimeoutError: another task's work did not end in time. Others: from `work`.
        Switches: as `work`, or to wait. Killed: the next in line does it.
        """
        me = current()
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(me)
        elif line.doer is me:
            return work(), True
        else:
            outcome = self._wait(key, line, what, timeout)
            if outcome is not _TURN:
                return outcome, False
            line.doer = me
        try:
            result = work()
        except BaseException as error:
            self._failed(key, line, error)
            raise
        self._end(key)
        for waiter in line.waiting:
            waiter.wake(result)
        return result, True

    def _wait(self, key: Hashable, line: _Line, what: str, timeout: Timeoutish) -> Any:
        waiter = Waiter(what)
        line.waiting.append(waiter)

        def decline(outcome: Any) -> None:
            if outcome is _TURN:
                self._pass_on(key, line)

        try:
            outcome = waiter.wait(timeout, decline)
        except BaseException:
            if waiter in line.waiting:
                line.waiting.remove(waiter)
            raise
        if isinstance(outcome, _Refused):
            raise again(outcome.error)
        return outcome

    def _failed(self, key: Hashable, line: _Line, error: BaseException) -> None:  # no switch
        if not (isinstance(error, Exception) and isinstance(error, self._shared)):
            self._pass_on(key, line)
            return
        self._end(key)
        refused = _Refused(error)
        for waiter in line.waiting:
            waiter.wake(refused)

    def _pass_on(self, key: Hashable, line: _Line) -> None:  # no switch
        line.doer = None
        while line.waiting:
            if line.waiting.popleft().wake(_TURN):
                return
        self._end(key)

    def _end(self, key: Hashable) -> None:
        self._lines.pop(key, None)

    def __len__(self) -> int:
        """How many works are under way."""
        return len(self._lines)

    def __repr__(self) -> str:
        return f'<Once: {len(self._lines)} under way>'
