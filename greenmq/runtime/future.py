"""A value that comes later: set once, waited for by any number of tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from greenmq.exceptions import TimeoutError
from greenmq.runtime.clock import Deadline, Timeoutish
from greenmq.runtime.errors import again
from greenmq.runtime.waiter import Waiter

__all__ = ('Future',)

logger = logging.getLogger('greenmq.runtime')


class Future:
    """A value that comes later, to any number of tasks.

    Source: concurrent.futures.Future; differs: setting twice is refused and not an error, nothing can be
        cancelled, and an error that nobody asks for is not reported.
    """

    __slots__ = ('__weakref__', '_callbacks', '_done', '_error', '_value', '_waiters')

    def __init__(self) -> None:
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._waiters: list[Waiter] | None = None
        self._callbacks: list[Callable[[Future], Any]] | None = None

    def done(self) -> bool:
        """Tell whether there is a value or an error.

        Source: concurrent.futures.Future.done.
        """
        return self._done

    def result(self, timeout: Timeoutish = None) -> Any:
        """Wait for the value.

        Raises:
            TimeoutError: not in time.
            BaseException: what `set_exception` was given.
            WouldBlock: not there yet, and called in the hub.
        Switches: only if not done. Killed while waiting: nothing is left behind.
        Source: concurrent.futures.Future.result.
        """
        if not self._done and not self._wait(timeout):
            raise Deadline.of(timeout).error('no result')
        if self._error is not None:
            raise again(self._error).with_traceback(self._error.__traceback__)
        return self._value

    def exception(self, timeout: Timeoutish = None) -> BaseException | None:
        """Wait, and return the error that `result` would raise, or None.

        Raises:
            TimeoutError: not in time.
        Switches: only if not done.
        Source: concurrent.futures.Future.exception.
        """
        if not self._done and not self._wait(timeout):
            raise Deadline.of(timeout).error('no result')
        return self._error

    def set_result(self, value: Any = None) -> bool:
        """Set the value, wake those who wait and call the callbacks.

        Returns:
            bool: False if it was done already; the first one stands.
        Raises:
            WrongHub: tasks of another thread wait for it; that needs `post`.
        Source: concurrent.futures.Future.set_result.
        """
        if self._done:
            return False
        self._value = value
        self._finish()
        return True

    def set_exception(self, error: BaseException) -> bool:
        """As `set_result`, with an error.

        Source: concurrent.futures.Future.set_exception.
        """
        if self._done:
            return False
        self._error = error
        self._finish()
        return True

    def add_done_callback(self, callback: Callable[[Future], Any]) -> None:
        """Have something called with this future when it is done; at once if it is.

        Arguments:
            callback (Callable): runs in whoever sets the value and must not block; what it raises is logged.
        Source: concurrent.futures.Future.add_done_callback.
        """
        if self._done:
            self._call(callback)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def waited(self, timeout: Timeoutish = None) -> bool:
        """Wait until it is done, whatever comes of it.

        Returns:
            bool: False if not in time.
        Switches: only if not done. Killed while waiting: nothing is left behind.
        """
        return self._done or self._wait(timeout)

    def _wait(self, timeout: Timeoutish) -> bool:
        waiter = Waiter('no result')
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        try:
            waiter.wait(timeout)
            return True
        except TimeoutError:
            if waiter.expired:
                return False
            raise  # a socket.timeout that somebody threw into this task is not ours to answer
        finally:
            if self._waiters is not None and waiter in self._waiters:
                self._waiters.remove(waiter)

    def _finish(self) -> None:
        self._done = True
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            waiter.wake()
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            self._call(callback)

    def _call(self, callback: Callable[[Future], Any]) -> None:
        try:
            callback(self)
        except Exception:
            logger.exception('a callback of a future failed: %r', callback)

    def __repr__(self) -> str:
        if not self._done:
            return f'<Future pending, {len(self._waiters or ())} waiting>'
        return f'<Future error {self._error!r}>' if self._error is not None else '<Future done>'
