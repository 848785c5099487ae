"""The last net under a test: it ends also when nothing else could end it, and says where everything stood.

The time limits of a test are thrown by the hub. Where the hub itself hangs, spins or lost its timers, a
signal fails the test. Where not even that comes through, faulthandler shows the stack of each thread and ends
the process: it is a thread of C and needs neither the hub nor the interpreter.
"""
from __future__ import annotations

import faulthandler
import os
import signal
import time

import greenlet
import pytest

from tests.support import green, guard

#: Seconds from the signal to the end of the process: the test may still be torn down.
GRACE = 60.0
#: Seconds that it may come later: a new thread of C for each of ten thousand tests takes minutes.
SLACK = 30.0

_nets = []  # of the tests under way: one may run a suite of its own in this process
_stderr = None
_process_ends = 0.0


class Net:
    """One test's: when it ends, and the greenlet that it runs in."""

    def __init__(self, name, seconds):
        self.name, self.seconds = name, seconds
        self.until = time.monotonic() + seconds
        self.signalled = False
        self.greenlet = greenlet.getcurrent()

    def __str__(self):
        return f'{self.name}: nothing could end it within {self.seconds:g} s'


def prepare():
    """Keep where stderr goes before pytest catches what is written there."""
    global _stderr
    if _stderr is None:
        _stderr = os.dup(2)
        os.register_at_fork(after_in_child=_forget)


def _forget():
    # The child has neither our timer nor the thread of C; an alarm of its own shall end it.
    global _process_ends
    _process_ends = 0.0
    _nets.clear()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def spread(name, seconds):
    """Put a net under a test, set-up and tear-down included."""
    _nets.append(Net(name, seconds))
    _arm()


def take_in():
    """The test has ended: put its net away."""
    _nets.pop()
    _arm()


def _arm():
    """The signal for the first that did not get one, the end of the process for the first of all."""
    global _process_ends
    now = time.monotonic()
    due = min((net.until for net in _nets if not net.signalled), default=None)
    signal.signal(signal.SIGALRM, _signalled)
    signal.setitimer(signal.ITIMER_REAL, 0 if due is None else max(due - now, 0.001))
    if _nets:  # without one it stays as it is: what hangs between two tests ends, too
        due = max(min(net.until for net in _nets), now) + GRACE
        if not due <= _process_ends <= due + SLACK:
            _process_ends = due + SLACK
            faulthandler.dump_traceback_later(_process_ends - now, exit=True, file=_stderr)


def _signalled(signum, frame):
    net = min((net for net in _nets if not net.signalled), key=lambda net: net.until)
    net.signalled = True
    _arm()
    os.write(_stderr, f'\n{net}\n{guard.run_info()}\n'.encode(errors='replace'))
    failure = pytest.fail.Exception(str(net))
    if greenlet.getcurrent() is net.greenlet:
        raise failure
    # Raised in the hub it would be printed and forgotten.
    if frame.f_globals['__name__'].partition('.')[0] == green.RUNTIME:
        net.greenlet.throw(failure)
    else:
        green.run_callback(net.greenlet.throw, failure)
        raise failure  # out of what spins there
