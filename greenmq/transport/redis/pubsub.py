"""Fanout exchanges: what is published comes on one connection for all channels, and gaps are told.

Pub/Sub keeps nothing: what was published between a loss and the new subscription is gone. So after each
recovery every exchange's consumers are told, by the event 'gap' (P29). A connection that has gone half-open
is noticed by a PING that is not answered (P15). ``fanout_mode='stream'`` reads a stream from where it
stopped.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any

from greenmq import events, runtime
from greenmq.exceptions import AMQPError, DecodeError, OperationalError
from greenmq.log import get_logger
from greenmq.transport.redis import wire
from greenmq.transport.redis.consuming import LOCAL
from greenmq.transport.redis.envelope import opened
from greenmq.transport.redis.link import Link
from greenmq.transport.redis.replies import TEXTS, expect
from greenmq.transport.redis.session import Session
from greenmq.transport.redis.watches import Alarm
from greenmq.transport.virtual.unmade import settle_unmade

__all__ = ('Fanout', 'StreamFanout')

logger = get_logger('greenmq.transport.redis')

#: Messages that may wait for one consumer's callback; what comes beyond is a gap, not a process without
#: memory.
MAX_WAITING = 10_000
#: Seconds for the server to confirm a subscription.
PATIENCE = 10.0


class _Member:
    """One queue of one channel that hears an exchange."""

    __slots__ = ('__weakref__', 'channel', 'exchange', 'key', 'missed', 'queue')

    def __init__(self, channel: Any, queue: str, exchange: str, key: str) -> None:
        self.channel = weakref.ref(channel)
        self.queue = queue
        self.exchange = exchange
        self.key = key
        self.missed = False


class _FanoutBase:
    def __init__(self, transport: Any) -> None:
        self._transport = weakref.ref(transport)
        self._members: list[_Member] = []
        self._tags = itertools.count(1)

    def _deliver(self, member: _Member, raw: bytes) -> None:  # no switch
        channel = member.channel()
        if channel is None or channel.closed:
            return
        takers = channel._takers.get(member.queue)
        if not takers:
            return
        if sum(sub.waiting for sub in takers) >= MAX_WAITING:
            if not member.missed:
                member.missed = True
                self._gap([member], runtime.monotonic(), 'too many wait for the callback')
            return
        member.missed = False
        tag = f'{LOCAL}{next(self._tags)}'
        try:
            message = opened(raw, tag)
        except DecodeError as error:
            settle_unmade(channel, tag, member.queue, error)
            return
        channel._fetched(message, member.queue)

    def leave(self) -> None:
        """Let go because the transport goes on in another thread, see `arrive`. Switches: no."""

    def arrive(self) -> None:
        """Go on in the calling thread. Switches: no."""

    def again(self, channel: Any, message: Any) -> None:
        """Deliver a message once more: it is in no other place than here. Switches: no."""
        payload = dict(message._raw, redelivered=True)
        if not channel.closed and message.queue in channel._takers:
            channel._fetched(payload, message.queue)

    def _gap(self, members: list[_Member], since: float, reason: str) -> None:
        transport = self._transport()
        for exchange in sorted({member.exchange for member in members}):
            logger.warning('fanout exchange %r: messages may be missing (%s)', exchange, reason)
            events.emit(
                'gap',
                source=getattr(transport, 'client', None),
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
        transport (Transport): held weakly.
        dial: opens a link, see `session.Dial`.
    """

    def __init__(self, transport: Any, dial: Callable[[Any, runtime.Deadline], Link], name: str) -> None:
        super().__init__(transport)
        self._dial_plain = dial
        self._name = name
        self._session: Session | None = None
        self._lost_at: float | None = None
        self._confirmed: dict[bytes, list[runtime.Waiter]] = {}
        self._by_key: dict[bytes, list[_Member]] = {}
        self._opening = runtime.Lock()

    def _dial(self, owner: Any, deadline: runtime.Deadline) -> Link:
        link = self._dial_plain(owner, deadline)
        link.subscriber = not link.resp3
        return link

    def _live(self, deadline: runtime.Deadline) -> Session:
        with self._opening:
            if self._session is None:
                session = Session(self._dial, f'{self._name} (fanout)', self)
                session.open(deadline)
                self._session = session
            return self._session

    def add(self, channel: Any, queue: str, exchange: str, key: str) -> None:
        """Let a channel's queue hear an exchange; when this returns, it does.

        Arguments:
            key (str): the pub/sub channel, perhaps a pattern.
        Raises: as `Session.open`; TimeoutError.
        Switches: yes.
        """
        member = _Member(channel, queue, exchange, key)
        name = key.encode()
        known = name in self._by_key
        self._members.append(member)
        self._by_key.setdefault(name, []).append(member)
        if known:
            return
        deadline = runtime.Deadline.after(PATIENCE)
        try:
            session = self._live(deadline)
            waiter = runtime.Waiter(f'no confirmation of the subscription to {key}')
            self._confirmed.setdefault(name, []).append(waiter)
            session.wait_open(deadline).send(wire.pack(('PSUBSCRIBE', key)), _nothing, 0)
            waiter.wait(deadline)
        except BaseException:
            self._forget(member)
            raise

    def remove(self, channel: Any, queue: str) -> None:
        """Undo `add`. Switches: no."""
        for member in [each for each in self._members if each.channel() in (None, channel)]:
            if member.queue == queue or member.channel() is None:
                self._forget(member)

    def _forget(self, member: _Member) -> None:
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
            if self._session is not None and self._session.connected and self._session.link is not None:
                self._session.link.send(wire.pack(('PUNSUBSCRIBE', member.key)), _nothing, 0)

    def leave(self) -> None:
        """See `_FanoutBase.leave`."""
        if self._session is not None:
            self._lost_at = runtime.monotonic()
            self._session.leave()

    def arrive(self) -> None:
        """See `_FanoutBase.arrive`: what was sent meanwhile is a gap."""
        if self._session is not None:
            self._session.arrive()

    def close(self) -> None:
        """End the connection. Switches: no."""
        if self._session is not None:
            self._session.close()
        self._members.clear()
        self._by_key.clear()

    # ---- what the session tells

    def on_lost(self, session: Session, error: BaseException) -> None:
        """See `SessionOwner`. Switches: no."""
        if self._lost_at is None:
            self._lost_at = runtime.monotonic()

    def on_recovered(self, session: Session) -> None:
        """Subscribe again, and tell of the gap. Switches: no."""
        names = list(self._by_key)
        if names and session.link is not None:
            session.link.send(wire.pack(('PSUBSCRIBE', *names)), _nothing, 0)
        since, self._lost_at = self._lost_at, None
        if since is not None and self._members:
            self._gap(list(self._members), since, 'the connection was lost')

    def on_pushed(self, session: Session, push: Any) -> None:
        """A message or a confirmation. Switches: no."""
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
    """Exchanges on streams: each queue reads on from the last entry it saw, also after a loss."""

    def __init__(self, transport: Any) -> None:
        super().__init__(transport)
        self._last: dict[str, bytes] = {}
        self._alarm = Alarm()
        self._task: runtime.Task | None = None

    def add(self, channel: Any, queue: str, exchange: str, key: str) -> None:
        """Let a channel's queue hear an exchange, from now on. Switches: yes."""
        transport = self._transport()
        assert transport is not None
        member = _Member(channel, queue, exchange, transport.keys.stream(exchange))
        if member.key not in self._last:
            found = transport.session.execute(
                ('XREVRANGE', member.key, '+', '-', 'COUNT', 1),
                member.key,
                runtime.Deadline.after(PATIENCE),
                _are_entries,
            )
            self._last.setdefault(member.key, found[0][0] if found else b'0-0')
        self._members.append(member)
        transport.session.watch([member.key], self._alarm)
        self._alarm.hit()
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
        transport = self._transport()
        if transport is not None and self._members:
            transport.session.unwatch(self._last, self._alarm)
            self._alarm = Alarm()  # the other thread's task waits on the old one
            transport.session.watch(self._last, self._alarm)
            self._start()

    def remove(self, channel: Any, queue: str) -> None:
        """Undo `add`. Switches: no."""
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

    def close(self) -> None:
        """End the reading. Switches: no."""
        self._members.clear()
        if self._task is not None:
            self._task.kill()

    def read(self, session: Session) -> bool:
        """Read what there is once; True if there was something. Switches: yes."""
        found = False
        for key in list(self._last):
            last = self._last[key]
            reply = session.execute(('XREAD', 'COUNT', 100, 'STREAMS', key, last), key, None, _are_streams)
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
        transport = fanout._transport() if fanout is not None else None
        if fanout is None or transport is None or transport.session.closed:
            return
        alarm, session = fanout._alarm, transport.session
        alarm.set()
        try:
            session.wait_open(None)
            more = fanout.read(session)
        except (AMQPError, OperationalError, OSError) as error:
            logger.debug('%s: streams: %s', session.name, error)
            more = False
            runtime.sleep(0.05)
        pause = session_pause(session)
        del fanout, transport, session
        if not more:
            alarm.wait(pause)


def session_pause(session: Session) -> float:
    """Seconds until streams are read again although nobody told of anything. Switches: no."""
    return 15.0 if session.tracks else 0.1


def _nothing(reply: Any) -> None:
    """A subscription is answered by a push, not by a reply."""
