"""The pool of one server: at most so many connections, the last one used first, first come first served."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from greenmq import runtime
from greenmq.transport.http.connection import Connection

__all__ = ('Pool',)


class Pool:
    """Connections to one server.

    Arguments:
        name (str): of the server, for texts.
        dial (Callable[[Deadline], Connection]): makes one.
        size (int): most connections at a time.
        idle_seconds (float): how long one may lie unused. Gateways drop idle flows without a word, some after
            a few minutes, so this is short.
    Attributes:
        used (int): connections in use or being dialled. Used and idle ones together are never more than
            `size`: a new one is dialled only where none is idle.
    """

    def __init__(
        self, name: str, dial: Callable[[runtime.Deadline], Connection], size: int, idle_seconds: float
    ) -> None:
        self.name = name
        self.used = 0
        self._dial = dial
        self._size = size
        self._idle_seconds = idle_seconds
        self._idle: list[Connection] = []
        self._line = runtime.Handoff(f'{name}: all {size} connections are in use; none came free')
        self._timer: runtime.Timer | None = None
        self._closed = False
        self._epoch = runtime.fork_epoch()
        self._hub = runtime.hub_id()

    @property
    def waiting(self) -> int:
        """Tasks that wait for a connection."""
        return len(self._line)

    @property
    def idle(self) -> int:
        """Connections that lie unused."""
        return len(self._idle)

    def take(self, deadline: runtime.Deadline, fresh: bool = False) -> Connection:
        """Take a connection for one exchange; `give` it back.

        Arguments:
            deadline (Deadline): of the wait for a place and of the dialling together.
            fresh (bool): a new one, never one that was used before.
        Raises:
            TimeoutError: no place in time, or not connected in time.
            DialError: not reached.

        Killed while waiting or dialling: the place goes to the next in line.
        """
        self._forget_parents()
        if self.used >= self._size:
            self._line.wait(deadline, decline=self._pass_on)
        else:
            self.used += 1
        while self._idle and not fresh:
            connection = self._idle.pop()
            connection.unwatch()
            if connection.reusable:
                return connection
            connection.abandon()
        if self.used + len(self._idle) > self._size:
            self.drop(self._idle[0])  # only with `fresh`: the oldest makes room
        try:
            return self._dial(deadline)
        except BaseException:
            self._pass_on()
            raise

    def give(self, connection: Connection) -> None:
        """Give a connection back; one that is not reusable is closed."""
        if self._epoch != runtime.fork_epoch():
            return  # it was the parent's, and so was its place
        if connection.reusable and not self._closed:
            connection.since = runtime.monotonic()
            self._idle.append(connection)
            me = weakref.ref(self)  # the hub holds the watcher: it must not hold the pool
            connection.watch(lambda ended: _ended(me, ended))
            self._arm()
        else:
            connection.abandon()
        self._pass_on()

    def _pass_on(self, _value: Any = None) -> None:
        # A place is free: to the first in line, or back to the count.
        if not self._line.give():
            self.used -= 1

    def drop(self, connection: Connection) -> None:
        """Close an idle connection; nothing if it is in use."""
        if connection in self._idle:
            self._idle.remove(connection)
            connection.unwatch()
            connection.abandon()

    def _arm(self) -> None:
        if self._timer is None:
            left = self._idle[0].since + self._idle_seconds - runtime.monotonic()
            self._timer = runtime.call_later(max(left, 0.0), _expire, weakref.ref(self))

    def expire(self) -> None:
        """Close what has been idle for too long. Called by a timer."""
        self._timer = None
        oldest = runtime.monotonic() - self._idle_seconds
        # In the order in which they came back, so the oldest stand first.
        while self._idle and self._idle[0].since <= oldest:
            self.drop(self._idle[0])
        if self._idle:
            self._arm()

    def _forget_parents(self) -> None:
        # In a forked child: runtime has closed the descriptors, and nobody here holds a place.
        if self._epoch != runtime.fork_epoch():
            self._epoch = runtime.fork_epoch()
            self._idle.clear()
            self._timer = None
            self.used = 0

    def close(self) -> None:
        """Close the idle ones; what is in use is closed when it is given back."""
        self._forget_parents()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle:
            self.drop(self._idle[-1])

    def __del__(self) -> None:
        # Perhaps in another thread, and the hub still watches the idle ones: it is the one to close them.
        idle = getattr(self, '_idle', None)
        if idle and self._epoch == runtime.fork_epoch():
            runtime.post(self._hub, _abandon_all, idle)

    def __repr__(self) -> str:
        return f'<Pool {self.name}: {self.used} in use, {self.idle} idle, {self.waiting} waiting>'


def _ended(pool: weakref.ref[Pool], connection: Connection) -> None:
    found = pool()
    if found is None:
        connection.abandon()
    else:
        found.drop(connection)


def _expire(pool: weakref.ref[Pool]) -> None:
    found = pool()
    if found is not None:
        found.expire()


def _abandon_all(connections: list[Connection]) -> None:
    for connection in connections:
        connection.abandon()
