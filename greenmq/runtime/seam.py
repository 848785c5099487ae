"""The seam to the hub library: what one must give, and which one this process uses."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, Protocol

from greenmq.exceptions import InvalidArgument

KNOWN = ('gevent', 'eventlet')

#: Connections of a WSGI server at once, and the seconds that each has for all it wants.
MOST_CLIENTS = 64
CLIENT_SECONDS = 5.0


class Hub(Protocol):
    """The event loop of one native thread, as the library has it. Hashable and weakly referable.

    `switch()` parks the running greenlet until another switches back to it. It is what makes a call "switch".
    """

    #: What callbacks run in, if it is not the hub itself; see `hub_greenlet`.
    greenlet: Any
    #: Ours, kept there so that a wait finds it at once; see `alarms`.
    greenmq_alarms: Any

    def switch(self) -> Any: ...


class Handle(Protocol):
    """What was started; `close()` stops it for good and may be called twice."""

    def close(self) -> None: ...


class TimerHandle(Handle, Protocol):
    """A timer that was started.

    Attributes:
        ref (bool): false: the hub does not wait for it when nothing else is left to do. May be set.
    """

    ref: bool


class Watcher(Protocol):
    """Readiness of one descriptor in one direction. The callback runs in the hub each time it is ready.

    `start` may follow `stop` any number of times; `close` comes once, before the descriptor is closed.
    """

    def start(self, callback: Callable[..., None], *args: Any) -> None: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...


class Library:
    """Everything that greenmq asks of a hub library. A module `hub_<name>` defines each of these names.

    * `get_hub()`: the hub of this thread, made if there is none. `peek_hub()`: the same, or None.
    * `HUB_IS_GREENLET`: callbacks run in the hub itself, and not in its attribute `greenlet`; see
      `hub_greenlet`.
    * `spawn(run, ended, name)`: a greenlet that starts in the next round. `ended` is called after its end,
      also if it was killed before its start, and so never ran.
    * `link(greenlet, callback)`: have `callback(greenlet)` called from the hub after its end; False if this
      cannot be had (a bare greenlet).
    * `run_soon(hub, callback, *args)`: calls it from the hub of this thread, in its next round, in order.
    * `post(hub, callback, *args)`: the same from any native thread, and wakes that hub.
    * `timer(hub, seconds, callback, *args)`, `watch(hub, fd, write)`: see `TimerHandle` and `Watcher`.
    * `hold(hub)`: a `Handle`; until closed, that hub waits for `post` although nothing else can wake it.
      Without it gevent calls such a wait a deadlock.
    * `when_idle(hub, callback, *args)`: in a forked child, and at most once: call it from the hub when
      nothing is left that could ever run. A library that then throws an error into the main greenlet need
      not.
    * `original(module, name)`: what the standard library had there before any monkey patching.
    * `remember_hub(hub)`: in a thread that ends, and whose hub the library has let go of already; False if
      the program has destroyed it.
    * `end_thread()`: called last in a native thread, destroys the hub that something in it may have made.
    * `reinit()`: makes the hub of this thread usable in a forked child.
    * `Timeout`, `Event`, `Semaphore`, `Local`, `wsgi_server`: the library's own.

    Callbacks run in the hub, and a callback that raises is reported by the library.
    """

    NAME: str
    HUB_IS_GREENLET: bool
    get_hub: Callable[[], Hub]
    peek_hub: Callable[[], Hub | None]
    spawn: Callable[[Callable[[], None], Callable[[], None], str], Any]
    link: Callable[[Any, Callable[[Any], None]], bool]
    run_soon: Callable[..., None]
    post: Callable[..., None]
    timer: Callable[..., TimerHandle]
    watch: Callable[[Any, int, bool], Watcher]
    hold: Callable[[Any], Handle]
    when_idle: Callable[..., None]
    original: Callable[[str, str], Any]
    end_thread: Callable[[], None]
    remember_hub: Callable[[Any], bool]
    reinit: Callable[[], None]
    Timeout: type[BaseException]
    Event: Callable[[], Any]
    Semaphore: Callable[[int], Any]
    Local: Callable[[], Any]
    wsgi_server: Callable[..., Any]


class _Undecided(Library):
    # The first name that anybody asks for decides. After that this object is a plain `Library` whose names
    # sit in its own dict, so that the hot paths pay for the late choice with one attribute look-up.

    def __getattr__(self, attribute: str) -> Any:
        if attribute not in Library.__annotations__:
            raise AttributeError(attribute)
        _choose()
        return getattr(self, attribute)


library: Library = _Undecided()


def hub_greenlet(hub: Any) -> Any:
    """The greenlet that the callbacks of a hub run in. What is asked for each message is written out."""
    return hub if library.HUB_IS_GREENLET else hub.greenlet


_wanted: str | None = None
_when_chosen: list[Callable[[], None]] = []


def use(name: str) -> None:
    """Choose the hub library of this process, before anything of greenmq runs.

    Arguments:
        name (str): 'gevent' or 'eventlet'.
    Raises:
        InvalidArgument: no such library is known.
        RuntimeError: another one is in use already.
    """
    global _wanted
    _known(name, 'runtime')
    if not isinstance(library, _Undecided) and library.NAME != name:
        raise RuntimeError(
            f'greenmq runs on {library.NAME} already, so runtime.use({name!r}) comes too late: '
            f'call it before the first connection, lock or task is made'
        )
    _wanted = name


def name() -> str:
    """Tell which hub library this process uses; asking decides it.

    Returns:
        str: 'gevent' or 'eventlet'.
    """
    return library.NAME


def chosen() -> bool:
    """Tell whether a hub library is in use yet."""
    return not isinstance(library, _Undecided)


def when_chosen(hook: Callable[[], None]) -> None:
    """Have something called as soon as a hub library is in use. It must bear to be called twice."""
    _when_chosen.append(hook)


def _known(name: str, what: str) -> str:
    if name not in KNOWN:
        raise InvalidArgument(what, name, 'must be gevent or eventlet')
    return name


def _decide() -> tuple[str, str]:
    if _wanted is not None:
        return _wanted, f'runtime.use({_wanted!r})'
    from_environment = os.environ.get('GREENMQ_RUNTIME')
    if from_environment:
        return _known(from_environment, 'GREENMQ_RUNTIME'), 'GREENMQ_RUNTIME'
    patcher = sys.modules.get('eventlet.patcher')
    if patcher is not None and patcher.is_monkey_patched('socket'):
        return 'eventlet', 'this process is patched by eventlet'
    return 'gevent', 'it is the default'


def _choose() -> None:
    wanted, why = _decide()
    module_name = f'greenmq.runtime.hub_{wanted}'
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name not in (module_name, wanted):
            raise
        missing = f'{wanted} is not installed' if exc.name == wanted else f'greenmq has no {module_name} yet'
        raise ImportError(
            f'greenmq cannot run on {wanted} ({why}): {missing}. '
            f'runtime.use() or GREENMQ_RUNTIME choose another'
        ) from exc
    # Two native threads may come here together: both write the same values, so no lock is needed.
    for attribute in Library.__annotations__:
        setattr(library, attribute, getattr(module, attribute))
    library.__class__ = Library
    for hook in _when_chosen:
        hook()
