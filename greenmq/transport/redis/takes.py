"""A take that needs no task: of a thousand consumers that wait, each would have a greenlet, its stack and its
timers, and each message would have to start another one.

It asks, and if there is nothing it waits in a circle of `watches` to be told of a change, when it asks again.
All of it runs in whoever tells: the link's reader, or the hub.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenmq import runtime
from greenmq.exceptions import ConnectionLost, TimeoutError
from greenmq.transport.driver.contract import Taken
from greenmq.transport.redis.errors import raised
from greenmq.transport.redis.gathering import Found, Request, tell_of_strangers
from greenmq.transport.redis.keys import Home
from greenmq.transport.redis.watches import Watch, next_wait

__all__ = ('LATE', 'Take')

#: Seconds that an answer may come after the take should have ended.
LATE = 10.0


class Take(Watch):
    """One take of the queues of a plan, which have one home.

    Arguments:
        fetching (Fetching), plan (Plan): who knows what to ask, and of what.
        n (int): of messages at most.
        at (float): until when it waits, on the clock of `monotonic`.
        done (Callable): see `Begin`.
    Attributes:
        look_at (float): when `look` is to be called.
    """

    __slots__ = (
        '_at', '_begun', '_changed', '_done', '_fetching', '_home', '_n', '_request', 'look_at', 'plan',
        'waiting_since',
    )  # fmt: skip

    def __init__(
        self, fetching: Any, plan: Any, n: int, at: float,
        done: Callable[[list[Taken], Exception | None], bool],
    ) -> None:  # fmt: skip
        self.plan = plan
        self.look_at = self._at = at
        self.waiting_since = 0
        self._fetching = fetching
        self._n = n
        self._done: Any = done
        self._home: Any = None
        self._begun = 0  # see `QuietKeys`
        self._changed = False  # since the last request was made
        self._request: Request | None = None  # that is not answered

    def ask(self) -> None:
        """Ask now. Switches: no."""
        fetching = self._fetching
        self._changed = False
        turn = fetching.loud(self.plan)
        if not turn:
            self._wait()
            return
        home: Home
        home, lists, words, pairs = turn[0]
        self._home = home
        self._begun = fetching.server.watchers.quiet.begin()
        self._request = Request(self._n, lists, words, pairs, self)
        fetching.gathering.join(home, self._request)

    def wake(self, found: Any) -> bool:
        """What was asked for is answered, with a `Found` or an error; as `Waiter.wake`.

        Returns:
            bool: False if nobody wants it any more.
        """
        request, self._request = self._request, None
        if request is None:
            return False
        fetching = self._fetching
        watchers = fetching.server.watchers
        if not isinstance(found, Found):
            self._fail(found)
            return True
        if found.strangers:
            tell_of_strangers(self._home.delayed, found.strangers)
        if found.refused is not None and not found.takens:
            self._fail(found.refused)
            return True
        if found.more and not found.takens:
            # Others have taken as much as one script may take: our turn has not come yet.
            self.ask()
            return True
        fetching.learn(self._home, request.lists, found, self._begun)
        if found.more:
            watchers.hand_on(self.plan.lists)
        if found.takens:
            return self._end(found.takens)
        self._wait()
        return True

    def hit(self) -> None:
        """A key changed, or any may have."""
        if not self.waiting_since:
            self._changed = True
            return
        self.waiting_since = 0
        if self._fetching.server.connected:
            self.ask()
        else:
            self._end([])  # whoever takes goes on when there is another link

    def _wait(self) -> None:
        if runtime.monotonic() >= self._at:
            self._expire()
        elif self._changed:
            self.ask()
        elif not self._fetching.server.tracks:
            self._end([])  # nothing tells of a change any more
        else:
            self.waiting_since = next_wait()

    def look(self, now: float) -> None:
        """Its time is over: it ends, or is waited for a little longer if it has asked."""
        if self.waiting_since:
            self._expire()
        elif now < self._at + LATE:
            self.look_at = self._at + LATE
        else:
            self._drop()
            self._end([], TimeoutError('a take was not answered in time'))

    def _expire(self) -> None:
        # Consuming is proved again by the next take.
        self._fetching.server.watchers.quiet.forget(self.plan.lists)
        self._end([])

    def _fail(self, error: Exception) -> None:
        fetching = self._fetching
        fetching.server.watchers.hand_on(self.plan.keys)  # somebody else looks instead
        try:
            raised(error, fetching.server.name)
        except ConnectionLost:
            # Told to the drains by the connection, once. Whoever fetches goes on when there is another (P25).
            self._end([])
        except Exception as met:
            self._end([], met)

    def _drop(self) -> None:
        request, self._request = self._request, None
        if request is not None:
            self._fetching.gathering.drop(self._home, request)
            self._fetching.server.watchers.hand_on(self.plan.keys)

    def _end(self, takens: list[Taken], error: Exception | None = None) -> bool:
        done, self._done = self._done, None
        self.waiting_since = 0
        self._fetching.ended(self)
        return done is not None and bool(done(takens, error))

    def kill(self) -> None:
        """End it, without a word: see `Begin`."""
        self._done = None
        self.waiting_since = 0
        self._fetching.ended(self)
        self._drop()

    def leave(self) -> None:
        """The session goes on in another thread: what is answered there is nobody's."""
        self._done = self._request = None
        self.waiting_since = 0
        self.plan.circle.watches.discard(self)

