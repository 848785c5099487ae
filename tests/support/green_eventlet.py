"""gevent's words, said with eventlet: no more of each than the tests use."""
from __future__ import annotations

import time

import eventlet
from eventlet import greenthread, hubs
from eventlet.green import socket as socket
from eventlet.green import subprocess as subprocess
from eventlet.support.greenlets import GreenletExit as GreenletExit
from eventlet.support.greenlets import getcurrent as getcurrent
from greenlet import GreenletExit as _Exit

from greenmq import runtime
from greenmq.runtime.hub_eventlet import Event as Event
from greenmq.runtime.hub_eventlet import get_hub


def sleep(seconds=0):
    if seconds > 0:
        eventlet.sleep(seconds)
    else:
        runtime.sleep(0)  # in one line with our callbacks, as in gevent


def run_callback(function, *args):
    """Have the hub call it in its next round."""
    get_hub().greenmq.run_soon(function, args)


def idle():
    """Let the hub finish what is due, and what becomes due by that."""
    hub = get_hub()
    for _ in range(100):
        eventlet.sleep(0)
        due = [at for at, _timer in [*hub.timers[:1], *hub.next_timers] if at <= hub.clock()]
        if not due and not hub.greenmq.soon:
            break
    eventlet.sleep(0)


class Timeout(eventlet.Timeout):
    """Starts with the block and not when it is made; gives an exception's text to who asks."""

    def __init__(self, seconds=None, exception=None):
        self._wanted = False
        super().__init__(seconds, exception)
        self._wanted = True

    def start(self):
        return super().start() if self._wanted else self

    @classmethod
    def start_new(cls, seconds=None, exception=None):
        return cls(seconds, exception).start()

    close = eventlet.Timeout.cancel


class Greenlet(greenthread.GreenThread):
    """A GreenThread with gevent's methods. It is killed eventlet's way: it runs before the killer goes on."""

    name = ''

    def __init__(self, function=None, *args, **kwargs):
        super().__init__(hubs.get_hub().greenlet)
        self._function = function
        self._arguments = args, kwargs
        self.value = self.exception = None
        self._begun = False

    @property
    def started(self):
        return self._begun and not self.ready()

    def start(self):
        self.start_later(0)

    def start_later(self, seconds):
        self._begun = True
        begin = (self.switch, self._outcome, (), {})
        if seconds:
            hubs.get_hub().schedule_call_global(seconds, *begin)
        else:
            run_callback(*begin)

    def _outcome(self):
        args, kwargs = self._arguments
        self._function, function = None, self._function
        self._arguments = (), {}
        try:
            self.value = function(*args, **kwargs)
        except _Exit as exc:
            self.value = exc
        except BaseException as exc:
            self.exception = exc
            raise

    def ready(self):
        return self.dead or self._exit_event.ready()

    def successful(self):
        return self.ready() and self.exception is None

    def join(self, timeout=None):
        if self.ready():
            return
        done = Event()
        self.link(lambda _ended: done.set())
        done.wait(timeout)

    def get(self, block=True, timeout=None):
        if block:
            self.join(timeout)
        if not self.ready():
            raise Timeout(timeout)
        if self.exception is not None:
            raise self.exception
        return self.value

    def kill(self, exception=GreenletExit, block=True, timeout=None):
        if self.ready():
            return
        if not block:
            run_callback(self._hit, exception)
            return
        self._hit(exception)
        self.join(timeout)

    def _hit(self, exception):
        if not self.ready():
            super().kill(*(() if exception is GreenletExit else (exception,)))

    rawlink = greenthread.GreenThread.link


def spawn(function, *args, **kwargs):
    greenlet = Greenlet(function, *args, **kwargs)
    greenlet.start()
    return greenlet


def spawn_later(seconds, function, *args, **kwargs):
    greenlet = Greenlet(function, *args, **kwargs)
    greenlet.start_later(seconds)
    return greenlet


def spawn_raw(function, *args):
    return eventlet.spawn_n(function, *args)


def joinall(greenlets, timeout=None, raise_error=False):
    until = None if timeout is None else time.monotonic() + timeout
    for greenlet in greenlets:
        greenlet.join(None if until is None else max(0.001, until - time.monotonic()))
        if raise_error and greenlet.ready() and greenlet.exception is not None:
            raise greenlet.exception
    return [greenlet for greenlet in greenlets if greenlet.ready()]


def killall(greenlets, exception=GreenletExit, block=True, timeout=None):
    for greenlet in greenlets:
        greenlet.kill(exception, block, timeout)


class AsyncResult:
    """A value or error that somebody sets."""

    def __init__(self):
        self._done = Event()
        self.value = self.exception = None

    def ready(self):
        return self._done.is_set()

    def set(self, value=None):
        self.value = value
        self._done.set()

    def set_exception(self, exception):
        self.exception = exception
        self._done.set()

    def get(self, block=True, timeout=None):
        if not self._done.wait(timeout):
            raise Timeout(timeout)
        if self.exception is not None:
            raise self.exception
        return self.value
