"""What `guard` does, under eventlet: the time of a test, the errors given to the hub, the greenlets left."""
from __future__ import annotations

import contextlib
import gc
import itertools
import sys
import time
import weakref

import eventlet
import greenlet
from eventlet import hubs
from eventlet.greenthread import GreenThread
from eventlet.hubs.hub import BaseHub

from tests.support import green_eventlet
from tests.support.guard_common import GRACE, HubErrorList, describe, shown

LONG_LIVED: tuple[str, ...] = ()
settle = green_eventlet.idle


def run_info():
    """Where every greenlet stands now. eventlet keeps no list of them, the garbage collector does."""
    waiting = [each for each in gc.get_objects() if isinstance(each, greenlet.greenlet) and each.gr_frame]
    return shown(lambda: describe(waiting))


class GreenTimeout(green_eventlet.Timeout):
    """Ends the block after `seconds`, having noted first where every greenlet stood."""

    report = ''

    def start(self):
        if self._wanted:
            main = greenlet.getcurrent()
            self.timer = hubs.get_hub().schedule_call_global(self.seconds, self._expire, main)
        return self

    def _expire(self, main):
        self.report = run_info()
        main.throw(self)

    @property
    def fired(self):
        return bool(self.report)

    def __str__(self):
        return f'the test did not end within {self.seconds:g} s'


@contextlib.contextmanager
def limited(seconds, report):
    """Fail the block after `seconds`; `report(title, text)` gets the stacks of all greenlets."""
    timeout = GreenTimeout(seconds)
    timeout.start()
    try:
        settle()
        yield timeout
    finally:
        timeout.close()
        if timeout.fired:
            report(f'greenlets after {seconds:g} s', timeout.report)
    if timeout.fired:
        raise AssertionError(f'{timeout}, and swallowed the exception that told it so')


class HubErrors(HubErrorList):
    """What eventlet's hubs would have printed only: (context, exception) of any hub of the process."""

    NAMES = ('squelch_timer_exception', 'squelch_exception', 'squelch_generic_exception')

    def __enter__(self):
        self._originals = {name: getattr(BaseHub, name) for name in self.NAMES}
        for name, original in self._originals.items():
            setattr(BaseHub, name, self._noting(name, original))
        return self

    def __exit__(self, *exc_info):
        for name, original in self._originals.items():
            setattr(BaseHub, name, original)

    def _noting(self, name, original):
        def squelch(hub, *args):
            value = args[-1][1] or sys.exc_info()[1]
            if not isinstance(value, greenlet.GreenletExit):
                self.append((f'{name}{args[:-1]}', value))
            return original(hub, *args)

        return squelch


class Spawned:
    """The GreenThreads made since this object was made, held weakly."""

    def __init__(self):
        self._seen = weakref.WeakSet()

    def __enter__(self):
        self._original = original = GreenThread.__init__
        seen = self._seen

        def note(thread, *args, **kwargs):
            original(thread, *args, **kwargs)
            seen.add(thread)

        GreenThread.__init__ = note
        return self

    def __exit__(self, *exc_info):
        GreenThread.__init__ = self._original

    def alive(self):
        """Those that still run or wait. One that was made and never started does neither."""
        hub = hubs.get_hub()
        return [each for each in list(self._seen)
                if each and each.parent is hub.greenlet
                and getattr(each, 'name', '') not in LONG_LIVED]

    def leftover(self, grace=GRACE):
        """Those alive after `grace` seconds: the killed and the just woken get that long to end."""
        until = time.monotonic() + grace
        for wait in itertools.chain((0, 0.05), itertools.repeat(0.1)):
            if not self.alive():
                return []
            if time.monotonic() > until:
                return self.alive()
            eventlet.sleep(wait)
            if wait == 0.05:
                gc.collect()
                until = time.monotonic() + grace  # it may have taken seconds, which nobody got


def kill(greenlets):
    """End what is left, with a bound."""
    for each in greenlets:
        with eventlet.Timeout(5, False):
            each.kill()
