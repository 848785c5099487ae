"""Logical clocks: order among events of several processes, without comparing their wall clocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from greenmq import runtime

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ('LamportClock', 'timetuple')

#: Form of the repr of a `timetuple`.
R_CLOCK = '_lamport(clock={0}, timestamp={1}, id={2} {3!r})'


class timetuple(tuple):  # type: ignore[type-arg]
    """When an event happened: (clock, timestamp, id, obj). Such tuples sort by causality.

    The clock decides, the id between equal clocks; where one of two has no clock, the wall clock.

    Arguments:
        clock (int): the process's logical time; None or 0 if it has no clock.
        timestamp (float): wall clock, in seconds.
        id (str): of the process.
        obj (object): the event.
    Source: kombu.clocks.timetuple.
    """

    __slots__ = ()

    def __new__(cls, clock: int | None, timestamp: float, id: str, obj: Any = None) -> Self:
        return tuple.__new__(cls, (clock, timestamp, id, obj))

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self)

    def __repr__(self) -> str:
        return R_CLOCK.format(*self)

    def __lt__(self, other: Any) -> bool:
        if not isinstance(other, tuple) or len(other) < 3:
            return NotImplemented
        mine, theirs = self[0], other[0]
        if not mine or not theirs:
            # A process without a clock is placed by the wall clock.
            return bool(self[1] < other[1])
        return bool(self[2] < other[2] if mine == theirs else mine < theirs)

    def __gt__(self, other: Any) -> bool:
        return timetuple(*other) < self if isinstance(other, tuple) else NotImplemented

    def __le__(self, other: Any) -> bool:
        return not self > other if isinstance(other, tuple) else NotImplemented

    def __ge__(self, other: Any) -> bool:
        return not self < other if isinstance(other, tuple) else NotImplemented

    clock = property(itemgetter(0))
    timestamp = property(itemgetter(1))
    id = property(itemgetter(2))
    obj = property(itemgetter(3))


class LamportClock:
    """Counts what happens here, and jumps ahead of what is heard from elsewhere.

    Send `forward()` with each message; call `adjust(their clock)` for each received: then a cause always has
    a smaller number than its effect.

    Arguments:
        initial_value (int): where to start.
        Lock (Callable): makes the lock that keeps native threads apart; nothing switches while it is held.
    Source: kombu.clocks.LamportClock; Lamport, "Time, Clocks, and the Ordering of Events", rules IR1 and IR2.
    """

    value = 0

    def __init__(self, initial_value: int = 0, Lock: Callable[[], Any] | None = None) -> None:
        self.value = initial_value
        self.mutex = (Lock or runtime.NativeLock)()

    def adjust(self, other: int) -> int:
        """Take notice of another clock; return the new value, above both."""
        with self.mutex:  # no switch
            self.value = max(self.value, other) + 1
            return self.value

    def forward(self) -> int:
        """Count an event of our own; return the new value."""
        with self.mutex:  # no switch
            self.value += 1
            return self.value

    def sort_heap(self, h: Sequence[Any]) -> Any:
        """Return the first event of a list by clock; the lowest process goes first among equals.

        Arguments:
            h (list[tuple]): (clock, process, …) tuples, sorted by clock.
        """
        clock = h[0][0]
        return min((entry for entry in h if entry[0] == clock), key=itemgetter(1))

    def __str__(self) -> str:
        return str(self.value)

    def __repr__(self) -> str:
        return f'<LamportClock: {self.value}>'
