"""A connection whose events are handled by the program's event loop, one of kombu's kind.

The sockets stay the hub's. What the loop is given is a call for each of its rounds, which handles what has
arrived; and it is woken when something arrives, so that a message need not wait for the end of a round.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenmq.exceptions import ConnectionClosed, TimeoutError

if TYPE_CHECKING:
    from .base import Transport

__all__ = ('register', 'unregister')

#: Events handled in one round: the loop's own calls get their turn however many there are.
MOST = 100


class Tick:
    """What the loop calls in each round. It keeps the connection alive no longer than the program does."""

    def __init__(self, transport: Transport, connection: Any, loop: Any) -> None:
        self.connection = weakref.ref(connection)
        self._transport = weakref.ref(transport)
        self._loop = loop
        self._cancel: Callable[[], None] | None = None

    def __call__(self) -> None:
        connection, transport = self.connection(), self._transport()
        if connection is None or transport is None:
            self.end()
            return
        events = transport.waiting_events(connection)
        before = events.handled
        for _ in range(MOST):
            handled = events.handled
            try:
                transport.drain_events(connection, timeout=0)
            except TimeoutError:
                if events.handled != handled:
                    raise  # a callback's own
                break
            except ConnectionClosed:
                if events.handled != handled:
                    raise
                self.end()  # the program closed it
                return
        if events.handled != before:
            self._wake()  # there may be more; and the program may wait for what was handled
        self._listen(events)

    def _listen(self, events: Any) -> None:
        if self._cancel is not None:
            self._cancel()
        self._cancel = events.notify(self._wake)

    def _wake(self) -> None:
        self._loop.call_soon(_nothing)

    def end(self) -> None:
        self._loop.on_tick.discard(self)
        if self._cancel is not None:
            self._cancel()
            self._cancel = None


def _nothing() -> None:
    """Keep the loop from waiting in this round, or end its wait."""


def register(transport: Transport, connection: Any, loop: Any) -> None:
    """Have a loop handle a connection's events; once, however often it is asked."""
    if _find(connection, loop) is None:
        loop.on_tick.add(Tick(transport, connection, loop))


def unregister(connection: Any, loop: Any) -> None:
    """Have a loop let a connection be. One that it does not know is no error."""
    tick = _find(connection, loop)
    if tick is not None:
        tick.end()


def _find(connection: Any, loop: Any) -> Tick | None:
    for tick in loop.on_tick:
        if isinstance(tick, Tick) and tick.connection() is connection:
            return tick
    return None
