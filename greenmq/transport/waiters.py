"""Who waits here for which queues, and how it is woken: for drivers whose `take` waits by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from greenmq import runtime
from greenmq.exceptions import TimeoutError

__all__ = ('Waiters',)

T = TypeVar('T')


class Waiters:
    """The waiting takes of one driver, by queue."""

    def __init__(self) -> None:
        self._of: dict[str, set[runtime.Waiter]] = {}

    def __iter__(self) -> Iterator[str]:
        """The queues on which somebody waits."""
        return iter(self._of)

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, queue: object) -> bool:
        return queue in self._of

    def enter(self, queues: Iterable[str], waiter: runtime.Waiter) -> None:
        """This one is to be woken by messages of these queues."""
        for queue in queues:
            self._of.setdefault(queue, set()).add(waiter)

    def leave(self, queues: Iterable[str], waiter: runtime.Waiter) -> None:
        """Undo `enter`."""
        for queue in queues:
            waiters = self._of.get(queue)
            if waiters is not None:
                waiters.discard(waiter)
                if not waiters:
                    del self._of[queue]

    def fail(self, error: Exception) -> None:
        """Have all who wait here raise this."""
        for waiters in list(self._of.values()):
            for waiter in list(waiters):
                waiter.fail(error)

    def wake(self, queues: Iterable[str] | None) -> None:
        """Have who waits for one of these queues (None: for any) look again."""
        for queue in list(self._of) if queues is None else queues:
            for waiter in self._of.get(queue, ()):
                waiter.wake()

    def take(
        self, queues: list[str], seconds: float, look: Callable[[bool], tuple[list[T], float | None]]
    ) -> list[T]:
        """Look until something is there, or some seconds have passed.

        Arguments:
            look (Callable[[bool], tuple[list, float | None]]): is told whether somebody woke us, or nobody
                and it is time to look all the same; returns what it took, and the seconds after which another
                look is due although nobody wakes us, None for never.
        Returns:
            list: what a look took; none if time is over, after a last look. With 0 seconds there is one,
                unless somebody wakes us at once.
        Switches: yes. Killed: as `look` is; nothing stays registered.
        """
        deadline = runtime.Deadline.after(seconds)
        woken, over = True, False
        while True:
            # Registered before the look, so that what comes meanwhile is another one.
            waiter = runtime.Waiter()
            self.enter(queues, waiter)
            try:
                found, again = look(woken)
                if found or over:
                    return found
                # Also where there is no time: who wakes us may have a word already that nobody has read.
                woken = _pause(waiter, deadline if again is None else deadline.within(again))
                over = not woken and deadline.expired()
                if over and not seconds:
                    return found
            finally:
                self.leave(queues, waiter)


def _pause(waiter: runtime.Waiter, deadline: runtime.Deadline) -> bool:
    try:
        waiter.wait(deadline)
    except TimeoutError:
        if not waiter.expired:
            raise
        return False
    return True
