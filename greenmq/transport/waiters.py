"""Who waits here, and how it is woken: in one line, or by queue for drivers whose `take` waits by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from greenmq import runtime
from greenmq.exceptions import TimeoutError

__all__ = ('WaitingLine', 'Waiters')

T = TypeVar('T')


class WaitingLine:
    """Tasks that wait for the same thing, each within its deadline and in its turn."""

    __slots__ = ('_waiters',)

    def __init__(self) -> None:
        self._waiters: list[runtime.Waiter] = []

    def __len__(self) -> int:
        return len(self._waiters)

    def __iter__(self) -> Iterator[runtime.Waiter]:
        return iter(self._waiters)

    def wait(self, deadline: runtime.Deadline | float | None, what: str = 'nothing came') -> None:
        """Wait for `wake`.

        Arguments:
            what (str): for the TimeoutError.
        Raises:
            TimeoutError: not in time. Exception: what `fail` was given.
        Switches: yes. Killed: the next in line is not held up.
        """
        waiter = runtime.Waiter(what)
        self._waiters.append(waiter)
        try:
            waiter.wait(deadline, decline=self._pass_on)
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _pass_on(self, turn: Any) -> None:
        if turn:
            self.wake(1)

    def wake(self, count: int | None = None) -> None:
        """Let some through, or all."""
        turn = count is not None
        number = len(self._waiters) if count is None else min(count, len(self._waiters))
        ready, self._waiters = self._waiters[:number], self._waiters[number:]
        for waiter in ready:
            waiter.wake(turn)

    def fail(self, error: BaseException) -> None:
        """All wait in vain."""
        for waiter in self.leave():
            waiter.fail(error)

    def leave(self) -> list[runtime.Waiter]:
        """Forget them, e.g. because they are of another thread; return them."""
        left, self._waiters = self._waiters, []
        return left


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
