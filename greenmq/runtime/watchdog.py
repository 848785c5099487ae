"""A native thread that watches the hub: it sees a stall while it lasts, and who causes it.

The hub notes the time again and again; the thread compares. What runs in the hub's thread at that moment is
what keeps the hub, so the thread takes its stack. This costs a timer and a thread: for those who ask for it.
"""

from __future__ import annotations

import sys
import traceback
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

from greenmq.exceptions import InvalidArgument
from greenmq.runtime.clock import Timer, call_later, monotonic
from greenmq.runtime.epoch import forks
from greenmq.runtime.offload import start_thread
from greenmq.runtime.seam import library

__all__ = ('Ticker', 'Watchdog')


class Ticker:
    """Call something at an interval in a native thread, whatever the hub does.

    The thread ends at `stop`; it ends at its next turn when this, or the object whose method it calls, is
    gone; and it is not in a forked child.

    Arguments:
        interval (float): seconds.
        work (Callable): a bound method, held weakly; must not touch the hub but by `post`.
    """

    __slots__ = ('__weakref__', '_running', '_stopped')

    def __init__(self, interval: float, work: Callable[[], None]) -> None:
        self._stopped = False
        # Held until `stop`. A thread that slept instead would outlive it by an interval, one for each
        # connection that was closed meanwhile.
        self._running = library.original('_thread', 'allocate_lock')()
        self._running.acquire()
        beat = _Beat(weakref.ref(self), weakref.WeakMethod(work), interval, forks.count, self._running)
        start_thread(beat)

    def stop(self) -> None:
        """End the thread. It is not waited for."""
        if not self._stopped:
            self._stopped = True
            self._running.release()

    @property
    def stopped(self) -> bool:
        """True after `stop`."""
        return self._stopped


class _Beat:
    __slots__ = ('_epoch', '_interval', '_running', '_ticker', '_work')

    def __init__(
        self,
        ticker: weakref.ref[Ticker],
        work: weakref.WeakMethod[Callable[[], None]],
        interval: float,
        epoch: int,
        running: Any,
    ) -> None:
        self._running = running
        self._ticker = ticker
        self._work = work
        self._interval = interval
        self._epoch = epoch

    def __call__(self) -> None:
        while not self._running.acquire(timeout=self._interval):
            ticker, work = self._ticker(), self._work()
            if ticker is None or work is None or ticker.stopped or self._epoch != forks.count:
                return
            work()
            del ticker, work


class Watchdog:
    """Tell how long the hub of this thread did not run, and what ran instead.

    Arguments:
        threshold (float): seconds; shorter stalls are not told.
        report (Callable[[float, str], None]): gets the seconds and the stack, in the hub; must not block.
    Raises:
        InvalidArgument: a threshold that is not positive.
    Source: greenmq's own; gevent's monitor thread likewise, for the whole process and for gevent only.
    """

    def __init__(self, threshold: float, report: Callable[[float, str], None]) -> None:
        if not threshold > 0:
            raise InvalidArgument('threshold', threshold, 'more than 0 seconds')
        self.threshold = threshold
        self._report = report
        self._interval = threshold / 4
        # The original: a patched one gives the greenlet's number, and the table of frames knows threads.
        self._thread = library.original('_thread', 'get_ident')()
        self._seen = monotonic()
        self._stack = ''
        self._timer: Timer | None = call_later(self._interval, self._tick)
        self._ticker = Ticker(self._interval, self._look)

    def cancel(self) -> None:
        """Stop watching."""
        self._ticker.stop()
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _tick(self) -> None:
        # In the hub.
        now = monotonic()
        late = now - self._seen - self._interval
        self._seen = now
        stack, self._stack = self._stack, ''
        if self._timer is None:
            return
        self._timer = call_later(self._interval, self._tick)
        if late > self.threshold:
            self._report(late, stack or 'no stack was caught: a call that holds the interpreter lock')

    def _look(self) -> None:
        # In the native thread.
        if not self._stack and monotonic() - self._seen > self.threshold:
            frame: FrameType | None = sys._current_frames().get(self._thread)
            if frame is not None:
                self._stack = ''.join(traceback.format_stack(frame))
