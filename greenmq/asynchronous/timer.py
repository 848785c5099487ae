"""A schedule of calls. It says what is due; the hub (or who iterates over it) makes the calls.

Nothing here switches.
"""

from __future__ import annotations

import heapq
import sys
import time as _time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone, tzinfo
from functools import total_ordering
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from greenmq.exceptions import InvalidArgument
from greenmq.log import get_logger

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ('Entry', 'Timer', 'to_timestamp')

logger = get_logger(__name__)

#: Seconds that iteration reports at most when nothing is due.
DEFAULT_MAX_INTERVAL = 2

EPOCH = datetime.fromtimestamp(0, timezone.utc)

IS_PYPY = hasattr(sys, 'pypy_version_info')


class scheduled(NamedTuple):
    """An entry and when it is due (monotonic seconds).

    Source: kombu.asynchronous.timer.scheduled.
    """

    eta: float
    priority: int
    entry: Entry


def to_timestamp(
    d: Any, default_timezone: tzinfo = timezone.utc, time: Callable[[], float] = monotonic
) -> Any:
    """Convert a datetime to the monotonic seconds of that moment; anything else comes back as it is.

    Arguments:
        default_timezone (tzinfo): of a datetime without one.
        time (Callable): the clock to convert to.
    Source: kombu.asynchronous.timer.to_timestamp.
    """
    if not isinstance(d, datetime):
        return d
    aware = d if d.tzinfo is not None else d.replace(tzinfo=default_timezone)
    return max((aware - EPOCH).total_seconds(), 0.0) + time() - _time.time()


@total_ordering
class Entry:
    """A call to be made, until it is cancelled.

    Source: kombu.asynchronous.timer.Entry.
    """

    __slots__ = ('__weakref__', 'args', 'canceled', 'fun', 'kwargs', 'tref')

    def __init__(
        self,
        fun: Callable[..., Any],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.fun = fun
        self.args = args or []
        self.kwargs = kwargs or {}
        self.tref = weakref.proxy(self)
        self.canceled = False

    def __call__(self) -> Any:
        return self.fun(*self.args, **self.kwargs)

    def cancel(self) -> None:
        """Do not make the call. Any number of times, also after it was made."""
        self.canceled = True

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.canceled

    @cancelled.setter
    def cancelled(self, value: bool) -> None:
        self.canceled = value

    def __repr__(self) -> str:
        name = getattr(self.fun, '__name__', repr(self.fun))
        return f'<TimerEntry: {name}(*{self.args!r}, **{self.kwargs!r})>'

    # Any order will do: it only has to exist for two entries of the same time and priority.
    def __lt__(self, other: object) -> bool:
        return id(self) < id(other)

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__


_Entry: TypeAlias = Entry  # inside Timer the bare name is its attribute


class Timer:
    """Calls to be made later, by time and then by priority (lowest first).

    Iterating yields, for ever: (None, entry) for each entry that is due, (seconds, None) when the next is due
    in so many seconds (at most `max_interval`), (None, None) when nothing is scheduled.

    Arguments:
        max_interval (float): seconds.
        on_error (Callable): called with the error of a call that failed, instead of logging it.
    Switches: no (what the calls do apart).
    Source: kombu.asynchronous.timer.Timer.
    """

    Entry = _Entry
    on_error: Callable[[Any], Any] | None = None
    #: Called whenever something is scheduled, so that who sleeps until the next is due can look again.
    on_change: Callable[[], Any] | None = None

    def __init__(
        self, max_interval: float | None = None, on_error: Callable[[Any], Any] | None = None, **kwargs: Any
    ) -> None:
        self.max_interval = float(max_interval or DEFAULT_MAX_INTERVAL)
        self.on_error = on_error or self.on_error
        self._queue: list[scheduled] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.stop()

    def call_at(
        self,
        eta: float | datetime | None,
        fun: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        priority: int = 0,
    ) -> _Entry:
        """Call at a moment: monotonic seconds or a datetime.

        Raises:
            InvalidArgument: `eta` is neither.
        """
        return self.enter_at(self.Entry(fun, args, kwargs), eta, priority)

    def call_after(
        self,
        secs: float,
        fun: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        priority: int = 0,
    ) -> _Entry:
        """Call after some seconds."""
        return self.enter_after(secs, self.Entry(fun, args, kwargs), priority)

    def call_repeatedly(
        self,
        secs: float,
        fun: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        priority: int = 0,
    ) -> _Entry:
        """Call every so many seconds, counted from the beginning of the call before, until cancelled."""

        def again(*args: Any, **kwargs: Any) -> Any:
            started = monotonic()
            try:
                return fun(*args, **kwargs)
            finally:
                if not entry.canceled:
                    self.enter_at(entry, max(started + secs, monotonic()), priority)

        again.__name__ = getattr(fun, '__name__', repr(fun))
        entry = self.Entry(again, args, kwargs)
        return self.enter_after(secs, entry, priority)

    def enter_at(
        self,
        entry: _Entry,
        eta: float | datetime | None = None,
        priority: int = 0,
        time: Callable[[], float] = monotonic,
    ) -> _Entry:
        """Schedule an entry for a moment; None is now.

        Raises:
            InvalidArgument: `eta` is neither seconds nor a datetime.
        """
        when = time() if eta is None else to_timestamp(eta, time=time)
        if not isinstance(when, (int, float)):
            raise InvalidArgument('eta', eta, 'is neither monotonic seconds nor a datetime')
        return self._enter(when, priority, entry)

    def enter_after(
        self, secs: float, entry: _Entry, priority: int = 0, time: Callable[[], float] = monotonic
    ) -> _Entry:
        """Schedule an entry for some seconds from now."""
        return self.enter_at(entry, time() + float(secs), priority, time)

    def _enter(
        self, eta: float, priority: int, entry: _Entry, push: Callable[..., Any] = heapq.heappush
    ) -> _Entry:
        # Celery's gevent timer overrides this.
        push(self._queue, scheduled(eta, priority, entry))
        if self.on_change is not None:
            self.on_change()
        return entry

    def __iter__(self) -> Iterator[tuple[float | None, _Entry | None]]:
        while True:
            if not self._queue:
                yield None, None
                continue
            left = self._queue[0].eta - monotonic()
            if left > 0:
                yield min(left, self.max_interval), None
                continue
            entry = heapq.heappop(self._queue).entry
            if not entry.canceled:
                yield None, entry

    def __len__(self) -> int:
        return len(self._queue)

    def apply_entry(self, entry: _Entry) -> None:
        """Make a call; an error goes to `on_error` or the log."""
        try:
            entry()
        except Exception as exc:
            if not self.handle_error(exc):
                logger.exception('Error in timer')

    def handle_error(self, exc_info: Any) -> bool:
        """Pass an error to `on_error`; False if there is none."""
        if self.on_error is None:
            return False
        self.on_error(exc_info)
        return True

    def cancel(self, tref: Any) -> None:
        """Cancel an entry."""
        tref.cancel()

    def clear(self) -> None:
        """Forget all that is scheduled."""
        self._queue.clear()

    def stop(self) -> None:
        """Do nothing; there is nothing to stop. Kept for subclasses that run a thread."""

    @property
    def queue(self) -> list[scheduled]:
        """What is scheduled, soonest first (a copy)."""
        return sorted(self._queue)

    @property
    def schedule(self) -> Timer:
        """The timer itself."""
        return self
