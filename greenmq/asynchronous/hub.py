"""kombu's event loop as far as programs use it: callbacks, timers, descriptors, in the greenlet that runs it.

The waiting is the runtime's: a descriptor is watched by the hub library, and `run_once` sleeps until
something is ready, due, or was asked for by another greenlet. Nothing is polled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from types import GeneratorType
from typing import Any

from greenmq import runtime
from greenmq.asynchronous.debug import repr_active, repr_events
from greenmq.asynchronous.timer import Entry, Timer
from greenmq.exceptions import TimeoutError
from greenmq.log import get_logger
from greenmq.runtime.seam import library
from greenmq.utils.compat import fileno
from greenmq.utils.eventio import ERR, READ, WRITE

__all__ = ('Hub', 'get_event_loop', 'set_event_loop')

logger = get_logger(__name__)

#: Text of the log line for an event that nobody asked for.
W_UNKNOWN_EVENT = 'Received unknown event %r for fd %r, please contact support!'

#: Seconds that a round without anything to do takes: programs look at the clock, or at a flag, between two.
LONGEST_ROUND = 1.0

_current_loop: Hub | None = None


class Stop(BaseException):
    """Raised by a callback to end `run_forever`.

    Source: kombu.asynchronous.hub.Stop.
    """


def get_event_loop() -> Hub | None:
    """Return the hub that was set as the program's, or None.

    Source: kombu.asynchronous.hub.get_event_loop.
    """
    return _current_loop


def set_event_loop(loop: Hub | None) -> Hub | None:
    """Make a hub the program's.

    Source: kombu.asynchronous.hub.set_event_loop.
    """
    global _current_loop
    _current_loop = loop
    return loop


def _raise_stop() -> None:
    raise Stop


class _Watch:
    """A descriptor in one direction. It reports once and is then silent until the callback was made."""

    __slots__ = ('_report', '_watcher', 'fd', 'flag')

    def __init__(self, fd: int, flag: int, report: Callable[[int, int], None]) -> None:
        self.fd = fd
        self.flag = flag
        self._report = report
        self._watcher = library.watch(library.get_hub(), fd, flag == WRITE)
        self.start()

    def start(self) -> None:
        self._watcher.start(self._ready)

    def _ready(self) -> None:
        self._watcher.stop()
        self._report(self.fd, self.flag)

    def close(self) -> None:
        self._watcher.stop()
        self._watcher.close()


class Hub:
    """Calls back when a timer is due, a descriptor is ready, or a greenlet asked for it.

    Arguments:
        timer (Timer): the schedule to use.
    Attributes:
        readers, writers (dict[int, tuple]): descriptor → (callback, arguments).
        on_tick (set[Callable]): called in each round of the loop.
        on_close (set[Callable]): called with the hub when it closes.
        consolidate (set[int]), consolidate_callback: descriptors whose readiness is reported to that one
            callback, as a list.
        propagate_errors (tuple): errors of callbacks and timers that end the loop instead of being logged.
    Any greenlet of the thread may use it; `run_once` and `run_forever` belong to one. Other
    threads may ask for calls, with `call_soon` and `call_later`.

    Source: kombu.asynchronous.hub.Hub; differs: waits with greenmq's runtime, there is no poller object.
    """

    READ, WRITE, ERR = READ, WRITE, ERR
    on_close: Any = None

    def __init__(self, timer: Timer | None = None) -> None:
        # What is new wakes the loop, so a timer of its own need not make it look now and then.
        self.timer = timer if timer is not None else Timer(max_interval=float('inf'))
        self.timer.on_change = self._wake
        self.readers: dict[int, Any] = {}
        self.writers: dict[int, Any] = {}
        self.on_tick: set[Callable[[], Any]] = set()
        self.on_close = set()
        self.consolidate: set[int] = set()
        self.consolidate_callback: Callable[[list[int]], Any] | None = None
        self.propagate_errors: tuple[type[BaseException], ...] = ()
        self._ready: deque[Entry] = deque()
        self._watches: dict[tuple[int, int], _Watch] = {}
        self._events: dict[tuple[int, int], None] = {}
        self._waiter: runtime.Waiter | None = None
        self._home: Any = None  # whose loop is waited in, while there is a waiter
        self._loop: Generator[None, None, None] | None = None
        self._scheduler: Iterator[Any] | None = None

    # -------------------------------------------------------------- calls

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> Entry:
        """Call in the next round of the loop; the result has `cancel()`. Any native thread may ask for it."""
        entry = callback if isinstance(callback, Entry) else Entry(callback, args)
        self._ready.append(entry)
        self._wake()
        return entry

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Entry:
        """Call after some seconds."""
        return self.timer.call_after(delay, callback, args)

    def call_at(self, when: Any, callback: Callable[..., Any], *args: Any) -> Entry:
        """Call at a moment: monotonic seconds or a datetime."""
        return self.timer.call_at(when, callback, args)

    def call_repeatedly(self, delay: float, callback: Callable[..., Any], *args: Any) -> Entry:
        """Call every so many seconds."""
        return self.timer.call_repeatedly(delay, callback, args)

    def _pop_ready(self) -> deque[Entry]:
        # Celery's prefork pool takes what is left with this.
        ready, self._ready = self._ready, deque()
        return ready

    # -------------------------------------------------------------- descriptors

    def add(
        self, fd: Any, callback: Any, flags: int, args: Iterable[Any] = (), consolidate: bool = False
    ) -> None:
        """Call back whenever a descriptor is ready.

        Arguments:
            fd (int or file): one callback for each direction; adding again replaces it.
            callback (Callable or generator): called with the arguments, or resumed until it ends.
            flags (int): READ or WRITE; errors are reported to either.
            consolidate (bool): report to `consolidate_callback` instead.
        Raises:
            ValueError: no such descriptor.
        """
        number, flag = fileno(fd), WRITE if flags & WRITE else READ
        watched = self.writers if flag == WRITE else self.readers
        if (number, flag) not in self._watches:
            self._watches[number, flag] = _Watch(number, flag, self._report)
        if consolidate:
            self.consolidate.add(number)
            watched[number] = None
        else:
            watched[number] = callback, tuple(args)

    def add_reader(self, fds: Any, callback: Any, *args: Any) -> None:
        """Call back whenever a descriptor can be read."""
        self.add(fds, callback, READ | ERR, args)

    def add_writer(self, fds: Any, callback: Any, *args: Any) -> None:
        """Call back whenever a descriptor can be written."""
        self.add(fds, callback, WRITE, args)

    def remove(self, fd: Any) -> None:
        """Stop watching a descriptor, before it is closed. One that is not watched is no error."""
        number = fileno(fd)
        self._forget(number, READ)
        self._forget(number, WRITE)

    def remove_reader(self, fd: Any) -> None:
        """Stop calling back when a descriptor can be read."""
        self._forget(fileno(fd), READ)

    def remove_writer(self, fd: Any) -> None:
        """Stop calling back when a descriptor can be written."""
        self._forget(fileno(fd), WRITE)

    def _forget(self, fd: int, flag: int) -> None:
        (self.writers if flag == WRITE else self.readers).pop(fd, None)
        self._events.pop((fd, flag), None)
        watch = self._watches.pop((fd, flag), None)
        if watch is not None:
            watch.close()
        if fd not in self.readers and fd not in self.writers:
            self.consolidate.discard(fd)

    def _report(self, fd: int, flag: int) -> None:
        self._events[fd, flag] = None
        self._wake()

    # -------------------------------------------------------------- the loop

    def run_forever(self) -> None:
        """Run until `stop` is called.

        Switches: yes. Killed: nothing is left behind, and it can be run again.
        """
        while True:
            try:
                self.run_once()
            except Stop:
                return

    def run_once(self) -> None:
        """Wait until there is something to do, at most a second, and do it.

        Switches: yes. Killed while waiting: nothing is left behind.
        """
        try:
            next(self.loop)
        except StopIteration:
            self._loop = None
        except BaseException:
            # The generator has ended with the error; the next call starts another.
            self._loop = None
            raise

    def stop(self) -> None:
        """End `run_forever` in its next round."""
        self.call_soon(_raise_stop)

    @property
    def loop(self) -> Generator[None, None, None]:
        """The running loop, as a generator: one round for each `next()`."""
        if self._loop is None:
            self._loop = self.create_loop()
        return self._loop

    @property
    def scheduler(self) -> Iterator[Any]:
        """The timer, as an iterator."""
        if self._scheduler is None:
            self._scheduler = iter(self.timer)
        return self._scheduler

    def create_loop(self, *args: Any, **kwargs: Any) -> Generator[None, None, None]:
        """Make a loop. Arguments are taken for kombu's sake, which binds builtins with them, and not used."""
        while True:
            for tick in list(self.on_tick):
                tick()
            called = self._run_ready()
            fired, delay = self._fire(self.propagate_errors)
            if called or fired:
                runtime.sleep(0)  # descriptors get their turn however many calls there are
            else:
                self._sleep(LONGEST_ROUND if delay is None else min(delay, LONGEST_ROUND))
                self._run_ready()
            self._dispatch()
            yield

    def _run_ready(self) -> int:
        # Only those that are here now: what they ask for comes next round, or descriptors would never get a
        # turn. One at a time, so that the rest is still there if one ends the loop.
        called = 0
        for _ in range(len(self._ready)):
            if not self._ready:
                break
            called += 1
            entry = self._ready.popleft()
            if entry.canceled:
                continue
            try:
                entry()
            except self.propagate_errors:
                raise
            except Exception as exc:  # the program's own code
                self.on_callback_error(entry, exc)
        return called

    def _sleep(self, seconds: float) -> None:
        # Before the look: who adds something from another thread afterwards finds it, and wakes it.
        self._home = runtime.hub_id()
        waiter = self._waiter = runtime.Waiter('nothing to do')
        if self._events or self._ready:
            self._waiter = None
            return
        hold = library.hold(
            library.get_hub()
        )  # with nothing registered yet, another greenlet or a signal may come
        try:
            waiter.wait(seconds)
        except TimeoutError:
            pass  # a timer is due, or the round has taken long enough
        finally:
            self._waiter = None
            hold.close()

    def _wake(self) -> None:
        waiter, hub = self._waiter, self._home
        if waiter is None:
            return
        if runtime.is_here(hub):
            waiter.wake()
        else:
            runtime.post(hub, waiter.wake)

    def _dispatch(self) -> None:
        together: list[int] = []
        for fd, flag in list(self._events):
            # A callback that ran before in this loop may have removed it.
            if self._events.pop((fd, flag), self) is self:
                continue
            wanted = (self.writers if flag == WRITE else self.readers).get(fd)
            try:
                if wanted is None:
                    together.append(fd)
                else:
                    self._call(fd, flag, *wanted)
            finally:
                # Watched again only now: until the callback has read, the descriptor stays ready.
                if wanted is not None:
                    self._rearm(fd, flag)
        if together:
            self._consolidated(together)

    def _rearm(self, fd: int, flag: int) -> None:
        watch = self._watches.get((fd, flag))
        if watch is not None:
            watch.start()

    def _consolidated(self, fds: list[int]) -> None:
        try:
            if self.consolidate_callback is not None:
                self.consolidate_callback(fds)
        finally:
            for fd in fds:
                self._rearm(fd, READ)
                self._rearm(fd, WRITE)

    def _call(self, fd: int, flag: int, callback: Any, args: tuple[Any, ...]) -> None:
        if not isinstance(callback, GeneratorType):
            callback(*args)
            return
        try:
            next(callback)
        except StopIteration:
            self._forget(fd, flag)
        except BaseException:
            self._forget(fd, flag)
            raise

    def fire_timers(
        self,
        min_delay: float = 1,
        max_delay: float = 10,
        max_timers: int = 10,
        propagate: Any = (),
    ) -> float:
        """Make the calls that are due.

        Arguments:
            min_delay (float): returned when nothing is scheduled.
            max_delay (float): most to return.
            max_timers (int): calls to make at most, so that descriptors get their turn.
            propagate (tuple): errors that pass; others are logged.
        Returns:
            float: seconds until the next is due; 0 if more are due already.
        """
        fired, delay = self._fire(propagate, max_timers)
        return 0.0 if fired >= max_timers else min(delay or min_delay, max_delay)

    def _fire(self, propagate: Any, max_timers: int = 10) -> tuple[int, float | None]:
        for fired in range(max_timers):
            delay, entry = next(self.scheduler)
            if entry is None:
                return fired, delay
            try:
                entry()
            except propagate:
                raise
            except Exception:
                logger.exception('Error in timer')
        return max_timers, 0.0

    def on_callback_error(self, callback: Any, exc: BaseException) -> None:
        """Log the error of a callback."""
        logger.error('Callback %r raised exception: %r', callback, exc, exc_info=exc)

    # -------------------------------------------------------------- the end

    def reset(self) -> None:
        """Close, to be used anew."""
        self.close()
        self._loop = None

    def close(self, *args: Any) -> None:
        """Stop watching every descriptor, call `on_close`, and make the calls still asked for.

        The descriptors themselves stay open. Any number of times.
        """
        for fd, flag in list(self._watches):
            self._forget(fd, flag)
        self.consolidate.clear()
        for callback in list(self.on_close):
            callback(self)
        self._run_ready()

    def repr_active(self) -> str:
        """Return all that is watched, as one text."""
        return repr_active(self)

    def repr_events(self, events: Iterable[tuple[int, int]]) -> str:
        """Return events, pairs of descriptor and flags, as one text."""
        return repr_events(self, events)

    def __repr__(self) -> str:
        return (
            f'<Hub@0x{id(self):x}: R:{len(self.readers)} W:{len(self.writers)}'
            f' timers:{len(self.timer)} ready:{len(self._ready)}>'
        )
