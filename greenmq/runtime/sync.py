"""Lock, RLock and Condition, first come first served; and the library's Event, Semaphore and queues.

All of it belongs to one hub: tasks of one native thread exclude each other with it, threads do not. Between
threads there is `post`, and `NativeLock` for a stretch without a switch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

from greenlet import getcurrent

from greenmq.exceptions import TimeoutError
from greenmq.runtime.clock import Deadline, Timeoutish
from greenmq.runtime.seam import library
from greenmq.runtime.waiter import Waiter, leave, wake_first

__all__ = ('Condition', 'Event', 'LifoQueue', 'Local', 'Lock', 'NativeLock', 'Queue', 'RLock', 'Semaphore')


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
        Switches: no.
        Source: threading.Lock.release.
        """
        if self._owner is None:
            raise RuntimeError('release of a lock that nobody holds')
        heir = wake_first(self._line) if self._line else None
        # The heir owns it from now on, before it runs: who asks in between must not take it for ours.
        self._owner = None if heir is None else heir.task

    def locked(self) -> bool:
        """Tell whether somebody holds it.

        Switches: no.
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
        Switches: no.
        Source: threading.RLock.release.
        """
        if self._lock._owner is not getcurrent():
            raise RuntimeError('release of a lock that this task does not hold')
        self._count -= 1
        if not self._count:
            self._lock.release()

    def locked(self) -> bool:
        """Tell whether some task holds it.

        Switches: no.
        Source: threading.Lock.locked.
        """
        return self._lock.locked()

    def _release_all(self) -> int:
        count, self._count = self._count, 1
        self.release()
        return count

    def _restore(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f'<RLock {self._count} times {self._lock!r}>'


class Condition:
    """Tasks that wait until another says that something has changed.

    Arguments:
        lock (Lock | RLock): to be held around it; a new RLock if None.
    Source: threading.Condition; differs: as Lock.
    """

    __slots__ = ('__weakref__', '_line', '_lock', 'acquire', 'release')

    def __init__(self, lock: Lock | RLock | None = None) -> None:
        self._lock = RLock() if lock is None else lock
        self.acquire = self._lock.acquire
        self.release = self._lock.release
        self._line: deque[Waiter] = deque()

    def wait(self, timeout: Timeoutish = None) -> bool:
        """Set the lock free, wait to be notified, and take the lock again.

        Returns:
            bool: False if nobody notified in time.
        Raises:
            RuntimeError: the lock is not held.
        Switches: yes. Killed while waiting: the lock is taken again before the kill goes on, and a
            notification that had come is passed to the next. Not even a second kill cuts taking it short.
        Source: threading.Condition.wait.
        """
        self._check_held()
        waiter = Waiter('not notified')
        self._line.append(waiter)
        count = 0
        if isinstance(self._lock, RLock):
            count = self._lock._release_all()
        else:
            self._lock.release()
        try:
            waiter.wait(timeout, self._pass_on)
            return True
        except TimeoutError:
            if waiter.expired:
                return False
            raise
        finally:
            leave(self._line, waiter)
            self._take_again(count)

    def wait_for(self, predicate: Callable[[], Any], timeout: Timeoutish = None) -> Any:
        """Wait until a predicate holds; it is asked with the lock held, first at once.

        Returns:
            object: what the predicate said last; false if the time was over.
        Switches: only if the predicate does not hold at once. Killed while waiting: as `wait`.
        Source: threading.Condition.wait_for.
        """
        deadline = Deadline.of(timeout)
        result = predicate()
        while not result:
            if not self.wait(deadline):
                return predicate()
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        """Wake the first n that wait.

        Raises:
            RuntimeError: the lock is not held.
        Switches: no.
        Source: threading.Condition.notify.
        """
        self._check_held()
        while n > 0 and wake_first(self._line):
            n -= 1

    def notify_all(self) -> None:
        """Wake all that wait.

        Switches: no.
        Source: threading.Condition.notify_all.
        """
        self.notify(len(self._line))

    def _check_held(self) -> None:
        if not self._lock.locked():
            raise RuntimeError('the lock of the condition is not held')

    def _pass_on(self, _value: Any) -> None:
        wake_first(self._line)

    def _take_again(self, count: int) -> None:
        # Leaving without the lock would make the caller's `with` release what somebody else holds by now. So
        # a kill that lands here waits until the lock is ours: locks are never held over a blocking read, so
        # not for long.
        cut: BaseException | None = None
        while True:
            try:
                self._lock.acquire()
                break
            except BaseException as exc:
                cut = cut or exc
        if isinstance(self._lock, RLock):
            self._lock._restore(count)
        if cut is not None:
            raise cut

    def __enter__(self) -> None:
        self._lock.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def __repr__(self) -> str:
        return f'<Condition {len(self._line)} waiting, {self._lock!r}>'


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


def Queue(maxsize: int = 0) -> Any:
    """Make a queue: `put`, `get` (with block and timeout), `put_nowait`, `get_nowait`; the hub library's own.

    Arguments:
        maxsize (int): 0 is unlimited. `queue.Empty` and `queue.Full` are raised as by the standard library.
    Switches: no; `get` and `put` do.
    Source: queue.Queue.
    """
    return library.Queue(maxsize)


def LifoQueue(maxsize: int = 0) -> Any:
    """Make a queue that gives what was put last.

    Switches: no; `get` and `put` do.
    Source: queue.LifoQueue.
    """
    return library.LifoQueue(maxsize)


def Local() -> Any:
    """Make an object whose attributes each task has for itself.

    Switches: no.
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
