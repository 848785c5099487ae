"""What of the standard library is monkey patched, since when, and what that means for a blocking driver."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

__all__ = ('Patched', 'patched')

_MODULES = ('socket', 'ssl', 'threading', 'select', 'queue', 'os', 'time', 'subprocess')
# A driver in plain Python waits in these four, and nowhere else.
_WAITED_IN = ('socket', 'ssl', 'threading', 'select')
# eventlet's names, which are coarser.
_EVENTLET = {'threading': 'thread', 'queue': 'thread', 'ssl': 'socket', 'subprocess': 'os'}


@dataclass(frozen=True)
class Patched:
    """Which modules are patched now, by whom and since when.

    Attributes:
        socket (bool), ssl (bool), threading (bool), select (bool), queue (bool), os (bool), time (bool),
        subprocess (bool): that module waits cooperatively.
        by (str): 'gevent', 'eventlet' or ''.
        when (str): 'before' greenmq was imported, 'after', or 'never', judged by `socket`.
    """

    socket: bool
    ssl: bool
    threading: bool
    select: bool
    queue: bool
    os: bool
    time: bool
    subprocess: bool
    by: str
    when: str

    @property
    def all(self) -> bool:
        """True if every module in which a driver may wait is patched."""
        return self.socket and self.ssl and self.threading and self.select

    def covers(self, driver: str) -> bool:
        """Tell whether a driver in plain Python may be called directly: all its waits are cooperative.

        It is so if the four modules it may wait in were patched before it was imported: a driver imported
        earlier may hold the originals (`from socket import socket`). When in doubt the answer is no.

        Arguments:
            driver (str): name of its top module, e.g. 'pymongo'.
        Returns:
            bool: False means: use `offload`.
        """
        if not self.all:
            return False
        if driver not in sys.modules:
            return True
        # sys.modules keeps the order of imports, and patching a module imports its counterpart.
        order = {module: place for place, module in enumerate(sys.modules)}
        counterparts = [f'{self.by}{_green(self.by)}.{module}' for module in _WAITED_IN]
        return all(order.get(part, len(order)) < order[driver] for part in counterparts)

    def __str__(self) -> str:
        names = [module for module in _MODULES if getattr(self, module)]
        return f'{self.by}: {", ".join(names)} ({self.when} greenmq)' if names else 'nothing is patched'


def _green(by: str) -> str:
    return '.green' if by == 'eventlet' else ''


def _patched_by(module: str) -> str:
    gevent: Any = sys.modules.get('gevent.monkey')
    if gevent is not None and gevent.is_module_patched(module):
        return 'gevent'
    eventlet: Any = sys.modules.get('eventlet.patcher')
    if eventlet is not None and eventlet.is_monkey_patched(_EVENTLET.get(module, module)):
        return 'eventlet'
    return ''


# The one thing that must be noted at import: it cannot be found out later.
_before = bool(_patched_by('socket'))


def patched() -> Patched:
    """Look what is monkey patched at this moment. Imports nothing and decides nothing."""
    state = {module: _patched_by(module) for module in _MODULES}
    when = 'never' if not state['socket'] else 'before' if _before else 'after'
    by = next((library for library in state.values() if library), '')
    return Patched(**{module: bool(library) for module, library in state.items()}, by=by, when=when)
