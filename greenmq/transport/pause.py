"""The pause that a recovery makes between two tries: a caller who needs the connection now ends it early."""

from __future__ import annotations

from greenmq import runtime
from greenmq.exceptions import TimeoutError

__all__ = ('Pause',)

#: Seconds that a pause lasts at least, so that many callers in a row do not become a storm of tries.
SHORTEST = 0.05


class Pause:
    """One place to pause in, for one task at a time.

    A program that tries again has pauses of its own, which say how long it is willing to wait for a broker
    that is away: on top of the recovery's they would come to a multiple of that.
    """

    __slots__ = ('_hub', '_waiter')

    def __init__(self) -> None:
        self._waiter: runtime.Waiter | None = None
        self._hub: object = None

    def make(self, seconds: float) -> None:
        """Wait for so long, or until somebody needs the next try, but not below SHORTEST. Switches: yes."""
        if seconds <= SHORTEST:
            runtime.sleep(seconds)
            return
        self._hub = runtime.hub_id()
        waiter = self._waiter = runtime.Waiter('nobody asked for a try')
        runtime.sleep(SHORTEST)
        try:
            waiter.wait(seconds - SHORTEST)
        except TimeoutError:
            pass  # nobody did: the pause is over
        finally:
            if self._waiter is waiter:
                self._waiter = None

    def end(self) -> None:
        """Have the next try made at once. Nothing happens if no pause is made now."""
        # Where the connection has moved to another thread, the recovery of the old one is about to end.
        if self._waiter is not None and runtime.is_here(self._hub):
            self._waiter.wake()
