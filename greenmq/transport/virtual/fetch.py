"""The tasks that bring messages of a channel that can't be pushed to: long polls ('wait') and looks ('poll').

One task serves a *wait group*: all queues of the channel, or one queue where the broker waits for one at a
time. It fetches while there is room, registers what came without a switch in between, and never calls a
callback: whoever drains does that. A fetch that fails is told to the drains and tried again with a growing
delay, so a consumer is deaf for as long as the broker is, and no longer (P25). The task knows its channel
weakly: an abandoned channel ends it.
"""

from __future__ import annotations

import weakref
from queue import Empty
from typing import Any

from greenmq import runtime
from greenmq.core.retry import RetrySchedule
from greenmq.log import get_logger

__all__ = ('Fetcher',)

logger = get_logger('greenmq.transport.virtual')

#: Seconds to wait after a fetch that returned at once with nothing, although it should have waited.
HASTY = 0.01
#: Seconds that a fetch of one queue waits where several share a smaller prefetch.
CROWDED = 1.0


class Fetcher:
    """The fetch tasks of one channel.

    Attributes:
        states (dict[str | None, str]): wait group → fetching, full, idle, backoff. The group is a queue's
            name, or None for all queues of the channel.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = weakref.ref(channel)
        self._tasks: dict[str | None, Any] = {}
        self._sleepers: dict[str | None, Any] = {}
        self.states: dict[str | None, str] = {}
        self._left = False
        self._reserved = 0  # what fetches under way may bring: they share one prefetch
        self._again: set[str | None] = set()  # kicked while they fetched: what for may have come too late

    @property
    def state(self) -> str:
        """The states of the tasks in one word or list, for reprs."""
        return (
            ', '.join(state if group is None else f'{group}: {state}' for group, state in self.states.items())
            or 'open'
        )

    def refresh(self) -> None:
        """The consumers have changed: start and end tasks accordingly."""
        channel = self._channel()
        if channel is None or channel.closed or not channel.connection.fetches:
            return
        wanted = self._groups(channel)
        if channel.delivery == 'wait':
            for group in list(self._tasks):
                # A long poll for all queues waits for the old ones: it has to start anew with the new ones.
                if group not in wanted or group is None:
                    self._tasks.pop(group).kill()
                    self.states.pop(group, None)
        for group in wanted:
            if group not in self._tasks:
                self._start(channel, group)
        # A task that looks sees by itself that nobody is left: a kill could cost what it has just taken.
        self.kick()

    def _groups(self, channel: Any) -> list[str | None]:
        if not channel.books.takers:
            return []
        if channel.delivery == 'wait' and (channel.groups == 'each' or not channel.adapter.fetches_many):
            return list(channel.books.takers)
        return [None]

    def _start(self, channel: Any, group: str | None) -> None:
        name = f'greenmq-fetch {channel.connection.driver_type}' + (f' {group}' if group else '')
        self.states[group] = 'fetching'
        self._tasks[group] = runtime.spawn(
            self._run,
            group,
            name=name,
            owner=channel,
            on_exit=lambda task, error: self._ended(group, task, error),
        )

    def _ended(self, group: str | None, task: Any, error: BaseException | None) -> None:
        if self._tasks.get(group) is not task:
            return  # we ended it
        del self._tasks[group]
        self.states.pop(group, None)
        channel = self._channel()
        if error is not None and channel is not None and not channel.closed:
            self._tell(channel, error)
            runtime.call_later(1.0, self.refresh)

    def close(self, deadline: runtime.Deadline) -> None:
        """End all tasks. What a look brings meanwhile is given back.

        Arguments:
            deadline (Deadline): how long a look may still take.
        Switches: if there are tasks.
        """
        tasks, self._tasks = self._tasks, {}
        channel = self._channel()
        if channel is None or not tasks:
            return
        for group, task in tasks.items():
            if channel.delivery == 'wait' or self.states.get(group) != 'fetching':
                task.kill()
        self.states.clear()
        for task in tasks.values():
            if not task.join(deadline):
                task.kill()

    def leave(self) -> None:
        """End all tasks, without waiting for it; another fetcher goes on in another thread."""
        self._left = True  # the old thread may run them once more before they end
        tasks, self._tasks = self._tasks, {}
        for task in tasks.values():
            task.kill()

    def kick(self) -> None:
        """There is room again, or reason to look at once: wake what waits for that."""
        self._again.update(self._tasks)
        for waiter in list(self._sleepers.values()):
            waiter.wake(True)

    def _kick_others(self, group: str | None) -> bool:
        # Room was given back: who waits longest for it comes before who had it.
        others = [other for other in self._sleepers if other != group and self.states.get(other) == 'full']
        for other in others:
            self._sleepers[other].wake(True)
        return bool(others)

    # ------------------------------------------------------------- the task

    def _run(self, group: str | None) -> None:
        retry = RetrySchedule(None, 0.1, 0.4, 10.0, jitter=0.2)
        failures = 0
        me = runtime.current()
        while True:
            channel = self._channel()
            if channel is None or channel.closed or not channel.books.takers:
                self._leave(group)
                return
            transport = channel.connection
            room = self._room(channel)
            pause: float | None = None
            if room <= 0:
                self.states[group] = 'full'
                channel.books.starved[group] = None
            else:
                self.states[group] = 'fetching'
                self._again.discard(group)
                transport.fetching[me] = channel
                asked = self._share(channel, group, room)
                self._reserved += asked
                try:
                    pause = self._fetch(channel, group, room, asked)
                    failures = 0
                except Exception as error:  # told to the drains; the task must outlive it
                    if self._left:
                        return
                    failures += 1
                    pause = retry.delay(failures)
                    self.states[group] = 'backoff'
                    self._tell(channel, error)
                finally:
                    transport.fetching.pop(me, None)
                    self._reserved -= asked
                    others = group is not None and self._kick_others(group)
                if pause == 0:
                    if others:
                        runtime.sleep(0)  # they run, or we would have the room again
                    continue
            # Not kept alive by a task that sleeps. (One that waits at the broker runs the channel's own
            # code.)
            del channel, transport
            self._sleep(group, pause, deaf=failures > 0)

    def _leave(self, group: str | None) -> None:
        # Before the next switch: whoever consumes again must find that there is no task.
        channel = self._channel()
        if channel is not None and not channel.closed and self._tasks.pop(group, None) is not None:
            self.states.pop(group, None)

    def _fetch(self, channel: Any, group: str | None, room: int, asked: int) -> float | None:
        """Fetch up to what was `asked` once; return the seconds to wait before the next time."""
        if channel.delivery == 'poll':
            interval, fetched = channel.connection.polling_interval, channel.deliveries.fetched
            try:
                channel.drain_events(timeout=interval if interval else 1.0, callback=fetched)
            except Empty:
                self.states[group] = 'idle'
                return interval or HASTY
            runtime.sleep(0)  # the channel may never switch: others want to run between two messages
            return 0
        started = runtime.monotonic()
        try:
            if group is None:
                queues = list(channel.books.takers)
                items = list(channel.adapter.get_many(queues, asked, channel.wait_timeout) or ())
            else:
                # Where queues share a prefetch that is smaller than their number, they take turns.
                crowded = room < len(self._tasks)
                timeout = min(channel.wait_timeout, CROWDED) if crowded else channel.wait_timeout
                items = self._fetch_of(channel, group, asked, timeout)
        except Empty:
            items = []
        self._arrived(channel, items)
        if items:
            # First their callbacks: they start earlier, and what they settle leaves with the next fetch.
            runtime.sleep(0)
        return HASTY if not items and runtime.monotonic() - started < HASTY else 0

    def _share(self, channel: Any, group: str | None, room: int) -> int:
        # Fetches of single queues share the room: each asks for its part, or one alone would take it all.
        if group is None:
            return room
        if not channel.adapter.fetches_many:
            return 1
        return max(room // max(len(self._tasks), 1), 1)

    def _fetch_of(self, channel: Any, queue: str, n: int, timeout: float) -> list[tuple[str, Any]]:
        if channel.adapter.fetches_many:
            return list(channel.adapter.get_many([queue], n, timeout) or ())
        return [(queue, channel.adapter.get(queue, timeout))]

    def _arrived(self, channel: Any, items: list[tuple[str, Any]]) -> None:
        # All that is wanted is registered before anything that may switch, or a kill in between would lose
        # the rest.
        wanted = () if channel.closed else channel.books.takers
        unwanted = [item for item in items if item[0] not in wanted]
        for queue, raw in items:
            if queue in wanted:
                channel.deliveries.fetched(raw, queue)
        if unwanted:
            channel.adapter.abandon(unwanted)

    def _room(self, channel: Any) -> int:
        if not channel.books.flowing:
            return 0
        room: int = channel.fetch_ahead - channel.books.waiting() - self._reserved
        if all(sub.no_ack for sub in channel.books.subscriptions.values()):
            return room
        qos = channel.qos
        if not qos.can_consume():
            return 0
        free = qos.can_consume_max_estimate()
        return room if free is None else int(free) - self._reserved

    def _sleep(self, group: str | None, seconds: float | None, deaf: bool) -> None:
        if deaf:
            runtime.sleep(seconds or 0)  # a broker that fails isn't asked sooner because somebody drains
            return
        if group in self._again:
            self._again.discard(group)
            return
        waiter = self._sleepers[group] = runtime.Waiter()
        try:
            waiter.wait(seconds)
        except TimeoutError:
            return  # time for the next look
        finally:
            if self._sleepers.get(group) is waiter:
                del self._sleepers[group]

    def _tell(self, channel: Any, error: BaseException) -> None:
        logger.warning('%r could not fetch, and tries again: %r', channel, error)
        if channel.connection is not None:
            channel.connection.events.report(error)

    def __repr__(self) -> str:
        return f'<Fetcher: {self.state}>'
