"""One Redis server over all links to it: the present link, its recovery, and what waits for either.

States: *connecting* (the first dial), *open*, *backoff* (lost; a task dials again, at once and after 0.05 s,
0.1 s … 1 s with jitter, until it is open or closed; one whose server was soon found unfit counts as a failed
dial), *closed*. Calls made meanwhile wait within their deadline (Contract 3).
"""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from redis.exceptions import NoScriptError

from greenmq import runtime
from greenmq.exceptions import AMQPError, ConnectionClosed, KombuError, WrongHub
from greenmq.log import get_logger, outage_level, outage_over
from greenmq.transport.pause import Pause
from greenmq.transport.redis import resp
from greenmq.transport.redis.errors import LinkLost, ServerUnfit, WrongReply, raised
from greenmq.transport.redis.link import Link, Taker, program_waits
from greenmq.transport.redis.replies import DONE, expect
from greenmq.transport.redis.scripts import Script
from greenmq.transport.redis.watches import Watchers
from greenmq.transport.waiters import WaitingLine

__all__ = ('Dial', 'Server', 'ServerOwner', 'weakly')

logger = get_logger('greenmq.transport.redis')

#: Seconds between two attempts to recover, at least and at most.
FIRST_PAUSE, LAST_PAUSE = 0.05, 1.0
#: Seconds for one attempt to recover.
ATTEMPT = 5.0


class ServerOwner(Protocol):
    """Who is told when the link to a server is lost and made again. Nothing here may switch."""

    def on_lost(self, server: Server, error: BaseException) -> None:
        """The link ended."""
        return None

    def on_recovered(self, server: Server) -> None:
        """There is a new one."""
        return None

    def on_pushed(self, server: Server, push: Any) -> None:
        """The server told of something by itself."""
        return None


#: Opens a link that is ready for commands: (the link's owner, deadline).
Dial = Callable[[Any, runtime.Deadline], Link]


class Server:
    """One server, and the link to it.

    Arguments:
        dial (Dial): opens a link.
        name (str): for texts.
        owner (ServerOwner): held weakly; see `belong_to`.
        watchers (Watchers): who is told of changed keys, where several servers have them in common.
    Attributes:
        epoch (int): how often it was opened.
        link (Link | None): the present one.
        pause_seconds (float): before the next attempt to recover.
        pause (Pause): where that is waited for.
    """

    def __init__(
        self, dial: Dial, name: str, owner: ServerOwner | None = None, watchers: Watchers | None = None
    ) -> None:
        self.name = name
        self.epoch = 0
        self.link: Link | None = None
        self.closed = False
        self.clustered = False
        self.failure: BaseException | None = None
        self._dial = dial
        self._hub: Any = runtime.hub_id()
        self._late = False  # opened by `recover` and not by `open`
        self._owner = weakref.ref(owner) if owner is not None else _nobody
        self._waiting = WaitingLine()
        self._attempts = WaitingLine()
        self._recovery: runtime.Task | None = None
        self._opened_at = 0.0
        self.pause_seconds = 0.0
        self.pause = Pause()
        self.watchers = Watchers() if watchers is None else watchers

    def belong_to(self, owner: ServerOwner) -> None:
        """Tell `owner`, held weakly, from now on."""
        self._owner = weakref.ref(owner)

    @property
    def state(self) -> str:
        """One word of those above."""
        if self.closed:
            return 'closed'
        if self.connected:
            return 'open'
        return 'backoff' if self.epoch else 'connecting'

    @property
    def connected(self) -> bool:
        """Is there a living link?"""
        link = self.link
        return link is not None and link.error is None

    @property
    def is_here(self) -> bool:
        """Does it belong to this native thread?"""
        return runtime.is_here(self._hub)

    @property
    def tracks(self) -> bool:
        """Does the server tell of changed keys?"""
        link = self.link
        return link is not None and link.tracks

    def __repr__(self) -> str:
        return f'<Server {self.name}: {self.state}, epoch {self.epoch}, {self.link!r}>'

    # ---- lives

    def open(self, deadline: runtime.Deadline) -> None:
        """Dial for the first time.

        Raises:
            ConnectionLost, OSError, TimeoutError: not reached. Others: refused.
        Switches: yes. Killed: nothing stays open.
        """
        link = self.dial(deadline)
        if self.closed:
            link.close()
            raise ConnectionClosed(f'{self.name} was closed while it was being opened')
        self.opened(link)

    def dial(self, deadline: runtime.Deadline) -> Link:
        """Open a link, which is not in use yet. Raises, Switches: as `open`."""
        return self._dial(self, deadline)

    def begin(self) -> None:
        """Have a task dial until it is open, instead of `open`; for what nobody waits for."""
        self._late = True
        self._recover_soon()

    def _recover_soon(self) -> None:
        self._recovery = runtime.spawn(
            _recover, weakref.ref(self), name=f'redis-recovery {self.name}', owner=self
        )

    def opened(self, link: Link) -> None:
        """Take a link into use."""
        self._recovery = None  # if this is it: what begins when the link ends must not be taken for it
        if self.closed or self.connected:
            link.close()  # another dial was faster
            return
        self.link = link
        self._opened_at = runtime.monotonic()
        self.failure = None
        self.epoch += 1
        if link.error is not None:
            self.on_link_end(link, link.error)
            return
        self.watchers.hit_all()
        owner = self._owner()
        if owner is not None and (self.epoch > 1 or self._late):
            owner.on_recovered(self)
        self.let_through()

    def on_link_end(self, link: Link, error: BaseException) -> None:
        """See `LinkOwner`."""
        if link is not self.link or self.closed:
            return
        self.failure = error
        self.watchers.hit_all()
        owner = self._owner()
        if owner is not None:
            owner.on_lost(self, error)
        useless = isinstance(error, (ServerUnfit, WrongReply))
        if not useless or runtime.monotonic() - self._opened_at > LAST_PAUSE:
            self.pause_seconds = 0.0
        if self._recovery is None or self._recovery.done:
            self._recover_soon()

    def attempt_failed(self, error: BaseException) -> None:
        """An attempt to recover failed: who waited for its outcome is told."""
        self.failure = error
        self._attempts.fail(error)

    def let_through(self) -> None:
        """It is open: wake who waits for that."""
        self._waiting.wake()
        self._attempts.wake()

    def close(self) -> None:
        """End for good; whoever waits gets ConnectionClosed."""
        if self.closed:
            return
        self.closed = True
        error = ConnectionClosed(f'the connection to redis {self.name} was closed')
        if self._recovery is not None:
            self._recovery.kill()
        if self.link is not None:
            self.link.end(error)
        self._waiting.fail(error)
        self._attempts.fail(error)
        self.watchers.hit_all()

    @property
    def in_use(self) -> bool:
        """Does a greenlet of the program wait for it to open, or for a reply?"""
        if any(program_waits(waiter) for waiter in [*self._waiting, *self._attempts]):
            return True
        return self.link is not None and self.link.in_use

    def leave(self) -> None:
        """Let go of the link because another thread goes on with it, see `arrive`."""
        if self._recovery is not None:
            self._recovery.kill()
        if self.link is not None:
            self.link.leave(LinkLost(f'redis {self.name}: it goes on in another thread'), self._hub)
        self.link = self._recovery = None
        for line in (self._waiting, self._attempts):
            line.leave()  # tasks of the other thread, which end

    def arrive(self) -> None:
        """Belong to the calling thread from now on, and open again."""
        self._hub = runtime.hub_id()
        self._late = True
        self.pause_seconds = 0.0
        self._recover_soon()

    @property
    def hub(self) -> Any:
        """The hub of the thread it belongs to."""
        return self._hub

    def check_here(self) -> None:
        """Refuse another native thread before anything of its call is queued. Makes no hub. Switches: no.

        Raises:
            WrongHub: it belongs to another thread.
        """
        if not runtime.is_here(self._hub):
            raise WrongHub(repr(self))

    def wait_open(self, deadline: runtime.Deadline | None) -> Link:
        """The living link, waiting for the recovery if need be.

        Raises:
            TimeoutError: not in time. ConnectionClosed: closed. WrongHub: see `check_here`.
        Switches: only if it is not open.
        """
        self._come_here()
        return self._wait(self._waiting, deadline)

    def wait_attempt(self, deadline: runtime.Deadline | None) -> Link:
        """As `wait_open`, but no longer than to the end of the present attempt.

        Raises:
            Exception: what the attempt failed with.
        """
        self._come_here()
        self.pause.end()
        return self._wait(self._attempts, deadline)

    def _come_here(self) -> None:
        # The owner moves, with all that it has beside this; a server of a fanout or a node can't alone.
        # Never for a task of ours: one that the old thread has left over would take all back there.
        if not runtime.is_here(self._hub):
            owner = self._owner()
            move = getattr(owner, 'move_here', None)
            if move is None or runtime.is_task(runtime.current()):
                raise WrongHub(repr(self))
            move(owner)

    def _wait(self, line: WaitingLine, deadline: runtime.Deadline | None) -> Link:
        while True:
            link = self.link
            if link is not None and link.error is None:
                return link
            if self.closed:
                raise ConnectionClosed(f'the connection to redis {self.name} is closed')
            line.wait(deadline, f'redis {self.name} is away ({self.failure}); it did not come back')

    # ---- commands

    def execute(
        self,
        command: tuple[Any, ...],
        key: str | None = None,
        deadline: runtime.Deadline | None = None,
        shape: Any = DONE,
    ) -> Any:
        """Run one command.

        Arguments:
            command (tuple): its words.
            key (str): a key of it, for a cluster; None for none.
            shape: what the reply must be, see `replies`; by default a number or a text.
        Raises:
            ConnectionLost: cut while it ran: it may have run or not. Our classes of `errors`, among them
                WrongReply: it was answered in another shape, and the link was ended.
            TimeoutError: not in time.
        Switches: yes. Killed: the reply is thrown away.
        """
        return raised(self.ask(command, key, deadline, None, shape), self.name)

    def execute_many(
        self,
        commands: list[tuple[Any, ...]],
        key: str | None = None,
        deadline: runtime.Deadline | None = None,
        shape: Any = DONE,
    ) -> list[Any]:
        """Run several commands on the keys of one slot at once; the first error is raised.

        Raises, Switches: as `execute`.
        """
        link = self.wait_open(deadline)
        replies = link.call_many(commands, deadline)
        return [raised(link.expect(reply, shape), self.name) for reply in replies]

    def run(
        self,
        script: Script,
        keys: Iterable[Any],
        arguments: Iterable[Any] = (),
        deadline: runtime.Deadline | None = None,
        orphan: Callable[[Any], Any] | None = None,
        shape: Any = int,
    ) -> Any:
        """Run a script, loading it if the server does not know it (yet, or after a restart).

        Arguments:
            keys (Iterable[str]): in a cluster all of one slot.
            orphan (Callable): gets the reply if the caller is killed or timed out before it could; never
                switches.
            shape: what the reply must be, see `replies`; by default a number.
        Raises, Switches: as `execute`.
        """
        names = list(keys)
        words = (len(names), *names, *arguments)
        reply = self.ask(('EVALSHA', script.digest, *words), names[0], deadline, orphan, shape)
        if isinstance(reply, NoScriptError):
            reply = self.ask(('EVAL', script.text, *words), names[0], deadline, orphan, shape)
        return raised(reply, self.name)

    def ask(
        self,
        command: tuple[Any, ...],
        key: str | None,
        deadline: runtime.Deadline | None,
        orphan: Callable[[Any], Any] | None,
        shape: Any,
    ) -> Any:
        """As `execute`, and as `run` for `orphan`; but an error reply is returned. Switches: yes."""
        link = self.wait_open(deadline)
        if orphan is None:
            return link.expect(link.call(command, deadline), shape)
        call = _Kept(runtime.Waiter(f'redis {self.name}: no reply to {command[0]}'), orphan)
        link.send(resp.pack(command), call.take)
        return link.expect(call.waiter.wait(deadline, orphan), shape)

    def post(self, data: bytes, key: str, take: Taker, count: int = 1) -> None:
        """Send `count` packed commands on one key without waiting. Switches: no.

        Raises:
            ConnectionLost, ConnectionClosed: there is no link now; nothing was sent.
        """
        link = self.link
        if link is None:
            raise LinkLost(f'redis {self.name} is away')
        link.send(data, take, count)

    def link_for(self, key: str) -> Link | None:
        """The link to this key's server, None if there is none now."""
        link = self.link
        return None if link is None or link.error is not None else link

    def moved(self, error: Any) -> None:
        """A server said that a key is elsewhere, which happens in a cluster only."""

    # ---- what the server tells

    def on_push(self, link: Link, push: Any) -> None:
        """See `LinkOwner`."""
        if not push or push[0].__class__ is not bytes:
            raise WrongReply(f'redis {self.name}: a push that says nothing')
        if push[0] == b'invalidate':
            keys = push[1] if len(push) == 2 else ()
            if keys.__class__ is list:
                if any(key.__class__ is not bytes for key in keys):
                    raise WrongReply(f'redis {self.name}: an invalidation of what is no key')
                self.watchers.changed(keys)
                return
            expect(keys, None, self.name)
            self.watchers.hit_all()  # the whole database was emptied
        owner = self._owner()
        if owner is not None:
            owner.on_pushed(self, push)


class _Kept:
    """Takes a reply that must not be thrown away: who comes too late for it has it handed to `orphan`."""

    __slots__ = ('orphan', 'waiter')

    def __init__(self, waiter: runtime.Waiter, orphan: Callable[[Any], Any]) -> None:
        self.waiter = waiter
        self.orphan = orphan

    def take(self, reply: Any) -> None:
        if not self.waiter.wake(reply):
            self.orphan(reply)


def weakly(dial: Callable[..., Link], *arguments: Any) -> Dial:
    """A Dial that does not keep alive what it dials for.

    Arguments:
        dial (Callable): a bound method (*arguments, owner, deadline).
    """
    ref = weakref.WeakMethod(dial)

    def dial_if_wanted(owner: Any, deadline: runtime.Deadline) -> Link:
        found = ref()
        if found is None:
            raise ConnectionClosed('nobody uses the connection any more')
        link: Link = found(*arguments, owner, deadline)
        return link

    return dial_if_wanted


def _nobody() -> None:
    return None


def _recover(ref: weakref.ref[Server]) -> None:
    failed = False
    while True:
        server = ref()
        if server is None:
            return
        pause = server.pause_seconds
        # Also where the dial succeeds: a server that refuses all that follows (READONLY) would be dialled
        # again and again.
        server.pause_seconds = min(max(pause * 2, FIRST_PAUSE), LAST_PAUSE)
        between = server.pause
        del server
        pause *= random.uniform(0.5, 1.0)
        if failed:
            between.make(pause)
        else:
            runtime.sleep(pause)  # whatever a caller wants: see above
        server = ref()
        if server is None or server.closed or server.connected:
            return
        try:
            link = server.dial(runtime.Deadline.after(ATTEMPT))
        except (AMQPError, OSError, KombuError) as error:  # InvalidArgument: a file of TLS may come back
            level = outage_level('recovery', server.name)
            logger.log(level, 'redis %s: not recovered yet: %s', server.name, error)
            server.attempt_failed(error)
            failed = True
        else:
            away = outage_over(server.name)
            if away is not None:
                logger.warning('redis %s: connected again after %.0f s', server.name, away)
            server.opened(link)
            return
        del server
