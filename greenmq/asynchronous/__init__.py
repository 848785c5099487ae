"""What programs use of kombu's event loop (timers, callbacks, a semaphore), thin over greenmq's runtime."""

from __future__ import annotations

from greenmq.asynchronous.hub import Hub, get_event_loop, set_event_loop
from greenmq.utils.eventio import ERR, READ, WRITE

__all__ = ('ERR', 'READ', 'WRITE', 'Hub', 'get_event_loop', 'set_event_loop')
