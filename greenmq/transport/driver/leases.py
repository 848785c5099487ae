"""Leases of what was taken and is not settled: renewed by age, in batches, whether in work or waiting for
it.

A lease is renewed when a third of it is over, so one that was settled sooner costs nothing. One that
could not be renewed in time is lost: it is never handed to a callback, and its ack is told as stale
(P36).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from greenmq import events, runtime
from greenmq.log import get_logger
from greenmq.transport.driver.contract import Driver, Taken
from greenmq.transport.driver.errors import bounded, is_loss, translate

__all__ = ('Leases',)

logger = get_logger('greenmq.transport.driver')


class Leases:
    """The leases of one session, the one that was renewed longest ago first: all that is out and not settled.

    Arguments:
        driver (Driver): whose `extend` is called; its `lease_seconds` may change when it learns more.
    Attributes:
        keeps (bool): is there anything to know of what is out? Not where leases are not ours to keep, and
            deliveries outlive a loss.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.keeps = self.seconds is not None or not driver.survives_loss
        self._held: OrderedDict[int, Taken] = OrderedDict()
        self._keeper: Any = None
        self._pace: float | None = None  # seconds of a lease that the keeper looks for
        self.renewals = 0

    @property
    def seconds(self) -> float | None:
        """Of a lease; None if there are none to keep."""
        return self._driver.lease_seconds

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, taken: Taken, session: Any) -> None:
        """A lease to keep, from now on."""
        self._held[id(taken)] = taken
        seconds = self._driver.lease_seconds
        if seconds is None:
            return
        if self._keeper is not None and not self._keeper.done:
            if seconds == self._pace:
                return
            self._keeper.kill()
        self._pace = seconds
        self._keeper = runtime.every(session, seconds / 12, _renew, name='greenmq-lease')

    def forget(self, taken: Taken) -> None:
        """It is settled, or goes back."""
        self._held.pop(id(taken), None)

    def has(self, taken: Taken) -> bool:
        """Is this lease being kept?"""
        return id(taken) in self._held

    def due(self, now: float) -> list[Taken]:
        """The leases of which a third is over."""
        assert self.seconds is not None
        found = []
        for taken in self._held.values():
            if now - taken.renewed < self.seconds / 3:
                break
            found.append(taken)
        return found

    def renew(self, session: Any) -> None:
        """Renew what is due. Switches: yes, if anything is. Killed: the next round does it."""
        assert self.seconds is not None
        due = self.due(runtime.monotonic())
        size = max(self._driver.settle_batch, 1)
        for at in range(0, len(due), size):
            part = self._extendable([taken for taken in due[at : at + size] if self.has(taken)], session)
            if part:
                self._extend(part, session)

    def _extendable(self, takens: list[Taken], session: Any) -> list[Taken]:
        limit, seconds = self._driver.lease_limit, self.seconds or 0.0
        if limit is None:
            return takens
        now = runtime.monotonic()
        found = []
        for taken in takens:
            if now + seconds - taken.since <= limit:
                found.append(taken)
            elif now - taken.renewed >= seconds:
                self.end(taken, session, f'the broker lends a message for {limit:g} s at most')
        return found

    def _extend(self, takens: list[Taken], session: Any) -> None:
        seconds, driver, epoch = self.seconds or 0.0, self._driver, session.epoch
        began = runtime.monotonic()
        deadline = runtime.Deadline.after(seconds / 3)
        try:
            gone = bounded('renew leases', deadline, driver.extend, takens, seconds, deadline)
        except Exception as error:  # the next round may succeed; the drains learn of it
            ours = translate(driver, error)[0]
            session.lost(ours, epoch) if is_loss(ours) else session.report(ours)
            for taken in takens:
                if runtime.monotonic() - taken.renewed >= seconds:
                    self.end(taken, session, str(ours))
            return
        self.renewals += 1
        for taken in gone or ():
            self.end(taken, session, 'the broker gave it to somebody else')
        for taken in takens:
            taken.renewed = began
            if self.has(taken):
                self._held.move_to_end(id(taken))

    def end(self, taken: Taken, session: Any, why: str) -> None:
        """A lease is lost."""
        if self._held.pop(id(taken), None) is None:
            return
        taken.lost = True
        logger.warning('%s: the lease of a message of %r is lost: %s', session, taken.queue, why)
        events.emit('lease_lost', source=session, queue=taken.queue, reason=why)

    def end_all(self) -> list[Taken]:
        """The connection was lost, and the deliveries with it."""
        held, self._held = list(self._held.values()), OrderedDict()
        for taken in held:
            taken.lost = True
        return held

    def stop(self) -> None:
        """Renew no more."""
        if self._keeper is not None:
            self._keeper.kill()
        self._held.clear()

    def __repr__(self) -> str:
        return f'<Leases: {len(self._held)} of {self.seconds} s, {self.renewals} renewals>'


def _renew(session: Any) -> bool:
    leases: Leases = session.leases
    if session.state == 'open':
        leases.renew(session)
    return len(leases) > 0
