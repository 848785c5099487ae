"""Fanout exchanges: what is published comes on one connection for all channels, and gaps are told.

Pub/Sub keeps nothing: what was published between a loss and the new subscription is gone. So after each
recovery every exchange's consumers are told, by the event 'gap' (P29). A connection that has gone half-open
is noticed by a PING that is not answered (P15). ``fanout_mode='stream'`` reads a stream from where it
stopped.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any

from greenmq import events, runtime
from greenmq.exceptions import AMQPError, OperationalError
from greenmq.log import get_logger
from greenmq.transport.driver.contract import REQUEUE, Taken
from greenmq.transport.redis import resp
from greenmq.transport.redis.keys import Keys
from greenmq.transport.redis.link import Link
from greenmq.transport.redis.replies import TEXTS, expect
from greenmq.transport.redis.server import Dial, Server
from greenmq.transport.redis.watches import Wakeup

__all__ = ('Fanout', 'StreamFanout')

logger = get_logger('greenmq.transport.redis')

#: Begins the tags of deliveries that are not kept in Redis.
LOCAL = 'local:'
#: Messages that may wait for one consumer's callback; what comes beyond is a gap, not a process without
#: memory.
MAX_WAITING = 10_000
#: Seconds for the server to confirm a subscription.
PATIENCE = 10.0


class Heard(Taken):
    """A message that was heard on an exchange: it is in no other place than here."""

    __slots__ = ('_member',)

    def __init__(self, member: Member, raw: bytes, tag: str) -> None:
        super().__init__(member.queue, raw, tag)
        self._member = member

    def again(self, fate: str) -> None:
        """Deliver it once more, if its queue is still consumed."""
        if fate == REQUEUE:
            self.deliveries = (self.deliveries or 0) + 1
        self._member.deliver(self)


class Member:
    """One queue of one channel that hears an exchange."""

    __slots__ = ('__weakref__', 'channel', 'exchange', 'key', 'missed', 'queue')

    def __init__(self, channel: Any, queue: str, exchange: str, key: str) -> None:
        self.channel = weakref.ref(channel)
        self.queue = queue
        self.exchange = exchange
        self.key = key
        self.missed = False

    def deliver(self, taken: Heard) -> bool:
        """Leave a message to whoever drains; False if too many wait already. No switch."""
        channel = self.channel()
        if channel is None or channel.closed:
            return True
        books = channel.books
        sub = books.next_taker(self.queue)
        if sub is None:
            return True
        if sub.waiting * books.consumers(self.queue) >= MAX_WAITING:
            return False
        message = channel.session.arrival.envelope(taken, channel.session)
        if message is not None:
            if taken.deliveries:
                message['redelivered'] = True
            channel.deliveries.accept(channel, taken, message, sub)
        return True


class _FanoutBase:
    def __init__(self) -> None:
        self._members: list[Member] = []
        self._tags = itertools.count(1)

    def _deliver(self, member: Member, raw: bytes) -> None:  # no switch
        told = member.missed
        member.missed = not member.deliver(Heard(member, raw, f'{LOCAL}{next(self._tags)}'))
        if member.missed and not told:
            self._gap([member], runtime.monotonic(), 'too many wait for the callback')

    def leave(self) -> None:
        """Let go because the session goes on in another thread, see `arrive`."""

    def arrive(self) -> None:
        """Go on in the calling thread."""

    def _gap(self, members: list[Member], since: float, reason: str) -> None:
        for exchange in sorted({member.exchange for member in members}):
            channels = [member.channel() for member in members if member.exchange == exchange]
            connections = [channel.connection for channel in channels if channel is not None]
            client = next((each.client for each in connections if each is not None), None)
            logger.warning('fanout exchange %r: messages may be missing (%s)', exchange, reason)
            events.emit(
                'gap',
                source=client,
                exchange=exchange,
                since=since,
                seconds=runtime.monotonic() - since,
                reason=reason,
            )
        for member in members:
            channel = member.channel()
            if channel is not None and channel.on_gap is not None:
                channel.on_gap(member.exchange, since)


class Fanout(_FanoutBase):
    """Exchanges on pub/sub.

    Arguments:
        dial (Dial): opens a link.
        name (str): for texts.
    """

    def __init__(self, dial: Dial, name: str) -> None:
        super().__init__()
        self._dial_plain = dial
        self._name = name
        self._server: Server | None = None
        self._lost_at: float | None = None
        self._confirmed: dict[bytes, list[runtime.Waiter]] = {}
        self._by_key: dict[bytes, list[Member]] = {}
        self._opening = runtime.Lock()

    def _dial(self, owner: Any, deadline: runtime.Deadline) -> Link:
        link = self._dial_plain(owner, deadline)
        link.subscriber = not link.resp3
        return link

    def _live(self, deadline: runtime.Deadline) -> Server:
        with self._opening:
            if self._server is None:
                server = Server(self._dial, f'{self._name} (fanout)', self)
                server.open(deadline)
                self._server = server
            return self._server

    def add(self, channel: Any, queue: str, exchange: str, key: str) -> None:
        """Let a channel's queue hear an exchange; when this returns, it does.

        Arguments:
            key (str): the pub/sub channel, perhaps a pattern.
        Raises: as `Server.open`; TimeoutError.
        Switches: yes.
        """
        member = Member(channel, queue, exchange, key)
        name = key.encode()
        known = name in self._by_key
        self._members.append(member)
        self._by_key.setdefault(name, []).append(member)
        if known:
            return
        deadline = runtime.Deadline.after(PATIENCE)
        try:
            server = self._live(deadline)
            waiter = runtime.Waiter(f'no confirmation of the subscription to {key}')
            self._confirmed.setdefault(name, []).append(waiter)
            server.wait_open(deadline).send(resp.pack(('PSUBSCRIBE', key)), _nothing, 0)
            waiter.wait(deadline)
        except BaseException:
            self._forget(member)
            raise

    def remove(self, channel: Any, queue: str) -> None:
        """Undo `add`."""
        for member in [each for each in self._members if each.channel() in (None, channel)]:
            if member.queue == queue or member.channel() is None:
                self._forget(member)

    def _forget(self, member: Member) -> None:
        if member in self._members:
            self._members.remove(member)
        name = member.key.encode()
        members = self._by_key.get(name)
        if members is None:
            return
        if member in members:
            members.remove(member)
        if not members:
            del self._by_key[name]
            if self._server is not None and self._server.connected and self._server.link is not None:
                self._server.link.send(resp.pack(('PUNSUBSCRIBE', member.key)), _nothing, 0)

    def leave(self) -> None:
        """See `_FanoutBase.leave`."""
        if self._server is not None:
            self._lost_at = runtime.monotonic()
            self._server.leave()

    def arrive(self) -> None:
        """See `_FanoutBase.arrive`: what was sent meanwhile is a gap."""
        if self._server is not None:
            self._server.arrive()

    def lose(self, error: BaseException) -> None:
        """Leave this connection for another one."""
        if self._server is not None and self._server.link is not None:
            self._server.link.lose(error)

    def close(self) -> None:
        """End the connection."""
        if self._server is not None:
            self._server.close()
        self._members.clear()
        self._by_key.clear()

    # ---- what the session tells

    def on_lost(self, server: Server, error: BaseException) -> None:
        """See `ServerOwner`."""
        if self._lost_at is None:
            self._lost_at = runtime.monotonic()

    def on_recovered(self, server: Server) -> None:
        """Subscribe again, and tell of the gap."""
        names = list(self._by_key)
        if names and server.link is not None:
            server.link.send(resp.pack(('PSUBSCRIBE', *names)), _nothing, 0)
        since, self._lost_at = self._lost_at, None
        if since is not None and self._members:
            self._gap(list(self._members), since, 'the connection was lost')

    def on_pushed(self, server: Server, push: Any) -> None:
        """A message or a confirmation."""
        kind = push[0]
        if kind == b'pmessage':
            expect(push[1:], _is_heard, self._name)
            for member in list(self._by_key.get(push[1], ())):
                self._deliver(member, push[3])
        elif kind == b'psubscribe':
            expect(list(push[1:2]), TEXTS, self._name)
            for waiter in self._confirmed.pop(push[1], ()) if len(push) > 1 else ():
                waiter.wake()


class StreamFanout(_FanoutBase):
    """Exchanges on streams: each queue reads on from the last entry it saw, also after a loss.

    Arguments:
        server (Server), keys (Keys): where they are.
    Attributes:
        changed (Wakeup): tells the task that there is something to read.
    """

    def __init__(self, server: Server, keys: Keys) -> None:
        super().__init__()
        self.server = server
        self.changed = Wakeup()
        self._keys = keys
        self._last: dict[str, bytes] = {}
        self._task: runtime.Task | None = None

    def add(self, channel: Any, queue: str, exchange: str, key: str) -> None:
        """Let a channel's queue hear an exchange, from now on. Switches: yes."""
        member = Member(channel, queue, exchange, self._keys.stream(exchange))
        if member.key not in self._last:
            found = self.server.execute(
                ('XREVRANGE', member.key, '+', '-', 'COUNT', 1),
                member.key,
                runtime.Deadline.after(PATIENCE),
                _are_entries,
            )
            self._last.setdefault(member.key, found[0][0] if found else b'0-0')
        self._members.append(member)
        self.server.watchers.watch([member.key], self.changed)
        self.changed.hit()
        self._start()

    def _start(self) -> None:
        if self._task is None or self._task.done:
            self._task = runtime.spawn(_read_streams, weakref.ref(self), name='redis-streams', owner=self)

    def leave(self) -> None:
        """See `_FanoutBase.leave`."""
        if self._task is not None:
            self._task.kill()
            self._task = None

    def arrive(self) -> None:
        """See `_FanoutBase.arrive`: it reads on where it was."""
        if self._members:
            watchers = self.server.watchers
            watchers.unwatch(self._last, self.changed)
            self.changed = Wakeup()  # the other thread's task waits on the old one
            watchers.watch(self._last, self.changed)
            self._start()

    def remove(self, channel: Any, queue: str) -> None:
        """Undo `add`."""
        self._members = [
            member
            for member in self._members
            if member.channel() is not None and (member.channel() is not channel or member.queue != queue)
        ]
        used = {member.key for member in self._members}
        for key in [key for key in self._last if key not in used]:
            del self._last[key]
        if not self._members and self._task is not None:
            self._task.kill()

    def lose(self, error: BaseException) -> None:
        """See `Fanout.lose`: it has no connection of its own."""

    def close(self) -> None:
        """End the reading."""
        self._members.clear()
        if self._task is not None:
            self._task.kill()

    def read(self) -> bool:
        """Read what there is once; True if there was something. Switches: yes."""
        found = False
        for key in list(self._last):
            last = self._last[key]
            command = ('XREAD', 'COUNT', 100, 'STREAMS', key, last)
            reply = self.server.execute(command, key, None, _are_streams)
            if not reply:
                continue
            streams = reply.items() if isinstance(reply, dict) else reply
            for _, entries in streams:
                for number, fields in entries:
                    found = True
                    self._last[key] = number
                    for member in [each for each in self._members if each.key == key]:
                        self._deliver(member, fields[1])
        return found


def _are_entries(reply: Any) -> bool:
    # (number, [field, value, …]) each.
    return reply.__class__ is list and all(
        each.__class__ is list
        and len(each) == 2
        and each[0].__class__ is bytes
        and each[1].__class__ is list
        and len(each[1]) >= 2
        and each[1][1].__class__ is bytes
        for each in reply
    )


def _are_streams(reply: Any) -> bool:
    if reply is None:
        return True
    if reply.__class__ is dict:
        return all(map(_are_entries, reply.values()))
    return reply.__class__ is list and all(
        pair.__class__ is list and len(pair) == 2 and _are_entries(pair[1]) for pair in reply
    )


def _is_heard(words: Any) -> bool:
    return list(map(type, words)) == [bytes, bytes, bytes]


def _read_streams(ref: weakref.ref[StreamFanout]) -> None:
    while True:
        fanout = ref()
        if fanout is None or fanout.server.closed:
            return
        changed, server = fanout.changed, fanout.server
        changed.clear()
        try:
            server.wait_open(None)
            more = fanout.read()
        except (AMQPError, OperationalError, OSError) as error:
            logger.debug('%s: streams: %s', server.name, error)
            more = False
            runtime.sleep(0.05)
        # Where nobody tells of anything, streams are looked at.
        pause = 15.0 if server.tracks else 0.1
        del fanout, server
        if not more:
            changed.wait(pause)


def _nothing(reply: Any) -> None:
    """A subscription is answered by a push, not by a reply."""
