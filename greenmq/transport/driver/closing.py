"""How a session lets go of its driver: at once, or when the last takes that must not be cut have ended."""

from __future__ import annotations

from typing import Any

from greenmq import runtime
from greenmq.log import get_logger
from greenmq.transport.driver.contract import Driver
from greenmq.transport.driver.errors import bounded

__all__ = ('Ending', 'close_driver')

logger = get_logger('greenmq.transport.driver')

#: Seconds that a driver has for its end when all the time for the close is over, and after the last takes.
PARTING, LAST = 0.5, 5.0


def close_driver(driver: Driver, deadline: runtime.Deadline) -> None:
    """Close a driver; what that meets ends with it. Switches: yes."""
    if deadline.expired():
        deadline = runtime.Deadline.after(PARTING)  # or the call would end before it began
    try:
        bounded('close', deadline, driver.close, deadline)
    except Exception as error:  # it is abandoned; the broker will notice
        logger.debug('closing %r: %r', driver, error)


class Ending:
    """The last takes of a session that is closed. The end of the interpreter waits for them, too.

    Arguments:
        flying (list[Flight]): takes that must not be cut.
        driver (Driver): what they run on.
    """

    def __init__(self, flying: list[Any], driver: Driver) -> None:
        self._flying = flying
        self._driver = driver
        self._task: Any = None

    def begin(self) -> None:
        """Have a task wait for them, and close the driver then."""
        self._task = runtime.spawn(self._run, name='greenmq-close')
        runtime.at_exit(self, Ending.wait, self._driver.wait_seconds + LAST)

    def _run(self) -> None:
        for take in self._flying:
            take.join()
        close_driver(self._driver, runtime.Deadline.after(LAST))

    def wait(self) -> None:
        """Wait for that task. Switches: yes."""
        self._task.join()
