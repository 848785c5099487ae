"""Ctrl-C, once: it ends the work in good order; pressed again, it ends the process.

A KeyboardInterrupt that breaks out on any line of any greenlet cannot be cleaned up after. So the signal's
handler raises only while nothing but plain code runs; as soon as there is work in a task, it tells that
task's owner instead.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# What a shell reports for a process that SIGINT ended.
INTERRUPTED = 128 + signal.SIGINT


class Interrupts:
    """What one process makes of SIGINT.

    Attributes:
        hit (bool): it came.
    """

    def __init__(self) -> None:
        self.hit = False
        self._tell: Callable[[], object] | None = None
        self._ignored = False

    def install(self) -> None:
        """Take over the signal, unless whoever started this process wants it ignored."""
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self.handle)

    def ignore(self) -> None:
        """From here on the process only ends; it should not trip over the signal while it does."""
        self._ignored = True

    @contextmanager
    def told(self, tell: Callable[[], object]) -> Iterator[None]:
        """Call `tell` when the signal comes, in place of raising.

        Arguments:
            tell (Callable): runs in the signal's handler, so in the middle of anything; it must not switch.
        """
        self._tell = tell
        try:
            yield
        finally:
            self._tell = None

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """The handler."""
        if self._ignored:
            return
        if self.hit:
            os._exit(INTERRUPTED)
        self.hit = True
        if self._tell is None:
            raise KeyboardInterrupt
        self._tell()
