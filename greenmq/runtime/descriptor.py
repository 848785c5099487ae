"""Waiting for a descriptor that is not ours: of a database driver, an inotify, a datagram socket."""

from __future__ import annotations

from typing import Any

from greenmq.exceptions import InvalidArgument
from greenmq.runtime.clock import Timeoutish
from greenmq.runtime.seam import library
from greenmq.runtime.waiter import Waiter

__all__ = ('wait_ready',)


def wait_ready(
    fd: Any, read: bool = True, write: bool = False, timeout: Timeoutish = None
) -> tuple[bool, bool]:
    """Wait until a descriptor can be read or written. Nothing is read or written, and it is not closed.

    Arguments:
        fd (int | object): a descriptor, or what has a `fileno()`. It must stay open while this waits.
        read (bool), write (bool): what to wait for; either of both ends the wait.
        timeout (Deadline | float): no limit if None.
    Returns:
        tuple[bool, bool]: whether it can be read, and written, as far as was asked and is known.
    Raises:
        TimeoutError: not in time. InvalidArgument: nothing to wait for.
    Switches: yes. Killed while waiting: nothing is left behind.
    """
    if not read and not write:
        raise InvalidArgument('read', read, 'and write are both false: nothing to wait for')
    number = fd if isinstance(fd, int) else fd.fileno()
    hub = library.get_hub()
    waiter = Waiter(f'descriptor {number} was not ready')
    watchers = []
    try:
        for wanted, direction in ((read, False), (write, True)):
            if wanted:
                watcher = library.watch(hub, number, direction)
                watchers.append(watcher)
                watcher.start(waiter.ready, (not direction, direction))
        found: tuple[bool, bool] = waiter.wait(timeout)
        return found
    finally:
        for watcher in watchers:
            watcher.stop()
            watcher.close()
