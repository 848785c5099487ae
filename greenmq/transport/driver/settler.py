"""Settlements of all channels of a session: collected, sent together, and kept until the driver has
returned.

They are collected by group (the queue, or one for all, as the driver's `groups` says) and leave in the
order in which they were given: when a batch is full, when the channel has no more deliveries waiting for
a callback, when the first has waited `settle_hold`, when the channel closes and at the end of the
interpreter. A call that fails or is killed is repeated: settling twice does no harm.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from greenmq import events, runtime
from greenmq.core.retry import RetrySchedule
from greenmq.exceptions import TimeoutError
from greenmq.log import get_logger
from greenmq.transport.driver.contract import DEAD, Driver, Taken
from greenmq.transport.driver.errors import bounded, is_loss, translate
from greenmq.transport.waiters import WaitingLine

__all__ = ('Settler',)

logger = get_logger('greenmq.transport.driver')

#: Tries to settle one delivery that the broker refuses; then it's left to its lease.
TRIES = 5

Entry = tuple[Taken, 'str | None']  # what becomes of it; None: it is done


class _Group:
    """What is to be settled together."""

    __slots__ = ('entries', 'failures', 'key', 'task', 'timer')

    def __init__(self, key: str) -> None:
        self.key = key
        self.entries: list[Entry] = []
        self.failures = 0
        self.task: Any = None
        self.timer: Any = None


class Settler:
    """The settlements of one session.

    Arguments:
        session (Session): held weakly; told of losses and of stale deliveries.
        driver (Driver): whose `settle` is called.
        seconds (float): deadline of one call.
    """

    def __init__(self, session: Any, driver: Driver, seconds: float) -> None:
        self._session = weakref.ref(session)
        self._driver = driver
        self._seconds = seconds
        self._groups: dict[str, _Group] = {}
        self._waiting = WaitingLine()
        self.calls = 0
        self.settled = 0

    @property
    def pending(self) -> int:
        """Settlements that the driver has not confirmed."""
        return sum(len(group.entries) for group in self._groups.values())

    def done(self, taken: Taken, more: int = 0) -> None:
        """This one is done with.

        Arguments:
            more (int): deliveries of the channel that still wait for a callback: their acks may join.
        """
        self._add(taken, None, more)

    def back(self, taken: Taken, fate: str) -> None:
        """This one goes back, as `contract` says of its fate."""
        self._add(taken, None if fate == DEAD and not self._driver.dead_letters else fate, 0)

    def _add(self, taken: Taken, fate: str | None, more: int) -> None:
        if taken.lost:
            if fate is None:
                self._stale(1)
            return
        session = self._session()
        if session is not None:
            session.leases.forget(taken)
        driver = self._driver
        key = taken.queue if driver.groups == 'each' else ''
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(key)
        group.entries.append((taken, fate))
        full = len(group.entries) >= driver.settle_batch
        if full or not more or fate is not None or not driver.settle_hold:
            self._send_soon(group)
        elif group.timer is None and group.task is None:
            group.timer = runtime.call_later(driver.settle_hold, _held, weakref.ref(self), key)

    def flush(self) -> None:
        """Send now what was collected."""
        for group in list(self._groups.values()):
            if group.entries:
                self._send_soon(group)

    def held(self, key: str) -> None:
        """The first settlement of a group has waited long enough."""
        group = self._groups.get(key)
        if group is not None and group.entries:
            self._send_soon(group)

    def _send_soon(self, group: _Group) -> None:
        if group.timer is not None:
            group.timer.cancel()
            group.timer = None
        if group.task is None:
            # Its owner is the session; the driver alone is held while a call is under way.
            group.task = runtime.spawn(
                _send, weakref.ref(self), group, self._driver, self._seconds,
                name='greenmq-settle', owner=self._session(),
                on_exit=partial(_sent, weakref.ref(self), group),
            )  # fmt: skip

    def take_batch(self, group: _Group) -> list[Entry]:
        """What the next call carries; it stays in the group until the call has returned."""
        return group.entries[: self._driver.settle_batch]

    def returned(self, group: _Group, batch: list[Entry], failed: list[tuple[Taken, Any]]) -> None:
        """A call ended well, but for those that failed."""
        del group.entries[: len(batch)]
        group.failures = 0
        self.calls += 1
        self.settled += len(batch) - len(failed)
        stale = 0
        fates = {id(taken): fate for taken, fate in batch}
        again: list[Entry] = []
        for taken, error in failed:
            fate = fates.get(id(taken))
            if error is None:
                stale += fate is None
                taken.lost = True
                continue
            taken.tries += 1
            if taken.tries < TRIES:
                again.append((taken, fate))
            else:
                logger.error('%r could not be settled, and will be delivered again: %r', taken, error)
        group.entries[:0] = again
        if again:
            group.failures += 1
        if stale:
            self._stale(stale)
        if not group.entries and self._groups.get(group.key) is group:  # a loss may have begun another
            del self._groups[group.key]
        if not self.pending:
            self._waiting.wake()

    @property
    def epoch(self) -> int:
        """That of the session."""
        session = self._session()
        return 0 if session is None else session.epoch

    def failed(self, group: _Group, error: Exception, epoch: int) -> float | None:
        """A call of an epoch failed: seconds until the next; None if the recovery sends it."""
        group.failures += 1
        session = self._session()
        if session is not None:
            if is_loss(error):
                session.lost(error, epoch)
                if session.state == 'lost':
                    return None
            else:
                session.report(error)
        return RetrySchedule(None, 0.1, 0.4, 10.0, jitter=0.2).delay(group.failures)

    def may_send(self) -> bool:
        """Is there a connection to send on?"""
        session = self._session()
        return session is not None and session.state in ('open', 'closing')

    def ended(self, group: _Group) -> None:
        """The task of a group has ended."""
        group.task = None
        if group.entries and self.may_send():
            self._send_soon(group)

    def _stale(self, count: int) -> None:
        session = self._session()
        events.emit('stale_ack', source=session, count=count)
        logger.warning(
            '%s: %d acknowledgements came after the lease had ended; those messages were delivered again',
            session, count,
        )  # fmt: skip

    def wait(self, deadline: runtime.Deadline) -> bool:
        """Send all, and wait until the driver has it.

        Returns:
            bool: False if it was not in time, or there is no connection to send it on.
        Switches: only if something is to be sent. Killed: it is still sent.
        """
        self.flush()
        while self.pending and self.may_send():
            try:
                self._waiting.wait(deadline, 'settlements were not confirmed')
            except TimeoutError:
                return False
        return not self.pending

    def wait_for(self, queue: str, deadline: runtime.Deadline) -> None:
        """Wait until what goes back to a queue is there: who looks into it now wants to find it.

        Switches: only if something goes back.
        """
        group = self._groups.get(queue if self._driver.groups == 'each' else '')
        if group is not None and any(fate is not None for _, fate in group.entries):
            self.wait(deadline)

    def lost(self) -> None:
        """The connection was lost: whoever waits for settlements waits in vain."""
        if not self._driver.survives_loss:
            dropped = sum(fate is None for group in self._groups.values() for _, fate in group.entries)
            for group in self._groups.values():
                group.entries.clear()
            self._groups.clear()
            if dropped:
                self._stale(dropped)
        self._waiting.wake()

    def __repr__(self) -> str:
        return f'<Settler: {self.pending} to settle, {self.settled} settled in {self.calls} calls>'


def _held(ref: Callable[[], Settler | None], key: str) -> None:
    settler = ref()
    if settler is not None:
        settler.held(key)


def _sent(
    ref: Callable[[], Settler | None], group: _Group, task: runtime.Task, error: BaseException | None
) -> None:
    settler = ref()
    if settler is not None and group.task is task:
        settler.ended(group)


def _send(ref: Callable[[], Settler | None], group: _Group, driver: Driver, seconds: float) -> None:
    while True:
        settler = ref()
        if settler is None or not settler.may_send():
            return
        batch, epoch = settler.take_batch(group), settler.epoch
        del settler
        if not batch:
            return
        done = [taken for taken, fate in batch if fate is None]
        back = [(taken, fate) for taken, fate in batch if fate is not None]
        pause: float | None = 0.0
        try:
            # One second more than the driver is given: a call that does not keep its deadline is killed.
            failed = list(
                bounded(
                    'settle', runtime.Deadline.after(seconds + 1.0), driver.settle,
                    done, back, runtime.Deadline.after(seconds),
                ) or ()
            )  # fmt: skip
        except Exception as error:  # told to the drains, and tried again
            settler = ref()
            if settler is None:
                return
            pause = settler.failed(group, translate(driver, error)[0], epoch)
        else:
            settler = ref()
            if settler is None:
                return
            settler.returned(group, batch, failed)
            pause = 0.1 * group.failures if group.failures else 0.0
        del settler
        if pause is None:
            return
        if pause:
            runtime.sleep(pause)
