"""One dial for all who wait: greenlets that need the same connection at once share a single attempt.

Who finds nobody dialling dials; the others wait, each within its own deadline, and get that attempt's
outcome. A dialler that was killed, or whose own deadline was shorter than a fair attempt, has proved nothing
about the broker: its place goes to the next waiter. Nothing here switches but `run` and `pause`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed, TimeoutError

T = TypeVar('T')


class SharedAttempt(Generic[T]):
    """The attempt under way, if any, and who waits for it or for the next one.

    Arguments:
        what (str): the connection, for error texts; never holds a password.
    """

    __slots__ = ('_sleepers', '_waiters', 'busy', 'closed', 'what')

    def __init__(self, what: str) -> None:
        self.what = what
        self.busy = False
        self.closed = False
        self._waiters = runtime.Handoff(f'{what} was not opened')
        self._sleepers = runtime.Handoff(f'{what} was not opened')

    @property
    def in_use(self) -> bool:
        """Does a greenlet dial, or wait for one that does?"""
        return self.busy or bool(len(self._waiters)) or bool(len(self._sleepers))

    def run(
        self,
        ready: Callable[[], T | None],
        dial: Callable[[runtime.Deadline], T],
        deadline: runtime.Deadline,
        fair: float | None,
    ) -> T:
        """What `ready` finds, or what a dial made: ours, or that of the greenlet that was first.

        Arguments:
            ready: returns the connection if there is one; never switches.
            dial: makes one; gets a deadline that is at most `fair` seconds away. Called by one greenlet at a
                time.
            deadline (Deadline): of the caller.
            fair (float): seconds of a whole attempt. A time-out of a shorter one is told to nobody else.
        Raises:
            TimeoutError: the caller's deadline passed while another greenlet dialled.
            ConnectionClosed: the connection was closed meanwhile.
        Switches: yes. Killed: the next waiter dials.
        """
        while True:
            self.check()
            found = ready()
            if found is not None:
                return found
            if not self.busy:
                return self._dial(dial, deadline, fair)
            failure = self._waiters.wait(deadline, decline=self._pass_on)
            if failure is not None:
                raise runtime.again(failure)

    def _dial(
        self, dial: Callable[[runtime.Deadline], T], deadline: runtime.Deadline, fair: float | None
    ) -> T:
        attempt = runtime.Deadline.after(fair)
        left = deadline.remaining()
        cut_short = left is not None and (fair is None or left < fair)
        self.busy = True
        failure: Exception | None = None
        try:
            result = dial(deadline if cut_short else attempt)
            self.check()
            self._wake_all()
            return result
        except Exception as exc:
            if not (cut_short and isinstance(exc, TimeoutError)):
                failure = exc
            raise
        finally:
            # no switch: also runs when we are killed, and the next one must find the place free
            self.busy = False
            if failure is None:
                self._waiters.give(None)
            else:
                while self._waiters.give(failure):
                    pass  # each give tells one
                failure = None  # its traceback knows this frame

    def pause(self, seconds: float, deadline: runtime.Deadline) -> bool:
        """Wait before the next attempt; less if somebody else's attempt succeeds.

        Returns:
            bool: True if it did.
        Raises:
            ConnectionClosed: the connection was closed meanwhile: recovery ends.
        Switches: yes.
        """
        self.check()
        if seconds <= 0:
            return False
        left = deadline.remaining()
        seconds = seconds if left is None else min(seconds, left)
        try:
            self._sleepers.wait(runtime.Deadline.after(seconds))
        except TimeoutError:
            return False  # nobody connected in the meantime: the pause is over
        return True

    def close(self) -> None:
        """Wake all with ConnectionClosed; for good. Who dials now finds out at the end of its attempt."""
        self.closed = True
        error = ConnectionClosed(f'{self.what} was closed while it was being opened')
        self._waiters.fail_all(error)
        self._sleepers.fail_all(error)

    def check(self) -> None:
        """Raise ConnectionClosed if `close` was called."""
        if self.closed:
            raise ConnectionClosed(f'{self.what} was closed while it was being opened')

    def _wake_all(self) -> None:
        for line in (self._waiters, self._sleepers):
            while line.give(None):
                pass  # each give wakes one; they look for themselves at what there is

    def _pass_on(self, failure: object) -> None:
        # we were told to look, and died before we could: the next one looks
        if failure is None and not self.busy:
            self._waiters.give(None)
