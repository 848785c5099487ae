"""What waits to leave over one socket, and its writer: the only task that takes from it.

Whoever has something to say appends whole frames or commands, as immutable bytes, in one stretch without a
switch: nothing can interleave, and a task that is killed leaves all of them or none. Everything that was
appended between two turns of the writer leaves in one system call.

Acks are not even appended: who collects them is asked before each write (`flush`). It says whether a write is
due (`flush_soon`), or can wait a little for company (`flush_later`).
"""

from __future__ import annotations

from typing import Any, Protocol

from greenmq import runtime

__all__ = ('HOLD_SECONDS', 'Flusher', 'Outbox')

#: Seconds that `flush_later` waits for company. A system call and the answer to it cost more than what an ack
#: says, and each wakes a hub whose timers count whole milliseconds: callbacks that sleep would sleep longer.
HOLD_SECONDS = 0.02


class Flusher(Protocol):
    """Who holds something back until the next write."""

    def flush(self) -> None: ...


class Outbox:
    """The writing half of a link.

    Attributes:
        error (BaseException | None): why the link ended; None while it lives.
        out_bytes (int): bytes queued and not yet handed to the kernel.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.out_bytes = 0
        self._out: list[Any] = []
        self._dirty: list[Flusher] = []
        self._idle: runtime.Waiter | None = None  # the writer, while it has nothing to do
        self._held: runtime.Timer | None = None  # ends the wait of `flush_later`

    def hurry(self) -> None:
        """Wake the writer: a write is due."""
        idle = self._idle
        if idle is not None:
            self._idle = None
            idle.wake()

    def flush_soon(self, flusher: Flusher) -> None:
        """Have `flusher.flush()` called before the next write, which is due now."""
        if self.error is None:
            self._dirty.append(flusher)
            self.hurry()

    def flush_later(self, flusher: Flusher) -> None:
        """Have `flusher.flush()` called before the next write, within `HOLD_SECONDS`."""
        if self.error is None:
            self._dirty.append(flusher)
            if self._held is None:
                self._held = runtime.call_later(HOLD_SECONDS, self._hold_ends)

    def _hold_ends(self) -> None:
        self._held = None
        if self._dirty:
            self.hurry()

    def flush(self) -> None:
        """Let everybody who holds something back queue it now."""
        dirty, self._dirty = self._dirty, []
        for flusher in dirty:
            flusher.flush()

    def _empty(self) -> None:
        """Drop what waits; the link has ended."""
        self._out.clear()
        self._dirty.clear()
        self.out_bytes = 0
        if self._held is not None:
            self._held.cancel()
        self.hurry()

    def _write(self) -> None:
        """The writer."""
        while self.error is None:
            if self._dirty:
                self.flush()
            if not self._out:
                idle = self._idle = runtime.Waiter()
                try:
                    idle.wait(hold=False)  # the reader keeps the hub
                finally:
                    self._idle = None
                continue
            out, self._out = self._out, []
            self._send_out(out)

    def _send_out(self, out: list[Any]) -> None:
        """Write what was queued. Switches: yes."""
        raise NotImplementedError
