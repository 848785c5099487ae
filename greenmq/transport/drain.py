"""The events of one connection that wait for a callback, and the greenlets that wait for an event.

Theory of operation
-------------------
Every channel of the connection has a *lane*, a queue of its own. A lane is *ready* when it holds events and
none of its callbacks is running. Ready lanes stand in a ring, so that one busy channel cannot starve the
rest.

``drain`` takes one event of the first ready lane and calls the handler in the caller's greenlet. Meanwhile
the lane belongs to that greenlet: nobody else takes from it, so the callbacks of a channel never overlap.
Only the owner may, when its callback drains again.

A wake-up carries no event: it says "look again". So an event is never in the hands of a greenlet that may die
before it runs; what a killed drainer leaves behind is a wake-up, and that is passed on to the next one.

A drainer that finds nothing returns as soon as any other greenlet has finished handling an event: kombu
programs wait for their reply in ``while not reply: drain_events()``, and the reply may have been handled by a
neighbour.

A lane may be *private*: from the first ``drain_lane`` on it stands in no ring, and only the one greenlet that
drains it takes from it. So a consumer with a greenlet of its own waits for nobody else's callbacks.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from queue import Empty
from typing import Any, Generic, TypeVar

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed, TimeoutError

__all__ = ('Drain', 'drain_once')

E = TypeVar('E')


class _Lane(Generic[E]):
    """The waiting events of one channel, and the greenlet that runs its callback now."""

    __slots__ = (
        'depth', 'dropped', 'events', 'key', 'notice', 'outer', 'owner', 'private', 'queued', 'sizes',
        'waiter',
    )  # fmt: skip

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.events: deque[E] = deque()
        self.sizes: deque[int] = deque()
        self.owner: object = None
        self.outer: _Lane[E] | None = None  # the owner's enclosing lane, when drains are nested
        self.depth = 0
        self.queued = False  # stands in the ring
        self.dropped = False  # discarded while its callback ran: forget it at the end
        self.private = False  # one greenlet drains it, see `drain_lane`
        self.waiter: Any = None  # that greenlet's, while it waits
        self.notice: BaseException | None = None  # what it was to be told while it was busy


class _Notice:
    """Stands among the waiters, and takes no wake-up for itself."""

    __slots__ = ('_call',)

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def wake(self, told: object = None) -> bool:
        self._call()
        return False


class Drain(Generic[E]):
    """The event queue of one connection.

    Arguments:
        name (str): what the time-out message calls the connection.

    All methods belong to one hub; from another native thread go through ``runtime.post``. Only `drain`
    switches.
    """

    def __init__(self, name: str = 'connection') -> None:
        self.name = name
        self.pending = 0
        self.pending_bytes = 0
        self.handled = 0
        self._lanes: dict[Hashable, _Lane[E]] = {}
        self._ring: deque[_Lane[E]] = deque()
        self._inner: dict[object, _Lane[E]] = {}  # running greenlet -> its innermost lane
        self._waiters: OrderedDict[Any, object] = (
            OrderedDict()
        )  # runtime Waiter -> its greenlet, in order of arrival
        self._nested: dict[object, Any] = {}  # greenlet waiting inside its own callback -> its Waiter
        self._private: dict[_Lane[E], None] = {}
        self._error: BaseException | None = None
        self._notice: BaseException | None = None

    # ------------------------------------------------------------- producers

    def put(self, key: Hashable, event: E, size: int = 0) -> None:
        """Append an event of channel `key`; wake one drainer if one waits.

        Arguments:
            key: the channel, any hashable.
            event: what the handler of `drain` will get.
            size (int): bytes it keeps in memory, for `pending_bytes`.
        """
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(key)
        lane.events.append(event)
        lane.sizes.append(size)
        self.pending += 1
        self.pending_bytes += size
        if lane.owner is not None:
            if self._nested:
                waiter = self._nested.get(lane.owner)
                if waiter is not None:
                    waiter.wake()
        elif lane.private:
            if lane.waiter is not None:
                lane.waiter.wake()
        else:
            if lane.queued:
                return  # whoever was woken for this lane comes, or passes the wake-up on
            lane.queued = True
            self._ring.append(lane)
            if self._waiters:
                self._wake_one()

    def fail(self, error: BaseException) -> None:
        """End every drain, those waiting now and all later ones, with `error` until `revive`."""
        self._error = error
        self._wake_all()
        for lane in self._private:
            if lane.waiter is not None:
                lane.waiter.wake()

    @property
    def failed(self) -> bool:
        """True between `fail` and `revive`."""
        return self._error is not None

    @property
    def in_use(self) -> bool:
        """Does a greenlet wait here, or run a callback?"""
        if self._waiters or self._nested or self._inner:
            return True
        return any(lane.waiter is not None for lane in self._private)

    def revive(self) -> None:
        """Let drains work again after `fail`."""
        self._error = self._notice = None
        for lane in self._private:
            lane.notice = None

    def report(self, error: BaseException) -> None:
        """End the drains that wait now with `error`; if none does, the next one. Later drains work.

        Whoever drains a private lane is told in any case, one that is busy when it comes back.
        """
        waiters, self._waiters = self._waiters, OrderedDict()
        told = [waiter for waiter in waiters if waiter.wake(error)]
        for lane in self._private:
            lane.notice = error
            if lane.waiter is not None:
                lane.waiter.wake()
        if not told and not self._private:
            self._notice = error

    def notify(self, call: Callable[[], None]) -> Callable[[], None]:
        """Call once, without a switch, when the next event or error comes: whoever is called drains then.

        Waiters are woken as if it were not there, since it may not drain.
        Returns:
            Callable[[], None]: takes the request back.
        """
        notice = _Notice(call)
        self._waiters[notice] = None

        def cancel() -> None:
            self._waiters.pop(notice, None)

        return cancel

    def waiting(self, key: Hashable) -> int:
        """How many events of channel `key` no callback has begun."""
        lane = self._lanes.get(key)
        return 0 if lane is None else len(lane.events)

    def count(self, key: Hashable, wanted: Callable[[E], bool]) -> int:
        """How many of the waiting events of channel `key` are such that `wanted` is true."""
        lane = self._lanes.get(key)
        return 0 if lane is None else sum(map(wanted, lane.events))

    def waiting_events(self, key: Hashable) -> list[E]:
        """Those events of channel `key`, oldest first."""
        lane = self._lanes.get(key)
        return [] if lane is None else list(lane.events)

    def discard(self, key: Hashable) -> list[E]:
        """Forget channel `key` and return the events it still had, oldest first."""
        lane = self._lanes.get(key)
        if lane is None:
            return []
        events = list(lane.events)
        self.pending -= len(events)
        self.pending_bytes -= sum(lane.sizes)
        lane.events.clear()
        lane.sizes.clear()
        self._private.pop(lane, None)
        if lane.owner is None:
            del self._lanes[key]
        if lane.owner is not None or lane.private:
            lane.dropped = True
        if lane.waiter is not None:
            lane.waiter.wake()
        return events

    def remove(self, key: Hashable, wanted: Callable[[E], bool]) -> list[E]:
        """Take out the waiting events of channel `key` for which `wanted` is true, oldest first."""
        lane = self._lanes.get(key)
        if lane is None:
            return []
        taken, kept, sizes = [], deque[E](), deque[int]()
        for event, size in zip(lane.events, lane.sizes, strict=True):
            if wanted(event):
                taken.append(event)
                self.pending_bytes -= size
            else:
                kept.append(event)
                sizes.append(size)
        lane.events, lane.sizes = kept, sizes
        self.pending -= len(taken)
        return taken

    # ------------------------------------------------------------- consumers

    def drain(self, handle: Callable[[E], Any], timeout: float | runtime.Deadline | None = None) -> None:
        """Handle one event in this greenlet, or return when another greenlet has handled one meanwhile.

        Arguments:
            handle: called with the event; what it raises comes out of this drain, and the event counts as
                handled.
            timeout (float): seconds to wait for an event; None waits for ever, 0 lets the other greenlets run
                once.
        Raises:
            TimeoutError: nothing came in time (from here).
            Exception: what `fail` or `report` was given.
        Switches: yes, unless an event is ready. Killed while waiting: no event is lost.
        """
        if self._error is not None or self._notice is not None:
            self._raise()
        me = runtime.current()
        ring = self._ring
        lane: _Lane[E] | None
        if ring and not self._inner and ring[0].events and ring[0].owner is None:
            lane = ring.popleft()  # what `_take` would find, without the call: nearly always so
            lane.queued = False
        else:
            lane = self._take(me)
            if lane is None:
                lane = self._wait(me, timeout)
                if lane is None:
                    return
        self._run(lane, me, handle)

    def drain_lane(
        self, key: Hashable, handle: Callable[[E], Any], timeout: float | runtime.Deadline | None = None
    ) -> None:
        """Handle one event of channel `key` in this greenlet; from now on nobody else gets its events.

        For a greenlet that serves one channel alone: no two may wait for the same one.

        Arguments:
            key: the channel, as for `put`.
            handle: as for `drain`.
            timeout (float): as for `drain`.
        Raises:
            TimeoutError: nothing came in time (from here).
            ConnectionClosed: the channel was discarded meanwhile.
            Exception: what `fail` or `report` was given.
        Switches: yes, unless an event is ready. Killed while waiting: no event is lost.
        """
        me = runtime.current()
        lane = self._lanes.get(key)
        if lane is None or not lane.private:
            lane = self._claim(key)
        if not lane.events or lane.owner is not None or lane.notice is not None or self._error is not None:
            self._wait_lane(lane, me, timeout)
        self._run(lane, me, handle)

    def drain_waiting(self, key: Hashable, handle: Callable[[E], Any]) -> bool:
        """Handle one event of channel `key` in this greenlet if there is one, and nobody is handling another.

        For helpers of the greenlet that calls `drain_lane`: they may be many, since none of them waits here.

        Arguments:
            key, handle: as for `drain_lane`.
        Returns:
            bool: False if there was nothing to do, or if there is an error for `drain_lane` to raise.
        Switches: as the handler.
        """
        lane = self._lanes.get(key)
        if lane is None or not lane.events or lane.owner is not None:
            return False
        if lane.notice is not None or self._error is not None or not lane.private:
            return False
        self._run(lane, runtime.current(), handle)
        return True

    def _claim(self, key: Hashable) -> _Lane[E]:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(key)
        lane.private = True
        lane.notice, self._notice = self._notice, None
        self._private[lane] = None
        if lane.queued:
            self._ring.remove(lane)
            lane.queued = False
        return lane

    def _wait_lane(self, lane: _Lane[E], me: object, timeout: float | runtime.Deadline | None) -> None:
        deadline = runtime.Deadline.of(timeout)
        while True:
            if self._error is not None:
                raise runtime.again(self._error)
            if lane.notice is not None:
                error, lane.notice = lane.notice, None
                raise runtime.again(error)
            if lane.dropped:
                raise ConnectionClosed(f'{self.name}: the channel was closed')
            if lane.events and (lane.owner is None or lane.owner is me):
                return
            deadline.check(f'{self.name}: no message or other event came')
            waiter = lane.waiter = runtime.Waiter()
            try:
                waiter.wait(deadline)
            except TimeoutError:
                continue  # looks once more, then says so itself
            finally:
                if lane.waiter is waiter:
                    lane.waiter = None

    def _run(self, lane: _Lane[E], me: object, handle: Callable[[E], Any]) -> None:
        # no switch from taking the lane to here
        event = lane.events.popleft()
        size = lane.sizes.popleft()
        self.pending -= 1
        self.pending_bytes -= size
        inner = self._inner
        if lane.depth == 0:
            lane.owner = me
            lane.outer = inner.get(me)
            inner[me] = lane
        lane.depth += 1
        try:
            handle(event)
        finally:
            self._finish(lane, me)

    def _finish(self, lane: _Lane[E], me: object) -> None:
        # Also after a kill inside the callback: nothing here switches, so nothing here can be cut.
        lane.depth -= 1
        if lane.depth == 0:
            outer = lane.outer
            if outer is None:
                del self._inner[me]
            else:
                self._inner[me] = outer
                lane.outer = None
            lane.owner = None
            if lane.dropped and not lane.events:
                if self._lanes.get(lane.key) is lane:
                    del self._lanes[lane.key]
            elif lane.private:
                if lane.waiter is not None and lane.events:
                    lane.waiter.wake()
            elif lane.events and not lane.queued:
                lane.queued = True
                self._ring.append(lane)
        self.handled += 1
        if self._waiters:
            self._wake_all()

    def _take(self, me: object) -> _Lane[E] | None:
        """The lane whose first event is this greenlet's now, or None."""
        if self._inner:
            own = self._own_lane(me)
            # Every other turn, or a callback that drains could starve the other channels (or they it).
            if own is not None and (self.handled & 1 or not self._ring):
                if self._ring and self._waiters:
                    self._wake_one()  # this greenlet may have been woken for what it leaves in the ring
                return own
        else:
            own = None
        ring = self._ring
        while ring:
            lane = ring.popleft()
            lane.queued = False
            if lane.events and lane.owner is None:
                return lane
        return own

    def _own_lane(self, me: object) -> _Lane[E] | None:
        lane = self._inner.get(me)
        while lane is not None and not lane.events:
            lane = lane.outer
        return lane

    def _wait(self, me: object, timeout: float | runtime.Deadline | None) -> _Lane[E] | None:
        deadline = runtime.Deadline.of(timeout)
        started = self.handled
        if deadline.expired():
            runtime.sleep(0)  # whoever would bring an event gets one turn, or timeout=0 in a loop starves it
        again = False
        while True:
            lane = self._take(me)
            if lane is not None:
                return lane
            if self._error is not None or self._notice is not None:
                self._raise()
            if self.handled != started:
                return None
            deadline.check(f'{self.name}: no message or other event came')
            self._park(me, deadline, again)
            again = True

    def _park(self, me: object, deadline: runtime.Deadline, again: bool) -> None:
        waiter = runtime.Waiter()
        self._waiters[waiter] = me
        if again:
            self._waiters.move_to_end(
                waiter, last=False
            )  # another took what it was woken for: it keeps its place
        nested = me in self._inner
        if nested:
            self._nested[me] = waiter
        try:
            told = waiter.wait(deadline, self._decline)
        except TimeoutError:
            return  # the caller looks once more, then says so itself
        finally:
            self._waiters.pop(waiter, None)
            if nested:
                self._nested.pop(me, None)
        if told is not None:
            raise runtime.again(told)

    def _decline(self, told: BaseException | None) -> None:
        # The killed greenlet had been told something: tell the next one instead.
        if told is not None:
            self._notice = told
        if self._waiters and (self._ring or told is not None):
            self._wake_one()

    def _wake_one(self) -> None:
        waiters = self._waiters
        while waiters:
            waiter, _ = waiters.popitem(last=False)
            if waiter.wake():
                return

    def _wake_all(self) -> None:
        waiters, self._waiters = self._waiters, OrderedDict()
        for waiter in waiters:
            waiter.wake()

    def _raise(self) -> None:
        error = self._error
        if error is None:
            error, self._notice = self._notice, None
        if error is not None:
            raise runtime.again(error)

    def __len__(self) -> int:
        return self.pending

    def __repr__(self) -> str:
        state = f'failed {self._error!r}' if self._error is not None else f'{len(self._waiters)} waiting'
        return f'<Drain {self.name}: {self.pending} events in {len(self._lanes)} channels, {state}>'


def drain_once(transport: Any, timeout: float) -> None:
    """Handle one event of a transport that is its own connection, as a channel's own `drain_events` does.

    Arguments:
        timeout (float): seconds to wait for one.
    Raises:
        Empty: there was none.
    Switches: yes, unless an event waits.
    Source: kombu virtual.Channel.drain_events, which asks its queues once.
    """
    events = transport.waiting_events(transport)
    handled = events.handled
    try:
        transport.drain_events(transport, timeout=timeout)
    except TimeoutError:
        if events.handled != handled:
            raise  # a callback's own
        raise Empty() from None
