"""How messages are taken: one script takes and registers, and a wait that takes nothing.

The pollers of the session (`driver.poller`) begin a take of each channel, see `takes`, or call `take` in a
task where that has to wait: for the nodes of a cluster, a server that tells of nothing, or one that is away.
What they ask for at the same time leaves as one, see `gathering`. A fetch that brought fewer than it had room
for has read every list that it asked, so CLIENT TRACKING tells of the next LPUSH by anybody: that is what is
waited for, without a command, and meanwhile no fetch asks such a list again. After `health_check_interval`
all are fetched from all the same: consuming is proved again, not assumed (P25). Without tracking `blocking`
waits for the lists, or it looks again after 10 to 500 ms.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, NamedTuple

from greenmq import runtime
from greenmq.exceptions import AMQPError, ConnectionLost, OperationalError, TimeoutError
from greenmq.log import get_logger
from greenmq.transport.driver.contract import UNSEEN, Taken
from greenmq.transport.redis.blocking import BlockingWaits
from greenmq.transport.redis.gathering import Found, Gathering, Pairs
from greenmq.transport.redis.keys import Home, Keys
from greenmq.transport.redis.server import Server
from greenmq.transport.redis.settling import Settler
from greenmq.transport.redis.takes import Take
from greenmq.transport.redis.watches import Circle, Wakeup

__all__ = ('Fetching',)

logger = get_logger('greenmq.transport.redis')

#: Seconds between two looks where the server does not tell of new messages: first, doubled up to the last.
FIRST_LOOK, LAST_LOOK = 0.01, 0.5
#: The same where a blocking command waits for every list: nothing tells of delayed messages only.
DELAYED_LOOK = 1.0

#: Seconds for which the server is believed that a list is empty, where there is no health check.
BELIEVED = 15.0

#: Turns that a plan keeps: of a few queues all. Of many each is made when it is due, or they would grow with
#: the square of the queues.
TURNS = 16
#: Queues of all plans that are kept: with each consumer that a channel starts there is another plan.
PLANNED = 1000

#: Seconds from one look at all takes to the next, at least: of ten thousand each has another time.
LOOKS = 0.25


class Delayed(NamedTuple):
    """When the next delayed message of a home is due, on the clock of `monotonic`, and what tells then."""

    at: float
    timer: runtime.Timer


class Plan:
    """What a fetch of some queues asks for; made once for a set of queues, in a time that grows with them."""

    def __init__(self, keys: Keys, queues: tuple[str, ...], backwards: bool, rotates: bool) -> None:
        self.queues = queues
        self.rotates = rotates and len(queues) > 1
        lists = {step: [keys.list_of(queue, step) for queue in queues] for step in keys.steps}
        #: All of them, those that most messages come to first.
        self.lists = list(itertools.chain.from_iterable(lists.values()))
        homes = {queue: keys.home(queue) for queue in queues}
        self.homes = dict.fromkeys(homes.values())
        #: Who waits for one of them, or for a delayed message.
        self.keys = self.lists + [home.delayed for home in self.homes]
        self.circle = Circle(self.keys)
        self.next = 0
        ends = [keys.value_end(queue) for queue in queues]
        #: For each step, most urgent first: (home, list, what stands behind its messages, queue and step) of
        #: each queue.
        self._steps = [
            [
                (homes[queue], key, end, (queue, step))
                for queue, key, end in zip(queues, lists[step], ends, strict=True)
            ]
            for step in (reversed(keys.steps) if backwards else keys.steps)
        ]
        self._made: dict[int, list[Any]] = {}  # turns, by the place of the first queue

    def turn(self, quiet: Container[str] = ()) -> list[Any]:
        """The next turn, the queues in another order: (home, lists, words about them, queue and step of each)
        for each home. Switches: no.

        Arguments:
            quiet (Container[str]): lists to leave out.
        """
        first = self.next = (self.next + 1) % len(self.queues) if self.rotates else 0
        if quiet:
            return self._turn(first, quiet)
        turn = self._made.get(first)
        if turn is None:
            turn = self._turn(first, ())
            if len(self._made) < TURNS:
                self._made[first] = turn
        return turn

    def _turn(self, first: int, quiet: Container[str]) -> list[Any]:
        homes: dict[Home, tuple[list[str], list[Any], Pairs]] = {}
        only = None
        if len(self.homes) == 1:
            # Without a look-up for each list, which takes long. And it is asked for delayed messages although
            # nothing may be there to take.
            only = homes[next(iter(self.homes))] = ([], [], [])
        for step in self._steps:
            for home, key, end, pair in itertools.chain(step[first:], step[:first]):
                if key not in quiet:
                    lists, said, pairs = only or homes.setdefault(home, ([], [], []))
                    lists.append(key)
                    said += (pair[1], end)
                    pairs.append(pair)
        return [(home, *found) for home, found in homes.items()]


class Fetching:
    """The fetches of one session.

    Arguments:
        server (Server), keys (Keys): where and what.
        settler (Settler): gives back what nobody waits for any more.
        blocking (BlockingWaits): waits where the server tells of nothing.
        settings (Mapping): `queue_order_strategy`, `priority_order`, `max_message_bytes`, `lease_timeout`.
        lease_ms (int): of a consumer that takes.
    Attributes:
        server, gathering: for takes.
    """

    def __init__(
        self, server: Server, keys: Keys, settler: Settler, blocking: BlockingWaits,
        settings: Mapping[str, Any], lease_ms: int,
    ) -> None:  # fmt: skip
        self.server = server
        self._keys = keys
        self._settler = settler
        self.gathering = Gathering(server, keys, settler, settings['max_message_bytes'], lease_ms)
        self._blocking = blocking
        self._order = settings['queue_order_strategy']
        self._backwards = settings['priority_order'] == 'amqp'
        #: Seconds for which it is believed that a list is empty because nothing else was told.
        self._believes = settings['health_check_interval'] or BELIEVED
        self._believed_until = 0.0
        self._plans: dict[tuple[str, ...], Plan] = {}
        self._planned = 0  # queues of all of them
        self._waiting: dict[Wakeup, Circle] = {}  # takes under way in tasks → who they watch with
        self._takes: dict[Take, None] = {}  # those without
        #: When the next of those is looked at; one timer for all of them.
        self._timer: runtime.Timer | None = None
        self._look_at = 0.0
        self._delayed: dict[Home, Delayed] = {}

    @property
    def number(self) -> int:
        """Of the next message that is asked for."""
        return self.gathering.number

    @property
    def waiting(self) -> int:
        """How many takes wait for a message now."""
        return sum(1 for watch in [*self._waiting, *self._takes] if watch.waiting_since)

    def leave(self) -> None:
        """The session goes on in another thread: nobody is to wake the takes of this one."""
        self.gathering.leave()
        waiting, self._waiting = self._waiting, {}
        for wakeup, circle in waiting.items():
            circle.watches.discard(wakeup)
        takes, self._takes = self._takes, {}
        for take in takes:
            take.leave()
        # The timers are of the other hub, and find there that they are no more.
        self._timer = None
        self._look_at = 0.0
        self._delayed = {}

    def close(self) -> None:
        """Nobody takes any more."""
        self._stop_timer()
        delayed, self._delayed = self._delayed, {}
        for each in delayed.values():
            each.timer.cancel()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def begin(
        self, queues: Iterable[str], n: int, seconds: float,
        done: Callable[[list[Taken], Exception | None], bool],
    ) -> Take | None:  # fmt: skip
        """See `Begin`."""
        server = self.server
        if not seconds or self._keys.cluster or not (server.tracks and server.connected and server.is_here):
            return None
        plan = self._plan(queues)
        at = runtime.monotonic() + seconds
        take = Take(self, plan, n, at, done)
        server.watchers.join(plan.circle, take)
        self._takes[take] = None
        if self._timer is None or at < self._look_at:
            self._look_later(at)
        take.ask()
        return take

    def ended(self, take: Take) -> None:
        """A take waits no more."""
        self._takes.pop(take, None)
        self._leave_circle(take.plan, take)

    def _leave_circle(self, plan: Plan, watch: Any) -> None:
        plan.circle.watches.discard(watch)
        if self._plans.get(plan.queues) is not plan:
            self._drop_unused(plan)

    def _look_later(self, at: float) -> None:
        self._stop_timer()
        self._look_at = at
        # Not the takes: they know all that a connection is, which would then outlive whoever dropped it.
        self._timer = runtime.call_later(max(at - runtime.monotonic(), 0.0), _look, weakref.ref(self), at)

    def look(self, at: float) -> None:
        """The time of some takes may be over. Switches: no.

        Arguments:
            at (float): for when this look was meant.
        """
        if at != self._look_at:
            return  # of the thread that was left
        self._timer = None
        now = runtime.monotonic()
        for take in [take for take in self._takes if take.look_at <= now]:
            take.look(now)
        if self._takes:
            self._look_later(max(min(take.look_at for take in self._takes), now + LOOKS))

    def _plan(self, queues: Iterable[str]) -> Plan:
        names = tuple(sorted(queues) if self._order == 'sorted' else queues)
        plan = self._plans.get(names)
        if plan is None:
            self._planned += len(names)
            if self._planned > PLANNED:
                plans, self._plans = self._plans, {}
                self._planned = len(names)
                for each in plans.values():
                    self._drop_unused(each)
            plan = self._plans[names] = Plan(self._keys, names, self._backwards, self._order == 'round_robin')
        return plan

    def _drop_unused(self, plan: Plan) -> None:
        if not plan.circle.watches:
            self.server.watchers.dissolve(plan.circle)

    def take(self, queues: Iterable[str], n: int, seconds: float) -> list[Taken]:
        """Take up to n messages of some queues, waiting for the first; see `Driver.take`.

        Raises:
            ConnectionClosed: we closed the connection. Others: the server refuses.
        Switches: yes. Killed: what it took goes back to where it was.
        """
        plan = self._plan(queues)
        if not seconds:
            return self._fetch(n, plan.turn())[0]
        wakeup = Wakeup()
        self.server.watchers.join(plan.circle, wakeup)
        self._waiting[wakeup] = plan.circle
        try:
            return self._wait(plan, n, runtime.Deadline.after(seconds), wakeup)
        except ConnectionLost:
            # Told to the drains by the connection, once. Whoever fetches goes on when there is another (P25).
            return []
        finally:
            self._waiting.pop(wakeup, None)
            self._leave_circle(plan, wakeup)

    def _wait(self, plan: Plan, n: int, deadline: runtime.Deadline, wakeup: Wakeup) -> list[Taken]:
        watchers = self.server.watchers
        look = FIRST_LOOK
        while True:
            wakeup.clear()
            takens, due, more = self._fetch_or_hand_on(plan, n)
            if more:
                watchers.hand_on(plan.lists)
            if takens:
                return takens
            left = deadline.remaining() or 0.0
            pause = left if due is None else min(left, due)
            if not self.server.tracks:
                covered = self._blocking.arm(plan.lists)
                pause, look = min(pause, DELAYED_LOOK if covered else look), min(look * 2, LAST_LOOK)
            try:
                wakeup.wait(max(pause, 0.001))
            except BaseException:
                if wakeup.happened:
                    watchers.hand_on(plan.keys)  # we were the one that was told
                raise
            if deadline.expired():
                watchers.quiet.forget(plan.lists)  # consuming is proved again by the next take
                return []

    def cut(self, deadline: runtime.Deadline) -> None:
        """See `Driver.cut`. Switches: if a fetch whose caller was killed is not answered yet."""
        cut, self.gathering.cut = self.gathering.cut, set()
        for key in cut:
            if not self.server.connected:
                return
            try:
                # Answered after the fetch: then what that took is known, and goes back in its place.
                self.server.execute(('EXISTS', key), key, deadline)
            except (AMQPError, OperationalError, OSError) as error:
                logger.debug('%s: a fetch was not answered before the end: %s', self.server.name, error)

    def _fetch_or_hand_on(self, plan: Plan, n: int) -> tuple[list[Taken], float | None, bool]:
        try:
            return self._fetch(n, self.loud(plan))
        except BaseException:
            self.server.watchers.hand_on(plan.keys)  # somebody else looks instead
            raise

    def loud(self, plan: Plan) -> list[Any]:
        """The next turn, without the lists that are known to be empty: who consumes many queues is woken for
        one of them, and starts one consumer after the other.

        In a cluster all are asked: of a slot that has moved, the node that it was on tells nothing.
        """
        quiet = self.server.watchers.quiet
        now = runtime.monotonic()
        if now >= self._believed_until:
            self._believed_until = now + self._believes
            quiet.forget_all()
        if self._keys.cluster:
            return plan.turn()
        # It is asked for nothing where there is known to be nothing to take, now or later.
        return [] if quiet.keys.issuperset(plan.keys) else plan.turn(quiet.keys)

    def _fetch(self, n: int, turn: list[Any]) -> tuple[list[Taken], float | None, bool]:
        """Ask: the messages, seconds until the next delayed one is due, and whether there may be more."""
        quiet, tracks = self.server.watchers.quiet, self.server.tracks
        takens: list[Taken] = []
        due: float | None = None
        more = False
        for home, lists, words, pairs in turn:
            if n <= len(takens):
                break
            begun = quiet.begin()
            try:
                found = self.gathering.ask(home, lists, words, pairs, n - len(takens))
            except (ConnectionLost, TimeoutError):
                if not self._keys.cluster:
                    raise
                due = min(due or 1e9, 0.1)  # the other nodes' queues are served all the same
                continue
            except BaseException:
                for taken in takens:
                    self._settler.back(taken, UNSEEN)
                raise
            takens += found.takens
            more = more or found.more
            if tracks:
                self.learn(home, lists, found, begun)
            elif found.due >= 0:
                due = min(due or 1e9, found.due / 1000 + 0.001)
        return takens, due, more

    def learn(self, home: Home, lists: list[str], found: Found, begun: int) -> None:
        """What a fetch that began then has shown to be empty is quiet, where the server tells of changes; and
        of what becomes due only time tells.
        """
        quiet = self.server.watchers.quiet
        if found.due < 0:
            quiet.found_empty((home.delayed,), begun)
        else:
            self._expect(home, found.due / 1000 + 0.001)
        if not found.more:
            quiet.found_empty(lists, begun)

    def _expect(self, home: Home, seconds: float) -> None:
        # Once for all takes, whoever asked: that one may be killed, or be busy with another message, and the
        # others would not know.
        at = runtime.monotonic() + seconds
        known = self._delayed.get(home)
        if known is not None:
            if known.at <= at + 0.001:
                return
            known.timer.cancel()
        timer = runtime.call_later(seconds, _due, weakref.ref(self), home, at)
        self._delayed[home] = Delayed(at, timer)

    def due(self, home: Home, at: float) -> None:
        """A delayed message is due: one that waits asks for it. If nobody does, the next take does.

        Arguments:
            at (float): for when this was expected.
        """
        known = self._delayed.get(home)
        if known is not None and known.at == at:  # and not of the thread that was left
            del self._delayed[home]
            self.server.watchers.wake_one(home.delayed)


def _look(ref: Any, at: float) -> None:
    fetching = ref()
    if fetching is not None:
        fetching.look(at)


def _due(ref: Any, home: Home, at: float) -> None:
    fetching = ref()
    if fetching is not None:
        fetching.due(home, at)
