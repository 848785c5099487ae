"""What fetches for one group while there is room; `intake` says how pollers come and go.

A poller is no task: it is kicked, starts a take in a task of its own, and hears of its end. So nothing waits
but takes, and a poller that nobody has any more leaves nothing behind.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any

from greenmq import runtime
from greenmq.core.retry import RetrySchedule
from greenmq.exceptions import TimeoutError
from greenmq.log import get_logger
from greenmq.transport.driver.contract import Driver, Taken
from greenmq.transport.driver.errors import is_loss, translate
from greenmq.transport.driver.flight import Flight, run

__all__ = ('Poller', 'full_since')

logger = get_logger('greenmq.transport.driver')

#: Seconds to wait after a take that returned at once with nothing, although it should have waited; and the
#: first pause between two looks.
HASTY = 0.01
#: Seconds that a take may be late before it's ended.
GRACE = 10.0
#: Seconds that a take waits where queues must share a prefetch that is smaller than their number.
CROWDED = 1.0

_turns = itertools.count(1)

#: What keeps a channel in a poller's list without keeping it alive, and the room that is reserved there.
Reserved = list[Any]


class Poller:
    """What fetches for one group.

    Attributes:
        state (str): idle, taking, full (no room), resting (between two looks), backoff (it failed), paused
            (there is no connection).
        stopped (bool): nobody wants what it fetches any more.
    """

    def __init__(self, intake: Any, key: Any, channel: Any) -> None:
        self._intake = weakref.ref(intake)
        self._channel = None if channel is None else weakref.ref(channel)
        self.key = key
        self.state = 'idle'
        self.flight: Flight | None = None
        self.reserved: list[Reserved] = []
        self.asks = intake.driver.take_batch  # messages to ask for, where queues share a prefetch
        self.wanted_at = 0.0  # delivery 'push': when it asked for messages last
        self.looks = 0  # takes that ended
        self.full_since = 0  # a number that grows: who has waited longest for room comes first
        self._failures = 0
        self._pause = HASTY
        self._timer: Any = None
        self._asked = 0  # delivery 'push': what was wanted last
        self._again = False
        self.stopped = False

    # ---- whose

    def channels(self, session: Any) -> list[Any]:
        """The channels that it fetches for."""
        if self._channel is not None:
            channel = self._channel()
            return [] if channel is None or channel.closed else [channel]
        return [channel for channel in session.channels if channel.books.takes(self.key)]

    def queues(self, session: Any) -> list[str]:
        """The queues that it fetches from."""
        if self._channel is None:
            return [self.key]
        channel = self._channel()
        return [] if channel is None or channel.closed else channel.books.queues

    # ---- room

    def _reserve(self, session: Any) -> tuple[int, bool]:
        """Reserve room for one take: how many messages, and whether queues share too small a prefetch."""
        driver: Driver = session.driver
        total, crowded = 0, False
        pushed = driver.delivery == 'push'
        if self._asked:
            self.reserved = [entry for entry in self.reserved if entry[1]]
        limit = max(driver.take_batch, 1)
        for channel in self.channels(session):
            books = channel.books
            books.starved = books.starved or pushed  # asked for again while there is some room left
            room = books.room()
            if not room or not books.low():
                books.starved = True
                continue
            if self._channel is None:
                queues = len(books.queues)
                if pushed:
                    # What one queue holds is wanted by none: only so much that each of the others has some.
                    crowded = crowded or not books.share
                    room = min(room, max(books.share, 1))
                else:
                    crowded = crowded or room < queues
                    if queues > 1:
                        room = min(room, self.asks, max(room - queues + 1, 1))
            room = min(room, limit - total)
            if room > 0:
                books.reserve(room)
                entry = self.held_for(channel) if self.reserved else None
                if entry is None:
                    self.reserved.append([weakref.ref(channel), room])
                else:
                    entry[1] += room
                total += room
                # Others of its queues may follow soon: the first take keeps no room from them for long.
                crowded = crowded or not (self.looks or pushed or self._channel or books.room())
        return total, crowded

    def release(self) -> None:
        """Give the reserved room back."""
        reserved, self.reserved = self.reserved, []
        for reference, room in reserved:
            channel = reference()
            if channel is not None:
                channel.books.release(room)

    def use_one(self, queue: str) -> tuple[Any, Any]:
        """Whose turn the next message of a queue is; the room for it is used up."""
        for at, entry in enumerate(self.reserved):
            channel = entry[0]()
            if entry[1] <= 0 or channel is None or channel.closed or not channel.books.flowing:
                continue
            sub = channel.books.next_taker(queue, 1)
            if sub is None:
                continue
            entry[1] -= 1
            if len(self.reserved) > 1:
                self.reserved.append(self.reserved.pop(at))  # the next one is another's
            return channel, sub
        return None, None

    # ---- fetching

    @property
    def left(self) -> int:
        """Messages that may still come of those that were asked for."""
        return sum(entry[1] for entry in self.reserved)

    def kick(self) -> None:
        """There may be room, or a message."""
        if self._asked and self.left * 2 > self._asked:
            return  # delivery 'push': asked for again at half, not one by one
        if self.state == 'resting':
            self._pause = HASTY
            self._stop_timer()
        if self.state != 'backoff':
            self._step()

    def again(self) -> None:
        """A take has ended: the next one, unless there is a pause."""
        if self._again:
            self.kick()
        elif self.state not in ('resting', 'backoff'):
            self._step()

    def _step(self) -> None:
        if self.flight is not None:
            self._again = True
            return
        intake = self._intake()
        session = intake.session() if intake is not None else None
        if intake is None or session is None or self.stopped or self._timer is not None:
            return
        if session.state != 'open':
            self.state = 'paused'
            return
        n, crowded = self._reserve(session)
        if not n:
            if any(entry[1] for entry in self.reserved):
                return  # delivery 'push': what was asked for may still come
            self.release()
            if self.state != 'full':
                self._fill(intake)
                self.full_since = next(_turns)
            if session.driver.delivery != 'push' or not self._take_over(intake, session):
                return
            n, crowded = self._reserve(session)
            if not n:
                self.release()
                return
        driver: Driver = session.driver
        if driver.delivery == 'push':
            self._want(driver, crowded)
            return
        seconds = 0.0 if driver.delivery == 'poll' else driver.wait_seconds
        if crowded:
            seconds = min(seconds, CROWDED)
        self._fly(intake, session, n, seconds)

    def _take_over(self, intake: Any, session: Any) -> bool:
        """Delivery 'push': have room that other queues hold and do not use; True if there is some now.

        First what is more than their share. Else one has to do without for a while, that has used its part
        the longest ago: so one busy queue among idle ones is not held up by them.
        """
        self._asked = 0
        found = False
        for channel in self.channels(session):
            books = channel.books
            if not books.flowing or not books.low():
                continue
            held = [(other, other.held_for(channel)) for other in intake.others(self)]
            keep = max(books.share, 1)
            for other, entry in held:
                if entry is not None and entry[1] > keep:
                    other.lend(entry, keep)
                    found = True
            if not found and books.prefetch_count:
                idle = [(other.wanted_at, at) for at, (other, entry) in enumerate(held)
                        if entry is not None and entry[1]]
                if idle:
                    other, entry = held[min(idle)[1]]
                    other.lend(entry, entry[1] - 1)
                    found = True
        return found

    def held_for(self, channel: Any) -> Reserved | None:
        """The room that it holds in the books of a channel."""
        return next((entry for entry in self.reserved if entry[0]() is channel), None)

    def forget(self, channel: Any) -> None:
        """Delivery 'push': a channel consumes no more; what it had asked for is asked for no more."""
        entry = self.held_for(channel)
        if entry is not None:
            self.lend(entry, 0)
            self.reserved.remove(entry)
            self._stop_timer()
            self._step()

    def lend(self, entry: Reserved, keep: int) -> None:
        """Delivery 'push': leave room to another queue; what comes all the same is given back."""
        intake, channel = self._intake(), entry[0]()
        if intake is None or channel is None:
            return
        channel.books.release(entry[1] - keep)
        entry[1] = keep
        self._asked = self.left
        intake.driver.want(self.key, self._asked)
        if not self._asked:
            self._fill(intake)
            self.full_since = next(_turns)
            self._stop_timer()
            self._timer = runtime.call_later(CROWDED, _yield_turn, weakref.ref(self))

    def _want(self, driver: Driver, crowded: bool) -> None:
        self.state = 'taking'
        self.wanted_at = runtime.monotonic()
        self._asked = self.left
        driver.want(self.key, self._asked)
        if crowded:
            self._timer = runtime.call_later(CROWDED, _yield_turn, weakref.ref(self))

    def yield_turn(self) -> None:
        """Let another queue have the room, where they share too little."""
        self._timer = None
        intake = self._intake()
        if intake is not None and not self.stopped:
            self.let_go()
            intake.kick_others(self)
            self._step()

    def let_go(self) -> None:
        """Delivery 'push': want nothing for now. What comes all the same is given back."""
        intake = self._intake()
        if intake is not None:
            intake.driver.want(self.key, 0)
            self._fill(intake)
        self._asked = 0
        self.release()

    def _fill(self, intake: Any) -> None:
        self.state = 'full'
        intake.full.add(self)

    def arrived(self, takens: list[Taken], session: Any) -> None:
        """Delivery 'push': messages came."""
        self._hand_out(takens, session)
        if self._timer is None:
            self.kick()

    def _fly(self, intake: Any, session: Any, n: int, seconds: float) -> None:
        self.state = 'taking'
        self._again = False
        driver: Driver = session.driver
        flight = self.flight = Flight(self, driver, session.epoch)
        queues = self.queues(session)
        if driver.begin is not None and flight.begun(driver.begin, queues, n, intake.max_bytes, seconds):
            return
        flight.task = runtime.spawn(
            run, flight, queues, n, intake.max_bytes, seconds,
            name=f'greenmq-take {self.key if self._channel is None else "all"}',
            owner=None if driver.uncut else session,
            on_exit=lambda task, error: flight.ended(),
        )  # fmt: skip
        flight.timer = runtime.call_later(
            seconds + GRACE, _overdue, weakref.ref(self), weakref.ref(flight.task)
        )

    def took(self, flight: Flight, takens: list[Taken]) -> bool:
        """A take ended well. False if nobody wants what it brought any more: it goes back."""
        intake = self._intake()
        session = intake.session() if intake is not None else None
        if intake is None or session is None or session.state in ('closing', 'closed', 'foreign'):
            return False
        if session.has_given_back(flight.epoch):
            return True  # they are for others, or come again
        self._failures = 0
        intake.calls += 1
        intake.taken += len(takens)
        self._hand_out(takens, session)
        self.asks = min(self.asks * 4, flight.driver.take_batch) if takens else 1
        if takens:
            self._pause = HASTY
            return True
        if flight.driver.delivery == 'poll' and not self._again:
            self._rest(self._pause)
            self._pause = min(self._pause * 2, max(intake.polling_interval, HASTY))
        elif flight.driver.delivery != 'poll' and runtime.monotonic() - flight.began < HASTY:
            self._rest(HASTY)
        return True

    def _hand_out(self, takens: list[Taken], session: Any) -> None:
        hold = session.leases.hold if session.leases.keeps else None
        envelope = session.arrival.envelope
        channel: Any = None
        for taken in takens:
            if hold is not None:
                hold(taken, session)
            # The next one of the same channel, where there is no other to take turns with: most are.
            if channel is not None and len(self.reserved) == 1 and channel.books.flowing:
                entry, sub = self.reserved[0], None
                if entry[1] > 0 and not channel.closed:
                    sub = channel.books.next_taker(taken.queue, 1)
                if sub is None:
                    channel = None
                else:
                    entry[1] -= 1
            else:
                channel, sub = self.use_one(taken.queue)
            if channel is None:
                session.intake.unwanted[taken.queue] += 1
                session.give_back([taken])
                continue
            message = envelope(taken, session)
            if message is not None:
                channel.deliveries.accept(channel, taken, message, sub)

    def failed(self, flight: Flight, error: Exception) -> None:
        """A take failed."""
        ours = translate(flight.driver, error)[0]
        intake = self._intake()
        session = intake.session() if intake is not None else None
        if session is None or session.epoch != flight.epoch:
            return  # of a connection that is gone: the next take follows at once
        self._failures += 1
        self.state = 'backoff'
        logger.warning('%s could not fetch, and tries again: %r', session.name, ours)
        if is_loss(ours):
            session.lost(ours, flight.epoch)  # which tells the drains; its recovery kicks us
            if session.state != 'open':
                self.state = 'paused'
                return
        session.report(ours)
        self._start_timer(RetrySchedule(None, 0.1, 0.4, 10.0, jitter=0.2).delay(self._failures))

    def ended(self, flight: Flight) -> None:
        """The take's task has ended, in whatever way."""
        if self.flight is not flight:
            return
        self.flight = None
        self.looks += 1
        self.release()
        if self.state == 'taking':
            self.state = 'idle'
        intake = self._intake()
        if intake is not None:
            intake.looked()
            intake.kick_others(self)
            if self.stopped:
                intake.forget(self)
            else:
                # First their callbacks: they start earlier, and what they settle leaves with the next take.
                runtime.run_soon(_again, weakref.ref(self))

    def overdue(self) -> None:
        """The driver does not keep its time."""
        flight = self.flight
        if flight is not None:
            self.failed(flight, TimeoutError('a take was not answered in time'))
            flight.kill()

    def recovered(self) -> None:
        """There is a connection again."""
        self._stop_timer()
        self._failures = 0
        self.state = 'idle' if self.flight is None else 'taking'
        self._step()

    def lost(self) -> None:
        """The connection is gone, with what was asked for."""
        self._stop_timer()
        self._asked = 0
        self.state = 'paused'
        if self.flight is None:
            self.release()

    def _rest(self, seconds: float) -> None:
        self.state = 'resting'
        self._start_timer(seconds)

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = runtime.call_later(seconds, _rested, weakref.ref(self))

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def rested(self) -> None:
        """A pause is over."""
        self._timer = None
        self.state = 'idle'
        self._step()

    def restart(self) -> Flight | None:
        """The queues have changed: a take for the old ones ends, if it may be cut.

        Returns:
            Flight: of the old ones, if there is one; not the next, which has no reason to end soon.
        """
        flight = self.flight
        if flight is not None and not flight.driver.uncut and flight.driver.delivery != 'poll':
            flight.kill()
        self._pause = HASTY
        self.kick()
        return flight

    def leave(self) -> None:
        """Fetch no more: the session goes on in another thread. Its own timers find it stopped."""
        self.stopped = True
        self.release()
        if self.flight is not None:
            self.flight.leave()

    def stop(self) -> Flight | None:
        """Fetch no more; the take under way, if there is one."""
        self.stopped = True
        self._stop_timer()
        flight = self.flight
        intake = self._intake()
        if intake is not None and intake.driver.delivery == 'push':
            self.let_go()
        if flight is not None and not flight.driver.uncut:
            flight.kill()
        return flight

    def go_on(self) -> None:
        """Fetch again after all."""
        self.stopped = False
        self.kick()


# What tasks and timers call: none of it keeps a poller or a session alive while it waits.


def full_since(poller: Poller) -> tuple[bool, int]:
    """What sorts those first that wait for room, the longest first."""
    return poller.state != 'full', poller.full_since


def _overdue(ref: Any, task: Any) -> None:
    poller = ref()
    if poller is not None and poller.flight is not None and poller.flight.task is task():
        poller.overdue()


def _again(ref: Any) -> None:
    poller = ref()
    if poller is not None:
        poller.again()


def _rested(ref: Any) -> None:
    poller = ref()
    if poller is not None:
        poller.rested()


def _yield_turn(ref: Any) -> None:
    poller = ref()
    if poller is not None:
        poller.yield_turn()
