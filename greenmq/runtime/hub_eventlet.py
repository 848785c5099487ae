"""eventlet as greenmq's hub library: the primitives of `seam.Library`, and the only import of eventlet.

What eventlet does otherwise than gevent, and what is done about it here:

* Its timers are a heap, so what is due at once has no order. `run_soon` has a queue of its own.
* Its hub knows no other threads, and sleeps on when a signal's handler has asked for something. Each hub gets
  a socket that wakes it.
* It takes a descriptor away for good when a callback on it fails, and refuses a second one that waits for the
  same. Here one listener serves all, and only the one that failed is stopped.
* It does not see that a descriptor was closed and its number given to another file until one of its own
  sockets gets that number.
* Its `kill` runs the victim before the killer goes on. Tasks are killed by `post`; nothing here uses it.
* Its Event is set once. The one here can be cleared.
* It knows no deadlock: `hold` only counts, for the forked child (see `when_idle`).
* Its poll set is shared with a forked child. `reinit` makes a new one.
"""

from __future__ import annotations

import sys
from _socket import socket as Socket
from _socket import socketpair
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

import eventlet
from eventlet import hubs, patcher
from eventlet.corolocal import local as Local
from eventlet.greenthread import GreenThread
from eventlet.hubs import timer as timers
from eventlet.hubs.hub import READ, WRITE
from eventlet.semaphore import Semaphore
from eventlet.timeout import Timeout
from greenlet import getcurrent

from greenmq.exceptions import InvalidArgument
from greenmq.runtime.seam import CLIENT_SECONDS, MOST_CLIENTS

__all__ = (
    'HUB_IS_GREENLET', 'NAME', 'Event', 'Local', 'Semaphore', 'Timeout', 'end_thread', 'get_hub', 'hold',
    'link', 'original', 'peek_hub', 'post', 'reinit', 'remember_hub', 'run_soon', 'spawn',
    'timer', 'watch', 'when_idle', 'wsgi_server',
)  # fmt: skip

NAME = 'eventlet'
HUB_IS_GREENLET = False
_TURN = 0.005  # seconds of callbacks before descriptors get their turn
Job = tuple[Callable[..., None], tuple[Any, ...]]
Kind = str  # READ or WRITE


def original(module: str, name: str) -> Any:
    return getattr(patcher.original(module), name)


# hubs


def get_hub() -> Any:
    hub = hubs.get_hub()
    if not hasattr(hub, 'greenmq'):
        _check(hub)
        hub.greenmq = _Extra(hub)
    return hub


def _check(hub: Any) -> None:
    # That one keeps a table of descriptors of its own, in which a number that was closed and given to another
    # file still means the old one: waits then never end.
    if type(hub).__module__ == 'eventlet.hubs.asyncio':
        limit = 'must be epolls, poll or selects, see EVENTLET_HUB'
        raise InvalidArgument("eventlet's hub", 'asyncio', limit)


def peek_hub() -> Any:
    return getattr(hubs._threadlocal, 'hub', None)


class _Extra:
    # What eventlet's hub lacks.
    #
    # Conditions: a signal's handler may call `run_soon` and `post` between any two lines of any method here;
    # other threads append to `posted` and write to `waker`, nothing else.

    def __init__(self, hub: Any) -> None:
        self.hub = hub
        self.soon: deque[Job] = deque()
        self.posted: deque[Job] = deque()
        self.polling = False
        self.patience = 0.0
        self.woken = False
        self.holds = 0
        self.forks = 0  # what was held before the last one counts no more
        self.idle: Job | None = None
        self.watchers: dict[tuple[Kind, int], list[_Watcher]] = {}
        self.do_poll: Callable[[float], Any] | None = getattr(hub, 'do_poll', None)
        if self.do_poll is not None:
            hub.do_poll = self.poll
        self.listen()

    def listen(self) -> None:
        self.ear, self.waker = socketpair()
        self.ear.setblocking(False)
        self.waker.setblocking(False)
        self.hub.add(READ, self.ear.fileno(), self.on_wake, _ignore, None)

    def poll(self, seconds: float) -> Any:
        # As in gevent, what is asked for at once, and what that asks for, comes before what the network
        # brings. But not for long: a task that calls itself must not own the hub. eventlet's own timers take
        # turns with it.
        if self.soon:
            self.run()
            if self.soon and monotonic() < self.patience:
                return ()
            seconds = 0
        # Python takes up a poll again that a signal has interrupted, so its handler has to wake us.
        self.polling = True
        try:
            return self.do_poll(0 if self.soon else seconds)  # type: ignore[misc]
        finally:
            self.polling = False
            self.patience = monotonic() + _TURN

    def run_soon(self, callback: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.soon.append((callback, args))
        if self.polling:
            self.wake()
        elif self.do_poll is None:  # the hub on select
            self.hub.schedule_call_global(0, self.run)

    def run(self) -> None:
        for _ in range(len(self.soon)):  # what is added meanwhile belongs to the next round
            callback, args = self.soon.popleft()
            try:
                callback(*args)
            except self.hub.SYSTEM_EXCEPTIONS:
                raise
            except BaseException:
                self.hub.squelch_generic_exception(sys.exc_info())
            del callback, args

    def post(self, callback: Callable[..., None], args: tuple[Any, ...]) -> None:
        if peek_hub() is self.hub:
            self.run_soon(callback, args)  # in one line with all else of this thread
            return
        if self.waker.fileno() < 0:
            raise RuntimeError('this hub ended with its thread')
        self.posted.append((callback, args))
        self.wake()

    def wake(self) -> None:
        if not self.woken:
            self.woken = True
            try:
                self.waker.send(b'.')
            except BlockingIOError:
                pass  # full: the hub has enough to wake it

    def on_wake(self, _fd: int) -> None:
        try:
            self.ear.recv(4096)
        except BlockingIOError:
            pass  # two wake-ups, read by the first
        self.woken = False
        while self.posted:
            self.run_soon(*self.posted.popleft())

    def default_sleep(self) -> float:
        # The hub asks when no timer runs at all. Only in a forked child, see `reinit`.
        others = len(self.hub.listeners[READ]) - 1 + len(self.hub.listeners[WRITE])
        if self.idle is None or self.holds or others or self.soon or self.posted:
            return 60.0
        (callback, args), self.idle = self.idle, None
        callback(*args)
        return 0.0

    def start_anew(self) -> None:
        # In a forked child: our end of the pair is the parent's as well.
        self.posted.clear()
        self.woken = self.polling = False
        self.holds = 0
        self.forks += 1
        forget(self.hub, READ, self.ear.fileno())
        self.close()
        self.listen()
        self.hub.default_sleep = self.default_sleep

    def close(self) -> None:
        self.ear.close()
        self.waker.close()

    def __del__(self) -> None:
        # A native thread of the program that ended without a word to us.
        self.close()


def forget(hub: Any, kind: Kind, fd: int) -> None:
    listener = hub.listeners[kind].get(fd)
    if listener is not None:
        hub.remove(listener)


def _ignore(*args: Any) -> None:
    pass


def run_soon(hub: Any, callback: Callable[..., None], *args: Any) -> None:
    hub.greenmq.run_soon(callback, args)


def post(hub: Any, callback: Callable[..., None], *args: Any) -> None:
    hub.greenmq.post(callback, args)


class _Hold:
    __slots__ = ('_extra', '_forks')

    def __init__(self, extra: _Extra) -> None:
        extra.holds += 1
        self._extra: _Extra | None = extra
        self._forks = extra.forks

    def close(self) -> None:
        extra, self._extra = self._extra, None
        if extra is not None and extra.forks == self._forks:
            extra.holds -= 1


def hold(hub: Any) -> _Hold:
    return _Hold(hub.greenmq)


def when_idle(hub: Any, callback: Callable[..., None], *args: Any) -> None:
    hub.greenmq.idle = (callback, args)


def end_thread() -> None:
    hub = peek_hub()
    if hub is not None:
        if getcurrent() is hub.greenlet.parent:
            hub.abort(True)  # or its greenlet is kept by its own stack, with all that it knows
        extra = getattr(hub, 'greenmq', None)
        if extra is not None:
            extra.close()
        if hasattr(hub, 'poll'):
            _close_poll(hub.poll)
        del hubs._threadlocal.hub


def remember_hub(hub: Any) -> bool:
    hubs._threadlocal.hub = hub
    return True


def reinit() -> None:
    hub = peek_hub()
    if hub is None:
        return
    if hasattr(hub, 'poll'):
        _close_poll(hub.poll)
        hub.poll = type(hub.poll)()
        for fd in {*hub.listeners[READ], *hub.listeners[WRITE]}:
            hub.register(fd, True)
    if hasattr(hub, 'greenmq'):
        hub.greenmq.start_anew()


def _close_poll(poll: Any) -> None:
    if hasattr(poll, 'close'):  # select.poll, used where there is no epoll, keeps no descriptor
        poll.close()


# greenlets


class _Task(GreenThread):  # type: ignore[misc]
    name = ''


def spawn(run: Callable[[], None], ended: Callable[[], None], name: str) -> Any:
    # A whole GreenThread and no bare greenlet, so that the program's tools know it. Its own `link` tells of
    # an end before the start too.
    hub = get_hub()
    task = _Task(hub.greenlet)
    task.name = name
    task.link(lambda _task: ended())
    run_soon(hub, task.switch, run, (), {})
    return task


def link(task: Any, callback: Callable[[Any], None]) -> bool:
    if not isinstance(task, GreenThread):
        return False
    task.link(_tell, callback)
    return True


def _tell(task: Any, callback: Callable[[Any], None]) -> None:
    # eventlet calls from the ending greenlet; the seam promises the hub.
    run_soon(get_hub(), callback, task)


# timers and descriptors


class _Timer(timers.Timer):  # type: ignore[misc]
    ref = True  # it makes no difference: the hub waits for ever

    def close(self) -> None:
        self.cancel()


def timer(hub: Any, seconds: float, callback: Callable[..., None], *args: Any) -> _Timer:
    handle = _Timer(max(0.0, seconds), callback, *args)
    hub.add_timer(handle)
    if hub.greenmq.polling:
        hub.greenmq.wake()
    return handle


class _Watcher:
    __slots__ = ('_args', '_callback', '_extra', '_key')

    def __init__(self, extra: _Extra, kind: Kind, fd: int) -> None:
        self._extra = extra
        self._key = (kind, fd)
        self._callback: Callable[..., None] | None = None
        self._args: tuple[Any, ...] = ()

    def start(self, callback: Callable[..., None], *args: Any) -> None:
        running = self._callback is not None
        self._callback, self._args = callback, args
        if running:
            return
        line = self._extra.watchers.setdefault(self._key, [])
        line.append(self)
        if len(line) == 1:
            kind, fd = self._key
            hub = self._extra.hub
            # Who waited for this number waited for a file that was closed since: none that is open has
            # two users.
            forget(hub, kind, fd)
            hub.add(kind, fd, _Ready(hub, line), _ignore, None)

    def fire(self) -> None:
        # Stopped meanwhile, by one that was called before in the same round: nothing to do.
        if self._callback is not None:
            self._callback(*self._args)

    def stop(self) -> None:
        if self._callback is None:
            return
        self._callback, self._args = None, ()
        line = self._extra.watchers[self._key]
        line.remove(self)
        if not line:
            del self._extra.watchers[self._key]
            forget(self._extra.hub, *self._key)

    def close(self) -> None:
        self.stop()


class _Ready:
    # What the hub calls for one descriptor and direction.
    __slots__ = ('_hub', '_line')

    def __init__(self, hub: Any, line: list[_Watcher]) -> None:
        self._hub = hub
        self._line = line

    def __call__(self, _fd: int) -> None:
        for watcher in tuple(self._line):
            try:
                watcher.fire()
            except self._hub.SYSTEM_EXCEPTIONS:
                raise
            except BaseException:
                watcher.stop()  # or it fails again in each round
                self._hub.squelch_generic_exception(sys.exc_info())


def watch(hub: Any, fd: int, write: bool) -> _Watcher:
    return _Watcher(hub.greenmq, WRITE if write else READ, fd)


# what users get


class Event:
    """As threading.Event: set and cleared any number of times."""

    def __init__(self) -> None:
        self._event = eventlet.Event()

    def is_set(self) -> bool:
        return bool(self._event.ready())

    ready = is_set

    def set(self) -> None:
        if not self._event.ready():
            self._event.send(True)

    def clear(self) -> None:
        if self._event.ready():
            self._event = eventlet.Event()

    def wait(self, timeout: float | None = None) -> bool:
        return bool(self._event.wait(timeout))


class wsgi_server:
    """eventlet.wsgi as the seam wants it: `start`, `stop`, `serve_forever`, `address`."""

    def __init__(self, address: tuple[str, int], application: Callable[..., Any], log: Any) -> None:
        self._application = application
        self._log = log
        self._socket: Socket = eventlet.listen(address)
        self._server: Any = None
        self._requests = eventlet.GreenPool(2 * MOST_CLIENTS)
        self.address = self._socket.getsockname()

    def start(self) -> None:
        if self._server is None:
            self._server = eventlet.spawn(self._serve)

    def serve_forever(self) -> None:
        self.start()
        self._server.wait()

    def _serve(self) -> None:
        from eventlet import wsgi

        clients: dict[Any, None] = {}

        class Bounded(wsgi.HttpProtocol):  # type: ignore[misc, unused-ignore]
            # as in hub_gevent
            def handle(self) -> None:
                if len(clients) >= MOST_CLIENTS:
                    oldest = next(iter(clients))
                    clients.pop(oldest)
                    oldest.kill()
                me = eventlet.getcurrent()
                clients[me] = None
                try:
                    with Timeout(CLIENT_SECONDS, False):
                        super().handle()
                finally:
                    clients.pop(me, None)

        wsgi.server(
            self._socket, self._application, log=self._log, log_output=self._log is not None,
            custom_pool=self._requests, protocol=Bounded,
            keepalive=False,  # it does not hear an application that says `Connection: close`
        )  # fmt: skip

    def stop(self, timeout: float = 1.0) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.kill()
        self._socket.close()
        with Timeout(timeout, False):
            self._requests.waitall()
        for request in list(self._requests.coroutines_running):  # or a connection that is kept alive
            request.kill()
