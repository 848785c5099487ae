"""One wait by one task, and the line of waiters to whom something is handed, which each accepts or declines.

Conditions that hold throughout:

1. A waiter leaves PENDING once and never comes back. Whoever moves it out has accepted the duty to resume the
   task.
2. The task is only ever switched to from the hub, and only while `task` is set, which is exactly while it is
   parked. So a resumption that was queued before a kill or a timeout finds nobody: it cannot wake the task
   somewhere else.
3. Between looking at the state and changing it there is no switch. Another native thread is refused, see
   `wake`.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn

from greenlet import getcurrent

from greenmq.exceptions import Forked, WouldBlock, WrongHub
from greenmq.runtime.alarms import LONG, Alarms
from greenmq.runtime.clock import FOREVER, Deadline, Timeoutish, monotonic
from greenmq.runtime.epoch import forks
from greenmq.runtime.seam import Handle, library

__all__ = ('Handoff', 'Waiter', 'sleep')

_PENDING, _WOKEN, _FAILED, _EXPIRED, _LEFT = range(5)
_STATES = ('pending', 'woken', 'failed', 'expired', 'left')

# Every parked waiter of the process: a forked child finds here whom to tell.
_parked: set[Waiter] = set()


class _Hold:
    """What keeps one hub waiting, and how many waits without a limit want that."""

    __slots__ = ('count', 'handle')

    def __init__(self, handle: Handle) -> None:
        self.count = 1
        self.handle = handle


# By hub. A forked child begins with none: a hub with nothing left to do must say so there (`tell_waiters`).
_holds: weakref.WeakKeyDictionary[Any, _Hold] = weakref.WeakKeyDictionary()


def _hold(hub: Any) -> bool:
    found = _holds.get(hub)
    if found is None:
        _holds[hub] = _Hold(library.hold(hub))
    else:
        found.count += 1
    return True


def _let_go(hub: Any) -> None:
    found = _holds.get(hub)
    if found is None:
        return  # it was the parent's
    found.count -= 1
    if not found.count:
        del _holds[hub]
        found.handle.close()


class Waiter:
    """A place where one task waits once for one value.

    Arguments:
        what (str): what is waited for, as it shall read in the TimeoutError: "<what> within 5.0 s".
    Attributes:
        task (object): identity of the task while it is parked here, else None.
    """

    __slots__ = ('__weakref__', '_hub', '_state', '_value', 'task', 'what')

    def __init__(self, what: str = 'nothing came') -> None:
        self.what = what
        self._hub = library.get_hub()
        self._state = _PENDING
        self.task: Any = None
        self._value: Any = None

    @property
    def pending(self) -> bool:
        """True while `wake` and `fail` are still accepted."""
        return self._state == _PENDING

    @property
    def expired(self) -> bool:
        """True if the deadline of `wait` ended it, and nothing else."""
        return self._state == _EXPIRED

    def wait(
        self, deadline: Timeoutish = None, decline: Callable[[Any], Any] | None = None, hold: bool = True
    ) -> Any:
        """Wait until woken; at once if that has happened already.

        Arguments:
            deadline (Deadline | float): no limit if None.
            decline (Callable): gets the value of an accepted `wake` back if the wait ends by something else
                after all (a kill, a Timeout of the caller). It must not switch.
            hold (bool): without a limit, keep the hub waiting although nothing else is alive: another native
                thread may bring what is waited for. False for who waits on what keeps the hub by itself.
        Returns:
            object: what `wake` was given.
        Raises:
            TimeoutError: the deadline passed.
            WouldBlock: called in the hub, where nothing can wait.
            WrongHub: made in another thread.
            Forked: this is a copy of the task in a forked child.
        Switches: only if not woken yet. Killed while waiting: later wakes are refused.
        """
        if self._state == _PENDING:  # all of it here: a call of ours more is a tenth of a wait
            hub = self._hub
            task = getcurrent()
            if library.peek_hub() is not hub:
                raise WrongHub('a waiter')
            if task is (hub if library.HUB_IS_GREENLET else hub.greenlet):
                raise WouldBlock('this call', 'spawn')
            if self.task is not None:
                raise RuntimeError(f'{self!r} is waited for by another task already')
            timer = ring = None
            if deadline is not None:
                at = (deadline if deadline.__class__ is Deadline else Deadline.of(deadline)).at
                left = at - monotonic()
                if left < LONG:
                    timer = library.timer(hub, left, self._resume, _EXPIRED, None)
                elif at != FOREVER:
                    try:
                        alarms = hub.greenmq_alarms
                    except AttributeError:
                        alarms = hub.greenmq_alarms = Alarms()
                    ring = alarms.set(hub, self, at)
            self.task = task
            epoch = forks.count
            _parked.add(self)
            # Where nothing else is alive, gevent calls it a deadlock.
            held = hold and timer is None and ring is None and _hold(hub)
            try:
                hub.switch()
                if forks.count != epoch:
                    # Also if it was woken just before the fork: that value is the parent's, not ours to use.
                    raise Forked(self.what)
                if self._state == _PENDING:
                    raise RuntimeError(f'{task!r} was switched to by somebody else, it waited in {self!r}')
            except BaseException as exc:
                self._leave(decline)
                if isinstance(exc, Exception) and forks.count != epoch:
                    # The library found nothing left to run in this child, see `tell_waiters`.
                    raise Forked(self.what) from exc
                raise
            finally:
                self.task = None
                _parked.discard(self)
                if ring is not None:
                    ring.pop(self, None)
                    if not ring:
                        alarms.emptied(ring, at)
                elif timer is not None:
                    timer.close()
                elif held:
                    _let_go(hub)
        if self._state == _WOKEN:
            return self._value
        self._raise(deadline)

    def _leave(self, decline: Callable[[Any], Any] | None) -> None:
        # Accepted but never to be used: without this the slot or message in the value is lost.
        if self._state == _WOKEN and decline is not None:
            decline(self._value)
        self._state = _LEFT

    def _raise(self, deadline: Timeoutish) -> NoReturn:
        if self._state == _FAILED:
            # The traceback refers to this frame, the frame to the waiter: without its part in it the waiter
            # and all that the error knows of are freed at once, not by the collector.
            error, self._value = self._value, None
            try:
                raise error
            finally:
                del error
        raise Deadline.of(deadline).error(self.what)

    def wake(self, value: Any = None) -> bool:
        """End the wait with a value, before or after it began.

        Returns:
            bool: True if accepted; False if the wait has ended, so that the value is still the caller's.
        Raises:
            WrongHub: called in another thread than the waiter was made in; that needs `post`.
        Switches: no. The task runs in the hub's next round.
        """
        # Written out, and not shared with `fail`: this is on the way of every message.
        if self._state != _PENDING:
            return False
        if library.peek_hub() is not self._hub:
            raise WrongHub('a waiter')
        self._state = _WOKEN
        self._value = value
        if self.task is not None:
            library.run_soon(self._hub, self._continue)
        return True

    def fail(self, error: BaseException) -> bool:
        """End the wait with an error, before or after it began.

        Returns:
            bool: True if accepted.
        Raises:
            WrongHub: as for `wake`.
        """
        if self._state != _PENDING:
            return False
        if library.peek_hub() is not self._hub:
            raise WrongHub('a waiter')
        self._state = _FAILED
        self._value = error
        if self.task is not None:
            library.run_soon(self._hub, self._continue)
        return True

    def _continue(self) -> None:
        if self.task is not None:
            self.task.switch()

    def _resume(self, state: int, value: Any) -> None:
        # Runs in the hub (timers, readiness), so it need not queue another callback to switch.
        if self._state == _PENDING:
            self._state = state
            self._value = value
            if self.task is not None:
                self.task.switch()

    def expire(self) -> None:
        """The deadline has passed: for `alarms`. Switches: from the hub to the task and back."""
        self._resume(_EXPIRED, None)

    def ready(self, value: Any = None) -> None:
        """As `wake`, for callbacks that run in the hub: the task runs before this returns.

        Switches: yes, from the hub to the task and back.
        """
        self._resume(_WOKEN, value)

    def __repr__(self) -> str:
        parked = ', parked' if self.task is not None else ''
        return f'<Waiter {self.what!r} {_STATES[self._state]}{parked}>'


def sleep(seconds: float = 0) -> None:
    """Let other tasks run for some seconds; 0 lets each that is ready run once.

    Raises:
        WouldBlock: called in the hub.
        Forked: this is a copy of the task in a forked child.
    Switches: yes. Killed while sleeping: nothing is left behind.
    Source: time.sleep.
    """
    waiter = Waiter('sleep')
    if seconds <= 0:
        library.run_soon(waiter._hub, waiter.ready)
        waiter.wait(hold=False)
        return
    timer = library.timer(waiter._hub, seconds, waiter.ready)
    try:
        waiter.wait(hold=False)
    finally:
        timer.close()


def tell_waiters() -> None:
    """In a forked child: resume every task of this thread that waits, which then raises `Forked`.

    But not the main greenlet: an error there ends the process, and with it the greenlet that forked and whose
    work this child is. It stays parked until nothing else is left to run.
    """
    hub = library.peek_hub()
    for owner, hold in list(_holds.items()):
        if owner is hub:  # the loops of other threads may have been destroyed
            hold.handle.close()
    _holds.clear()
    alarms = getattr(hub, 'greenmq_alarms', None)
    if alarms is not None:
        alarms.forget()
    for waiter in list(_parked):
        if waiter._hub is hub:
            if waiter.task.parent is not None:
                library.run_soon(hub, waiter._continue)
            elif waiter._state == _PENDING:
                waiter._state = _LEFT  # its timer goes off here as well, and shall find nothing to do
                library.when_idle(hub, waiter._continue)
        else:
            # Its thread does not exist here: nobody will ever take it out, and whoever wakes it wakes nobody.
            _parked.discard(waiter)
            waiter._state = _LEFT


class Handoff:
    """A line of waiters to whom values are given in the order in which they came.

    Arguments:
        what (str): as for Waiter.
    Source: greenmq's own; the accept handshake is psycopg_pool's.
    """

    __slots__ = ('_line', 'what')

    def __init__(self, what: str = 'nothing came') -> None:
        self.what = what
        self._line: deque[Waiter] | None = None  # made by the first who waits: empty it takes 760 bytes

    def wait(self, deadline: Timeoutish = None, decline: Callable[[Any], Any] | None = None) -> Any:
        """Wait at the end of the line. Arguments, errors and kills are those of `Waiter.wait`.

        Returns:
            object: what `give` was given.
        Switches: yes.
        """
        waiter = Waiter(self.what)
        line = self._line
        if line is None:
            line = self._line = deque()
        line.append(waiter)
        try:
            return waiter.wait(deadline, decline)
        except BaseException:
            # Given to means taken out of the line; everybody else must leave it, or it grows for ever.
            if waiter._state != _WOKEN:
                leave(line, waiter)
            raise

    def give(self, value: Any = None) -> bool:
        """Give a value to the first in line.

        Returns:
            bool: False if nobody waits: the value is still the caller's.
        """
        line = self._line
        return line is not None and wake_first(line, value) is not None

    def fail_all(self, error: BaseException) -> int:
        """End all the waits with one error.

        Returns:
            int: how many there were.
        """
        line, self._line = self._line, None
        return sum(waiter.fail(error) for waiter in line or ())

    def __len__(self) -> int:
        return sum(waiter._state == _PENDING for waiter in self._line or ())

    def __repr__(self) -> str:
        return f'<Handoff {self.what!r} {len(self)} waiting>'


def wake_first(line: deque[Waiter], value: Any = None) -> Waiter | None:
    """Wake the first in line that accepts, and take it out with those before it that do not.

    Returns:
        Waiter: who accepted; None if nobody did.
    """
    while line:
        # Woken first, taken out after: WrongHub then leaves the line as it was.
        waiter = line[0]
        accepted = waiter.wake(value)
        line.popleft()
        if accepted:
            return waiter
    return None


def leave(line: deque[Waiter], waiter: Waiter) -> None:
    """Take one waiter out of a line, wherever it stands."""
    try:
        line.remove(waiter)
    except ValueError:
        pass  # woken (and so taken out) in the same round in which it was killed
