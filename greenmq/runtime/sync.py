"""Lock and RLock, first come first served; and the library's Event and Semaphore.

All of it belongs to one hub: tasks of one native thread exclude each other with it, threads do not. Between
threads there is `post`, and `NativeLock` for a stretch without a switch.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Any

from greenlet import getcurrent

from greenmq.exceptions import TimeoutError
from greenmq.runtime.clock import Deadline, Timeoutish
from greenmq.runtime.seam import library
from greenmq.runtime.waiter import Waiter, leave, wake_first

__all__ = ('Event', 'LateLock', 'Local', 'Lock', 'NativeLock', 'RLock', 'Semaphore')


class Lock:
    """Mutual exclusion between the tasks of one hub.

    `release` passes it to the first in line, who owns it at once.

    A task that releases and acquires again goes to the end of the line: nobody starves (P8).

    Source: threading.Lock; differs: first come first served, `acquire` takes a timeout or Deadline only.
    """

    __slots__ = ('__weakref__', '_line', '_owner')

    def __init__(self) -> None:
        self._owner: Any = None
        self._line: deque[Waiter] | None = None

    def acquire(self, timeout: Timeoutish = None) -> bool:
        """Take the lock, waiting for it at most until the deadline.

        Arguments:
            timeout (Deadline | float): None waits for ever; 0 never waits.
        Returns:
            bool: False if it was not free in time.
        Raises:
            WouldBlock: taken, and called in the hub.
        Switches: only if it is taken. Killed while waiting: the next in line gets it.
        Source: threading.Lock.acquire.
        """
        if self._owner is None:
            self._owner = getcurrent()
            return True
        return self._queue_up(timeout)

    def release(self) -> None:
        """Give the lock to the first in line, or set it free. Any task of the hub may do that.

        Raises:
            RuntimeError: it is free.
        Source: threading.Lock.release.
        """
        if self._owner is None:
            raise RuntimeError('release of a lock that nobody holds')
        heir = wake_first(self._line) if self._line else None
        # The heir owns it from now on, before it runs: who asks in between must not take it for ours.
        self._owner = None if heir is None else heir.task

    def locked(self) -> bool:
        """Tell whether somebody holds it.

        Source: threading.Lock.locked.
        """
        return self._owner is not None

    def _queue_up(self, timeout: Timeoutish) -> bool:
        if timeout is not None:
            timeout = Deadline.of(timeout)
            if timeout.expired():
                return False
        if self._line is None:
            self._line = deque()
        waiter = Waiter('lock not free')
        self._line.append(waiter)
        try:
            waiter.wait(timeout, self._pass_on)
        except TimeoutError:
            leave(self._line, waiter)
            # The kernel's, or a caller's own, timeout that was thrown into us is not the answer "not free".
            if waiter.expired:
                return False
            raise
        except BaseException:
            leave(self._line, waiter)
            raise
        return True

    def _pass_on(self, _value: Any) -> None:
        self.release()

    def __enter__(self) -> None:
        if self._owner is None:
            self._owner = getcurrent()
        else:
            self._queue_up(None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        state = 'free' if self._owner is None else f'held by {self._owner!r}'
        return f'<{type(self).__name__} {state}, {len(self._line or ())} waiting>'


class RLock:
    """A lock that its owner may take again; released when it has been released as often.

    Source: threading.RLock; differs: as Lock.
    """

    __slots__ = ('__weakref__', '_count', '_lock')

    def __init__(self) -> None:
        self._lock = Lock()
        self._count = 0

    def acquire(self, timeout: Timeoutish = None) -> bool:
        """As `Lock.acquire`; at once if this task holds it.

        Switches: only if another task holds it.
        Source: threading.RLock.acquire.
        """
        if self._lock._owner is getcurrent():
            self._count += 1
            return True
        if not self._lock.acquire(timeout):
            return False
        self._count = 1
        return True

    def release(self) -> None:
        """Undo one `acquire`.

        Raises:
            RuntimeError: this task does not hold it.
        Source: threading.RLock.release.
        """
        if self._lock._owner is not getcurrent():
            raise RuntimeError('release of a lock that this task does not hold')
        self._count -= 1
        if not self._count:
            self._lock.release()

    def locked(self) -> bool:
        """Tell whether some task holds it.

        Source: threading.Lock.locked.
        """
        return self._lock.locked()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f'<RLock {self._count} times {self._lock!r}>'


def Event() -> Any:
    """Make an event: `set()`, `clear()`, `is_set()`, `wait(timeout) -> bool`; the hub library's own.

    Switches: no; `wait` does.
    Source: threading.Event.
    """
    return library.Event()


def Semaphore(value: int = 1) -> Any:
    """Make a semaphore: `acquire(blocking=True, timeout=None) -> bool`, `release()`; the hub library's own.

    Switches: no; `acquire` does.
    Source: threading.Semaphore.
    """
    return library.Semaphore(value)


def Local() -> Any:
    """Make an object whose attributes each task has for itself.

    Source: threading.local.
    """
    return library.Local()


def NativeLock() -> Any:
    """Make a lock between native threads, the original one whatever is patched.

    Only for a stretch that cannot switch: a task that is parked with it held blocks every thread for good.

    Switches: no. Blocks the thread.
    Source: threading.Lock.
    """
    return library.original('_thread', 'allocate_lock')()


class LateLock:
    """A NativeLock for what is made at import: when it is first used, the library will have been chosen."""

    __slots__ = ('_made',)

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def get(self) -> Any:
        """Return the lock. From any thread: all get the same."""
        return self._made.get('') or self._made.setdefault('', NativeLock())  # which is atomic

    def forget(self) -> None:
        """In a forked child: the thread that held it may not exist there."""
        self._made.clear()
