"""One take under way, in a task or without one, and how it ends.

What tasks and timers call keeps no session alive while it waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greenmq import runtime
from greenmq.log import get_logger
from greenmq.transport.driver.contract import UNSEEN, Begin, Driver, Taken
from greenmq.transport.driver.errors import bounded

if TYPE_CHECKING:
    from greenmq.transport.driver.poller import Poller

__all__ = ('Flight', 'run')

logger = get_logger('greenmq.transport.driver')


class Flight:
    """One take under way: in a task, or without one. Outlives its poller where a take must not be cut."""

    __slots__ = ('_end', 'began', 'driver', 'epoch', 'over', 'poller', 'take', 'task', 'timer')

    def __init__(self, poller: Poller, driver: Driver, epoch: int) -> None:
        self.poller: Poller | None = poller
        self.driver = driver
        self.epoch = epoch
        self.began = runtime.monotonic()
        self.task: Any = None
        self.take: Any = None
        self.timer: Any = None
        self.over = False
        self._end: runtime.Future | None = None

    def begun(self, begin: Begin, queues: list[str], n: int, max_bytes: int, seconds: float) -> bool:
        """Begin it without a task; false if it needs one."""
        try:
            self.take = begin(queues, n, max_bytes, seconds, self.landed)
        except Exception as error:  # told to the drains and tried again, not to whoever wanted the take
            self.landed([], error)
            return True
        return self.take is not None

    def landed(self, takens: list[Taken], error: Exception | None) -> bool:
        """What a take without a task came to: see `Begin`."""
        wanted = True
        try:
            if error is None:
                wanted = self.hand_over(takens)
            elif self.poller is not None:
                self.poller.failed(self, error)
        except Exception:  # whoever reads from the broker goes on
            logger.exception('what a take brought could not be handed out')
        finally:
            self.ended()
        return wanted

    def hand_over(self, takens: list[Taken]) -> bool:
        """Give what was taken to the poller; false if nobody wants it any more. Switches: no."""
        poller = self.poller
        return poller is not None and poller.flight is self and poller.took(self, takens)

    def kill(self) -> None:
        """End it, soon. Switches: no."""
        take, self.take = self.take, None
        if take is not None:
            take.kill()
            runtime.run_soon(self.ended)
        elif self.task is not None:
            self.task.kill()

    def leave(self) -> None:
        """As `kill`, from another thread: there is no hub to end it in, and the driver leaves by itself."""
        self.poller = None
        if self.task is not None:
            self.task.kill()

    def join(self, deadline: runtime.Deadline | None = None) -> bool:
        """Wait for its end. Switches: yes."""
        if self.task is not None:
            return bool(self.task.join(deadline))
        if self.over:
            return True
        if self._end is None:
            self._end = runtime.Future()
        return self._end.waited(deadline)

    def ended(self) -> None:
        """It has ended, in whatever way: tell who waits for it, and its poller."""
        self.over = True
        self.take = None
        if self.timer is not None:
            self.timer.cancel()
        if self._end is not None:
            self._end.set_result()
        poller, self.poller = self.poller, None
        if poller is not None:
            poller.ended(self)


def run(flight: Flight, queues: list[str], n: int, max_bytes: int, seconds: float) -> None:
    """What the task of a take does."""
    driver = flight.driver
    try:
        takens = list(driver.take(queues, n, max_bytes, seconds) or ())
    except Exception as error:  # told to the drains, and tried again
        if flight.poller is not None:
            flight.poller.failed(flight, error)
        return
    # No switch from here on: a kill finds all of them handed out.
    if not flight.hand_over(takens):
        _give_back(driver, takens)


def _give_back(driver: Driver, takens: list[Taken]) -> None:
    if not takens:
        return
    deadline = runtime.Deadline.after(30.0)
    try:
        bounded('give back', deadline, driver.settle, [], [(taken, UNSEEN) for taken in takens], deadline)
    except Exception as error:  # the lease will tell
        logger.warning('%d messages that came too late could not be given back: %r', len(takens), error)
