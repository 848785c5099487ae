"""Time: timers, callbacks in the hub, and the deadline that carries all timeout arithmetic."""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import isnan
from time import monotonic
from typing import Any, ClassVar

from greenlet import getcurrent

from greenmq.exceptions import InvalidArgument, TimeoutError
from greenmq.runtime.epoch import forks
from greenmq.runtime.seam import Handle, library

__all__ = (
    'FOREVER', 'NEVER', 'Deadline', 'Timeoutish', 'Timer', 'call_later', 'hub_id', 'in_hub', 'is_here',
    'monotonic', 'post', 'run_soon',
)  # fmt: skip

logger = logging.getLogger('greenmq.runtime')

#: `Deadline.at` of one that never passes.
FOREVER = float('inf')


class Deadline:
    """A point in time, made once at the public door and passed down to every wait below it.

    Attributes:
        seconds (float | None): what was asked for when it was made; None if there is no limit.
    """

    __slots__ = ('at', 'seconds')

    NEVER: ClassVar[Deadline]

    def __init__(self, at: float, seconds: float | None) -> None:
        self.at = at
        self.seconds = seconds

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """Make a deadline that passes some seconds from now.

        Arguments:
            seconds (float): from now; 0 or less has passed already; None and inf never pass.
        Raises:
            InvalidArgument: not a number of seconds.
        """
        if seconds is None or seconds == FOREVER:
            return NEVER
        try:
            at = monotonic() + seconds
        except TypeError:
            raise InvalidArgument('timeout', seconds, 'must be a number of seconds or None') from None
        if isnan(at):
            raise InvalidArgument('timeout', seconds, 'must be a number of seconds or None')
        return cls(at, seconds)

    @classmethod
    def of(cls, timeout: Timeoutish) -> Deadline:
        """Take a deadline as it is, or make one of a number of seconds or None (no limit).

        Raises:
            InvalidArgument: neither a deadline nor a number of seconds.
        """
        return timeout if isinstance(timeout, Deadline) else cls.after(timeout)

    def within(self, seconds: float) -> Deadline:
        """The earlier of this deadline and one that passes some seconds from now."""
        other = Deadline.after(seconds)
        return other if other.at < self.at else self

    def remaining(self) -> float | None:
        """Seconds left, never below 0; None if there is no limit."""
        if self.at == FOREVER:
            return None
        return max(0.0, self.at - monotonic())

    def expired(self) -> bool:
        """Tell whether it has passed."""
        return self.at != FOREVER and self.at <= monotonic()

    def check(self, what: str) -> None:
        """Raise if the deadline has passed.

        Arguments:
            what (str): what did not happen, e.g. "pool redis://h/0: nothing free".
        Raises:
            TimeoutError: "<what> within 5.0 s".
        """
        if self.expired():
            raise self.error(what)

    def error(self, what: str) -> TimeoutError:
        """Make, but do not raise, the error that `check` raises."""
        return TimeoutError(what if self.seconds is None else f'{what} within {float(self.seconds):g} s')

    def __repr__(self) -> str:
        if self.at == FOREVER:
            return '<Deadline never>'
        return f'<Deadline {self.seconds} s, {self.at - monotonic():.3f} s left>'


Timeoutish = float | Deadline | None
NEVER = Deadline.NEVER = Deadline(FOREVER, None)


def in_hub() -> bool:
    """Tell whether this is the hub greenlet, which runs callbacks and must not block."""
    hub = library.peek_hub()
    return hub is not None and getcurrent() is (hub if library.HUB_IS_GREENLET else hub.greenlet)


def hub_id() -> Any:
    """Identity of the hub of this native thread: hashable, weakly referable, what `post` wants.

    Locks, waiters, connections and all other state belong to the hub that made them.
    """
    return library.get_hub()


def run_soon(callback: Callable[..., Any], *args: Any) -> None:
    """Call back from this thread's hub in its next round, in the order of the calls.

    Arguments:
        callback (Callable): must not block; an error it raises is logged on 'greenmq.runtime'.
    """
    library.run_soon(library.get_hub(), guarded, callback, args, forks.count)


def is_here(hub: Any) -> bool:
    """Tell whether `hub` is that of this native thread. Makes no hub in a thread that has none."""
    return library.peek_hub() is hub


def post(hub: Any, callback: Callable[..., Any], *args: Any) -> bool:
    """Call back from another thread's hub. The only thing in runtime that any native thread may do.

    Arguments:
        hub (object): the `hub_id()` of the thread that shall make the call.
        callback (Callable): must not block; an error it raises is logged on 'greenmq.runtime'.
    Returns:
        bool: False if that hub is gone, with its thread; the callback will not be called then.
    """
    try:
        library.post(hub, guarded, callback, args, forks.count)
    except Exception:  # each library raises something else when its loop is destroyed
        logger.debug('post() to a hub that is gone: %r', hub, exc_info=True)
        return False
    return True


def guarded(callback: Callable[..., Any], args: tuple[Any, ...], epoch: int) -> None:
    # What was queued before a fork belongs to the parent: run in the child too, it would be done twice.
    if epoch != forks.count:
        return
    try:
        callback(*args)
    except Exception:
        logger.exception('a callback in the hub failed: %r', callback)


class Timer:
    """A call that will be made later from the hub, unless cancelled. Made by `call_later`."""

    __slots__ = ('_args', '_callback', '_epoch', '_handle')

    def __init__(self, seconds: float, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._callback: Callable[..., Any] | None = callback
        self._args = args
        self._epoch = forks.count
        self._handle: Handle | None = library.timer(library.get_hub(), seconds, self._fire)

    @property
    def active(self) -> bool:
        """True until it was called or cancelled."""
        return self._callback is not None

    def cancel(self) -> None:
        """Do not call. Any number of times, also after the call was made."""
        # The callback goes first: a timer that fires in this same round finds nothing to do, and what the
        # callback's arguments hold is let go at once.
        self._callback, self._args = None, ()
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()

    def _fire(self) -> None:
        callback, args = self._callback, self._args
        self.cancel()
        if callback is not None:
            guarded(callback, args, self._epoch)

    def __repr__(self) -> str:
        return f'<Timer {self._callback!r}>' if self.active else '<Timer done>'


def call_later(seconds: float, callback: Callable[..., Any], *args: Any) -> Timer:
    """Call back from this thread's hub after some seconds. A forked child drops it.

    Arguments:
        seconds (float): from now.
        callback (Callable): must not block; an error it raises is logged on 'greenmq.runtime'.
    Returns:
        Timer: has `cancel()`.
    """
    return Timer(seconds, callback, args)
