"""gevent as greenmq's hub library: the few primitives of `seam.Library`, and the only import of gevent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from gevent import get_hub, monkey
from gevent._hub_local import get_hub_if_exists as peek_hub
from gevent._hub_local import set_hub, set_loop
from gevent.event import Event
from gevent.local import local as Local
from gevent.lock import Semaphore
from gevent.timeout import Timeout
from greenlet import GreenletExit, getcurrent

from greenmq.runtime.seam import CLIENT_SECONDS, MOST_CLIENTS

__all__ = (
    'HUB_IS_GREENLET', 'NAME', 'Event', 'Local', 'Semaphore', 'Timeout', 'end_thread', 'get_hub', 'hold',
    'link', 'original', 'peek_hub', 'post', 'reinit', 'remember_hub', 'run_soon', 'spawn',
    'timer', 'watch', 'when_idle', 'wsgi_server',
)  # fmt: skip

NAME = 'gevent'
HUB_IS_GREENLET = True
_LAST_ROUND = 0.01  # seconds for what still runs in a hub when its thread ends
_READ, _WRITE = 1, 2  # libev's and libuv's own numbers

original: Callable[[str, str], Any] = monkey.get_original

# gevent imports what these name while it makes its first hub. In a patched process the lock of an import that
# another thread has begun is waited for with a hub, which is not there yet: two threads that make their hubs
# at once would wait for ever. So that import is done here, before there is a hub.
_LOOP, _FORMAT = gevent.config.loop, gevent.config.format_context


class TaskGreenlet(gevent.Greenlet):  # type: ignore[misc]
    # A whole gevent.Greenlet and no bare one: who watches gevent's spawning sees our tasks too. They have a
    # name: the ten frames of who spawned each, which gevent notes otherwise, are 1.1 KB, a third of a task.
    spawning_stack_limit = 0


def spawn(run: Callable[[], None], ended: Callable[[], None], name: str) -> Any:
    task = TaskGreenlet(run)
    task.name = name
    task.rawlink(lambda _task: ended())
    task.start()
    return task


def link(task: Any, callback: Callable[[Any], None]) -> bool:
    if not isinstance(task, gevent.Greenlet):
        return False
    task.rawlink(callback)
    return True


def run_soon(hub: Any, callback: Callable[..., None], *args: Any) -> None:
    hub.loop.run_callback(callback, *args)


def post(hub: Any, callback: Callable[..., None], *args: Any) -> None:
    hub.loop.run_callback_threadsafe(callback, *args)


def timer(hub: Any, seconds: float, callback: Callable[..., None], *args: Any) -> Any:
    handle = hub.loop.timer(max(0.0, seconds))
    # The loop's idea of now is as old as its round: without the update a timer made late fires early.
    handle.start(callback, *args, update=True)
    return handle


def watch(hub: Any, fd: int, write: bool) -> Any:
    return hub.loop.io(fd, _WRITE if write else _READ)


def hold(hub: Any) -> Any:
    handle = hub.loop.async_()
    handle.start(_nothing)
    return handle


def _nothing() -> None:
    pass


def when_idle(hub: Any, callback: Callable[..., None], *args: Any) -> None:
    pass  # gevent raises LoopExit in the main greenlet


def end_thread() -> None:
    hub = peek_hub()
    if hub is None or hub.loop is None:  # the program has done it
        return
    pool = getattr(hub, '_threadpool', None)
    if pool is not None and getcurrent() is hub.parent:
        # Of a client that looked a name up: its threads end with the help of the hub, so while there is one.
        pool.kill()
        hub._threadpool = None
    if getcurrent() is hub.parent and hub.join(_LAST_ROUND) and not hub.dead:
        # A hub that is destroyed but never leaves its `run` is kept by it, with all that it knows.
        hub.throw(GreenletExit)
    hub.destroy(True)


def remember_hub(hub: Any) -> bool:
    if hub.loop is None:  # destroyed, as gevent advises at the end of a thread
        return False
    set_hub(hub)
    set_loop(hub.loop)
    return True


def reinit() -> None:
    gevent.reinit()


def wsgi_server(address: tuple[str, int], application: Callable[..., Any], log: Any) -> Any:
    from gevent.pywsgi import WSGIServer

    class Bounded(WSGIServer):  # type: ignore[misc, unused-ignore]
        # Each connection has one time for all of it, and the newest that come are served: who only connects
        # and is silent costs himself his place, not others.
        max_accept = 16

        def handle(self, client_socket: Any, address: Any) -> None:
            clients = self.__dict__.setdefault('clients', {})
            if len(clients) >= MOST_CLIENTS:
                oldest = next(iter(clients))
                clients.pop(oldest)
                oldest.kill(block=False)
            me = getcurrent()
            clients[me] = None
            try:
                with Timeout(CLIENT_SECONDS, False):
                    super().handle(client_socket, address)
            finally:
                clients.pop(me, None)

    return Bounded(address, application, log=log, error_log=log)
