"""What belongs to one thread's hub, taken over by another thread.

kombu's programs open a connection in one native thread and go on with it in another, each under a lock of
their own: the poller of oslo.messaging, a worker's `run` given to a Thread. What the old hub holds (sockets
that it watches, tasks that it runs) cannot be had; but its owner may let go of it, and begin anew here.

Who may let go, and where, depends on what the old thread does:

* it is in its loop: the owner lets go there, in the hub, where nothing else runs at that moment;
* it is not: it runs the program's own code, sleeps in the system, or has ended. What is posted to it may
  never be done, so the owner lets go here. Nothing in that loop moves meanwhile, unless the program breaks
  its own lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenmq.exceptions import TimeoutError
from greenmq.runtime.clock import Deadline, post
from greenmq.runtime.seam import hub_greenlet, library
from greenmq.runtime.waiter import Waiter

__all__ = ('take_over',)

#: Seconds that a hub has to run what is posted to it: one that is held up by the program's code does not.
PATIENCE = 2.0
#: Seconds between two looks whether it is still in its loop.
LOOK = 0.02


def take_over(hub: Any, leave: Callable[[], bool]) -> bool:
    """Have the owner of something let go of it, so that it can be this thread's.

    Arguments:
        hub (object): the `hub_id()` of the thread it belongs to; None if that is gone.
        leave (Callable[[], bool]): lets go and returns True, or returns False and does nothing if somebody
            uses it. Never switches. Called in that thread's hub if it is in its loop, here if it is not.
    Returns:
        bool: what `leave` returned; False if that thread did not come to it.
    Raises:
        WouldBlock: called in a hub callback while the other hub is in its loop.
    Switches: only to wait for another hub.
    """
    if hub is None or not _is_in_loop(hub):
        return leave()
    home, answer = library.get_hub(), Waiter('the other thread did not let go')
    answered: list[bool] = []
    turn = [leave]  # whoever takes it out calls it, or keeps it from being called

    def there() -> None:
        if not turn:
            return
        left = False
        try:
            left = turn.pop()()
        finally:
            post(home, tell, left)

    def tell(left: bool) -> None:  # in our hub
        answered.append(left)
        answer.wake()

    if not post(hub, there):
        return leave()
    patience = Deadline.after(PATIENCE)
    while True:
        try:
            answer.wait(LOOK)
        except TimeoutError:
            answer = Waiter('the other thread did not let go')
        if answered:
            return answered[0]
        if not patience.expired() and _is_in_loop(hub):
            continue
        # It ended meanwhile, or went on with code of the program: then it is we who let go.
        try:
            turn.pop()
        except IndexError:
            if not answered:
                answer.wait(PATIENCE)  # it has just begun
            return answered[0]
        return not _is_in_loop(hub) and leave()


def _is_in_loop(hub: Any) -> bool:
    # A thread is in its loop when its main greenlet waits for somebody to switch to it: it has a frame then.
    # The frame of one that runs, or has ended, cannot be seen.
    main = hub_greenlet(hub)
    while main.parent is not None:
        main = main.parent
    return main.gr_frame is not None
