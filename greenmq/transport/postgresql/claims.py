"""Claims that are never cut: what one brings when nobody waits for it any more is given back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed
from greenmq.log import get_logger
from greenmq.transport.driver import Taken

__all__ = ('Claims',)

logger = get_logger('greenmq.transport.postgresql')

#: Seconds for a claim, and for what gives one back.
OPERATION = 30.0


class Claims:
    """The claims under way of one session, each in a task of its own."""

    def __init__(self) -> None:
        self._flying: set[runtime.Task] = set()

    def make(
        self, fun: Callable[[runtime.Deadline], list[Taken]],
        give_back: Callable[[list[Taken], runtime.Deadline], Any], lost: Callable[[], Any] | None = None,
    ) -> list[Taken]:  # fmt: skip
        """Run a claim, and return what it took.

        Arguments:
            give_back (Callable): has what was taken go back, as if nobody had seen it.
            lost (Callable): called if its answer did not come: it may have been made all the same.
        Raises:
            Exception: what it met.
        Switches: yes. Killed: it goes on, and what it takes is given back.
        """

        def decline(taken: list[Taken]) -> None:
            self._fly('sql-give-back', self._give_back, taken, give_back)

        waiter = runtime.Waiter('PostgreSQL did not answer a claim')
        self._fly('sql-claim', self._claim, fun, give_back, lost, waiter)
        taken: list[Taken] = waiter.wait(runtime.Deadline.after(OPERATION + 1.0), decline)
        return taken

    def join(self, deadline: runtime.Deadline) -> None:
        """Wait for the end of those under way. Switches: yes."""
        for task in list(self._flying):
            task.join(deadline)

    def _fly(self, name: str, fun: Any, *args: Any) -> None:
        task = runtime.spawn(fun, *args, name=name, on_exit=lambda task, error: self._flying.discard(task))
        self._flying.add(task)

    def _claim(self, fun: Any, give_back: Any, lost: Any, waiter: runtime.Waiter) -> None:
        try:
            taken = fun(runtime.Deadline.after(OPERATION))
        except Exception as error:  # raised to who waits
            if lost is not None:
                lost()
            waiter.fail(error)
            return
        except BaseException:
            if lost is not None:
                lost()
            waiter.fail(ConnectionClosed('the claim was ended'))
            raise
        if not waiter.wake(taken):
            self._give_back(taken, give_back)

    def _give_back(self, taken: list[Taken], give_back: Any) -> None:
        if not taken:
            return
        try:
            give_back(taken, runtime.Deadline.after(OPERATION))
        except Exception as error:  # the end of our lease does it
            logger.warning('%d messages go back when our lease ends, not now: %s', len(taken), error)
