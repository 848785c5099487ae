"""One life (epoch) of a socket to the server: commands of all greenlets in, replies in order out.

Theory of operation. Two tasks touch the stream. Whoever has a command appends its bytes, and who shall get
the reply, in one stretch without a switch (`send`): so replies resolve in order, and a greenlet that is
killed leaves a taker who declines. The reader takes that reply all the same and throws it away (P4); it
never shifts. What many greenlets append between two turns of the writer leaves in one system call:
pipelining nobody asks for.

A link ends once, in `end`: every taker that still waits gets the error as its reply.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from redis.exceptions import RedisError

from greenmq import runtime
from greenmq.exceptions import AMQPError, ConnectionClosed, WrongHub
from greenmq.log import get_logger
from greenmq.transport.outbox import Outbox
from greenmq.transport.redis import errors, resp
from greenmq.transport.redis.replies import expect, short
from greenmq.transport.waiters import WaitingLine

__all__ = ('Batch', 'Link', 'LinkOwner', 'Taker')

logger = get_logger('greenmq.transport.redis')

READ_SIZE = 64 * 1024
#: Seconds that the server may take for the answer to a health check.
PATIENCE = 2.0
#: Bytes that may wait to leave before senders wait as well.
HIGH_WATER = 8 * 1024 * 1024
#: Bytes that are read before other greenlets get a turn: as items of four bytes they take some 15 ms.
TURN = 128 * 1024

#: Gets one reply, an error reply or the link's end as an exception instance. Never switches.
Taker = Callable[[Any], Any]


class LinkOwner(Protocol):
    """What a link tells the one it belongs to, from inside its own tasks: nothing here may switch."""

    def on_push(self, link: Link, push: Any) -> None: ...

    def on_link_end(self, link: Link, error: BaseException) -> None: ...


class Batch:
    """Takes the replies of several commands, and wakes one task with the list of them."""

    __slots__ = ('_left', '_replies', 'waiter')

    def __init__(self, count: int, waiter: runtime.Waiter) -> None:
        self.waiter = waiter
        self._left = count
        self._replies: list[Any] = []

    def take(self, reply: Any) -> None:
        """Take one reply."""
        self._replies.append(reply)
        self._left -= 1
        if not self._left:
            self.waiter.wake(self._replies)


class Link(Outbox):
    """One connection to one server.

    Arguments:
        stream (runtime.Stream): connected; belongs to the link from now on.
        name (str): "host:port", for texts and the names of the tasks.
        owner (LinkOwner): held weakly.
        interval (float): seconds between health checks; 0 for none.
        max_bytes (int): longest text that a reply may hold.
    Attributes:
        error (BaseException | None): why it ended; None while it lives.
        resp3 (bool), tracks (bool), version (tuple[int, ...]): what the handshake found.
    """

    def __init__(
        self,
        stream: runtime.Stream,
        name: str,
        owner: LinkOwner,
        interval: float = 0.0,
        max_bytes: int = resp.MAX_BYTES,
    ) -> None:
        super().__init__()
        self.stream = stream
        self.name = name
        self.interval = interval
        self.resp3 = self.tracks = False
        self.version: tuple[int, ...] = ()
        self.node = ''
        self.commands = self.bytes_in = self.bytes_out = 0
        self._owner = weakref.ref(owner)
        self._takers: deque[Taker] = deque()
        self._room = WaitingLine()
        self.subscriber = False  # in RESP2 everything that such a connection is sent is a push
        self._heard = runtime.monotonic()
        self._tasks: list[runtime.Task] = []
        self._parser = resp.make_parser(max_bytes)

    def __repr__(self) -> str:
        state = 'open' if self.error is None else f'ended: {self.error!s}'
        return f'<Link {self.name}: {state}, {len(self._takers)} replies due, {self.commands} commands>'

    # ---- life

    def start(self) -> None:
        """Start the tasks; from here on the stream is theirs."""
        # They keep the link alive, but end with its owner: nobody closes a connection that was only dropped.
        owner = self._owner()
        runtime.at_thread_end(self, first=True)  # before the stream is told
        for run, role in ((self._read, 'reader'), (self._write, 'writer')):
            self._tasks.append(
                runtime.spawn(run, name=f'redis-{role} {self.name}', owner=owner, on_exit=self._task_ended)
            )
        if self.interval:
            self._tasks.append(
                runtime.spawn(
                    _watch, weakref.ref(self), name=f'redis-health {self.name}', on_exit=self._task_ended
                )
            )

    def _task_ended(self, task: runtime.Task, error: BaseException | None) -> None:
        if self.error is None:
            self.end(errors.LinkLost(f'{task.name} ended: {error!r}'))

    def lose(self, error: BaseException) -> None:
        """End the link because the server or the network did."""
        runtime.forget_traces(error)
        if not isinstance(error, AMQPError):
            lost = errors.LinkLost(f'redis {self.name}: {error}')
            lost.__cause__ = error
            error = lost
        self.end(error)

    @property
    def in_use(self) -> bool:
        """Does a greenlet of the program wait for a reply here? Tasks of ours do not count."""
        waiters = [*self._room, *(getattr(take, '__self__', None) for take in self._takers)]
        return any(program_waits(getattr(waiter, 'waiter', waiter)) for waiter in waiters)

    def leave(self, error: BaseException, hub: Any) -> None:
        """End because the connection goes on in another thread; what was collected leaves as far as it goes
        at once.

        Called in the hub the link belongs to, or in another thread while that hub does not run. No greenlet
        of the program may wait here (`in_use`), and the owner is not told.
        """
        if self.error is not None:
            return
        idle, self._idle = self._idle, None  # the writer is not ours to wake
        # What waits to be sent is not: a fetch that the server ran after the next link has asked what is ours
        # would take messages that nobody knows of.
        self._out = []
        self.flush()
        last, self._out = b''.join(self._out), []
        self._idle = idle
        self.error = error
        self.stream.hang_up(last)
        takers, self._takers = self._takers, deque()
        for take in takers:
            try:
                take(error)
            except WrongHub:  # one of the other thread's tasks, which will be told there
                runtime.post(hub, take, error)
        if runtime.is_here(hub):
            self._put_away()
        else:
            runtime.post(hub, self._put_away)  # or never: then its thread has ended, and closed the stream

    def _put_away(self) -> None:  # in our hub
        self.stream.close()
        self._empty()
        for task in self._tasks[2:]:
            task.kill()
        self._room.wake()

    def thread_ended(self) -> None:
        """Nobody runs our tasks any more: what was acknowledged leaves."""
        self.leave(errors.LinkLost(f'redis {self.name}: its thread has ended'), runtime.hub_id())

    def close(self) -> None:
        """End the link because we want to."""
        self.end(ConnectionClosed(f'the connection to redis {self.name} was closed'))

    def end(self, error: BaseException) -> None:  # no switch
        if self.error is not None:
            return
        self.error = error
        self.stream.close()
        self._empty()
        for task in self._tasks[2:]:
            task.kill()
        takers = list(self._takers)
        self._takers.clear()
        for take in takers:
            take(error)
        self._room.wake()
        owner = self._owner()
        if owner is not None:
            owner.on_link_end(self, error)

    # ---- out

    def send(self, data: bytes, take: Taker, count: int = 1) -> None:
        """Queue whole commands and who takes their replies. Switches: no.

        Arguments:
            data (bytes): `count` packed commands.
            take (Callable): called with each reply, in order.
        Raises:
            ConnectionLost, ConnectionClosed: the link has ended; nothing was queued.
        """
        if self.error is not None:
            raise runtime.again(self.error)
        if self._dirty:
            self.flush()
        self._out.append(data)
        self.out_bytes += len(data)
        self.commands += count
        if count == 1:
            self._takers.append(take)
        elif count:
            self._takers.extend([take] * count)
        idle = self._idle
        if idle is not None:
            self._idle = None
            idle.wake()

    def wait_room(self, deadline: runtime.Deadline | None) -> None:
        """Wait until the buffer is below its mark.

        Raises:
            TimeoutError: not in time. The errors of `send`.
        Switches: only if it is not.
        """
        while self.out_bytes > HIGH_WATER and self.error is None:
            self._room.wait(deadline, f'redis {self.name}: {self.out_bytes} bytes wait to be sent; no room')

    def call(self, command: tuple[Any, ...], deadline: runtime.Deadline | None = None) -> Any:
        """Send one command and wait for its reply; an error reply is returned, not raised.

        Raises:
            TimeoutError: no reply in time; it will be thrown away. ConnectionLost, ConnectionClosed.
        Switches: yes. Killed: as for the time-out.
        """
        waiter = runtime.Waiter(f'redis {self.name}: no reply to {command[0]}')
        self.send(resp.pack(command), waiter.wake)
        return waiter.wait(deadline)

    def call_many(
        self, commands: list[tuple[Any, ...]], deadline: runtime.Deadline | None = None
    ) -> list[Any]:
        """Send several commands at once and wait for all replies, errors among them.

        Raises, Switches: as `call`.
        """
        if not commands:
            return []
        waiter = runtime.Waiter(f'redis {self.name}: no reply to {commands[0][0]}')
        self.send(resp.pack_many(commands), Batch(len(commands), waiter).take, len(commands))
        replies: list[Any] = waiter.wait(deadline)
        return replies

    def _send_out(self, out: list[Any]) -> None:
        data = out[0] if len(out) == 1 else b''.join(out)
        size = len(data)
        sent = 0
        view: memoryview | None = None
        while sent < size and self.error is None:
            try:
                part = self.stream.write_some(data if not sent else (view or memoryview(data))[sent:])
            except (OSError, AMQPError) as error:
                self.lose(error)
                return
            sent += part
            self.bytes_out += part
            self.out_bytes -= part
        if self._room and self.out_bytes <= HIGH_WATER // 2:
            self._room.wake()

    # ---- in

    def _read(self) -> None:
        parser, take, takers = self._parser, self._parser.take, self._takers
        rested = self.bytes_in
        try:
            while self.error is None:
                data = self.stream.read(READ_SIZE)
                if not data:
                    self.lose(errors.LinkLost(f'redis {self.name}: the server closed the connection'))
                    return
                self._heard = runtime.monotonic()
                if not self.bytes_in and (stranger := errors.stranger(self.name, data)) is not None:
                    self.bytes_in = len(data)
                    self.lose(stranger)
                    return
                self.bytes_in += len(data)
                for reply in take(data):
                    if reply.__class__ is resp.Push or (self.subscriber and _looks_pushed(reply)):
                        self._pushed(reply)
                        continue
                    if not takers:
                        raise errors.LinkLost(f'redis {self.name}: a reply to no command: {short(reply)}')
                    takers.popleft()(reply)
                    if isinstance(reply, Exception) and errors.is_fatal(reply):
                        self.lose(errors.translate(reply, f'redis {self.name}'))
                if parser.failure is not None:
                    raise parser.failure
                if self.bytes_in - rested > TURN:
                    rested = self.bytes_in
                    runtime.sleep(0)
        except (AMQPError, OSError, RedisError) as error:
            self.lose(error)

    def expect(self, reply: Any, shape: Any) -> Any:
        """The reply, if it is an error or of this shape: another one ends the link. See `replies`.

        Raises:
            WrongReply: it is of another shape.
        """
        if isinstance(reply, Exception):
            return reply
        try:
            return expect(reply, shape, self.name)
        except errors.WrongReply as error:
            self.lose(error)
            raise

    def _pushed(self, push: Any) -> None:
        owner = self._owner()
        if owner is not None:
            owner.on_push(self, push)

    # ---- health

    def check(self, now: float) -> float:
        """Look whether the server still answers; ask it if it was silent. Returns seconds until the next
        look.
        """
        silent = now - self._heard
        if silent < self.interval:
            return self.interval - silent
        if self._takers and silent >= self.interval + PATIENCE:
            self.lose(
                errors.LinkLost(
                    f'redis {self.name}: no answer for {silent:.1f} s '
                    f'(health_check_interval {self.interval:g} s)'
                )
            )
            return 0.0
        if not self._takers:
            self.send(resp.pack(('PING',)), _ignore)
        return PATIENCE


def program_waits(waiter: Any) -> bool:
    """Tell whether it is a waiter in which a greenlet of the program is parked, and no task of ours.
    """
    task = getattr(waiter, 'task', None)
    return task is not None and not runtime.is_task(task)


def _ignore(reply: Any) -> None:
    """Only that a reply comes is of interest."""


def _looks_pushed(reply: Any) -> bool:
    return isinstance(reply, list) and len(reply) >= 3 and reply[0] in _PUSHED


_PUSHED = (
    b'message', b'pmessage', b'subscribe', b'psubscribe', b'unsubscribe', b'punsubscribe',
)  # fmt: skip


def _watch(ref: weakref.ref[Link]) -> None:
    pause = 0.0
    due = runtime.monotonic()
    while True:
        link = ref()
        if link is None or link.error is not None:
            return
        now = runtime.monotonic()
        # After a stall of our own the answer may lie unread in the kernel: the next look judges, not this
        # one.
        pause = 0.1 if now - due > 1.0 else link.check(now)
        del link
        due = runtime.monotonic() + pause
        runtime.sleep(pause)
