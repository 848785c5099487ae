"""What kombu once needed for old Pythons and other event loops, and what programs still call.

Nothing here switches, unless a function that the program passed in does.

Source: kombu.utils.compat.
"""

from __future__ import annotations

import io
import itertools
import logging
import sys
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

from greenmq import runtime
from greenmq.exceptions import reraise

logger = logging.getLogger(__name__)

__all__ = (
    'FILENO_ERRORS',
    'coro',
    'detect_environment',
    'entrypoints',
    'fileno',
    'get_gevent_concurrent_error',
    'load_entrypoints',
    'maybe_fileno',
    'nested',
    'register_after_fork',
    'reraise',
)

#: What `fileno` raises for an object that has no file descriptor.
FILENO_ERRORS: tuple[type[Exception], ...] = (AttributeError, ValueError, io.UnsupportedOperation)


def coro(gen: Callable[..., Generator[Any, Any, Any]]) -> Callable[..., Generator[Any, Any, Any]]:
    """Decorate a generator function so that its generators have run to their first `yield`.

    Source: kombu.utils.compat.coro.
    """

    @wraps(gen)
    def started(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        generator = gen(*args, **kwargs)
        next(generator)
        return generator

    return started


def detect_environment() -> str:
    """Tell which library has patched sockets in this process: 'gevent', 'eventlet' or 'default' (none).

    greenmq behaves alike in all three; this is for programs that ask.

    Source: kombu.utils.compat.detect_environment; differs: looked up anew each time, since a program may
    patch late.
    """
    socket = sys.modules.get('socket')
    library = getattr(getattr(socket, 'socket', None), '__module__', '').partition('.')[0]
    return library if library in ('gevent', 'eventlet') else 'default'


#: Celery's consumer uses this name.
_detect_environment = detect_environment


def get_gevent_concurrent_error() -> type[BaseException] | None:
    """Return gevent's error for two readers of one socket, or None while gevent is not loaded.

    greenmq never raises it: a connection has one reader.

    Source: kombu.utils.compat.get_gevent_concurrent_error.
    """
    return getattr(sys.modules.get('gevent.exceptions'), 'ConcurrentObjectUseError', None)


def entrypoints(namespace: str) -> Iterator[tuple[Any, Any]]:
    """Yield (entry point, loaded object) of what installed packages offer under a name.

    Raises:
        ImportError: a package offers something that can't be imported (from its entry point).
    Source: kombu.utils.compat.entrypoints.
    """
    # Imported here: it costs more than all the rest of this package.
    from importlib.metadata import entry_points

    return ((point, point.load()) for point in entry_points(group=namespace))


def load_entrypoints(namespaces: Iterable[str], use: Callable[[str, Any], Any]) -> None:
    """Hand what installed packages offer under these names to a function, as (name, loaded object).

    A package that is broken is logged and left out: it must not stop a program that may never use it.
    """
    from importlib.metadata import entry_points

    for namespace in namespaces:
        for point in entry_points(group=namespace):
            try:
                use(point.name, point.load())
            except Exception:
                logger.exception('entry point %r of %r cannot be used', point.name, namespace)


def fileno(f: Any) -> int:
    """Return the file descriptor of a file, or the number itself.

    Raises:
        ValueError: None, or a closed file.
        AttributeError or io.UnsupportedOperation: the object has none.
    Source: kombu.utils.compat.fileno.
    """
    if f is None:
        raise ValueError('file descriptor is None')
    return f if isinstance(f, int) else int(f.fileno())


def maybe_fileno(f: Any) -> int | None:
    """Return the file descriptor of a file, or None if it has none.

    Source: kombu.utils.compat.maybe_fileno.
    """
    try:
        return fileno(f)
    except FILENO_ERRORS:
        return None


@contextmanager
def nested(*managers: Any) -> Iterator[list[Any]]:
    """Enter context managers from left to right; the value is the list of theirs.

    Source: kombu.utils.compat.nested.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(manager) for manager in managers]


# One hook of runtime serves all registrations: an entry ends with its object, which a hook could not.
_forked: weakref.WeakValueDictionary[tuple[int, Callable[[Any], Any]], Any] = weakref.WeakValueDictionary()
_numbers = itertools.count()
_hooked = False


def register_after_fork(obj: Any, func: Callable[[Any], Any]) -> None:
    """Have `func(obj)` called in every forked child, as long as the object lives.

    Arguments:
        obj (object): held weakly.
        func (Callable): held as long as the object lives; must not switch. Its errors are logged.
    Source: kombu.utils.compat.register_after_fork, multiprocessing.util.register_after_fork; differs:
    children of a plain `os.fork()` count too.
    """
    global _hooked
    if not _hooked:
        _hooked = True
        runtime.after_fork(_run_after_fork)
    _forked[next(_numbers), func] = obj


def _run_after_fork() -> None:
    for (_, func), obj in sorted(_forked.items(), key=lambda item: item[0][0]):
        try:
            func(obj)
        except Exception:
            # One failing hook must not keep the others from running.
            logger.exception('after fork: %r failed', func)
